"""Weights of ONNX's operators LSTM, GRU and RNN.

A node has, with D directions, the forward one first::

    W    (D, G*H, I)    W
    R    (D, G*H, H)    R
    B    (D, 2*G*H)     b, then s
    P    (D, 3*H)       peepholes of an LSTM: none here

gates in the order i o f c, or z r h. A GRU resets after the product where linear_before_reset is
not 0.

Source: the operators LSTM, GRU and RNN of ONNX, version 22 of the domain ai.onnx.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import _core
from .._network import Array, check_cell
from .conventions import CONVENTIONS, RESET_BEFORE, Direction, checked, merged, read_layer

ONNX, TORCH = CONVENTIONS["onnx"], CONVENTIONS["torch"]

#: By cell: the operator, and the activations of one direction.
OPERATORS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "lstm": ("LSTM", ("Sigmoid", "Tanh", "Tanh")),
    "gru": ("GRU", ("Sigmoid", "Tanh")),
    "rnn_tanh": ("RNN", ("Tanh",)),
    "rnn_relu": ("RNN", ("Relu",)),
}

#: By operator: the activations of one direction where a node doesn't say.
DEFAULT_ACTIVATIONS = {"LSTM": OPERATORS["lstm"][1], "GRU": OPERATORS["gru"][1], "RNN": ("Tanh",)}

#: What an attribute must be, where one value alone can be represented, its default, and why.
REQUIRED: Mapping[str, tuple[Any, Any, str]] = {
    "clip": (None, None, "the layers here don't clip"),
    "input_forget": (0, 0, "an LSTM here has both gates"),
    "linear_before_reset": (1, 0, RESET_BEFORE),
}
#: Which of them each operator has.
HAS = {"LSTM": {"clip", "input_forget"}, "GRU": {"clip", "linear_before_reset"}, "RNN": {"clip"}}

#: Attributes that don't concern weights, or those activations that can be represented.
IGNORED = {"layout", "output_sequence", "activation_alpha", "activation_beta"}


class OnnxWeights(NamedTuple):
    """The weights of an ONNX node, and what else the node needs.

    Attributes
    ----------
    W : array (D, G*H, I)
    R : array (D, G*H, H)
    B : array (D, 2*G*H) or None
    operator : str
        "LSTM", "GRU" or "RNN".
    attributes : dict
        Those of the node.
    """

    W: Array
    R: Array
    B: Array | None
    operator: str
    attributes: dict[str, Any]


def from_onnx(
    cell: str, W: Any, R: Any, B: Any = None, P: Any = None, *, layer: int = 0, **attributes: Any
) -> dict[str, Array]:
    """Return the parameters of an ONNX node LSTM, GRU or RNN.

    Parameters
    ----------
    cell : str
        "lstm", "gru", "rnn_tanh" or "rnn_relu".
    W : array (D, G*H, I)
    R : array (D, G*H, H)
    B : array (D, 2*G*H), optional
    P : array (D, 3*H), optional
        An LSTM's peepholes. Only zeros can be represented.
    layer : int
        Which layer of a stack it becomes. The results for several may be merged.
    **attributes
        Those of the node, text as str or bytes. One that isn't given has ONNX's default: so a GRU
        needs ``linear_before_reset=1``, and two directions need ``direction="bidirectional"``.

    Returns
    -------
    dict of str to array
        For `load_parameters`.

    Raises
    ------
    ValueError
        If a shape is wrong, or the node can't be represented.
    TypeError
        If an array isn't one of float32 or float64, dtypes differ, or the operator has no such
        attribute.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedrnn
    >>> W, R = np.ones((1, 12, 3)), np.ones((1, 12, 4))
    >>> parameters = fusedrnn.weights.from_onnx("gru", W, R, linear_before_reset=1)
    >>> {name: array.shape for name, array in parameters.items()}
    {'weight_ih_l0': (12, 3), 'weight_hh_l0': (12, 4)}
    >>> fusedrnn.weights.from_onnx("gru", W, R)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: linear_before_reset: expected 1, got 0: a GRU here resets h after its product ...
    """
    check_cell(cell)
    given = {name: _text(value) for name, value in attributes.items()}
    D, G = _check_attributes(cell, given), len(ONNX.gates[cell])
    R = _core.as_array(R, "R")
    H = R.shape[2] if R.ndim == 3 else 0
    R = checked(R, "R", (D, G * H or f"{G}*H", H or "H"))
    W = checked(W, "W", (D, G * H, "I"), R.dtype.name)
    if given.get("hidden_size", H) != H:
        raise ValueError(f"hidden_size: expected {H}, as in R, got {given['hidden_size']}")
    if P is not None and (cell != "lstm" or checked(P, "P", (D, 3 * H), R.dtype.name).any()):
        raise ValueError("P: expected None, or zeros for an LSTM: there are no peepholes here")
    biases: list[tuple[Any, Any]] = [(None, None)] * D
    if B is not None:
        joined = checked(B, "B", (D, 2 * G * H), R.dtype.name)
        biases = [(b[: G * H], b[G * H :]) for b in joined]
    directions = [
        Direction(W[d], R[d], *biases[d]).reordered(cell, ONNX.gates[cell], TORCH.gates[cell])
        for d in range(D)
    ]
    return merged(directions, layer)


def to_onnx(cell: str, parameters: Mapping[str, Any], *, layer: int = 0) -> OnnxWeights:
    """Return what an ONNX node needs: the inverse of `from_onnx`.

    Parameters
    ----------
    cell : str
        "lstm", "gru", "rnn_tanh" or "rnn_relu".
    parameters : mapping of str to array
        All those of a layer here, such as ``layer.parameters``.
    layer : int
        Which layer of the stack.

    Returns
    -------
    OnnxWeights

    Raises
    ------
    ValueError
        If a name or shape is wrong, there is no such layer, or it projects h, which ONNX's don't.
    TypeError
        If `parameters` isn't a mapping, or a dtype is wrong.

    Examples
    --------
    >>> import fusedrnn
    >>> node = fusedrnn.weights.to_onnx("gru", fusedrnn.GRU(3, 4).parameters)
    >>> node.operator, node.W.shape, node.R.shape, node.B.shape
    ('GRU', (1, 12, 3), (1, 12, 4), (1, 24))
    >>> node.attributes
    {'hidden_size': 4, 'direction': 'forward', 'linear_before_reset': 1}
    """
    directions = [
        direction.reordered(cell, TORCH.gates[cell], ONNX.gates[cell])
        for direction in read_layer(cell, parameters, layer, "ONNX")
    ]
    W, R, b, s = zip(*directions, strict=True)
    operator, activations = OPERATORS[cell]
    attributes: dict[str, Any] = {
        "hidden_size": R[0].shape[1],
        "direction": "forward" if len(directions) == 1 else "bidirectional",
    }
    if operator == "GRU":
        attributes["linear_before_reset"] = 1
    if operator == "RNN":
        attributes["activations"] = list(activations) * len(directions)
    B = None if b[0] is None else np.concatenate((np.stack(b), np.stack(s)), axis=1)
    return OnnxWeights(np.stack(W), np.stack(R), B, operator, attributes)


def _text(value: Any) -> Any:
    """Return an attribute with text as str, as which ONNX's Python package gives bytes."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, (list, tuple)):
        return [_text(part) for part in value]
    return value


def _check_attributes(cell: str, given: Mapping[str, Any]) -> int:
    """Return D, if a node with these attributes can be represented."""
    operator, activations = OPERATORS[cell]
    known = {"activations", "direction", "hidden_size", *IGNORED, *HAS[operator]}
    unknown = sorted(set(given) - known)
    if unknown:
        raise TypeError(f"attributes: expected those of {operator}, got {', '.join(unknown)}")
    direction = given.get("direction", "forward")
    if direction not in ("forward", "bidirectional"):
        raise ValueError(
            f"direction: expected 'forward' or 'bidirectional', got {direction!r}: "
            "the layers here don't run in reverse alone"
        )
    for name in sorted(HAS[operator]):
        wanted, default, reason = REQUIRED[name]
        value = given.get(name, default)
        if value != wanted:
            raise ValueError(f"{name}: expected {wanted}, got {value}: {reason}")
    D = 1 if direction == "forward" else 2
    functions = list(given.get("activations") or DEFAULT_ACTIVATIONS[operator] * D)
    if [str(f).lower() for f in functions] != [f.lower() for f in activations * D]:
        raise ValueError(
            f"activations: expected {list(activations * D)}, got {functions}: "
            f"others can't be represented by {cell}"
        )
    return D

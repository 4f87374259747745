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
from .conventions import CONVENTIONS, Direction, checked, merged, read_layer
from .onnx_attributes import OPERATORS, check_attributes, check_integer, plain

ONNX, TORCH = CONVENTIONS["onnx"], CONVENTIONS["torch"]


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
        needs ``linear_before_reset=1``, and two directions need ``direction="bidirectional"``. What
        can't act is taken: a `clip` of infinity, and parameters of activations that have none. The
        `layout` is that of x, y and states: 1 is ``batch_first=True``, but for the states.

    Returns
    -------
    dict of str to array
        For `load_parameters`.

    Raises
    ------
    ValueError
        If a shape is wrong, or the node can't be represented: with what to do instead.
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
    R = _core.as_array(R, "R")
    D, G = check_attributes(cell, attributes, R.dtype), len(ONNX.gates[cell])
    H = R.shape[2] if R.ndim == 3 else 0
    R = checked(R, "R", (D, G * H or f"{G}*H", H or "H"))
    W = checked(W, "W", (D, G * H, "I"), R.dtype.name)
    check_integer(plain(attributes.get("hidden_size", H)), "hidden_size", (H,), "as in R")
    if P is not None and (cell != "lstm" or checked(P, "P", (D, 3 * H), R.dtype.name).any()):
        raise ValueError(
            "P: expected None, or zeros for an LSTM: there are no peepholes here. "
            "The model must be trained again without them"
        )
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

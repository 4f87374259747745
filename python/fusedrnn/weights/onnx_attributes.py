"""The attributes of ONNX's operators LSTM, GRU and RNN: read, or refused with what to do instead.

Source: the operators LSTM, GRU and RNN of ONNX, versions 1 to 22 of the domain ai.onnx.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .conventions import RESET_BEFORE

#: By cell: the operator, and the activations of one direction.
OPERATORS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "lstm": ("LSTM", ("Sigmoid", "Tanh", "Tanh")),
    "gru": ("GRU", ("Sigmoid", "Tanh")),
    "rnn_tanh": ("RNN", ("Tanh",)),
    "rnn_relu": ("RNN", ("Relu",)),
}

#: By operator: the activations of one direction where a node doesn't say.
DEFAULT_ACTIVATIONS = {"LSTM": OPERATORS["lstm"][1], "GRU": OPERATORS["gru"][1], "RNN": ("Tanh",)}

#: By operator: what only it has.
OWN = {"LSTM": {"input_forget"}, "GRU": {"linear_before_reset"}, "RNN": set[str]()}

#: Integers by name: what can be represented, the default, and what to do about others. The layout
#: is that of x and y alone, and of the states; output_sequence says which outputs there are.
INTEGERS: Mapping[str, tuple[tuple[int, ...], int, str]] = {
    "input_forget": (
        (0,),
        0,
        "an LSTM here has both gates. Give the forget gate the weights of the input gate with the "
        "other sign, since 1 - sigmoid(a) = sigmoid(-a), and input_forget=0",
    ),
    "linear_before_reset": (
        (1,),
        0,
        f"{RESET_BEFORE}. Export it again from a GRU that does the same, as torch's and Keras's "
        "with reset_after=True",
    ),
    "layout": ((0, 1), 0, "0 is time first, 1 batch first, as with batch_first=True here"),
    "output_sequence": ((0, 1), 0, "the layers here return the outputs of all steps"),
}

#: Parameters of activations. Those that can be represented have none, so that they can't act.
UNUSED = {"activation_alpha", "activation_beta"}

#: Inputs of a node that are no weights: where they belong.
INPUTS = {
    "X": "x of a layer's call",
    "sequence_lens": "lengths of a layer's call",
    "initial_h": "the state of a layer's call",
    "initial_c": "the state (h, c) of a layer's call",
}


def check_attributes(cell: str, attributes: Mapping[str, Any], dtype: Any) -> int:
    """Return D, if a node with these attributes and weights of this dtype can be represented.

    Examples
    --------
    >>> check_attributes("lstm", {"clip": float("inf"), "direction": b"bidirectional"}, "float32")
    2
    >>> check_attributes("lstm", {"hidden_size": 4, "clip": "inf"}, "float32")
    Traceback (most recent call last):
    ValueError: clip: expected None or inf, got 'inf'
    """
    operator = OPERATORS[cell][0]
    integers = set(INTEGERS) - {"input_forget", "linear_before_reset"} | OWN[operator]
    known = {"activations", "clip", "direction", "hidden_size", *integers, *UNUSED}
    for name in sorted(INPUTS.keys() & attributes.keys()):
        raise TypeError(
            f"attributes: expected no inputs of a node, got {name}: it is {INPUTS[name]}"
        )
    unknown = sorted(set(attributes) - known)
    if unknown:
        raise TypeError(f"attributes: expected those of {operator}, got {', '.join(unknown)}")
    given = {name: plain(value) for name, value in attributes.items()}
    directions = _directions(given)
    for name in sorted(integers):
        allowed, default, hint = INTEGERS[name]
        check_integer(given.get(name, default), name, allowed, hint)
    _check_clip(given, dtype)
    for name in sorted(UNUSED & set(given)):
        _check_numbers(given[name], name)
    _check_activations(cell, given, directions)
    return directions


def check_integer(value: Any, name: str, allowed: tuple[int, ...], hint: str) -> None:
    """Raise ValueError unless a value is one of some integers, and of their kind."""
    if type(value) is not int or value not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise ValueError(f"{name}: expected {wanted}, got {value!r}: {hint}")


def plain(value: Any) -> Any:
    """Return NumPy's numbers and arrays as Python's, and bytes, as ONNX's package gives, as str."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value


def _directions(given: Mapping[str, Any]) -> int:
    direction = given.get("direction", "forward")
    if direction not in ("forward", "bidirectional"):
        reverse = (
            ": the layers here don't run in reverse alone. Take it as 'forward', and reverse x and "
            "y in time"
        )
        raise ValueError(
            f"direction: expected 'forward' or 'bidirectional', got {direction!r}"
            + (reverse if direction == "reverse" else "")
        )
    return 1 if direction == "forward" else 2


def _check_clip(given: Mapping[str, Any], dtype: Any) -> None:
    """Raise ValueError for a clip that could act: one within the numbers of the weights' dtype."""
    clip = given.get("clip")
    if clip is None:
        return
    if isinstance(clip, bool) or not isinstance(clip, (int, float)):
        raise ValueError(f"clip: expected None or inf, got {clip!r}")
    if not clip >= float(np.finfo(dtype).max):
        raise ValueError(
            f"clip: expected None or inf, got {clip!r}: the layers here don't clip. Leave it out "
            "where no sum of inputs exceeds it"
        )


def _check_numbers(value: Any, name: str) -> None:
    numbers = value if isinstance(value, list) else [value]
    if value is not None and not all(type(part) in (int, float) for part in numbers):
        raise ValueError(f"{name}: expected numbers, got {value!r}")


def _check_activations(cell: str, given: Mapping[str, Any], directions: int) -> None:
    operator, activations = OPERATORS[cell]
    wanted = list(activations) * directions
    value = given.get("activations") or list(DEFAULT_ACTIVATIONS[operator]) * directions
    names = value if isinstance(value, list) else [value]
    if [str(name).lower() for name in names] != [name.lower() for name in wanted]:
        hint = f"others can't be represented by {cell!r}"
        if operator == "RNN":
            hint += "; 'rnn_tanh' and 'rnn_relu' are the cells of a node RNN"
        raise ValueError(f"activations: expected {wanted}, got {value!r}: {hint}")

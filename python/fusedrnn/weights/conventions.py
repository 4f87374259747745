"""The orders of the gates as data, and what the conversions have in common.

Every conversion goes through a `Direction`: the parameters of one direction of one layer, with the
gates in torch's order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import _core
from .._arguments import integer
from .._network import Array, check_cell, dtype_of, network_of


class Convention(NamedTuple):
    """How a framework arranges the gates of a weight.

    Attributes
    ----------
    gates : mapping of str to str
        The order of the gates by cell, a letter for each: the framework's own.
    axis : int
        Along which the gates stand in the matrices of one direction: 0 for rows, 1 for columns.
    """

    gates: Mapping[str, str]
    axis: int


_ONE_GATE = {"rnn_tanh": "a", "rnn_relu": "a"}

#: The conventions by framework.
CONVENTIONS: Mapping[str, Convention] = {
    "torch": Convention({"lstm": "ifgo", "gru": "rzn", **_ONE_GATE}, axis=0),
    "keras": Convention({"lstm": "ifco", "gru": "zrh", **_ONE_GATE}, axis=1),
    "onnx": Convention({"lstm": "iofc", "gru": "zrh", **_ONE_GATE}, axis=0),
}

#: torch's letter for the letters of others: an LSTM's new content, a GRU's, and its update gate.
ALIASES: Mapping[str, Mapping[str, str]] = {
    "lstm": {"c": "g", "j": "g"},
    "gru": {"h": "n", "c": "n", "u": "z"},
    "rnn_tanh": {},
    "rnn_relu": {},
}

#: Why most GRUs that can't be loaded can't be.
RESET_BEFORE = "a GRU here resets h after its product with R, not before it"


class Direction(NamedTuple):
    """The parameters of one direction of one layer, by torch's names and in torch's order."""

    weight_ih: Array  # [G*H, I]
    weight_hh: Array  # [G*H, H]
    bias_ih: Array | None  # [G*H]
    bias_hh: Array | None  # [G*H]

    def reordered(self, cell: str, given: str, wanted: str) -> Direction:
        """Return it with the gates in another order: copies."""

        def copy(array: Array) -> Array:
            return reorder_gates(cell, array, given, wanted)

        W, R, b, s = self
        return Direction(
            copy(W), copy(R), None if b is None else copy(b), None if s is None else copy(s)
        )


def reorder_gates(cell: str, array: Array, given: str, wanted: str, axis: int = 0) -> Array:
    """Return a copy of a weight or bias with its gates in another order.

    Parameters
    ----------
    cell : str
        "lstm", "gru", "rnn_tanh" or "rnn_relu".
    array : array
        With G*H elements along `axis`, H of each gate.
    given, wanted : str
        A letter for each gate, such as "ifgo". An LSTM's g may be called c or j; a GRU's n may be
        called h or c, and its z u.
    axis : int

    Returns
    -------
    array

    Raises
    ------
    ValueError
        If there is no such cell, an order hasn't each gate once, or the axis can't be divided
        among the gates.
    TypeError
        If the array isn't one of float32 or float64.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.weights import CONVENTIONS, reorder_gates
    >>> keras, torch = CONVENTIONS["keras"].gates["gru"], CONVENTIONS["torch"].gates["gru"]
    >>> keras, torch
    ('zrh', 'rzn')
    >>> reorder_gates("gru", np.array([1.0, 1.5, 2.0, 2.5, 3.0, 3.5]), keras, torch)
    array([2. , 2.5, 1. , 1.5, 3. , 3.5])
    """
    check_cell(cell)
    old, new = canonical(cell, given, "given"), canonical(cell, wanted, "wanted")
    array, axis = _core.as_array(array, "array"), integer(axis, "axis")
    if not 0 <= axis < array.ndim:
        raise ValueError(f"axis: expected 0 to {array.ndim - 1}, got {axis}")
    if array.shape[axis] % len(old):
        raise ValueError(
            f"array: expected a multiple of {len(old)} along axis {axis}, got {array.shape}"
        )
    gates = np.split(array, len(old), axis)
    return np.concatenate([gates[old.index(gate)] for gate in new], axis)


def canonical(cell: str, order: str, name: str) -> str:
    """Return an order in torch's letters, if it has each gate once."""
    if not isinstance(order, str):
        raise TypeError(f"{name}: expected a str, got {type(order).__name__}")
    torch = CONVENTIONS["torch"].gates[cell]
    letters = "".join(ALIASES[cell].get(letter, letter) for letter in order)
    if sorted(letters) != sorted(torch):
        raise ValueError(f"{name}: expected the gates {torch!r} in any order, got {order!r}")
    return letters


def checked(value: Any, name: str, shape: Sequence[int | str], dtype: str | None = None) -> Array:
    """Return an array of this shape and dtype; a name in the shape stands for any size but 0."""
    array = _core.as_array(value, name, dtype)
    fits = array.ndim == len(shape) and all(
        got == size if isinstance(size, int) else got > 0
        for got, size in zip(array.shape, shape, strict=True)
    )
    if not fits:
        text = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        raise ValueError(f"{name}: expected ({text}), got {array.shape}")
    return array


def named(direction: Direction, suffix: str) -> dict[str, Array]:
    """Return the parameters by their names, such as those with "_l0_reverse" at the end."""
    return {
        f"{kind}{suffix}": np.ascontiguousarray(array)
        for kind, array in direction._asdict().items()
        if array is not None
    }


def merged(directions: Sequence[Direction], layer: int) -> dict[str, Array]:
    """Return the parameters of one layer by their names."""
    number = integer(layer, "layer")
    if number < 0:
        raise ValueError(f"layer: expected at least 0, got {number}")
    suffixes = (f"_l{number}", f"_l{number}_reverse")
    parameters: dict[str, Array] = {}
    for direction, suffix in zip(directions, suffixes, strict=False):
        parameters |= named(direction, suffix)
    return parameters


def read_layer(
    cell: str, parameters: Mapping[str, Any], layer: int, framework: str
) -> list[Direction]:
    """Return the directions of one layer of the parameters that a layer here has, checked."""
    network, dtype = network_of(cell, parameters), dtype_of(parameters)
    if network.proj_size:
        raise ValueError(f"weight_hr_l0: expected none, since an LSTM of {framework} has none")
    if not 0 <= integer(layer, "layer") < network.num_layers:
        raise ValueError(f"layer: expected 0 to {network.num_layers - 1}, got {layer}")
    shapes = dict(network.shapes())

    def read(kind: str, suffix: str) -> Array:
        name = f"{kind}_l{layer}{suffix}"
        return checked(parameters[name], name, shapes[name], dtype)

    return [
        Direction(
            read("weight_ih", suffix),
            read("weight_hh", suffix),
            read("bias_ih", suffix) if network.bias else None,
            read("bias_hh", suffix) if network.bias else None,
        )
        for suffix in ("", "_reverse")[: network.directions]
    ]

"""Weights of Keras's LSTM, GRU and SimpleRNN.

A layer of Keras has, for each direction::

    kernel              (I, G*H)    W^T
    recurrent_kernel    (H, G*H)    R^T
    bias                (G*H,)      b + s; of a GRU (2, G*H), b and s

gates in the order i f c o, or z r h. A Bidirectional layer has those of its forward layer, then
those of its backward layer, and joins their outputs as the layers here do if merge_mode is
"concat".

Sources: keras.layers.LSTM, GRU, SimpleRNN and Bidirectional, of Keras 3 (keras/src/layers/rnn).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import _core
from .._network import Array, check_cell
from .conventions import CONVENTIONS, RESET_BEFORE, Direction, checked, merged, read_layer
from .keras_config import Sizes, check_config

KERAS, TORCH = CONVENTIONS["keras"], CONVENTIONS["torch"]


def from_keras(
    cell: str, weights: Sequence[Any], *, config: Mapping[str, Any] | None = None, layer: int = 0
) -> dict[str, Array]:
    """Return the parameters of a layer of Keras: LSTM, GRU or SimpleRNN.

    Keras is batch-first, as the layers here are with ``batch_first=True``.

    Parameters
    ----------
    cell : str
        "lstm", "gru", "rnn_tanh" or "rnn_relu".
    weights : sequence of 2, 3, 4 or 6 arrays
        As from ``layer.get_weights()``: kernel (I, G*H), recurrent kernel (H, G*H), and, if the
        layer has one, bias (G*H,), or (2, G*H) of a GRU. Of a Bidirectional layer those of the
        forward direction, then those of the backward one.
    config : mapping, optional
        As from ``layer.get_config()``, or with its class, as from
        ``keras.layers.serialize(layer)``; also of a Bidirectional, or of an RNN with one cell. What
        isn't known, can't be represented or doesn't fit the weights is refused. So is dropout,
        which would have to act in training: ``{**layer.get_config(), "dropout": 0}`` leaves it out.
        An entry that is missing has Keras's default. Without a configuration the layer is taken
        for one with Keras's default activations; and a GRU without a bias, whose shape would tell,
        for one with ``reset_after=True``.
    layer : int
        Which layer of a stack it becomes. The results for several may be merged.

    Returns
    -------
    dict of str to array
        For `load_parameters`.

    Raises
    ------
    ValueError
        If the number of arrays or a shape is wrong, or the layer can't be represented.
    TypeError
        If an array isn't one of float32 or float64, dtypes differ, or a configuration is no
        mapping.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedrnn
    >>> kernel, recurrent_kernel, bias = np.ones((3, 12)), np.ones((4, 12)), np.ones((2, 12))
    >>> parameters = fusedrnn.weights.from_keras("gru", [kernel, recurrent_kernel, bias])
    >>> {name: array.shape for name, array in parameters.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'weight_ih_l0': (12, 3), 'weight_hh_l0': (12, 4),
     'bias_ih_l0': (12,), 'bias_hh_l0': (12,)}
    """
    check_cell(cell)
    if not isinstance(weights, (list, tuple)):
        raise TypeError(f"weights: expected a list of arrays, got {type(weights).__name__}")
    count = len(weights)
    if count not in (2, 3, 4, 6):
        raise ValueError(
            "weights: expected 2 or 3 arrays (kernel, recurrent kernel, bias), "
            f"or twice as many for both directions, got {count}"
        )
    dtype = _core.as_array(weights[0], "weights[0] (kernel)").dtype.name
    each = count if count < 4 else count // 2
    directions = [_direction(cell, weights[k : k + each], k, dtype) for k in range(0, count, each)]
    sizes = [(d.weight_ih.shape, d.weight_hh.shape) for d in directions]
    if sizes[0] != sizes[-1]:
        raise ValueError(f"weights: expected directions of the same size, got {sizes}")
    if config is not None:
        (_, inputs), (_, units) = sizes[0]
        check_config(cell, config, Sizes(inputs, units, each == 3, len(directions)))
    return merged(directions, layer)


def to_keras(cell: str, parameters: Mapping[str, Any], *, layer: int = 0) -> list[Array]:
    """Return what ``set_weights`` of a layer of Keras takes: the inverse of `from_keras`.

    Keras's LSTM and SimpleRNN have one bias: the sum of the two here.

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
    list of 2, 3, 4 or 6 arrays

    Raises
    ------
    ValueError
        If a name or shape is wrong, there is no such layer, or it projects h, which Keras's don't.
    TypeError
        If `parameters` isn't a mapping, or a dtype is wrong.

    Examples
    --------
    >>> import fusedrnn
    >>> rnn = fusedrnn.RNN(3, 4, bidirectional=True)
    >>> [array.shape for array in fusedrnn.weights.to_keras("rnn_tanh", rnn.parameters)]
    [(3, 4), (4, 4), (4,), (3, 4), (4, 4), (4,)]
    """
    arrays = []
    for direction in read_layer(cell, parameters, layer, "Keras"):
        W, R, b, s = direction.reordered(cell, TORCH.gates[cell], KERAS.gates[cell])
        arrays += [np.ascontiguousarray(W.T), np.ascontiguousarray(R.T)]
        if b is not None and s is not None:
            arrays.append(np.stack((b, s)) if cell == "gru" else b + s)
    return arrays


def _direction(cell: str, weights: Sequence[Any], first: int, dtype: str) -> Direction:
    """Return one direction from its kernel, recurrent kernel and bias; `first` is their place."""
    names = [f"weights[{first + k}]" for k in range(3)]
    G = len(KERAS.gates[cell])
    recurrent = _core.as_array(weights[1], f"{names[1]} (recurrent kernel)", dtype)
    H = recurrent.shape[0] if recurrent.ndim == 2 else 0
    R = checked(recurrent, f"{names[1]} (recurrent kernel)", (H or "H", G * H or f"{G}*H"), dtype)
    W = checked(weights[0], f"{names[0]} (kernel)", ("I", G * H), dtype)
    b = s = None
    if len(weights) == 3:
        name = f"{names[2]} (bias)"
        bias = _core.as_array(weights[2], name, dtype)
        if cell == "gru" and bias.shape == (G * H,):
            raise ValueError(
                f"{name}: expected (2, {G * H}) of a GRU with reset_after=True, "
                f"got {bias.shape} of one with reset_after=False: {RESET_BEFORE}"
            )
        bias = checked(bias, name, (2, G * H) if cell == "gru" else (G * H,), dtype)
        b, s = bias if cell == "gru" else (bias, np.zeros_like(bias))
    return Direction(W.T, R.T, b, s).reordered(cell, KERAS.gates[cell], TORCH.gates[cell])

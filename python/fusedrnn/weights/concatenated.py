"""Gates that share one matrix over the concatenation of h and x.

The matrix M (G*H, H + I) has H columns for h and I columns for x::

    a = M [h, x] + b = M_h h + M_x x + b

So it splits into R = weight_hh = M_h and W = weight_ih = M_x; b = bias_ih, and bias_hh = 0.
A GRU has sigmoid(M [h, x]) for r and z, but tanh(M_n [r h, x]) for n: h is reset before the
product, which no split turns into a reset after it.

Sources: Olah, Understanding LSTM Networks, 2015, for W [h, x]; BasicLSTMCell and LSTMCell of
TensorFlow 1 (tf.compat.v1.nn.rnn_cell) for i j f o, [x, h], columns and the forget bias.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from .. import _core
from .._arguments import integer
from .._network import Array, check_cell
from .conventions import CONVENTIONS, RESET_BEFORE, Direction, canonical, checked, named


def from_concatenated(
    cell: str,
    matrix: Any,
    bias: Any = None,
    *,
    gates: str,
    parts: str,
    axis: int,
    forget_bias: float = 0.0,
    suffix: str = "_l0",
) -> dict[str, Array]:
    """Return the parameters of a layer whose gates have one matrix over [h, x] or [x, h].

    Parameters
    ----------
    cell : str
        "lstm", "rnn_tanh" or "rnn_relu".
    matrix : array
        (G*H, H + I), or (H + I, G*H).
    bias : array (G*H,), optional
    gates : str
        The order of the gates, such as "ifco" or "fico"; "a" for an RNN.
    parts : "hx" or "xh"
        What comes first in the concatenation.
    axis : int
        Along which the gates stand: 0 for (G*H, H + I), 1 for (H + I, G*H).
    forget_bias : float
        Added to the bias of an LSTM's forget gate. TensorFlow 1's cells add one, 1 by default,
        that isn't in their checkpoints.
    suffix : str
        Of the names: the layer and direction, such as "_l1_reverse".

    Returns
    -------
    dict of str to array
        For `load_parameters`: weight_ih and weight_hh; where there is a bias, bias_ih, and
        bias_hh, which is 0.

    Raises
    ------
    ValueError
        If a shape or an order is wrong, and for a GRU, which can't be split.
    TypeError
        If an array isn't one of float32 or float64, or dtypes differ.

    Examples
    --------
    The checkpoint of a BasicLSTMCell of TensorFlow 1:

    >>> import numpy as np
    >>> import fusedrnn
    >>> kernel, bias = np.ones((3 + 2, 8), np.float32), np.zeros(8, np.float32)
    >>> parameters = fusedrnn.weights.from_concatenated(
    ...     "lstm", kernel, bias, gates="ijfo", parts="xh", axis=1, forget_bias=1.0
    ... )
    >>> lstm = fusedrnn.LSTM(3, 2)
    >>> lstm.load_parameters(parameters)
    >>> lstm.parameters["bias_ih_l0"]  # i f g o
    array([0., 0., 1., 1., 0., 0., 0., 0.], dtype=float32)
    """
    check_cell(cell)
    if cell == "gru":
        raise ValueError(
            f"cell: expected 'lstm', 'rnn_tanh' or 'rnn_relu', got 'gru': {RESET_BEFORE}"
        )
    if not isinstance(forget_bias, numbers.Real):
        raise TypeError(f"forget_bias: expected a number, got {type(forget_bias).__name__}")
    if not math.isfinite(forget_bias):
        raise ValueError(f"forget_bias: expected a finite number, got {forget_bias}")
    if cell != "lstm" and forget_bias != 0:
        raise ValueError(f"forget_bias: expected 0 for {cell}, got {forget_bias}")
    if parts not in ("hx", "xh"):
        raise ValueError(f"parts: expected 'hx' or 'xh', got {parts!r}")
    if integer(axis, "axis") not in (0, 1):
        raise ValueError(f"axis: expected 0 or 1, got {axis!r}")
    rows = _rows(matrix, len(canonical(cell, gates, "gates")), axis)  # [G*H, H + I]
    H = len(rows) // len(gates)
    W, R = (rows[:, H:], rows[:, :H]) if parts == "hx" else (rows[:, :-H], rows[:, -H:])
    b = None
    if bias is not None:
        b = checked(bias, "bias", (len(rows),), rows.dtype.name)
    elif forget_bias != 0:
        b = np.zeros(len(rows), rows.dtype)
    direction = Direction(W, R, b, None if b is None else np.zeros_like(b))
    direction = direction.reordered(cell, gates, CONVENTIONS["torch"].gates[cell])
    if direction.bias_ih is not None and forget_bias != 0:
        direction.bias_ih[H : 2 * H] += forget_bias  # i f g o
    return named(direction, suffix)


def _rows(matrix: Any, gates: int, axis: int) -> Array:
    """Return the matrix with its gates along rows, if it has a shape that can be split."""
    array = _core.as_array(matrix, "matrix")
    if array.ndim == 2:
        rows = array if axis == 0 else array.T
        if rows.shape[0] % gates == 0 and 0 < rows.shape[0] // gates < rows.shape[1]:
            return rows
    expected = f"({gates}*H, H + I)" if axis == 0 else f"(H + I, {gates}*H)"
    raise ValueError(f"matrix: expected {expected}, got {array.shape}")

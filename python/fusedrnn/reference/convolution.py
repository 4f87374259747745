"""A convolution over time, one number at a time.

With the width K, and p = K - 1 (causal) or (K - 1) // 2 (same)::

    y_t = b + sum_{k=0}^{K-1} W_k x_{t+k-p}

where x is 0 before the sequence (unless the inputs before it are given) and past its length, and y
is 0 past the length.

Source: Goodfellow, Bengio and Courville, Deep Learning, 2016, equation 9.6 (there over two axes).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .._arguments import any_array, float64_array
from .cell import Array


def convolution(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike,
    *,
    padding: str = "causal",
    state: npt.ArrayLike | None = None,
    lengths: npt.ArrayLike | None = None,
) -> Array:
    """Return y, by the equation at the top of this file.

    Parameters
    ----------
    x : array (T, B, I)
    weight : array (O, K, I)
    bias : array (O,)
    padding : "causal" or "same"
    state : array (K - 1, B, I), optional
        The inputs before x; zero if not given.
    lengths : array of integers (B,), optional

    Returns
    -------
    array (T, B, O)

    Examples
    --------
    >>> convolution([[[1.0]], [[4.0]]], [[[-1.0], [1.0]]], [0.0]).ravel()
    array([1., 3.])
    """
    x, weight = float64_array(x, "x"), float64_array(weight, "weight")
    bias = float64_array(bias, "bias")
    steps, batch, inputs = x.shape
    outputs, width, _ = weight.shape
    p = width - 1 if padding == "causal" else (width - 1) // 2
    ends = np.full(batch, steps) if lengths is None else any_array(lengths, "lengths")
    before = np.zeros((p, batch, inputs)) if state is None else float64_array(state, "state")
    y = np.zeros((steps, batch, outputs))
    for b in range(batch):
        for t in range(ends[b]):
            y[t, b] = bias
            for k in range(width):
                at = t + k - p
                if at < 0:
                    y[t, b] += weight[:, k] @ before[at + p, b]
                elif at < ends[b]:
                    y[t, b] += weight[:, k] @ x[at, b]
    return y

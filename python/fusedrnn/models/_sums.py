"""Sums over all positions of a batch of sequences, as the gradients of parameters are.

A running sum of n numbers in float32 loses up to n units in the last place, so that of a million
positions few digits would be left. Hence float64, where n is more than a few.
"""

from __future__ import annotations

import numpy as np

from .._network import Array

# The positions whose products BLAS adds up in the arrays' dtype: it loses some 3e-6 of them at
# most, and more would take no less time.
CHUNK = 1024


def sum_over(rows: Array) -> Array:
    """Return the sum over the first axis.

    Examples
    --------
    >>> sum_over(np.full((10**6, 1), 0.1, np.float32))
    array([100000.], dtype=float32)
    """
    total: Array = rows.sum(axis=0, dtype=np.float64).astype(rows.dtype)
    return total


def sum_outer(dy: Array, x: Array) -> Array:
    """Return the sum of dy x^T over all positions: (O, I) of (..., O) and (..., I).

    Examples
    --------
    >>> sum_outer(np.ones((10**6, 1), np.float32), np.full((10**6, 1), 0.1, np.float32)).round(1)
    array([[100000.]], dtype=float32)
    """
    dy, x = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    total: Array = dy[:CHUNK].T @ x[:CHUNK]
    if len(dy) <= CHUNK:
        return total
    total = total.astype(np.float64)
    for start in range(CHUNK, len(dy), CHUNK):
        total += dy[start : start + CHUNK].T @ x[start : start + CHUNK]
    return total.astype(dy.dtype)

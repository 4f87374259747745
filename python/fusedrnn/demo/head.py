"""The head: from the hidden states to the probability of each next symbol.

The hidden states y [N, H] of N characters, the weights V [symbols, H] and c [symbols]::

    o = y V^T + c
    p = softmax(o)
    L = -mean_n log p[n, target_n]

    d_o = (p - onehot(target)) / N
    d_V = d_o^T y,   d_c = sum_n d_o,   d_y = d_o V

Source: Goodfellow, Bengio and Courville, Deep Learning, 2016, equations 10.10 to 10.24.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .corpus import Symbols

Array = npt.NDArray[Any]

# Rows whose logits are computed together: 256 rows of some 100 float32 symbols are 100 KB, so they
# stay in a level-2 cache while they become probabilities and then gradients.
ROWS = 256


class Loss(NamedTuple):
    """The mean loss in nats, and its gradients."""

    value: float
    d_y: Array  # [N, H]
    d_weight: Array  # [symbols, H]
    d_bias: Array  # [symbols]


def loss(y: Array, targets: Symbols, weight: Array, bias: Array) -> Loss:
    """Return L and its gradients, by the equations at the top of this file.

    Parameters
    ----------
    y : array (N, H)
    targets : array (N,)
        The symbol that follows each of the N characters.
    weight : array (symbols, H)
    bias : array (symbols,)
    """
    total = 0.0
    d_y, d_weight, d_bias = np.empty_like(y), np.zeros_like(weight), np.zeros_like(bias)
    for start in range(0, len(y), ROWS):
        rows = slice(start, start + ROWS)
        o = logits(y[rows], weight, bias)
        at_target = np.arange(len(o)), targets[rows]
        at_targets = o[at_target]
        e = np.exp(o, out=o)
        sums = e.sum(axis=1, keepdims=True)
        total += float((np.log(sums[:, 0]) - at_targets).sum(dtype=np.float64))
        d_o = np.multiply(e, 1.0 / (len(y) * sums), out=e)  # softmax / N
        d_o[at_target] -= 1.0 / len(y)
        np.matmul(d_o, weight, out=d_y[rows])
        d_weight += d_o.T @ y[rows]
        d_bias += d_o.sum(axis=0)
    return Loss(total / len(y), d_y, d_weight, d_bias)


def log_softmax(y: Array, weight: Array, bias: Array) -> Array:
    """Return log p, [N, symbols]."""
    o = logits(y, weight, bias)
    o -= np.log(np.exp(o).sum(axis=1, keepdims=True))
    return o


def logits(y: Array, weight: Array, bias: Array) -> Array:
    """Return o - max_k o_k, [N, symbols]: softmax is the same, and exp cannot overflow."""
    o: Array = y @ weight.T
    o += bias
    o -= o.max(axis=1, keepdims=True)
    return o

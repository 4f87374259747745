"""Attention, one pair of a query and a vector of the memory at a time.

With queries h_t, a memory m_s and a score e_ts of each pair::

    scaled dot product   e_ts = (W_q h_t) . (W_k m_s) / sqrt(A)
    additive             e_ts = v . tanh(W_q h_t + W_k m_s + b)

    alpha_ts  = exp(e_ts) / sum_s' exp(e_ts')       over the memory's length
    context_t = sum_s alpha_ts m_s                  0 where the memory has none

Sources: Bahdanau, Cho and Bengio, Neural Machine Translation by Jointly Learning to Align and
Translate, ICLR 2015; Vaswani et al., Attention Is All You Need, NeurIPS 2017, section 3.2.1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .._arguments import any_array, float64_array
from .cell import Array

Score = Callable[[Array, Array], float]


def dot_product_score(query: npt.ArrayLike, key: npt.ArrayLike) -> Score:
    """Return e of the scaled dot product, with W_q (A, Q) and W_k (A, M).

    Examples
    --------
    >>> dot_product_score([[2.0]], [[3.0]])([5.0], [7.0])
    210.0
    """
    w_q, w_k = float64_array(query, "query"), float64_array(key, "key")
    return lambda h, m: float((w_q @ h) @ (w_k @ m)) / float(np.sqrt(len(w_q)))


def additive_score(
    query: npt.ArrayLike, key: npt.ArrayLike, bias: npt.ArrayLike, v: npt.ArrayLike
) -> Score:
    """Return the additive e, with W_q (A, Q), W_k (A, M), b (A,) and v (A,).

    Examples
    --------
    >>> additive_score([[1.0]], [[1.0]], [-3.0], [2.0])([1.0], [2.0])
    0.0
    """
    w_q, w_k = float64_array(query, "query"), float64_array(key, "key")
    b, v_ = float64_array(bias, "bias"), float64_array(v, "v")
    return lambda h, m: float(v_ @ np.tanh(w_q @ h + w_k @ m + b))


def attention(
    score: Score,
    query: npt.ArrayLike,
    memory: npt.ArrayLike,
    lengths: npt.ArrayLike | None = None,
) -> tuple[Array, Array]:
    """Return the context and the weights alpha, by the equations at the top of this file.

    Parameters
    ----------
    score : callable
        From `dot_product_score` or `additive_score`.
    query : array (T, B, Q)
    memory : array (S, B, M)
    lengths : array of integers (B,), optional
        Of the memory.

    Returns
    -------
    context : array (T, B, M)
    alpha : array (T, B, S)

    Examples
    --------
    >>> context, alpha = attention(
    ...     dot_product_score([[1.0]], [[1.0]]), [[[0.0]]], [[[1.0]], [[3.0]]])
    >>> context.ravel(), alpha.ravel()
    (array([2.]), array([0.5, 0.5]))
    """
    h, m = float64_array(query, "query"), float64_array(memory, "memory")
    ends = np.full(m.shape[1], len(m)) if lengths is None else any_array(lengths, "lengths")
    context = np.zeros((*h.shape[:2], m.shape[2]))
    alpha = np.zeros((*h.shape[:2], len(m)))
    for t, b in np.ndindex(h.shape[:2]):
        e = np.array([score(h[t, b], m[s, b]) for s in range(ends[b])])
        if len(e) == 0:
            continue
        alpha[t, b, : len(e)] = np.exp(e - e.max()) / np.exp(e - e.max()).sum()
        for s in range(len(e)):
            context[t, b] += alpha[t, b, s] * m[s, b]
    return context, alpha

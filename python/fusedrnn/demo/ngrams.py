"""The baselines: n-gram models of characters, interpolated after Witten and Bell.

With N(h c) the number of times that symbol c follows the history h of n - 1 symbols, N(h) their
sum over c, D(h) the number of different c among them, and h' the history without its oldest
symbol::

    p_0(c)     = 1 / V
    p_n(c | h) = (N(h c) + D(h) p_{n-1}(c | h')) / (N(h) + D(h))

and p_n(c | h) = p_{n-1}(c | h') where h was never seen. Nothing in it needs tuning, and no symbol
has probability 0. Source: Witten and Bell, The Zero-Frequency Problem, IEEE Transactions on
Information Theory 37(4), 1991, method C; in this form in Chen and Goodman, An Empirical Study of
Smoothing Techniques for Language Modeling, TR-10-98, Harvard University, 1998, section 2.5.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .corpus import Symbols

Table = npt.NDArray[np.float64]  # [V] * n: p_n(c | h), the oldest symbol of h first, c last

NAMES = ("uniform", "unigram", "bigram", "trigram")
CONTEXT = len(NAMES) - 2  # symbols of history that the largest baseline looks at


def estimate(symbols: Symbols, size: int) -> dict[str, Table]:
    """Return the tables of `NAMES`, estimated on a text over `size` symbols.

    The uniform one has the shape of the unigram: it depends on nothing.

    Examples
    --------
    N(a) = 2, N(b) = 1, N = 3, D = 2, V = 3:

    >>> tables = estimate(np.array([1, 1, 2]), size=3)
    >>> tables["unigram"] * (3 + 2)
    array([0.66666667, 2.66666667, 1.66666667])
    """
    tables = [np.full(size, 1.0 / size)]
    for order in range(1, len(NAMES)):
        counts = _count(symbols, order, size)  # N(h c)
        seen = counts.sum(axis=-1, keepdims=True)  # N(h)
        different = np.count_nonzero(counts, axis=-1, keepdims=True)  # D(h)
        smoothed = counts + different * tables[-1]  # the leading axis of h broadcasts away
        total = seen + different
        unseen = np.broadcast_to(tables[-1], counts.shape)
        tables.append(np.divide(smoothed, total, out=unseen.copy(), where=total > 0))
    return dict(zip(NAMES, tables, strict=True))


def bits_per_character(table: Table, symbols: Symbols) -> float:
    """Return the mean of -log2 p(c | h) over a text, from the symbol after `CONTEXT` on.

    Every model is scored on the same symbols: those that have a full trigram history.
    """
    probability = table[tuple(_windows(symbols[CONTEXT + 1 - table.ndim :], table.ndim))]
    return float(-np.log2(probability).mean())


def _count(symbols: Symbols, order: int, size: int) -> npt.NDArray[np.int64]:
    """Return N(h c), [V] * order."""
    index = np.ravel_multi_index(tuple(_windows(symbols, order)), (size,) * order)
    return np.bincount(index, minlength=size**order).reshape((size,) * order)


def _windows(symbols: Symbols, order: int) -> Sequence[Symbols]:
    """Return `order` arrays: the k-th holds the k-th symbol of every window of that length."""
    count = len(symbols) - order + 1
    return [symbols[k : k + count] for k in range(order)]

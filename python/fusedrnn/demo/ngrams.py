"""The baselines: n-gram models, interpolated after Witten and Bell.

With N(h c) the number of times that symbol c follows the history h of n - 1 symbols, N(h) their
sum over c, D(h) the number of different c among them, and h' the history without its oldest
symbol::

    p_0(c)     = 1 / V
    p_n(c | h) = (N(h c) + D(h) p_{n-1}(c | h')) / (N(h) + D(h))

and p_n(c | h) = p_{n-1}(c | h') where h was never seen. Nothing in it needs tuning, and no symbol
has probability 0. Source: Witten and Bell, The Zero-Frequency Problem, IEEE Transactions on
Information Theory 37(4), 1991, method C; in this form in Chen and Goodman, An Empirical Study of
Smoothing Techniques for Language Modeling, TR-10-98, Harvard University, 1998, section 2.5.

Only what occurs is kept: of the V^3 trigrams of some thousand words, few do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .corpus import Symbols

NAMES = ("uniform", "unigram", "bigram", "trigram")  # n = 0, 1, 2, 3
ORDER = len(NAMES) - 1
CONTEXT = ORDER - 1  # symbols of history that the largest baseline looks at

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Counts(NamedTuple):
    """How often each of the n-grams of one n occurs; each has a number, see `_number`."""

    grams: Integers  # [G] in order
    grams_seen: Integers  # [G]: N(h c)
    histories: Integers  # [M] in order
    seen: Integers  # [M]: N(h)
    different: Integers  # [M]: D(h)


class NGrams:
    """p_0 to p_3, estimated on a text.

    Parameters
    ----------
    symbols : array of integers (N,)
        The text.
    size : int
        V, the number of symbols; V^3 below 2^63.

    Examples
    --------
    N(a) = 2, N(b) = 1, N = 3, D = 2, V = 3:

    >>> ngrams = NGrams(np.array([1, 1, 2]), size=3)
    >>> ngrams.probability(np.array([[0], [1], [2]]), 1) * (3 + 2)
    array([0.66666667, 2.66666667, 1.66666667])
    """

    def __init__(self, symbols: Symbols, size: int) -> None:
        self._size = size
        self._counts = [self._count(windows(symbols, n)) for n in range(1, ORDER + 1)]

    def probability(self, grams: Symbols, n: int) -> Floats:
        """Return p_n(c | h).

        Parameters
        ----------
        grams : array of integers (N, m), m at least n
            In each row the history, the oldest symbol first, and c.
        n : int
            0 to 3.

        Returns
        -------
        array (N,)
        """
        p = np.full(len(grams), 1.0 / self._size)
        for k, counts in enumerate(self._counts[:n], start=1):
            gram = grams[:, grams.shape[1] - k :]
            history = self._number(gram[:, :-1])
            of_gram = _find(counts.grams, counts.grams_seen, self._number(gram))
            seen = _find(counts.histories, counts.seen, history)
            different = _find(counts.histories, counts.different, history)
            np.divide(of_gram + different * p, seen + different, out=p, where=seen > 0)
        return p

    def bits(self, symbols: Symbols, n: int) -> float:
        """Return the mean of -log2 p_n over a text.

        Every n is scored on the same symbols: those that have the history of a trigram.
        """
        return float(-np.log2(self.probability(windows(symbols, ORDER), n)).mean())

    def _count(self, grams: Symbols) -> Counts:
        found, seen = np.unique(self._number(grams), return_counts=True)
        histories, first = np.unique(found // self._size, return_index=True)
        different = np.diff(first, append=len(found))
        return Counts(found, seen, histories, np.add.reduceat(seen, first), different)

    def _number(self, grams: Symbols) -> Integers:
        """Return the number of each n-gram (N, n): its symbols as digits to the base V."""
        n = grams.shape[1]
        if n == 0:
            return np.zeros(len(grams), np.int64)
        numbers: Integers = np.ravel_multi_index(tuple(grams.T), (self._size,) * n)
        return numbers


def windows(symbols: Symbols, n: int) -> Symbols:
    """Return every n symbols in a row: (N - n + 1, n).

    Examples
    --------
    >>> windows(np.array([5, 6, 7]), 2).tolist()
    [[5, 6], [6, 7]]
    """
    return np.lib.stride_tricks.sliding_window_view(symbols, n)


def _find(numbers: Integers, values: Integers, wanted: Integers) -> Integers:
    """Return the value of each number that is wanted; 0 where it isn't among the numbers."""
    place = np.minimum(np.searchsorted(numbers, wanted), len(numbers) - 1)
    return np.where(numbers[place] == wanted, values[place], 0)

"""Beam search: the most probable sequences that a model can generate, of many that are tried.

The W best prefixes of each row go on side by side. Of all their continuations by one symbol, the W
of the highest log p are kept; those that end with the end symbol leave the beam. Of all sequences
that have left it, or were cut at the greatest length, the W best are found, by the score::

    s(y) = log p(y) / ((5 + |y|) / 6)^a        |y| the length, with the end symbol

Since log p(y) falls with every symbol, a = 0 prefers short sequences; a penalty a around 0.6 to 1
makes up for that.

A beam of width 1 is `greedy`. One that is wide enough for all prefixes finds the best sequences of
all; any other may miss them.

A prefix that nothing can follow, since log p is -inf for all symbols, leaves the beam. A row that
has no prefix left has the sequences that were found before; the other rows go on.

Sources: Sutskever, Vinyals and Le, Sequence to Sequence Learning with Neural Networks, NeurIPS 2014
(hypotheses that end leave the beam); Wu et al., Google's Neural Machine Translation System, 2016
(arXiv:1609.08144), equation 14 (the length penalty).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .._arguments import number, size
from .._network import Array
from ._generation import (
    Floats,
    StepFunction,
    arguments,
    call_step,
    largest,
    select_state,
)
from ._positions import Integers
from .decoding import Decoded


@dataclass(frozen=True)
class Beams:
    """The W best sequences of each row, the best first, as `beam` returns them.

    Attributes
    ----------
    symbols : array of integers (T, N, W)
        Past the end of a sequence stands the end symbol.
    lengths : array of integers (N, W)
    log_p : array (N, W)
    ended : array of bool (N, W)
        All as in `Decoded`.
    scores : array (N, W)
        log_p with the length penalty. -inf where there are fewer than W sequences.
    """

    symbols: Integers
    lengths: Integers
    log_p: Floats
    ended: npt.NDArray[np.bool_]
    scores: Floats

    def best(self) -> Decoded:
        """Return the best sequence of each row."""
        lengths = self.lengths[:, 0]
        return Decoded(
            self.symbols[: lengths.max(initial=0), :, 0],
            lengths,
            self.log_p[:, 0],
            self.ended[:, 0],
        )

    def sequences(self, row: int) -> list[tuple[Integers, float]]:
        """Return the sequences of a row, each without its end symbol, and their scores.

        Parameters
        ----------
        row : int

        Returns
        -------
        list of (array of integers, float)
            The best first; W of them, or all that there are.

        Raises
        ------
        IndexError
            If there is no such row.
        """
        stops = self.lengths[row] - self.ended[row]
        return [
            (self.symbols[:stop, row, w], float(score))
            for w, (stop, score) in enumerate(zip(stops, self.scores[row], strict=True))
            if score > -np.inf
        ]


def beam(
    step: StepFunction,
    state: Any = None,
    *,
    start: Any,
    end: int | None = None,
    max_length: int,
    width: int,
    length_penalty: float = 0.0,
) -> Beams:
    """Search for the best sequences of each row, going on with several prefixes side by side.

    The search of a row ends when W sequences have ended and no prefix can become better than them.

    Parameters
    ----------
    step, state, start, end, max_length
        As in `greedy`. The step function gets up to N * W rows: the prefixes.
    width : int
        W, how many prefixes are kept.
    length_penalty : float
        a of the head of this file, at least 0. 0 is none.

    Returns
    -------
    Beams

    Raises
    ------
    ValueError, TypeError
        As from `greedy`; ValueError also for a width below 1 or a penalty below 0.

    Examples
    --------
    After 1 comes 1 or 2, after 2 the end, 0. Greedy would begin with 1, the more probable one:

    >>> import numpy as np
    >>> from fusedrnn.models import beam
    >>> table = np.array([[0.0, 0.6, 0.4], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    >>> def step(symbols, state):
    ...     with np.errstate(divide="ignore"):
    ...         return np.log(table[symbols]), state
    >>> beams = beam(step, start=0, end=0, max_length=3, width=2)
    >>> [(symbols.tolist(), round(float(np.exp(s)), 6)) for symbols, s in beams.sequences(0)]
    [([2], 0.4), ([1], 0.3)]
    """
    given = arguments(start, state, end, max_length)
    width, power = size(width, "width"), number(length_penalty, "length_penalty")
    rows, symbols = len(given.start), given.start
    live, done = _no_sequences(rows, width), _no_sequences(rows, width)
    live.log_p[:, 0] = 0.0  # one empty prefix a row
    goes_on = live.log_p > -np.inf
    slots = np.flatnonzero(goes_on)  # of the N * W prefixes those that go on
    while slots.size and len(live.symbols) < given.max_length:
        log_p, state = call_step(step, symbols, state, given.end)
        live, parents = _grow(live, slots, log_p, given.end)
        done = _merge(done, _scored(live, live.ended, power), given.pad)
        # log p only falls: with the penalty of the greatest length no prefix can end above this.
        hope = _score(live.log_p, given.max_length, power)
        goes_on = ~live.ended & (hope > done.scores[:, -1:])
        slots = np.flatnonzero(goes_on)
        symbols, state = live.symbols[-1].ravel()[slots], select_state(state, parents[slots])
    done = _merge(done, _scored(live, goes_on, power), given.pad)
    return replace(done, symbols=done.symbols[: done.lengths.max(initial=0)])


def _score(log_p: Floats, lengths: Any, power: float) -> Floats:
    """Return s(y) of the head of this file."""
    with np.errstate(over="ignore"):
        penalty = ((5.0 + np.asarray(lengths, np.float64)) / 6.0) ** power
    # Not by infinity, which would make NaN of -inf: what stands for no sequence.
    scores: Floats = log_p / np.minimum(penalty, np.finfo(np.float64).max)
    return scores


def _scored(prefixes: Beams, which: npt.NDArray[np.bool_], power: float) -> Beams:
    """Return prefixes, some of which are sequences now; the others don't count."""
    scores = _score(prefixes.log_p, prefixes.lengths, power)
    return replace(prefixes, scores=np.where(which, scores, -np.inf))


def _no_sequences(rows: int, width: int) -> Beams:
    """Return beams that hold nothing: what stays in the places of sequences that aren't found."""
    shape = rows, width
    return Beams(
        np.zeros((0, *shape), np.int64),
        np.zeros(shape, np.int64),
        np.full(shape, -np.inf),
        np.zeros(shape, np.bool_),
        np.full(shape, -np.inf),
    )


def _grow(live: Beams, slots: Integers, log_p: Array, end: int | None) -> tuple[Beams, Integers]:
    """Return the W best continuations of each row, and which row of log p each comes from."""
    (rows, width), symbols = live.log_p.shape, log_p.shape[1]
    totals = np.full((rows * width, symbols), -np.inf)
    totals[slots] = live.log_p.ravel()[slots, np.newaxis] + log_p
    totals = totals.reshape(rows, width * symbols)
    index = largest(totals, width)
    parent, symbol = np.divmod(index, symbols)
    prefix, total = _pick(live, parent), np.take_along_axis(totals, index, axis=1)
    grown = replace(
        prefix,
        symbols=np.concatenate((prefix.symbols, symbol[np.newaxis])),
        lengths=prefix.lengths + 1,
        log_p=total,
        ended=symbol == (-1 if end is None else end),
    )
    row_of = np.zeros(rows * width, np.int64)
    row_of[slots] = np.arange(len(slots))
    return grown, row_of[(parent + width * np.arange(rows)[:, np.newaxis]).ravel()]


def _pick(beams: Beams, index: Integers) -> Beams:
    """Return some sequences of each row: index (N, n)."""
    return Beams(
        np.take_along_axis(beams.symbols, index[np.newaxis], axis=2),
        np.take_along_axis(beams.lengths, index, axis=1),
        np.take_along_axis(beams.log_p, index, axis=1),
        np.take_along_axis(beams.ended, index, axis=1),
        np.take_along_axis(beams.scores, index, axis=1),
    )


def _merge(done: Beams, more: Beams, pad: int) -> Beams:
    """Return the W best of both by their scores; of equals those that were there first."""
    missing = np.full((len(more.symbols) - len(done.symbols), *done.scores.shape), pad)
    both = Beams(
        np.concatenate((np.concatenate((done.symbols, missing)), more.symbols), axis=2),
        np.concatenate((done.lengths, more.lengths), axis=1),
        np.concatenate((done.log_p, more.log_p), axis=1),
        np.concatenate((done.ended, more.ended), axis=1),
        np.concatenate((done.scores, more.scores), axis=1),
    )
    return _pick(both, largest(both.scores, done.scores.shape[1]))

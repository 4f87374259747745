"""What the tests of decoding share: models of few symbols, and the slow and obvious searches."""

from __future__ import annotations

import itertools

import numpy as np

import fusedrnn

END = 0


def log_softmax(o: np.ndarray) -> np.ndarray:
    o = o - o.max(axis=-1, keepdims=True)
    return o - np.log(np.exp(o).sum(axis=-1, keepdims=True))


class Recurrent:
    """A model whose state holds all that came before: a GRU over onehot symbols."""

    def __init__(self, symbols: int = 3, units: int = 5, scale: float = 4.0, seed: int = 0) -> None:
        self.symbols, self.units = symbols, units
        self.layer = fusedrnn.GRU(symbols, units, dtype="float64", seed=seed)
        self.head = scale * np.random.default_rng(seed).normal(size=(units, symbols))
        self.rows: list[int] = []  # of the calls

    def __call__(self, symbols, state):
        self.rows.append(len(symbols))
        y, state = self.layer(np.eye(self.symbols)[symbols][np.newaxis], state)
        return log_softmax(y[0] @ self.head), state

    def states(self, rows: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).normal(size=(1, rows, self.units))

    def log_p(self, sequence, state, start: int) -> float:
        """log p of a sequence, symbol by symbol; `state` is that of one row."""
        total = 0.0
        for before, symbol in zip((start, *sequence), sequence, strict=False):
            log_p, state = self(np.array([before]), state)
            total += log_p[0, symbol]
        return float(total)


def table(*rows):
    """A step function that only looks at the last symbol."""
    with np.errstate(divide="ignore"):
        log_p = np.log(np.array(rows, np.float64))
    return lambda symbols, state: (log_p[symbols], state)


EVEN = table([0.5, 0.5], [0.5, 0.5])


def score(log_p: float, length: int, power: float) -> float:
    return log_p / ((5 + length) / 6) ** power


def all_sequences(model, state, start: int, longest: int, power: float):
    """Every sequence that ends or is cut, by its score: the slow and obvious way."""
    found = []
    for length in range(1, longest + 1):
        for head in itertools.product(range(1, model.symbols), repeat=length - 1):
            lasts = range(model.symbols) if length == longest else [END]
            for sequence in [(*head, last) for last in lasts]:
                value = score(model.log_p(sequence, state, start), length, power)
                found.append((value, sequence))
    return sorted(found, reverse=True)


def plain_beam(model, state, start: int, longest: int, width: int, power: float):
    """Beam search over lists, as `beam_search` describes it, which never stops early."""
    live, done = [(0.0, (), state)], []
    for length in range(1, longest + 1):
        grown = []
        for total, prefix, before in live:
            log_p, after = model(np.array([(start, *prefix)[-1]]), before)
            grown += [(total + p, (*prefix, k), after) for k, p in enumerate(log_p[0])]
        grown = sorted(grown, key=lambda item: -item[0])[:width]
        ends = length == longest
        done += [(score(p, length, power), y) for p, y, _ in grown if ends or y[-1] == END]
        live = [item for item in grown if item[1][-1] != END]
    return sorted(done, reverse=True)[:width]


def listed(beams, row: int):
    """The sequences of a row with their end symbols, and their scores."""
    count = int((beams.scores[row] > -np.inf).sum())
    return [
        (beams.scores[row, w], tuple(beams.symbols[: beams.lengths[row, w], row, w].tolist()))
        for w in range(count)
    ]


def assert_same(got, want) -> None:
    assert [y for _, y in got] == [y for _, y in want]
    # Sums of a few logarithms, in another order.
    np.testing.assert_allclose([s for s, _ in got], [s for s, _ in want], rtol=1e-12)


def assert_decoded_equal(got, want) -> None:
    for name in ("symbols", "lengths", "log_p", "ended"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)

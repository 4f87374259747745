"""Beam search: against all sequences there are, and against beam search over lists."""

from __future__ import annotations

import math

import numpy as np
import pytest

from decoding_problems import (
    END,
    EVEN,
    Recurrent,
    all_sequences,
    assert_decoded_equal,
    assert_same,
    listed,
    log_softmax,
    plain_beam,
    table,
)
from fusedrnn.models import beam, greedy, sample


@pytest.mark.parametrize("power", [0.0, 0.6, 3.0])
@pytest.mark.parametrize("longest", [1, 4])
def test_a_beam_of_full_width_finds_every_sequence_in_order(power, longest):
    model = Recurrent(seed=1)
    states, start = model.states(3), np.array([1, 2, 0])
    wide = model.symbols * (model.symbols - 1) ** (longest - 1)
    beams = beam(
        model, states, start=start, end=END, max_length=longest, width=wide, length_penalty=power
    )
    best = beams.best()
    for row in range(3):
        want = all_sequences(model, states[:, [row]], start[row], longest, power)
        # As many are kept as there are prefixes at last; the whole is longer.
        assert_same(listed(beams, row), want[:wide])
        assert tuple(best.symbols[: best.lengths[row], row]) == want[0][1]


def test_a_beam_that_is_wider_than_all_sequences_has_places_left():
    model = Recurrent(symbols=2)
    state = model.states(1)
    beams = beam(model, state, start=1, end=END, max_length=3, width=9)
    want = all_sequences(model, state, 1, 3, 0.0)
    assert_same(listed(beams, 0), want)
    assert len(want) == 4
    assert (beams.scores[0, 4:] == -np.inf).all() and (beams.log_p[0, 4:] == -np.inf).all()
    assert not beams.lengths[0, 4:].any() and not beams.ended[0, 4:].any()
    assert (beams.symbols[:, 0, 4:] == END).all()
    assert len(beams.sequences(0)) == 4


@pytest.mark.parametrize("width", [1, 2, 3, 5])
@pytest.mark.parametrize("power", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("seed", range(4))
def test_beam_search_is_the_plain_one(width, power, seed):
    """Which goes on to the greatest length: so the early end of a search loses nothing."""
    model = Recurrent(symbols=4, seed=seed)
    states = model.states(3, seed)
    beams = beam(model, states, start=1, end=END, max_length=7, width=width, length_penalty=power)
    for row in range(3):
        assert_same(listed(beams, row), plain_beam(model, states[:, [row]], 1, 7, width, power))


def test_a_search_ends_when_nothing_can_become_better():
    calls = []

    def ending(symbols, state):
        calls.append(symbols.tolist())
        return np.log(np.tile([0.97, 0.01, 0.02], (len(symbols), 1))), state

    beams = beam(ending, start=1, end=END, max_length=1000, width=2)
    assert [y for _, y in listed(beams, 0)] == [(0,), (2, 0)]
    assert calls == [[1], [2]]


def test_a_prefix_that_is_given_up_leaves_no_step_behind():
    """[0] and [1, 0] are the best, found while [1, 2] of 0.1925 could still have won."""
    step = table([0.4, 0.35, 0.25], [0.45, 0.0, 0.55], [0.3, 0.35, 0.35])
    beams = beam(step, start=0, end=END, max_length=9, width=2)
    assert [y for _, y in listed(beams, 0)] == [(0,), (1, 0)]
    assert beams.symbols.shape == (2, 1, 2)


@pytest.mark.parametrize("end", [None, END])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("power", [0.0, 2.0])
def test_a_beam_of_one_is_greedy(end, seed, power):
    model = Recurrent(symbols=4, scale=1.0, seed=seed)
    states = model.states(5, seed)
    arguments = {"start": 2, "end": end, "max_length": 12}
    beams = beam(model, states, width=1, length_penalty=power, **arguments)
    want = greedy(model, states, **arguments)
    assert_decoded_equal(beams.best(), want)
    assert beams.symbols.shape == (*want.symbols.shape, 1)


def test_wider_beams_find_better_sequences():
    better = 0
    for seed in range(10):
        model = Recurrent(symbols=4, scale=1.0, seed=seed)
        arguments = {"start": 1, "end": END, "max_length": 6}
        narrow = beam(model, model.states(1), width=1, **arguments).scores[0, 0]
        wide = beam(model, model.states(1), width=4 * 3**5, **arguments).scores[0, 0]
        assert wide >= narrow
        better += wide > narrow
    assert better >= 3


def test_the_length_penalty_prefers_longer_sequences():
    """p([0]) = 0.4 and p([1, 0]) = 0.6 0.6 = 0.36, whose log is divided by (5 + 2) / 6."""
    step = table([1.0, 0.0, 0.0], [0.6, 0.0, 0.4], [0.4, 0.6, 0.0])
    arguments = {"start": 2, "end": END, "max_length": 2, "width": 3}
    plain = beam(step, **arguments)
    assert [y.tolist() for y, _ in plain.sequences(0)] == [[], [1], [1, 2]]
    assert plain.ended.tolist() == [[True, True, False]]
    np.testing.assert_array_equal(plain.scores, plain.log_p)
    long = beam(step, length_penalty=1.0, **arguments)
    assert [y.tolist() for y, _ in long.sequences(0)] == [[1], [], [1, 2]]
    want = [math.log(0.36) / (7 / 6), math.log(0.4), math.log(0.24) / (7 / 6)]
    np.testing.assert_allclose(long.scores[0], want, rtol=1e-15)


def test_equally_good_sequences_come_in_the_order_of_their_symbols():
    even = table([0.25] * 4, [0.25] * 4, [0.25] * 4, [0.25] * 4)
    beams = beam(even, start=0, max_length=2, width=5)
    assert beams.symbols[:, 0].T.tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]]
    many = beam(table(np.tile([1, 2], 500) / 1500), start=0, max_length=1, width=600)
    assert many.symbols[0, 0].tolist() == [*range(1, 1000, 2), *range(0, 200, 2)]
    assert greedy(even, start=0, max_length=2).symbols.T.tolist() == [[0, 0]]


def test_states_go_with_their_prefixes_in_a_beam():
    """The state holds the prefix: it must be the one that the beam kept."""

    def step(symbols, state):
        (prefix,) = state
        prefix = np.concatenate((prefix, symbols[np.newaxis])) if len(prefix) else symbols[None]
        seed = (prefix * 5 ** np.arange(len(prefix))[:, np.newaxis]).sum(axis=0)
        o = np.stack([np.random.default_rng(s).normal(size=5) for s in seed])
        return log_softmax(o), (prefix,)

    def log_p(sequence):
        state, total = (np.zeros((0, 1), int),), 0.0
        for before, symbol in zip((2, *sequence), sequence, strict=False):
            p, state = step(np.array([before]), state)
            total += p[0, symbol]
        return total

    beams = beam(step, (np.zeros((0, 2), int),), start=2, end=0, max_length=6, width=4)
    for row in range(2):
        for value, sequence in listed(beams, row):
            assert value == pytest.approx(log_p(sequence), rel=1e-12)


# What nothing can follow


class DeadEnds:
    """A model that can go on from no prefix whose sum of symbols is among some."""

    def __init__(self, model, dead):
        self.model, self.dead = model, dead

    def __call__(self, symbols, state):
        sums, inner = state
        sums = sums + symbols[np.newaxis, :, np.newaxis]
        log_p, inner = self.model(symbols, inner)
        return np.where(np.isin(sums[0], self.dead), -np.inf, log_p), (sums, inner)

    def states(self, rows, seed=0):
        return np.zeros((1, rows, 1), int), self.model.states(rows, seed)


def one_row(state, row):
    sums, inner = state
    return sums[:, [row]], inner[:, [row]]


def assert_no_sequence(decoded, row, pad):
    assert decoded.lengths[row] == 0 and decoded.log_p[row] == -np.inf
    assert not decoded.ended[row] and (decoded.symbols[:, row] == pad).all()


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("end", [None, END])
def test_rows_go_on_without_those_that_can_not(width, seed, end):
    """Each row has the sequences that it has alone, whatever becomes of the others."""
    model = DeadEnds(Recurrent(symbols=4, scale=1.0, seed=seed), [3, 5, 8])
    states, start = model.states(5, seed), np.array([3, 1, 2, 3, 1])
    arguments = {"end": end, "max_length": 6, "width": width, "length_penalty": 0.7}
    beams = beam(model, states, start=start, **arguments)
    for row in range(5):
        alone = beam(model, one_row(states, row), start=start[[row]], **arguments)
        assert_same(listed(beams, row), listed(alone, 0))
        for _, sequence in listed(beams, row):
            sums = start[row] + np.cumsum([0, *sequence[:-1]])
            assert not np.isin(sums, model.dead).any()
    for row in (0, 3):
        assert listed(beams, row) == [] and beams.sequences(row) == []
        assert_no_sequence(beams.best(), row, 0)
    assert width == 1 or np.isfinite(beams.log_p[[1, 2, 4], 0]).any()


@pytest.mark.parametrize("seed", range(4))
def test_greedy_and_samples_go_on_without_rows_that_can_not(seed):
    model = DeadEnds(Recurrent(symbols=4, scale=1.0, seed=seed), [3, 7])
    states, start = model.states(4, seed), np.array([3, 1, 2, 1])
    arguments = {"end": END, "max_length": 8}
    got = greedy(model, states, start=start, **arguments)
    assert_decoded_equal(beam(model, states, start=start, width=1, **arguments).best(), got)
    assert_no_sequence(got, 0, END)
    for row in range(4):
        alone = greedy(model, one_row(states, row), start=start[[row]], **arguments)
        assert alone.sequences()[0].tolist() == got.sequences()[row].tolist()
        np.testing.assert_allclose(alone.log_p[0], got.log_p[row], rtol=1e-12)
    drawn = sample(model, states, start=start, seed=seed, **arguments)
    assert_no_sequence(drawn, 0, END)
    for row in np.flatnonzero(drawn.lengths):
        ways = start[row] + np.cumsum([0, *drawn.symbols[: drawn.lengths[row] - 1, row]])
        assert not np.isin(ways, model.dead).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("power", [0.0, 1.0, 1e308])
def test_a_batch_of_which_nothing_is_possible(dtype, power):
    def nothing(symbols, state):
        return np.full((len(symbols), 3), -np.inf, dtype), state

    beams = beam(nothing, start=[0, 1], end=0, max_length=5, width=2, length_penalty=power)
    assert beams.symbols.shape == (0, 2, 2) and (beams.scores == -np.inf).all()
    assert [beams.sequences(row) for row in range(2)] == [[], []]
    for decode in (greedy, sample):
        decoded = decode(nothing, start=[0, 1], end=0, max_length=5)
        assert decoded.symbols.shape == (0, 2) and (decoded.log_p == -np.inf).all()
        assert not decoded.ended.any() and [len(s) for s in decoded.sequences()] == [0, 0]


def test_forced_symbols():
    """Where one symbol alone may follow it does, in a beam that is wider, with log p 0."""
    forced = [2, 1, 3, 0]

    def step(symbols, state):
        log_p = np.full((len(symbols), 5), -np.inf)
        log_p[:, forced[state.shape[0]]] = 0.0
        return log_p, np.concatenate((state, symbols[np.newaxis]))

    state = np.zeros((0, 2), int)
    beams = beam(step, state, start=4, end=0, max_length=9, width=3, length_penalty=2.0)
    for row in range(2):
        assert listed(beams, row) == [(0.0, tuple(forced))]
    assert beams.ended.tolist() == [[True, False, False]] * 2
    assert_decoded_equal(beams.best(), greedy(step, state, start=4, end=0, max_length=9))


def test_nan_is_an_error_wherever_it_stands():
    def step(symbols, state):
        log_p = np.tile(np.log([0.5, 0.25, 0.25]), (len(symbols), 1))
        log_p[symbols == 2, 1] = np.nan
        return log_p, state

    for start in ([2, 1], [1, 2], [1, 1]):
        with pytest.raises(ValueError, match="log_p: expected log probabilities, got nan"):
            beam(step, start=start, max_length=3, width=3)


@pytest.mark.parametrize("power", [50.0, 1e4, 1e308])
def test_a_large_length_penalty_makes_no_nan(power):
    model = Recurrent(seed=2)
    beams = beam(model, model.states(2), start=1, end=END, max_length=40, width=4,
                 length_penalty=power)  # fmt: skip
    assert not np.isnan(beams.scores).any() and (beams.log_p > -np.inf).all()
    assert (np.diff(beams.scores, axis=1) <= 0).all()


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"width": 0}, ValueError, "width: expected at least 1, got 0"),
        ({"width": 1.5}, TypeError, "width: expected an integer, got float"),
        (
            {"length_penalty": -0.1},
            ValueError,
            r"length_penalty: expected a number in \[0, inf\), got -0.1",
        ),
        (
            {"length_penalty": True},
            TypeError,
            r"length_penalty: expected a number in \[0, inf\), got bool",
        ),
    ],
)
def test_errors_of_beams(arguments, error, message):
    with pytest.raises(error, match=f"^{message}"):
        beam(EVEN, start=0, max_length=3, **{"width": 2, **arguments})

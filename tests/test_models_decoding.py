"""Greedy decoding and sampling, and what they share with beam search."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest

import fusedrnn
from decoding_problems import (
    END,
    EVEN,
    Recurrent,
    all_sequences,
    assert_decoded_equal,
    listed,
    log_softmax,
    table,
)
from fusedrnn.models import (
    Conv1d,
    Embedding,
    SequenceModel,
    Sequential,
    SoftmaxHead,
    beam,
    greedy,
    language_step,
    read_prompt,
    sample,
    select_state,
)

# Rows, ends, lengths


@pytest.mark.parametrize(
    "decode",
    [greedy, lambda *a, **k: beam(*a, width=3, **k).best()],
    ids=["greedy", "beam"],
)
def test_a_row_is_decoded_as_if_alone(decode):
    model = Recurrent(symbols=4, seed=0)
    states, start = model.states(6), np.array([1, 2, 3, 1, 2, 3])
    together = decode(model, states, start=start, end=END, max_length=9)
    assert len(set(together.lengths.tolist())) > 2
    for row in range(6):
        alone = decode(model, states[:, [row]], start=start[[row]], end=END, max_length=9)
        length = together.lengths[row]
        assert alone.lengths[0] == length == len(alone.symbols)
        np.testing.assert_array_equal(together.symbols[:length, row], alone.symbols[:, 0])
        assert together.ended[row] == alone.ended[0]
        assert together.log_p[row] == pytest.approx(alone.log_p[0], rel=1e-12)


def test_the_end_symbol_ends_a_row_and_fills_what_follows():
    calls = []

    def countdown(symbols, state):
        calls.append(symbols.tolist())
        assert state[1].shape == (1, len(symbols), 2)
        np.testing.assert_array_equal(state[1][0, :, 0], [10 * s0 for s0 in state[1][0, :, 1]])
        return log_softmax(20.0 * np.eye(9)[symbols - 1]), state

    marks = np.array([4.0, 2.0, 8.0])
    state = (None, np.stack((10 * marks, marks), axis=-1)[np.newaxis])
    decoded = greedy(countdown, state, start=np.array([4, 2, 8]), end=1, max_length=5)
    assert decoded.symbols.T.tolist() == [[3, 2, 1, 1, 1], [1, 1, 1, 1, 1], [7, 6, 5, 4, 3]]
    assert decoded.lengths.tolist() == [3, 1, 5]
    assert decoded.ended.tolist() == [True, True, False]
    assert [s.tolist() for s in decoded.sequences()] == [[3, 2], [], [7, 6, 5, 4, 3]]
    assert calls == [[4, 2, 8], [3, 7], [2, 6], [5], [4]]


def test_without_an_end_symbol_all_have_the_greatest_length():
    model = Recurrent(symbols=4)
    for decoded in (
        greedy(model, model.states(2), start=1, max_length=6),
        sample(model, model.states(2), start=1, max_length=6, seed=0),
        beam(model, model.states(2), start=1, max_length=6, width=2).best(),
    ):
        assert decoded.symbols.shape == (6, 2)
        assert decoded.lengths.tolist() == [6, 6] and not decoded.ended.any()


def test_no_steps_after_all_have_ended():
    model = table([1.0, 0.0], [1.0, 0.0])
    for decoded in (
        greedy(model, start=[1, 1], end=0, max_length=50),
        sample(model, start=[1, 1], end=0, max_length=50),
        beam(model, start=[1, 1], end=0, max_length=50, width=3).best(),
    ):
        assert decoded.symbols.tolist() == [[0, 0]]


def test_no_rows():
    model = Recurrent()
    for decoded in (
        greedy(model, model.states(0), start=1, max_length=6),
        sample(model, start=np.zeros(0, int), max_length=6),
        beam(model, model.states(0), start=1, max_length=6, width=2).best(),
    ):
        assert decoded.symbols.shape == (0, 0) and decoded.lengths.shape == (0,)
    assert model.rows == []


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_p_is_the_models(dtype):
    model = Recurrent(symbols=4, seed=2)

    def step(symbols, state):
        log_p, state = model(symbols, state)
        return log_p.astype(dtype), state

    states = model.states(3)
    arguments = {"start": 1, "end": END, "max_length": 8}
    tolerance = 1e-12 if dtype == "float64" else 1e-5  # 8 roundings of 6e-8 of numbers below 20
    for decoded in (
        greedy(step, states, **arguments),
        sample(step, states, temperature=3.0, top_k=3, seed=1, **arguments),
        beam(step, states, width=3, length_penalty=1.0, **arguments).best(),
    ):
        assert decoded.log_p.dtype == np.float64
        for row in range(3):
            sequence = decoded.symbols[: decoded.lengths[row], row]
            want = model.log_p(sequence.tolist(), states[:, [row]], 1)
            assert decoded.log_p[row] == pytest.approx(want, abs=tolerance)


# Sampling

PROBABILITIES = np.array([0.4, 0.25, 0.2, 0.1, 0.04, 0.01])

#: With k degrees of freedom chi-square is above these with a probability of 0.001.
CHI_SQUARE = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47, 5: 20.52, 6: 22.46}


def chi_square(counts: np.ndarray, p: np.ndarray) -> float:
    expected = p * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("top_k", [None, 3, 6, 99])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 20.0])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [4, 0, 5, 2, 1, 3]])
def test_frequencies_are_the_softmax(temperature, top_k, order):
    p = PROBABILITIES[order]
    drawn = sample(
        lambda symbols, state: (np.log(np.tile(p, (len(symbols), 1))), state),
        start=np.zeros(20_000, int),
        max_length=1,
        temperature=temperature,
        top_k=top_k,
        seed=7,
    ).symbols
    counts = np.bincount(drawn.ravel(), minlength=6)
    want = p ** (1 / temperature)
    if top_k is not None:
        want = np.where(p >= np.sort(p)[::-1][min(top_k, 6) - 1], want, 0.0)
    want /= want.sum()
    possible = want > 0
    assert not counts[~possible].any()
    assert chi_square(counts[possible], want[possible]) < CHI_SQUARE[possible.sum() - 1]


def test_the_check_of_frequencies_sees_a_wrong_temperature():
    counts = np.round(20_000 * PROBABILITIES)
    warm = PROBABILITIES ** (1 / 1.1)
    assert chi_square(counts, PROBABILITIES) < 0.1
    assert chi_square(counts, warm / warm.sum()) > CHI_SQUARE[5]


def test_frequencies_of_whole_sequences():
    """Also of those that follow the end of other rows."""
    model = Recurrent(symbols=3, scale=1.0, seed=5)
    one = model.states(1)
    rows = 8000
    drawn = sample(model, np.repeat(one, rows, axis=1), start=1, end=END, max_length=2, seed=11)
    want = {y: math.exp(s) for s, y in all_sequences(model, one, 1, 2, 0.0)}
    assert len(want) == 7 and sum(want.values()) == pytest.approx(1)
    found = [tuple(drawn.symbols[:n, row].tolist()) for row, n in enumerate(drawn.lengths)]
    counts = np.array([found.count(y) for y in want])
    assert counts.sum() == rows
    assert chi_square(counts, np.array(list(want.values()))) < CHI_SQUARE[6]


@pytest.mark.parametrize("seed", range(3))
def test_top_k_keeps_to_the_best(seed):
    model = Recurrent(symbols=6, scale=0.5, seed=seed)
    allowed = []

    def step(symbols, state):
        log_p, state = model(symbols, state)
        allowed.append(np.argsort(-log_p, axis=1)[:, :2])
        return log_p, state

    drawn = sample(step, model.states(50), start=1, max_length=20, top_k=2, seed=seed).symbols
    best = np.stack(allowed)  # (T, N, 2)
    assert (drawn[..., np.newaxis] == best).any(axis=-1).all()
    assert (drawn == best[..., 1]).any()
    greedily = sample(model, model.states(50), start=1, max_length=20, top_k=1, seed=seed)
    assert_decoded_equal(greedily, greedy(model, model.states(50), start=1, max_length=20))


def test_top_k_of_equals_takes_the_first():
    drawn = sample(
        lambda symbols, state: (np.log(np.tile([0.1, 0.3, 0.3, 0.3], (len(symbols), 1))), state),
        start=np.zeros(200, int),
        max_length=1,
        top_k=2,
        seed=0,
    )
    assert set(drawn.symbols.ravel().tolist()) == {1, 2}


@pytest.mark.parametrize("temperature", [1e-3, 1e-300])
def test_a_temperature_near_zero_is_greedy(temperature):
    model = Recurrent(symbols=5, seed=1)
    states = model.states(20)
    cold = sample(model, states, start=1, max_length=10, temperature=temperature, seed=0)
    assert_decoded_equal(cold, greedy(model, states, start=1, max_length=10))


def test_what_is_impossible_is_never_drawn():
    step = table([0.0, 0.5, 0.0, 0.5, 0.0])
    drawn = sample(
        lambda symbols, state: step(0 * symbols, state),
        start=np.zeros(500, int),
        max_length=4,
        temperature=100.0,
        seed=0,
    )
    assert set(drawn.symbols.ravel().tolist()) == {1, 3}


class Fixed(np.random.Generator):
    """A generator of one number."""

    def __init__(self, number: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.number = number

    def random(self, size):
        return np.full(size, self.number)


@pytest.mark.parametrize(("number", "symbol"), [(0.0, 1), (1 - 2**-53, 7)])
@pytest.mark.parametrize("exponent", np.linspace(-1.0, 1.0, 9))
def test_the_ends_of_the_uniform_numbers_find_a_symbol_that_is_possible(number, symbol, exponent):
    p = np.array([0.0, *np.exp(exponent * np.arange(7)), 0.0])
    p /= p.sum()
    with np.errstate(divide="ignore"):
        log_p = np.log(p)
    step = lambda symbols, state: (log_p[np.newaxis], state)  # noqa: E731
    assert sample(step, start=0, max_length=1, seed=Fixed(number)).symbols == symbol


def test_a_seed_gives_the_same_again_and_a_generator_goes_on():
    model = Recurrent(symbols=5, scale=0.5)
    arguments = {"start": 1, "max_length": 30}
    first = sample(model, model.states(4), seed=3, **arguments)
    assert_decoded_equal(sample(model, model.states(4), seed=3, **arguments), first)
    rng = np.random.default_rng(3)
    assert_decoded_equal(sample(model, model.states(4), seed=rng, **arguments), first)
    second = sample(model, model.states(4), seed=rng, **arguments)
    assert (second.symbols != first.symbols).any()
    fresh = [sample(model, model.states(4), **arguments).symbols for _ in range(2)]
    assert (fresh[0] != fresh[1]).any()


# States


class Pair(NamedTuple):
    h: np.ndarray
    c: np.ndarray | None


def test_select_state_picks_and_reorders_rows():
    a = np.arange(12.0).reshape(2, 3, 2)
    b = np.arange(3).reshape(1, 3)
    got = select_state((None, (a, b), Pair(a, None), ()), np.array([2, 0, 0, 1]))
    assert got[0] is None and got[3] == ()
    np.testing.assert_array_equal(got[1][0], a[:, [2, 0, 0, 1]])
    np.testing.assert_array_equal(got[1][1], [[2, 0, 0, 1]])
    assert isinstance(got[2], Pair) and got[2].c is None
    np.testing.assert_array_equal(got[2].h, a[:, [2, 0, 0, 1]])
    got[1][0][:] = -1
    assert a[0, 0, 0] == 0, "a copy"


# Language models


def language_model(dtype="float64", seed=0) -> SequenceModel:
    body = Sequential(
        Embedding(5, 3, dtype=dtype, seed=seed),
        fusedrnn.LSTM(3, 6, 2, dtype=dtype, seed=seed),
        Conv1d(6, 6, 3, dtype=dtype, seed=seed),
    )
    return SequenceModel(body, SoftmaxHead(6, 5, dtype=dtype, seed=seed))


@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_language_model_goes_on_as_it_predicts(length, rows):
    """Each symbol is the most probable one after all before it, read in one go."""
    model = language_model()
    with model.edit_parameters() as parameters:
        for array in parameters.values():
            array *= 4
    prompt = np.random.default_rng(1).integers(5, size=(length, rows))
    start, state = read_prompt(model, prompt)
    decoded = greedy(language_step(model), state, start=start, max_length=8)
    whole = np.concatenate((prompt, decoded.symbols))
    log_p, _ = model.predict(whole[:-1])
    log_p = log_p[length - 1 :]
    np.testing.assert_array_equal(log_p.argmax(axis=-1), decoded.symbols)
    want = np.take_along_axis(log_p, decoded.symbols[..., None], axis=-1).sum(axis=(0, 2))
    np.testing.assert_allclose(decoded.log_p, want, rtol=1e-12)
    assert len(set(whole.ravel().tolist())) > 2


def test_a_language_models_beam_goes_with_its_state():
    model = language_model()
    start, state = read_prompt(model, np.array([[1, 2], [3, 4]]))
    beams = beam(language_step(model), state, start=start, end=0, max_length=6, width=4)
    for row, first in enumerate([[1, 3], [2, 4]]):
        for value, sequence in listed(beams, row):
            whole = np.array([*first, *sequence])
            log_p = model.predict(whole[:-1, None])[0][1:, 0]
            assert value == pytest.approx(log_p[np.arange(len(sequence)), sequence].sum())


def test_one_prompt_may_have_one_axis():
    model = language_model("float32")
    start, state = read_prompt(model, [3, 1, 2])
    want_start, want_state = read_prompt(model, [[3], [1], [2]])
    assert start.tolist() == want_start.tolist() == [2]
    np.testing.assert_array_equal(state[1][0], want_state[1][0])
    assert read_prompt(model, [4])[1] is None


def test_errors_of_prompts():
    model = language_model()
    for prompt in (np.zeros((0, 2), int), 3, np.zeros((1, 1, 1), int)):
        message = r"^prompt: expected \(T, N\) or \(T,\), T at least 1, got "
        with pytest.raises(ValueError, match=message):
            read_prompt(model, prompt)
    with pytest.raises(TypeError, match=r"^prompt: expected integers, got float64"):
        read_prompt(model, [0.5])


# Errors


def returns(log_p):
    return lambda symbols, state: (np.array(log_p), state)


ERRORS = [
    ({"max_length": 0}, ValueError, "max_length: expected at least 1, got 0"),
    ({"max_length": 2.0}, TypeError, "max_length: expected an integer, got float"),
    ({"end": -1}, ValueError, "end: expected at least 0, got -1"),
    ({"end": 2}, ValueError, "end: expected a symbol below K = 2, got 2"),
    ({"end": 0.5}, TypeError, "end: expected an integer, got float"),
    ({"start": 0.0}, TypeError, "start: expected integers, got float64"),
    ({"start": [[0]]}, ValueError, r"start: expected an integer or \(N,\) \[N\], got \(1, 1\)"),
    (
        {"start": [0, 1], "state": np.zeros((1, 3, 2))},
        ValueError,
        r"start: expected an integer or \(3,\) \[N\], got \(2,\)",
    ),
    (
        {"state": (np.zeros((1, 3, 2)), (np.zeros((4, 2)), None))},
        ValueError,
        r"state: expected as many rows in all arrays, got \[2, 3\]",
    ),
    (
        {"state": np.zeros(3)},
        ValueError,
        r"state: expected arrays with the rows on axis 1, got \(3,\)",
    ),
    (
        {"state": [np.zeros((1, 1))]},
        TypeError,
        "state: expected None, arrays and tuples of these, got list",
    ),
    (
        {"step": lambda symbols, state: np.zeros((1, 2))},
        TypeError,
        r"step: expected a function that returns \(log_p, state\), got ndarray",
    ),
    ({"step": returns([0.0, 0.0])}, ValueError, r"log_p: expected \(1, K\) \[N, K\], got \(2,\)"),
    ({"step": returns([[]])}, ValueError, r"log_p: expected \(1, K\) \[N, K\], got \(1, 0\)"),
    (
        {"step": returns([[0, 0]])},
        TypeError,
        "log_p: expected an array of float32 or float64, got int64",
    ),
    (
        {"step": returns([[-1.0, 2.0]])},
        ValueError,
        "log_p: expected log probabilities, got 2.0 as the largest of a row",
    ),
    (
        {"step": returns([[np.nan, -1.0]])},
        ValueError,
        "log_p: expected log probabilities, got nan as the largest of a row",
    ),
    (
        {"step": returns([[-np.inf, np.nan]])},
        ValueError,
        "log_p: expected log probabilities, got nan as the largest of a row",
    ),
    (
        {"step": returns([[-np.inf, np.inf]])},
        ValueError,
        "log_p: expected log probabilities, got inf as the largest of a row",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "message"), ERRORS)
@pytest.mark.parametrize(
    "decode", [greedy, sample, lambda *a, **k: beam(*a, width=2, **k)], ids=["g", "s", "b"]
)
def test_errors(decode, arguments, error, message):
    given = {"step": EVEN, "state": None, "start": 0, "max_length": 3} | arguments
    with pytest.raises(error, match=f"^{message}"):
        decode(given.pop("step"), given.pop("state"), **given)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"temperature": 0}, ValueError, r"temperature: expected a number in \(0, inf\), got 0"),
        ({"temperature": np.inf}, ValueError, r"temperature: expected a number in \(0, inf\)"),
        ({"temperature": np.nan}, ValueError, r"temperature: expected a number in \(0, inf\)"),
        ({"temperature": "1"}, TypeError, r"temperature: expected a number in \(0, inf\), got str"),
        ({"top_k": 0}, ValueError, "top_k: expected at least 1, got 0"),
        ({"top_k": 1.0}, TypeError, "top_k: expected an integer, got float"),
        ({"seed": -1}, ValueError, r"seed: expected an integer in \[0, 2\*\*64\), got -1"),
        ({"seed": "x"}, TypeError, "seed: expected an integer, got str"),
    ],
)
def test_errors_of_sampling(arguments, error, message):
    with pytest.raises(error, match=f"^{message}"):
        sample(EVEN, start=0, max_length=3, **arguments)

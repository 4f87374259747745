"""Sequential: what flows from module to module, forward and backward, and where time ends."""

from __future__ import annotations

import numpy as np
import pytest

import fusedrnn
from fusedrnn import models

T, B, I = 6, 3, 4  # noqa: E741
LENGTHS = np.array([4, 0, 6])
F8 = "float64"


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def deep(units=5):
    return models.Sequential(
        conv=models.Conv1d(I, 6, 3, dtype=F8, seed=1),
        lstm=fusedrnn.LSTM(6, units, 2, dtype=F8, seed=2),
    )


LAYERS = {
    "LSTM": lambda: fusedrnn.LSTM(I, 5, bidirectional=True, dtype=F8, seed=1),
    "GRU": lambda: fusedrnn.GRU(I, 5, 2, bidirectional=True, dtype=F8, seed=1),
    "RNN": lambda: fusedrnn.RNN(I, 5, bidirectional=True, dtype=F8, seed=1),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_it_is_its_modules_by_hand(name, lengths):
    layer, linear = LAYERS[name](), models.Linear(10, 3, dtype=F8, seed=2)
    x, dy = normal(T, B, I), normal(T, B, 3, seed=1)
    h, last, layer_tape = layer.forward(x, lengths=lengths)
    y, _, linear_tape = linear.forward(h, lengths=lengths)
    head = linear.backward(linear_tape, dy)
    d_last = tuple(np.ones_like(s) for s in last) if name == "LSTM" else np.ones_like(last)
    body = layer.backward(layer_tape, head.x, d_last)

    both = models.Sequential(layer, linear)
    got, state, tape = both.forward(x, lengths=lengths)
    gradients = both.backward(tape, dy, (d_last, None))
    np.testing.assert_array_equal(got, y)
    np.testing.assert_array_equal(state[0], last)
    np.testing.assert_array_equal(gradients.x, body.x)
    np.testing.assert_array_equal(gradients.state[0], body.state)
    assert state[1] is None and gradients.state[1] is None
    want = {f"0.{k}": g for k, g in body.parameters.items()}
    want |= {f"1.{k}": g for k, g in head.parameters.items()}
    assert list(gradients.parameters) == list(both.parameters) == list(want)
    for key, gradient in want.items():
        np.testing.assert_array_equal(gradients.parameters[key], gradient)


def test_in_pieces_it_is_the_whole():
    body, x = deep(), normal(20, B, I)
    whole, last = body(x)
    state, pieces = None, []
    for first, end in ((0, 1), (1, 3), (3, 12), (12, 20)):
        y, state = body(x[first:end], state)
        pieces.append(y)
    # The convolution's products of few rows add in another order than those of many.
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-14)
    np.testing.assert_array_equal(state[0], last[0])
    np.testing.assert_allclose(state[1], last[1], atol=1e-14)


@pytest.mark.parametrize("units", [5, B])  # where H = B a vector looks like one step of sequences
def test_behind_the_end_of_time_there_are_no_lengths(units):
    def tail():
        return models.Linear(units, 2, dtype=F8, seed=3), models.Tanh(dtype=F8)

    last = models.Last(dtype=F8)
    forms = (
        models.Sequential(deep(units), last, *tail()),
        models.Sequential(deep(units), last, models.Sequential(*tail())),
        models.Sequential(models.Sequential(deep(units), last), models.Sequential(*tail())),
    )
    x = normal(T, B, I)
    want = [
        np.tanh(tail()[0](deep(units)(x[:n, b : b + 1])[0][-1])[0][0]) if n > 0 else None
        for b, n in enumerate(LENGTHS)
    ]
    assert [form.ends_time for form in (*forms, deep())] == [True, True, True, False]
    for form in forms:
        y, _, tape = form.forward(x, lengths=LENGTHS)
        np.testing.assert_array_equal(form(x, lengths=LENGTHS)[0], y)
        for b in (0, 2):
            np.testing.assert_allclose(y[b], want[b], atol=1e-14)
        gradients = form.backward(tape, np.ones_like(y))
        assert not gradients.x[np.arange(T)[:, np.newaxis] >= LENGTHS].any()


@pytest.mark.parametrize("first", ["linear", "tanh", "embedding"])
def test_padding_is_not_read_by_modules_of_single_positions(first):
    """Forward nor backward: 0 times NaN would be a NaN in the gradient of a weight."""
    made = {
        "linear": lambda: models.Linear(I, 6, dtype=F8, seed=1),
        "tanh": lambda: models.Sequential(
            models.Tanh(dtype=F8), models.Linear(I, 6, dtype=F8, seed=1)
        ),
        "embedding": lambda: models.Embedding(9, 6, dtype=F8, seed=1),
    }[first]
    body = models.Sequential(made(), fusedrnn.GRU(6, 5, dtype=F8, seed=2))
    x = np.random.default_rng(0).integers(0, 9, (T, B)) if first == "embedding" else normal(T, B, I)

    def everything(x):
        y, _, tape = body.forward(x, lengths=LENGTHS)
        gradients = body.backward(tape, np.ones_like(y))
        return {"y": y, "called": body(x, lengths=LENGTHS)[0], **gradients.parameters}

    padded = x.copy()
    padded[np.arange(T)[:, np.newaxis] >= LENGTHS] = -1 if first == "embedding" else np.nan
    want, got = everything(x), everything(padded)
    for key, array in want.items():
        assert np.isfinite(array).all()
        np.testing.assert_array_equal(got[key], array, err_msg=key)


GRU = fusedrnn.GRU(I, I, seed=0)
ERRORS = {
    "1: expected a module of its own, got 0's": lambda: models.Sequential(GRU, GRU),
    "1: expected a module of its own, got 0's ": lambda: models.Sequential(
        GRU, models.Sequential(models.Tanh(), models.Sequential(GRU))
    ),
    "b: expected a module of its own, got a's": lambda: models.Sequential(
        a=models.Sequential(GRU), b=models.Sequential(GRU)
    ),
    "0: expected time on the first axis, got batch_first=True": lambda: models.Sequential(
        fusedrnn.GRU(I, I, batch_first=True)
    ),
    "body: expected time on the first axis, got batch_first=True": lambda: models.SequenceModel(
        fusedrnn.GRU(I, I, batch_first=True), models.SoftmaxHead(I, 2)
    ),
    "modules: expected a name of its own, without dots, got 0": lambda: models.Sequential(
        models.Tanh(), **{"0": models.Relu()}
    ),
    "modules: expected a name of its own, without dots, got a.b": lambda: models.Sequential(
        **{"a.b": models.Relu()}
    ),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors_of_the_constructor(message):
    with pytest.raises(ValueError, match="expected") as error:
        ERRORS[message]()
    assert str(error.value) == message.strip()


def test_modules_without_parameters_may_stand_twice():
    tanh = models.Tanh()
    x = normal(T, B, I).astype(np.float32)
    y, _ = models.Sequential(tanh, tanh)(x)
    np.testing.assert_array_equal(y, np.tanh(np.tanh(x)))

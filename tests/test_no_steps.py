"""T = 0: y is empty, states and their gradients go through, parameters get no gradient."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fusedrnn
from fusedrnn import models

LAYERS = [
    (fusedrnn.LSTM, {}),
    (fusedrnn.LSTM, {"proj_size": 2}),
    (fusedrnn.GRU, {}),
    (fusedrnn.RNN, {"nonlinearity": "relu"}),
]
VARIANTS = [{}, {"num_layers": 2, "bidirectional": True, "dropout": 0.5, "bias": False}]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def drawn(rng, like):
    """A state, or the gradient of one, shaped like another."""
    found = tuple(rng.normal(size=part.shape).astype(part.dtype) for part in parts(like))
    return found if isinstance(like, tuple) else found[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_states_and_gradients_go_through(rng, kind, options, variant, dtype):
    for first, batch in itertools.product((False, True), (3, 1, 0, None)):
        layer = kind(4, 5, batch_first=first, dtype=dtype, seed=0, **options, **variant)
        shape = (0, 4) if batch is None else (batch, 0, 4) if first else (0, batch, 4)
        x, zeros = np.zeros(shape, dtype), 0 if batch is None else [0] * batch
        y, blank = layer(x)
        assert not any(part.any() for part in parts(blank))
        for lengths, every in itertools.product((None, zeros), (None, 1)):
            state, dstate = drawn(rng, blank), drawn(rng, blank)
            y, last, tape = layer.forward(x, state, lengths=lengths, checkpoint_every=every)
            gradients = layer.backward(tape, np.zeros_like(y), dstate)
            assert y.shape == (*shape[:-1], layer(x)[0].shape[-1]) and y.dtype == dtype
            for found, want in ((last, state), (gradients.state, dstate)):
                assert all(map(np.array_equal, parts(found), parts(want)))
            assert gradients.x.shape == shape
            assert not any(gradient.any() for gradient in gradients.parameters.values())
            y, last = layer(x, state, lengths=lengths)
            assert all(map(np.array_equal, parts(last), parts(state)))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_the_reference_says_so_too(rng, kind, options, variant):
    layer = kind(4, 5, dtype="float64", seed=0, **options, **variant)
    blank = layer(np.zeros((0, 3, 4)))[1]
    state, dstate = drawn(rng, blank), drawn(rng, blank)
    y, last, tape = fusedrnn.reference.forward(
        layer._network.cell, np.zeros((0, 3, 4)), layer.parameters, state
    )
    gradients = fusedrnn.reference.backward(tape, y, dstate)
    assert y.shape == layer(np.zeros((0, 3, 4)))[0].shape and gradients.x.shape == (0, 3, 4)
    for found, want in ((last, state), (gradients.state, dstate)):
        assert all(map(np.array_equal, parts(found), parts(want)))
    for name, gradient in gradients.parameters.items():
        assert gradient.shape == layer.parameters[name].shape and not gradient.any()


@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_the_functions_go_on_where_nothing_came(rng, kind, options):
    """A sequence in two parts, one of them empty, is the sequence as a whole."""
    layer = kind(4, 5, 2, seed=0, **options)
    cell, parameters = layer._network.cell, layer.parameters
    x = rng.normal(size=(7, 3, 4)).astype(np.float32)
    want, want_last = fusedrnn.functional.infer(cell, x, parameters)
    for cut in (0, 7):
        first, state = fusedrnn.functional.infer(cell, x[:cut], parameters)
        second, last = fusedrnn.functional.infer(cell, x[cut:], parameters, state)
        assert np.array_equal(np.concatenate([first, second]), want)
        assert all(map(np.array_equal, parts(last), parts(want_last)))
    out = np.zeros((0, 3, want.shape[-1]), np.float32)
    assert fusedrnn.functional.infer(cell, x[:0], parameters, out=out)[0] is out


@pytest.mark.parametrize(
    "part",
    [
        models.Linear(3, 2, seed=0),
        models.Conv1d(3, 2, 3, seed=0),
        models.Conv1d(3, 2, 1, seed=0),
        models.Conv1d(3, 2, 3, padding="same", seed=0),
        models.Embedding(3, 2, seed=0),
        models.Dropout(0.5, seed=0),
        models.Last(),
        models.Mean(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("batch", [(), (1,), (4,), (0,)], ids=str)
def test_parts_of_models(rng, part, batch):
    symbols = isinstance(part, models.Embedding)
    shape = (0, *batch) if symbols else (0, *batch, 3)
    x = np.zeros(shape, np.int64 if symbols else np.float32)
    size = 3 if isinstance(part, (models.Dropout, models.Last, models.Mean)) else 2
    for lengths in (None, np.zeros(batch, np.int64)):
        state = dstate = None
        if isinstance(part, models.Conv1d) and part.padding == "causal":
            state, dstate = rng.normal(size=(2, part.width - 1, *batch, 3)).astype(np.float32)
        y, last, tape = part.forward(x, state, lengths=lengths)
        assert y.shape == ((*batch, size) if part.ends_time else (0, *batch, size))
        assert not y.any() and np.array_equal(part(x, state, lengths=lengths)[0], y)
        gradients = part.backward(tape, np.ones_like(y), dstate)
        if not symbols:
            assert gradients.x.shape == x.shape
        assert not any(gradient.any() for gradient in gradients.parameters.values())
        if state is not None:
            assert np.array_equal(last, state) and np.array_equal(gradients.state, dstate)


@pytest.mark.parametrize("kind", [models.AdditiveAttention, models.ScaledDotProductAttention])
@pytest.mark.parametrize(("queries", "size"), [(0, 5), (4, 0), (0, 0)])
def test_attention(kind, queries, size):
    attention = kind(3, 2, 6, seed=0)
    query, memory = np.ones((queries, 2, 3), np.float32), np.ones((size, 2, 2), np.float32)
    context, tape = attention.forward(query, memory)
    assert context.shape == (queries, 2, 2) and not context.any()
    gradients = attention.backward(tape, np.ones_like(context))
    assert gradients.query.shape == query.shape and gradients.memory.shape == memory.shape
    everything = (gradients.query, gradients.memory, *gradients.parameters.values())
    assert not any(gradient.any() for gradient in everything)


def test_models_of_layers():
    model = models.Sequential(
        models.Linear(3, 4, seed=0),
        fusedrnn.GRU(4, 5, 2, seed=0),
        models.Linear(5, 2, seed=0),
    )
    x = np.zeros((0, 3, 3), np.float32)
    y, _, tape = model.forward(x)
    assert y.shape == (0, 3, 2)
    gradients = model.backward(tape, y)
    assert gradients.x.shape == x.shape
    assert not any(gradient.any() for gradient in gradients.parameters.values())


@pytest.mark.parametrize("lengths", [[], (), np.zeros(0, np.int64), range(0)], ids=repr)
def test_lengths_of_an_empty_batch(lengths):
    layer = fusedrnn.GRU(3, 4, bidirectional=True, seed=0)
    for steps in (0, 5):
        y, h = layer(np.zeros((steps, 0, 3), np.float32), lengths=lengths)
        assert y.shape == (steps, 0, 8) and h.shape == (2, 0, 4)

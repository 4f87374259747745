"""What stands past the lengths gets nowhere: every result has the bits of zeros in its place.

Each exported name of `fusedrnn.models` that takes lengths has a case here, which runs all of it
with something in the padding of inputs, targets, weights and gradients. A name without one fails.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import models

T, B, I, H, K = 6, 4, 3, 4, 5  # noqa: E741
LENGTHS = np.array([4, 0, 6, 1])
OTHER_LENGTHS = np.array([2, 5, 0, 3])  # of another sequence: targets, queries
FILLS = (np.nan, np.inf, -np.inf, 1e38)

Results = dict[str, Any]


def outside(lengths, steps=T):
    return np.arange(steps).reshape(-1, *(1,) * np.ndim(lengths)) >= lengths


def filled(array, lengths, fill):
    """Return a copy with something past the lengths: in symbols a number that is no symbol."""
    copy = array.copy()
    if lengths is None:
        return copy
    if array.dtype.kind in "iu":
        fill = 0 if fill == 0 else 10**6 if fill > 0 else -7
    copy[outside(lengths, len(copy))] = fill
    return copy


class Draw:
    """Seeded arrays, with something past the lengths."""

    def __init__(self, dtype: str, fill: float) -> None:
        self.dtype, self.fill, self.random = dtype, fill, np.random.default_rng(0)

    def normal(self, *shape, lengths=LENGTHS):
        return filled(self.random.normal(size=shape).astype(self.dtype), lengths, self.fill)

    def weights(self, lengths=LENGTHS):
        return filled(self.random.uniform(0.5, 2, (T, B)), lengths, self.fill)

    def symbols(self, *shape, count=K, lengths=LENGTHS):
        return filled(self.random.integers(0, count, shape), lengths, self.fill)


def flat(name: str, value: Any) -> Results:
    """Return the arrays and numbers of a nested value by names."""
    if value is None:
        return {}
    if isinstance(value, (tuple, list)):
        parts: Mapping[str, Any] = {str(k): part for k, part in enumerate(value)}
    elif isinstance(value, Mapping):
        parts = value
    elif hasattr(value, "__dataclass_fields__"):
        parts = vars(value)
    else:
        return {name: np.asarray(value)}
    return {k: v for key, part in parts.items() for k, v in flat(f"{name}.{key}", part).items()}


def module(make: Callable[[str], Any], x: Callable[[Draw], Any], lengths=LENGTHS):
    """Return the case of a module: both calls, forward and backward, also from state to state."""

    def case(draw: Draw) -> Results:
        part, inputs = make(draw.dtype), x(draw)
        called = part(inputs, lengths=lengths)
        y, state, tape = part.forward(inputs, lengths=lengths)
        ends = getattr(part, "ends_time", False)
        dy = draw.normal(*y.shape, lengths=None if ends else lengths)
        gradients = part.backward(tape, dy, state)
        again = part(inputs, state, lengths=lengths)
        past = outside(lengths)
        for array in (None if ends else y, None if ends else called[0], gradients.x):
            assert array is None or not array[past].any()
        return flat("", {"called": called, "y": y, "gradients": gradients, "again": again})

    return case


def numbers(draw):
    return draw.normal(T, B, I)


def one_sequence(draw):
    return draw.normal(T, I, lengths=3)


def stack(dtype):
    return models.Sequential(
        models.Linear(I, 4, dtype=dtype, seed=1),
        models.Dropout(0.4, dtype=dtype, seed=2),
        fusedrnn.GRU(4, 3, 2, bidirectional=True, dropout=0.3, dtype=dtype, seed=3),
        models.Conv1d(6, 3, 3, padding="same", dtype=dtype, seed=4),
        models.Sequential(models.Tanh(dtype=dtype), models.Linear(3, H, dtype=dtype, seed=5)),
    )


def head(make):
    def case(draw):
        part = make(draw.dtype)
        y = draw.normal(T, B, H)
        targets = draw.normal(T, B, K) if hasattr(part, "outputs") else draw.symbols(T, B)
        prediction, _ = part(y, lengths=LENGTHS)
        assert not prediction[outside(LENGTHS)].any()
        loss = part.loss(y, targets, weights=draw.weights(), lengths=LENGTHS)
        value = part.loss(y, targets, lengths=LENGTHS, gradients=False)
        return flat("", [prediction, loss, value])

    return case


def loss(function, *, linear, classes):
    def case(draw):
        y = draw.normal(T, B, H if linear else K)
        rest = [draw.normal(K, H, lengths=None), draw.normal(K, lengths=None)] if linear else []
        targets = draw.symbols(T, B) if classes else draw.normal(T, B, K)
        found = [
            function(y, *rest, targets, lengths=LENGTHS, weights=weights, reduction=reduction)
            for weights in (None, draw.weights())
            for reduction in ("sum", "mean")
        ]
        return flat("", found)

    return case


def attention(kind):
    def case(draw):
        part = kind(3, H, 2, dtype=draw.dtype, seed=0)
        query = draw.normal(T, B, 3, lengths=OTHER_LENGTHS)
        memory = draw.normal(5, B, H, lengths=np.minimum(LENGTHS, 5))
        options = {"lengths": np.minimum(LENGTHS, 5), "query_lengths": OTHER_LENGTHS}
        context, tape = part.forward(query, memory, **options)
        gradients = part.backward(tape, draw.normal(*context.shape, lengths=OTHER_LENGTHS))
        seen, alpha = part.attend(query, memory, **options)
        with np.errstate(invalid="ignore"):  # of keys that are made of padding
            keys = part.keys(memory)
        again = part.attend(query, memory, keys=keys, **options)
        for array in (context, alpha, gradients.query):
            assert not array[outside(OTHER_LENGTHS)].any()
        assert not gradients.memory[outside(options["lengths"], 5)].any()
        return flat("", [context, gradients, seen, alpha, again, part(query, memory, **options)])

    return case


def trained(model, *batches: models.Batch) -> Results:
    """Return what steps and evaluations give, state after state, and what training makes of it."""
    found: list[Any] = []
    state = None
    for batch in batches:
        state = state if batch.carry else None
        evaluation = model.evaluate(batch, state)
        step = model.step(batch, state)
        state = step.state
        found += [evaluation.loss, step.loss, step.count, step.state, step.gradients]
    models.fit(
        model, Given(*batches), models.Adam(model, 0.01), epochs=2, clip_norm=1.0, progress=False,
        validation=Given(*batches),
    )  # fmt: skip
    return flat("", [found, dict(model.parameters), models.evaluate(model, Given(*batches))])


class Given:
    """A source of these batches."""

    def __init__(self, *batches: models.Batch) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def batch(self, epoch: int, index: int) -> models.Batch:
        return self.batches[index]


def sequence_model(body, *, regression=False, pooled=False):
    """Return a case of truncated BPTT: the second batch goes on where the first has ended."""

    def case(draw):
        kind = models.RegressionHead if regression else models.SoftmaxHead
        model = models.SequenceModel(body(draw.dtype), kind(H, K, dtype=draw.dtype, seed=0))
        batches = []
        for carry in (False, not pooled):
            shape, lengths = ((B,), None) if pooled else ((T, B), LENGTHS)
            targets = draw.normal(*shape, K, lengths=lengths)
            if not regression:
                targets = draw.symbols(*shape, lengths=lengths)
            weights = None if pooled else draw.weights()
            x = draw.normal(T, B, I)
            batches.append(models.Batch(x, targets, LENGTHS, weights=weights, carry=carry))
        prediction = model.predict(batches[0].inputs, lengths=LENGTHS)
        return flat("", [prediction, trained(model, *batches)])

    return case


def pooled(part):
    return lambda d: models.Sequential(stack(d), part(dtype=d))


def encoder_decoder(kind, source):
    def case(draw):
        d = draw.dtype
        numeric = source is not None
        model = models.EncoderDecoder(
            source(d) if numeric else models.Embedding(K, 3, dtype=d, seed=1),
            fusedrnn.LSTM(3, H, bidirectional=True, dtype=d, seed=2),
            models.Embedding(K, 3, dtype=d, seed=3),
            fusedrnn.LSTM(3, H, dtype=d, seed=4),
            models.SoftmaxHead(3, K, dtype=d, seed=5),
            attention=kind(H, 2 * H, 2, dtype=d, seed=6),
            start=0,
            end=1,
            seed=7,
        )
        lengths = np.maximum(LENGTHS, 1)
        x = draw.normal(T, B, I, lengths=lengths)
        x = x if numeric else draw.symbols(T, B, lengths=lengths)
        batch = models.Batch(
            x,
            draw.symbols(T, B, lengths=OTHER_LENGTHS),
            lengths,
            OTHER_LENGTHS,
            draw.weights(OTHER_LENGTHS),
        )
        seen = model.attention_map(batch.inputs, batch.targets, lengths, OTHER_LENGTHS)
        assert not seen[outside(OTHER_LENGTHS)].any()
        decoded = [model.decode(x, lengths, max_length=4, width=w) for w in (1, 2)]
        return flat("", [seen, decoded, trained(model, batch)])

    return case


def vector_decoder(draw):
    d = draw.dtype
    encoder = models.Sequential(stack(d), models.Mean(dtype=d))
    model = models.VectorDecoder(
        H,
        models.Embedding(K, 3, dtype=d, seed=3),
        fusedrnn.GRU(3, H, dtype=d, seed=4),
        models.SoftmaxHead(H, K, dtype=d, seed=5),
        encoder=encoder,
        start=0,
        seed=7,
    )
    targets = draw.symbols(T, B, lengths=OTHER_LENGTHS)
    batch = models.Batch(draw.normal(T, B, I), targets, LENGTHS, OTHER_LENGTHS)
    decoded = model.decode(batch.inputs, LENGTHS, max_length=4, width=2)
    return flat("", [decoded, trained(model, batch)])


def minibatches(draw):
    d = draw.dtype
    lengths = np.tile(LENGTHS, 3)
    data = models.Minibatches(
        draw.normal(T, 3 * B, I, lengths=lengths), draw.symbols(T, 3 * B, lengths=lengths), 5,
        lengths=lengths, trim=False,
    )  # fmt: skip
    model = models.SequenceModel(stack(d), models.SoftmaxHead(H, K, dtype=d, seed=0))
    return flat("", trained(model, *(data.batch(0, index) for index in range(len(data)))))


def vanilla(cell, **options):
    return lambda d: cell(I, 3, 2, dtype=d, seed=0, **options)


CASES: dict[str, list[Callable[[Draw], Results]]] = {
    "LSTM": [
        module(vanilla(fusedrnn.LSTM, bidirectional=True), numbers),
        module(vanilla(fusedrnn.LSTM, proj_size=2), numbers),
        module(vanilla(fusedrnn.LSTM), one_sequence, 3),
    ],
    "GRU": [module(vanilla(fusedrnn.GRU, bidirectional=True, dropout=0.5), numbers)],
    "RNN": [module(vanilla(fusedrnn.RNN, nonlinearity="relu"), numbers)],
    "Linear": [
        module(lambda d: models.Linear(I, 2, dtype=d, seed=0), numbers),
        module(lambda d: models.Linear(I, 2, bias=False, dtype=d, seed=0), one_sequence, 3),
    ],
    "Embedding": [
        module(lambda d: models.Embedding(K, 2, dtype=d, seed=0), lambda draw: draw.symbols(T, B)),
        module(
            lambda d: models.Embedding(K, 2, dtype=d, seed=0),
            lambda draw: draw.symbols(T, lengths=3),
            3,
        ),
    ],
    "Conv1d": [
        module(lambda d: models.Conv1d(I, 2, 3, dtype=d, seed=0), numbers),
        module(lambda d: models.Conv1d(I, 2, 4, padding="same", dtype=d, seed=0), numbers),
        module(lambda d: models.Conv1d(I, 2, 3, dtype=d, seed=0), one_sequence, 3),
    ],
    "Tanh": [module(lambda d: models.Tanh(dtype=d), numbers)],
    "Relu": [module(lambda d: models.Relu(dtype=d), one_sequence, 3)],
    "Dropout": [
        module(lambda d: models.Dropout(0.5, dtype=d, seed=0), numbers),
        module(lambda d: models.Dropout(0.0, dtype=d, seed=0), numbers),
    ],
    "Last": [
        module(lambda d: models.Last(dtype=d), numbers),
        module(lambda d: models.Last(dtype=d), one_sequence, 3),
    ],
    "Mean": [module(lambda d: models.Mean(dtype=d), numbers)],
    "Sequential": [
        module(stack, numbers),
        module(
            lambda d: models.Sequential(
                fusedrnn.LSTM(I, 3, dtype=d, seed=0), models.Linear(3, 2, dtype=d, seed=1)
            ),
            numbers,
        ),
    ],
    "ScaledDotProductAttention": [attention(models.ScaledDotProductAttention)],
    "AdditiveAttention": [attention(models.AdditiveAttention)],
    "SoftmaxHead": [head(lambda d: models.SoftmaxHead(H, K, dtype=d, seed=0))],
    "RegressionHead": [head(lambda d: models.RegressionHead(H, K, dtype=d, seed=0))],
    "linear_cross_entropy": [loss(models.linear_cross_entropy, linear=True, classes=True)],
    "linear_squared_error": [loss(models.linear_squared_error, linear=True, classes=False)],
    "cross_entropy": [loss(models.cross_entropy, linear=False, classes=True)],
    "squared_error": [loss(models.squared_error, linear=False, classes=False)],
    "SequenceModel": [
        sequence_model(lambda d: models.Linear(I, H, dtype=d, seed=1)),
        sequence_model(lambda d: models.Linear(I, H, dtype=d, seed=1), regression=True),
        sequence_model(lambda d: models.Conv1d(I, H, 3, dtype=d, seed=1), regression=True),
        sequence_model(lambda d: fusedrnn.LSTM(I, H, dtype=d, seed=1)),
        sequence_model(stack),
        sequence_model(pooled(models.Last), pooled=True),
        sequence_model(pooled(models.Mean), pooled=True, regression=True),
    ],
    "EncoderDecoder": [
        encoder_decoder(models.ScaledDotProductAttention, None),
        encoder_decoder(
            models.AdditiveAttention,
            lambda d: models.Sequential(
                models.Conv1d(I, 3, 3, padding="same", dtype=d, seed=1), models.Tanh(dtype=d)
            ),
        ),
    ],
    "VectorDecoder": [vector_decoder],
    "Minibatches": [minibatches],
}  # fmt: skip


def takes_lengths(value: Any) -> bool:
    """Return whether it, or one of its calls, has an argument `lengths` or a `batch`."""
    names = [n for n in dir(value) if n in ("__init__", "__call__") or not n.startswith("_")]
    calls = [value, *(getattr(value, name) for name in names)]
    return any(
        {"lengths", "batch"} & set(inspect.signature(call).parameters)
        for call in calls
        if inspect.isfunction(call)
    )


def test_every_part_that_takes_lengths_has_a_case():
    exported = {name: getattr(models, name) for name in models.__all__}
    apart = {"Module", "Batch", "Beams", "Decoded"}  # a protocol; results, and what is taken
    found = {name for name, value in exported.items() if takes_lengths(value)} - apart
    assert found | {"LSTM", "GRU", "RNN"} == set(CASES)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("name", "k"), [(n, k) for n, some in CASES.items() for k in range(len(some))]
)
def test_what_stands_past_the_lengths_gets_nowhere(name, k, dtype):
    case = CASES[name][k]
    want = case(Draw(dtype, 0.0))
    assert want
    for fill in FILLS:
        got = case(Draw(dtype, fill))
        assert list(got) == list(want)
        for key, array in want.items():
            assert np.isfinite(array).all(), key
            assert got[key].dtype == array.dtype, key
            assert got[key].tobytes() == array.tobytes(), (key, fill)


def test_a_length_of_an_array_without_time_is_refused():
    for part in (models.Tanh(), models.Dropout(0.5), models.Linear(1, 1)):
        with pytest.raises(ValueError, match="lengths: expected None without an axis of time"):
            part(np.ones(1, np.float32), lengths=1)


def test_lengths_must_fit_every_part():
    """Those of a batch are not those of one sequence, and none is longer than x."""
    x = np.ones((T, B, I), np.float32)
    for part in (models.Linear(I, 1), models.Tanh(), models.Dropout(0.5), models.Conv1d(I, 1, 2)):
        for call in (part, part.forward):
            with pytest.raises(ValueError, match=r"lengths: expected \(4,\), got \(\)"):
                call(x, lengths=3)
            with pytest.raises(ValueError, match="lengths: expected 0 to T = 6, got 7"):
                call(x, lengths=[7, 1, 1, 1])
    with pytest.raises(ValueError, match=r"query_lengths: expected \(4,\), got \(2,\)"):
        models.AdditiveAttention(I, I, 2)(x, x, query_lengths=[1, 1])


def test_arguments_stay_as_they_are():
    """Also where nothing is computed of them: the padding is zeroed in a copy."""
    x = filled(np.ones((T, B, I), np.float32), LENGTHS, np.nan)
    before = x.copy()
    for part in (models.Dropout(0.0), models.Relu(), models.Linear(I, I), models.Mean()):
        y, _, tape = part.forward(x, lengths=LENGTHS)
        part(x, lengths=LENGTHS)
        part.backward(tape, x if y.shape == x.shape else x[0])
        np.testing.assert_array_equal(x, before)

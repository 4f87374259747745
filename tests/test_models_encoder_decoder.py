"""Encoder-decoder and vector-decoder: the loss, its gradients, padding, parameters, errors."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest

from fusedrnn import GRU, LSTM
from fusedrnn.models import (
    Batch,
    Embedding,
    EncoderDecoder,
    Linear,
    RegressionHead,
    ScaledDotProductAttention,
    Sequential,
    SoftmaxHead,
    VectorDecoder,
    build,
    config,
    load,
    save,
)
from fusedrnn.models._bridge import join, split
from test_reference_gradients import STEP, TOLERANCE
from translation_problems import (
    CLASSES,
    END,
    F8,
    LENGTHS,
    MODELS,
    START,
    SYMBOLS,
    TARGET_LENGTHS,
    batch_for,
    dot,
    plain_loss,
    translator,
)


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


# The loss


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("target_lengths", [None, TARGET_LENGTHS])
def test_the_loss_is_the_plain_sum(model, lengths, target_lengths):
    batch = batch_for(model, lengths=lengths, target_lengths=target_lengths)
    want = plain_loss(model, batch)
    # Products of other shapes are summed in another order: roundings of 1e-16.
    assert model.step(batch).loss == pytest.approx(want, rel=1e-12)
    assert model.evaluate(batch).loss == pytest.approx(want, rel=1e-12)


def test_counts_are_sums_of_weights(model):
    batch = batch_for(model)
    counted = np.arange(4)[:, None] < TARGET_LENGTHS
    for result in (model.step(batch), model.evaluate(batch)):
        assert result.count == pytest.approx(batch.weights[counted].sum(), rel=1e-15)
        assert result.state is None
    assert model.evaluate(replace(batch, weights=None)).count == counted.sum()


# Gradients


def with_parameter(model, name, value):
    model.load_parameters({**model.parameters, name: value})


def difference(model, batch, name: str, direction) -> float:
    """The derivative of the loss along a direction of one parameter, by four points."""
    before, drawn = np.array(model.parameters[name]), model.random_state

    def loss(h: float) -> float:
        with_parameter(model, name, before + h * direction)
        model.random_state = drawn
        return model.step(batch).loss

    near, far = loss(STEP) - loss(-STEP), loss(2 * STEP) - loss(-2 * STEP)
    with_parameter(model, name, before)
    model.random_state = drawn
    return (8 * near - far) / (12 * STEP)


def check_gradients(model, batch, directions=3) -> None:
    """Compare along the axes for small parameters, and along random directions for large ones."""
    rng = np.random.default_rng(0)
    drawn = model.random_state
    gradients = model.step(batch).gradients
    model.random_state = drawn
    assert list(gradients) == list(model.parameters)
    for name, gradient in gradients.items():
        assert gradient.shape == model.parameters[name].shape
        assert gradient.dtype == model.parameters[name].dtype
        for _ in range(directions):
            direction = rng.normal(size=gradient.shape)
            direction /= np.linalg.norm(direction)
            want = difference(model, batch, name, direction)
            got = (gradient * direction).sum()
            assert abs(got - want) <= TOLERANCE * max(np.linalg.norm(gradient), 1e-3), name


def test_gradients_are_differences(model):
    check_gradients(model, batch_for(model))


def test_gradients_of_a_batch_without_lengths(model):
    check_gradients(model, batch_for(model, lengths=None, target_lengths=None, steps=(2, 3)), 1)


def test_gradients_under_dropout_between_layers():
    encoder = LSTM(3, 2, 2, bidirectional=True, dropout=0.4, dtype=F8, seed=5)
    decoder = LSTM(2, 4, 3, dropout=0.3, dtype=F8, seed=6)
    model = translator(encoder, decoder, dot(), 3)
    batch = batch_for(model)
    check_gradients(model, batch, 2)
    losses = {model.step(batch).loss for _ in range(5)}
    assert len(losses) == 5, "a mask of its own each"
    assert len({model.evaluate(batch).loss for _ in range(2)}) == 1
    assert model.evaluate(batch).loss == pytest.approx(plain_loss(model, batch), rel=1e-12)


def test_random_state_brings_a_step_back():
    encoder = GRU(3, 4, 2, dropout=0.4, dtype=F8, seed=5)
    decoder = GRU(2, 4, 2, dropout=0.3, dtype=F8, seed=6)
    model = translator(encoder, decoder)
    batch, before = batch_for(model), model.random_state
    assert len(before) == 2
    first, second = model.step(batch), model.step(batch)
    assert first.loss != second.loss
    model.random_state = before
    again = model.step(batch)
    assert again.loss == first.loss
    for name, gradient in again.gradients.items():
        np.testing.assert_array_equal(gradient, first.gradients[name])


# Padding


def poisoned(batch: Batch, model) -> Batch:
    """The batch with garbage past all lengths."""
    rng = np.random.default_rng(9)
    inputs, targets, weights = (np.array(a) for a in (batch.inputs, batch.targets, batch.weights))
    if batch.lengths is not None:
        past = np.arange(len(inputs))[:, None] >= batch.lengths
        garbage = [np.nan, np.inf, -1e300]
        if inputs.dtype.kind == "i" and isinstance(model, EncoderDecoder):
            garbage = [-7, 10**12, SYMBOLS]
        elif inputs.dtype.kind == "i":
            garbage = range(SYMBOLS)  # the encoder reads it
        inputs[past] = rng.choice(garbage, size=inputs[past].shape)
    past = np.arange(len(targets))[:, None] >= batch.target_lengths
    targets[past] = rng.choice([-7, 10**12, CLASSES, -100], size=past.sum())
    weights[past] = rng.choice([np.nan, np.inf, -1.0], size=past.sum())
    return replace(batch, inputs=inputs, targets=targets, weights=weights)


@pytest.mark.parametrize("lengths", [LENGTHS, [2, 0, 4]])
@pytest.mark.parametrize("target_lengths", [TARGET_LENGTHS, [0, 4, 2]])
def test_what_stands_past_the_lengths_changes_nothing(model, lengths, target_lengths):
    batch = batch_for(model, lengths=lengths, target_lengths=target_lengths)
    bad = poisoned(batch, model)
    before = copy.deepcopy(bad)
    want, got = model.step(batch), model.step(bad)
    assert np.isfinite(want.loss)
    assert got.loss == want.loss and got.count == want.count
    for name, gradient in got.gradients.items():
        np.testing.assert_array_equal(gradient, want.gradients[name], err_msg=name)
    assert model.evaluate(bad).loss == model.evaluate(batch).loss
    for array, kept in zip(vars(bad).values(), vars(before).values(), strict=True):
        np.testing.assert_array_equal(array, kept)


def test_the_poison_is_seen_inside_the_lengths(model):
    batch = batch_for(model)
    changed = replace(batch, targets=(batch.targets + 1) % CLASSES)
    assert model.evaluate(changed).loss != model.evaluate(batch).loss
    inputs = np.array(batch.inputs)
    inputs[0] = inputs[0] + 1 if inputs.dtype.kind == "f" else (inputs[0] + 1) % SYMBOLS
    assert model.evaluate(replace(batch, inputs=inputs)).loss != model.evaluate(batch).loss


def test_targets_to_ignore_pad_as_lengths_do(model):
    batch = batch_for(model)
    past = np.arange(4)[:, None] >= batch.target_lengths
    padded = replace(
        batch, targets=np.where(past, model.head.ignore_index, batch.targets), target_lengths=None
    )
    assert model.evaluate(padded).loss == pytest.approx(model.evaluate(batch).loss, rel=1e-12)
    check_gradients(model, padded, 1)


def test_a_batch_in_which_nothing_counts(model):
    step = model.step(batch_for(model, target_lengths=[0, 0, 0]))
    assert step.loss == 0 and step.count == 0
    assert not any(gradient.any() for gradient in step.gradients.values())


def test_a_batch_of_nothing(model):
    batch = batch_for(model, lengths=None, target_lengths=None)
    axis = 0 if batch.inputs.shape[0] == 3 else 1
    empty = Batch(batch.inputs.take([], axis), batch.targets[:, :0])
    assert model.step(empty).count == 0
    assert model.decode(empty.inputs, max_length=3).symbols.shape == (0, 0)


def test_float32_agrees_with_float64():
    model = MODELS["layers, additive"]()
    # New parameters attend to all alike: the query's gradient is the small difference of large
    # terms, and all but its first digits are rounding. Larger ones choose.
    for part in (model.source, model.encoder, model.attention):
        part.load_parameters({name: 4 * p for name, p in part.parameters.items()})

    def single(part):
        arguments = {k: v for k, v in config(part).items() if k != "kind"} | {"dtype": "float32"}
        return type(part)(**arguments)

    parts = [single(getattr(model, k)) for k in ("source", "encoder", "target", "decoder", "head")]
    small = EncoderDecoder(*parts, attention=single(model.attention), start=START, end=END)
    small.load_parameters({k: v.astype(np.float32) for k, v in model.parameters.items()})
    batch = batch_for(model)
    got, want = small.step(batch), model.step(batch)
    # Roundings of 6e-8 in each of some tens of steps.
    assert got.loss == pytest.approx(want.loss, rel=1e-5)
    for name, gradient in got.gradients.items():
        assert gradient.dtype == np.float32
        error = np.linalg.norm(gradient - want.gradients[name])
        assert error <= 1e-5 * np.linalg.norm(want.gradients[name]), name


# Parameters, copies, files


def test_parameters_have_dotted_names_and_can_be_changed(model):
    names = list(model.parameters)
    parts = list(dict.fromkeys(name.split(".")[0] for name in names))
    if isinstance(model, EncoderDecoder):
        assert parts[:2] == ["source", "encoder"]
    assert parts[-1] == "head" and "target" in parts and "decoder" in parts
    assert ("combine" in parts) == (model.attention is not None)
    with model.edit_parameters() as edited:
        for array in edited.values():
            array *= 0.5
    for name, array in model.parameters.items():
        np.testing.assert_array_equal(array, edited[name])
        assert not array.flags.writeable
    with pytest.raises(ValueError, match=r"^parameters: missing head\.bias"):
        model.load_parameters({k: v for k, v in edited.items() if k != "head.bias"})


@pytest.mark.parametrize(
    "twin",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: built(m)],
    ids=["copy", "pickle", "config"],
)
def test_copies_and_models_from_a_configuration_compute_the_same(model, twin):
    batch, other = batch_for(model), twin(model)
    assert other.evaluate(batch) == model.evaluate(batch)
    assert list(other.parameters) == list(model.parameters)
    assert repr(other) == repr(model) and repr(model).startswith(type(model).__name__)
    with other.edit_parameters() as parameters:
        parameters["head.bias"][0] += 1
    assert other.evaluate(batch) != model.evaluate(batch)


def built(model):
    other = build(config(model))
    other.load_parameters(model.parameters)
    return other


@pytest.mark.parametrize(
    ("name", "bridged"),
    [
        ("one state, dot", False),
        ("numbers", False),
        ("both directions, dot", True),
        ("as many states of two directions", True),
        ("other cells, no attention", True),
        ("vector", True),
    ],
)
def test_there_is_a_bridge_where_states_do_not_fit(name, bridged):
    """Two directions of one layer aren't two layers of one direction."""
    assert ("bridge.weight" in MODELS[name]().parameters) == bridged


def test_a_model_comes_back_from_a_file(model, tmp_path):
    save(tmp_path / "model.safetensors", model)
    other = load(tmp_path / "model.safetensors")
    batch = batch_for(model)
    assert type(other) is type(model) and config(other) == config(model)
    assert other.evaluate(batch) == model.evaluate(batch)
    assert (other.start, other.end) == (model.start, model.end)


def test_a_seed_decides_the_parameters_of_bridge_and_combine():
    def made(seed):
        return EncoderDecoder(
            Embedding(SYMBOLS, 3, seed=1),
            GRU(3, 4, bidirectional=True, seed=2),
            Embedding(CLASSES, 3, seed=3),
            GRU(3, 8, seed=4),
            SoftmaxHead(8, CLASSES, seed=5),
            attention=ScaledDotProductAttention(8, 8, 8, seed=7),
            start=0,
            seed=seed,
        ).parameters

    for name in ("bridge.weight", "combine.weight"):
        np.testing.assert_array_equal(made(0)[name], made(0)[name])
        assert (made(0)[name] != made(1)[name]).any()
    assert made(0)["combine.weight"].ravel()[0] != made(0)["bridge.weight"].ravel()[0]


def test_join_and_split_are_inverse():
    rng = np.random.default_rng(0)
    h, c = rng.normal(size=(3, 2, 4)), rng.normal(size=(3, 2, 5))
    vectors = join((h, c))
    assert vectors.shape == (2, 27)
    np.testing.assert_array_equal(vectors[1, 4:8], h[1, 1])
    for got, want in zip(split(vectors, ((3, 4), (3, 5))), (h, c), strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(split(join(h), ((3, 4),)), h)


# Errors


def parts(**changes):
    given = {
        "source": Embedding(SYMBOLS, 3),
        "encoder": GRU(3, 4),
        "target": Embedding(CLASSES, 2),
        "decoder": GRU(2, 4),
        "head": SoftmaxHead(4, CLASSES),
        "start": 0,
    }
    return given | changes


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"encoder": Linear(3, 4)},
            TypeError,
            "encoder: expected an LSTM, GRU or RNN, got Linear",
        ),
        (
            {"decoder": Sequential(GRU(2, 4))},
            TypeError,
            "decoder: expected an LSTM, GRU or RNN, got Sequential",
        ),
        (
            {"encoder": GRU(3, 4, batch_first=True)},
            ValueError,
            "encoder: expected time on the first axis, got batch_first=True",
        ),
        (
            {"decoder": GRU(2, 4, batch_first=True)},
            ValueError,
            "decoder: expected time on the first axis, got batch_first=True",
        ),
        (
            {"decoder": GRU(2, 4, bidirectional=True)},
            ValueError,
            "decoder: expected one direction, got bidirectional=True",
        ),
        (
            {"head": RegressionHead(4, 2)},
            TypeError,
            "head: expected a SoftmaxHead, got RegressionHead",
        ),
        ({"head": SoftmaxHead(5, 2)}, ValueError, "head: expected input_size=4, got 5"),
        (
            {"target": Embedding(CLASSES, 2, dtype=F8)},
            ValueError,
            "target: expected the dtype float32, got float64",
        ),
        (
            {"decoder": LSTM(2, 4, dtype=F8)},  # with a bridge
            ValueError,
            "decoder: expected the dtype float32, got float64",
        ),
        ({"head": None, "attention": dot()}, TypeError, "head: expected a SoftmaxHead, got None"),
        ({"target": None}, TypeError, "target: expected a module, got NoneType"),
        (
            {"attention": Linear(4, 4)},
            TypeError,
            "attention: expected an Attention, got Linear",
        ),
        (
            {"attention": ScaledDotProductAttention(4, 5, 3)},
            ValueError,
            "attention: expected query_size=4 and memory_size=4, got 4 and 5",
        ),
        ({"start": -1}, ValueError, "start: expected at least 0, got -1"),
        ({"start": 0.0}, TypeError, "start: expected an integer, got float"),
        ({"end": CLASSES}, ValueError, "end: expected 0 to 4, got 5"),
        ({"end": True}, TypeError, "end: expected an integer, got bool"),
        ({"seed": -1}, ValueError, r"seed: expected an integer in \[0, 2\*\*64\), got -1"),
    ],
)
def test_errors_of_the_parts(changes, error, message):
    with pytest.raises(error, match=f"^{message}"):
        EncoderDecoder(**parts(**changes))


def test_errors_of_the_size_of_a_vector():
    given = {name: part for name, part in parts().items() if name not in ("source", "encoder")}
    with pytest.raises(ValueError, match=r"^size: expected at least 1, got 0$"):
        VectorDecoder(0, **given)
    with pytest.raises(TypeError, match=r"^encoder: expected a module, got str$"):
        VectorDecoder(3, encoder="Linear", **given)
    model = VectorDecoder(3, **given)
    targets = np.zeros((2, 2), int)
    with pytest.raises(ValueError, match=r"^inputs: expected \(B, 3\) \[B, V\], got \(2, 4\)$"):
        model.step(Batch(np.zeros((2, 4), np.float32), targets))
    with pytest.raises(ValueError, match=r"^lengths: expected None for vectors, got lengths$"):
        model.step(Batch(np.zeros((2, 3), np.float32), targets, np.array([1, 1])))
    with pytest.raises(TypeError, match=r"^inputs: expected an array of float32, got float64"):
        model.step(Batch(np.zeros((2, 3)), targets))
    encoded = VectorDecoder(3, encoder=Linear(4, 5), **given)
    message = r"^encoder: its outputs: expected \(B, 3\) \[B, V\], got \(2, 5\)$"
    with pytest.raises(ValueError, match=message):
        encoded.step(Batch(np.zeros((2, 4), np.float32), targets))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"inputs": np.zeros(3, int)}, ValueError, r"inputs: expected \(S, B, ...\), S at least 1"),
        ({"inputs": np.zeros((0, 2), int)}, ValueError, r"inputs: expected \(S, B, ...\)"),
        (
            {"inputs": np.full((3, 2), SYMBOLS)},
            ValueError,
            "x: expected symbols from 0 to 5, got 6",
        ),
        ({"inputs": np.zeros((3, 2))}, TypeError, "x: expected integers, got float64"),
        ({"lengths": [1, 4]}, ValueError, "lengths: expected 0 to T = 3, got 4"),
        ({"lengths": [1]}, ValueError, r"lengths: expected \(2,\), got \(1,\)"),
        ({"targets": np.zeros(3, int)}, ValueError, r"targets: expected \(T, B\), T at least 1"),
        ({"targets": np.zeros((0, 2), int)}, ValueError, r"targets: expected \(T, B\), T at least"),
        ({"targets": np.zeros((4, 2))}, TypeError, "targets: expected integers, got float64"),
        (
            {"targets": np.zeros((4, 3), int)},
            ValueError,
            r"targets: expected \(T, 2\) \[T, B\] for these inputs, got \(4, 3\)",
        ),
        (
            {"targets": np.full((4, 2), CLASSES)},
            ValueError,
            "x: expected symbols from 0 to 4, got 5",
        ),
        ({"target_lengths": [5, 0]}, ValueError, "lengths: expected 0 to T = 4, got 5"),
        ({"weights": np.full((4, 2), -1.0)}, ValueError, "weights: expected finite numbers"),
    ],
)
@pytest.mark.parametrize("call", ["step", "evaluate"])
def test_errors_of_a_batch(changes, error, message, call):
    model = EncoderDecoder(**parts())
    given = {"inputs": np.zeros((3, 2), int), "targets": np.zeros((4, 2), int)} | changes
    with pytest.raises(error, match=f"^{message}"):
        getattr(model, call)(Batch(**given))


def test_other_errors():
    model = EncoderDecoder(**parts())
    batch = Batch(np.zeros((3, 2), int), np.zeros((4, 2), int))
    for call in (model.step, model.evaluate):
        with pytest.raises(ValueError, match=r"^state: expected None, got ndarray$"):
            call(batch, np.zeros((1, 2, 4)))
    with pytest.raises(ValueError, match=r"^attention: expected a model with attention, got one"):
        model.attention_map(batch.inputs, batch.targets)
    for option in ({"width": 0}, {"max_length": 0}):
        with pytest.raises(ValueError, match=f"^{next(iter(option))}: expected at least 1, got 0"):
            model.decode(batch.inputs, **{"max_length": 3, **option})

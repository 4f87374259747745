"""`python -m fusedrnn demo`: its baselines, its gradients, its training."""

from __future__ import annotations

import math
import signal
from dataclasses import replace

import numpy as np
import pytest

from demo_problems import SMALL, TINY, read_data, run_steps
from fusedrnn.demo import command, corpus, head, ngrams, training
from fusedrnn.demo.adam import Adam, clip_by_norm
from fusedrnn.demo.corpus import Vocabulary
from fusedrnn.demo.model import LAYERS, Model
from fusedrnn.demo.training import Recipe

CELLS = sorted(LAYERS)


def differences(f, array, step=1e-6):
    """The gradient of f() by central differences over an array, changed in place."""
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + step
        above = f()
        array[index] = value - step
        gradient[index] = (above - f()) / (2 * step)
        array[index] = value
    return gradient


def random_symbols(size, shape, seed=0):
    return np.random.default_rng(seed).integers(size, size=shape).astype(np.intp)


@pytest.fixture(name="data")
def fixture_data():
    return read_data()


# --- text and n-grams ---------------------------------------------------------------------------


def test_vocabulary_encodes_and_decodes():
    vocabulary = Vocabulary.of("banana\n")
    assert vocabulary.characters == "\nabn"
    assert len(vocabulary) == 5
    assert vocabulary.decode(vocabulary.encode("nab\n")) == "nab\n"
    assert vocabulary.encode("axb").tolist() == [2, 0, 3]
    assert vocabulary.decode(np.array([0])) == corpus.UNKNOWN


def test_text_is_split_nine_to_one():
    text = corpus.read_text()
    train, test = corpus.split(text)
    assert train + test == text
    assert len(train) == len(text) * 9 // 10
    assert len(text) > 300_000


def test_ngrams_by_hand():
    # "aabab" over V = 3 symbols, a = 1, b = 2. Unigram: N(a) = 3, N(b) = 2, N = 5, D = 2.
    # After a: a once, b twice; after b: a once. After ab: a once; after aa: b once; ba: b once.
    tables = ngrams.estimate(np.array([1, 1, 2, 1, 2]), 3)
    unigram = [(2 / 3) / 7, (3 + 2 / 3) / 7, (2 + 2 / 3) / 7]
    after_a = [2 * unigram[0] / 5, (1 + 2 * unigram[1]) / 5, (2 + 2 * unigram[2]) / 5]
    after_b = [unigram[0] / 2, (1 + unigram[1]) / 2, unigram[2] / 2]
    after_ab = [after_b[0] / 2, (1 + after_b[1]) / 2, after_b[2] / 2]
    np.testing.assert_allclose(tables["uniform"], [1 / 3] * 3, rtol=1e-15)
    np.testing.assert_allclose(tables["unigram"], unigram, rtol=1e-15)
    np.testing.assert_allclose(tables["bigram"][1], after_a, rtol=1e-15)
    np.testing.assert_allclose(tables["bigram"][2], after_b, rtol=1e-15)
    np.testing.assert_allclose(tables["bigram"][0], unigram, rtol=1e-15)  # never seen
    np.testing.assert_allclose(tables["trigram"][1, 2], after_ab, rtol=1e-15)
    np.testing.assert_allclose(tables["trigram"][2, 2], after_b, rtol=1e-15)  # never seen
    for table in tables.values():
        np.testing.assert_allclose(table.sum(axis=-1), 1.0, rtol=1e-14)
        assert table.min() > 0.0

    # Of "abba" every model is scored on the last two characters.
    text = np.array([1, 2, 2, 1])
    assert ngrams.bits_per_character(tables["unigram"], text) == pytest.approx(
        -(math.log2(unigram[2]) + math.log2(unigram[1])) / 2, rel=1e-14
    )
    assert ngrams.bits_per_character(tables["trigram"], text) == pytest.approx(
        -(math.log2(after_ab[2]) + math.log2(after_b[1])) / 2, rel=1e-14
    )


def test_baselines_of_the_text_improve_with_order(data):
    bits = list(command._baselines(data).values())
    assert bits[0] == pytest.approx(math.log2(len(data.vocabulary)))
    assert bits == sorted(bits, reverse=True)
    assert 2.2 < bits[-1] < 2.8


# --- gradients and the optimizer ----------------------------------------------------------------


def test_head_against_central_differences():
    random = np.random.default_rng(1)
    count = head.ROWS + 3  # more than one block
    y, weight, bias = (random.standard_normal(s) for s in ((count, 2), (5, 2), (5,)))
    targets = random_symbols(5, count)
    result = head.loss(y, targets, weight, bias)
    log_p = head.log_softmax(y, weight, bias)
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1.0, rtol=1e-14)
    assert result.value == pytest.approx(-log_p[np.arange(count), targets].mean(), rel=1e-14)

    def value():
        return head.loss(y, targets, weight, bias).value

    # A mean over N terms: rounding in the difference is about 1e-16 / 1e-6.
    for array, gradient in zip((y, weight, bias), result[1:], strict=True):
        np.testing.assert_allclose(gradient, differences(value, array), rtol=0, atol=1e-9)


def test_head_is_safe_from_overflow():
    result = head.loss(np.full((1, 1), 1e4), np.array([1]), np.array([[1.0], [-1.0]]), np.zeros(2))
    assert result.value == pytest.approx(2e4)
    assert np.isfinite(result.d_y).all()


@pytest.mark.parametrize("cell", CELLS)
def test_model_against_central_differences(cell):
    model = Model(replace(TINY, cell=cell, layers=2), 5, seed=2, dtype="float64")
    inputs, targets = random_symbols(5, (3, 2), 1), random_symbols(5, (3, 2), 2)
    state = model.step(inputs, targets, None).state
    gradients = model.step(inputs, targets, state).gradients
    assert gradients.keys() == model.parameters.keys()

    def value():
        model.reload()
        return model.step(inputs, targets, state).loss

    for name, parameter in model.parameters.items():
        expected = differences(value, parameter, 1e-5)
        np.testing.assert_allclose(gradients[name], expected, rtol=0, atol=1e-9, err_msg=name)


def test_adam_by_hand():
    p = {"w": np.array([1.0])}
    adam = Adam(p)
    adam.step(p, {"w": np.array([0.5])}, 0.1)
    # m / (1 - b_1) = g and v / (1 - b_2) = g^2, so the first step is lr g / (|g| + eps).
    assert p["w"][0] == pytest.approx(1.0 - 0.1 * 0.5 / (0.5 + 1e-8), rel=1e-14)
    first = p["w"][0]
    adam.step(p, {"w": np.array([-0.25])}, 0.1)
    m = (0.9 * 0.05 - 0.1 * 0.25) / (1 - 0.9**2)
    v = (0.999 * 0.00025 + 0.001 * 0.0625) / (1 - 0.999**2)
    assert p["w"][0] == pytest.approx(first - 0.1 * m / (math.sqrt(v) + 1e-8), rel=1e-14)
    assert adam.t == 2


def test_gradients_are_clipped_by_their_common_norm():
    gradients = {"a": np.array([3.0]), "b": np.array([[0.0, 4.0]])}
    assert clip_by_norm(gradients, 10.0) == 5.0
    assert gradients["b"][0, 1] == 4.0
    assert clip_by_norm(gradients, 1.0) == 5.0
    np.testing.assert_allclose([gradients["a"][0], gradients["b"][0, 1]], [0.6, 0.8], rtol=1e-15)


# --- model and training -------------------------------------------------------------------------


def test_held_out_bits_are_the_loss_of_the_same_characters(monkeypatch):
    model = Model(TINY, 5, dtype="float64")
    text = random_symbols(5, 40)
    whole = model.bits_per_character(text, 1)
    monkeypatch.setattr("fusedrnn.demo.model.EVALUATION_STEPS", 7)
    assert model.bits_per_character(text, 1) == pytest.approx(whole, rel=1e-14)
    loss = model.step(text[:-1, np.newaxis], text[1:, np.newaxis], None).loss
    assert whole == pytest.approx(loss / math.log(2), rel=1e-14)
    y, _ = model.layer(model.parameters["embedding"][text[:-1]])
    log_p = model._log_softmax(y)[np.arange(39), text[1:]]
    assert model.bits_per_character(text, 10) == pytest.approx(-log_p[9:].mean() / math.log(2))


def test_samples_follow_seed_and_temperature():
    model = Model(SMALL, 20)
    prompt = np.array([3, 1])
    first = model.sample(prompt, 30, 1.0, seed=5)
    assert first.tolist() == model.sample(prompt, 30, 1.0, seed=5).tolist()
    assert first.tolist() != model.sample(prompt, 30, 1.0, seed=6).tolist()
    coldest = model.sample(prompt, 10, 1e-300, seed=0)
    y, _ = model.layer(model.parameters["embedding"][np.append(prompt, coldest)])
    assert coldest.tolist() == model._log_softmax(y).argmax(axis=1)[1:-1].tolist()


def test_segments_are_streams_with_shifted_targets():
    text = np.arange(1000, dtype=np.intp)
    recipe = Recipe(streams=3, steps=20)
    segments = training.segments(text, recipe, np.random.default_rng(0))
    starts, last = 0, None
    for _ in range(40):
        inputs, targets, anew = next(segments)
        assert inputs.shape == (20, 3)
        np.testing.assert_array_equal(targets, inputs + 1)
        np.testing.assert_array_equal(np.diff(inputs, axis=0), 1)
        if not anew:
            np.testing.assert_array_equal(inputs[0], last + 1)
        starts, last = starts + anew, inputs[-1]
    assert starts == 3  # 16 segments of 20 in each pass over 333


@pytest.mark.parametrize("length", [2, 3, 10, 100])
def test_segments_of_short_texts(length):
    segments = training.segments(np.arange(length), Recipe(), np.random.default_rng(0))
    for _ in range(5):
        inputs, targets, _ = next(segments)
        assert inputs.size >= 1
        np.testing.assert_array_equal(targets, inputs + 1)


def test_learning_rate_rises_and_falls():
    rates = [training.learning_rate(1.0, k / 100) for k in range(101)]
    top = rates.index(max(rates))
    assert rates[top] == pytest.approx(1.0)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[0] > 0.0
    assert rates[-1] == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("cell", CELLS)
def test_short_training_beats_the_unigram(cell, data):
    model = Model(replace(SMALL, cell=cell), len(data.vocabulary))
    report = run_steps(model, Adam(model.parameters), 150)
    assert report.steps == 150
    assert report.characters == 150 * 16 * 32
    bits = model.bits_per_character(data.test[:10_000], 2)
    assert bits < command._baselines(data)["unigram"] - 0.3
    assert set(model.stopwatch.seconds) == {"kernels", "embedding and head", "Adam"}


def test_time_budget_makes_at_least_one_step(data):
    model = Model(TINY, len(data.vocabulary))
    recipe = Recipe(streams=2, steps=4)
    budget = training.for_seconds(-1.0)
    adam = Adam(model.parameters)
    assert training.train(model, adam, data.train, budget, recipe=recipe, seed=0).steps == 1
    budget = training.for_seconds(0.05)
    report = training.train(model, adam, data.train, budget, recipe=recipe, seed=0)
    assert report.fraction == 1.0
    assert report.seconds >= 0.05


def test_interrupt_ends_training_after_the_step(data):
    handler = signal.getsignal(signal.SIGINT)
    model = Model(TINY, len(data.vocabulary))

    def interrupt(report):
        if report.steps == 3:
            signal.raise_signal(signal.SIGINT)

    report = run_steps(model, Adam(model.parameters), 100, show=interrupt)
    assert report.interrupted
    assert report.steps <= 4
    assert signal.getsignal(signal.SIGINT) is handler


def test_second_interrupt_acts_at_once(data):
    model = Model(TINY, len(data.vocabulary))

    def interrupt(_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_steps(model, Adam(model.parameters), 100, show=interrupt)

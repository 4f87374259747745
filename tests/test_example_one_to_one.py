"""examples/one_to_one.py: it learns, and what it says of a single step is so."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

import fusedrnn
from examples import one_to_one as example
from fusedrnn import models
from fusedrnn.demo.example import Options, missed

QUICK = Options(quick=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    options = Options(quick=True, pictures=tmp_path_factory.mktemp("pictures"))
    return SimpleNamespace(figures=example.run(options), pictures=options.pictures)


def test_it_learns(done):
    assert missed(done.figures, example.BOUNDS, quick=True) == []


def test_the_picture_is_there(done):
    assert (done.pictures / "one_to_one.png").read_bytes().startswith(b"\x89PNG")


ACCURACIES = [bound for bound in example.BOUNDS if bound.name.startswith("accuracy")]


def test_the_bounds_are_out_of_reach_for_untrained_models():
    x, classes = example.data()
    scaled = (x - x.mean(axis=1)) / x.std(axis=1)
    assert [bound.name for bound in ACCURACIES] == [f"accuracy, {name}" for name in example.BODIES]
    for bound, make in zip(ACCURACIES, example.BODIES.values(), strict=True):
        model = models.SequenceModel(make(30, 0), models.SoftmaxHead(example.UNITS, 2, seed=0))
        answers = model.predict(scaled)[0].argmax(axis=-1)
        assert not bound.met(float((answers == classes).mean()), quick=True)


def test_the_bounds_are_out_of_reach_for_one_answer(done):
    value = done.figures["accuracy, always benign"]
    assert value == pytest.approx(357 / 569)
    assert not any(bound.met(value, quick=True) for bound in ACCURACIES)


def test_the_data_are_one_step_of_569_sequences():
    x, classes = example.data()
    assert x.shape == (1, 569, 30) and x.dtype == np.float32
    assert classes.shape == (1, 569)
    assert (classes == example.MALIGNANT).sum() == 212
    names = list(load_breast_cancer().target_names)
    assert (names[example.MALIGNANT], names[example.BENIGN]) == ("malignant", "benign")


def test_each_is_judged_once_by_a_model_that_has_not_seen_it(monkeypatch):
    x = np.arange(23, dtype=np.float32).reshape(1, 23, 1)
    judged = []

    class Spy:
        def __init__(self, seen):
            self.seen = seen

        def predict(self, part):
            assert not np.isin(part, self.seen).any()
            assert self.seen.size + part.size == x.size
            judged.append(part.size)
            return np.zeros((1, part.size, 2), np.float32), None

    monkeypatch.setattr(example, "train", lambda body, given, *_: Spy(given))
    example.held_out(lambda *_: None, x, np.zeros((1, 23), int), QUICK)
    assert len(judged) == example.FOLDS and sum(judged) == 23


def test_an_lstm_of_one_step_is_a_layer_with_gates():
    x = np.random.default_rng(0).normal(size=(1, 7, 5))
    lstm = fusedrnn.LSTM(5, 16, dtype="float64", seed=0)
    np.testing.assert_allclose(example.gated(lstm.parameters, x), lstm(x)[0], atol=1e-14)


def test_an_rnn_of_one_step_is_linear_and_tanh():
    x = np.random.default_rng(0).normal(size=(1, 7, 5))
    rnn = fusedrnn.RNN(5, 4, dtype="float64", seed=0)
    linear = models.Linear(5, 4, dtype="float64")
    p = rnn.parameters
    bias = p["bias_ih_l0"] + p["bias_hh_l0"]
    linear.load_parameters({"weight": p["weight_ih_l0"], "bias": bias})
    body = models.Sequential(linear, models.Tanh(dtype="float64"))
    np.testing.assert_allclose(body(x)[0], rnn(x)[0], atol=1e-14)


def test_the_second_step_has_gradients_of_what_the_first_has_not():
    model = models.SequenceModel(
        example.BODIES["LSTM of one step"](3, 0), models.SoftmaxHead(example.UNITS, 2, seed=0)
    )
    x = np.random.default_rng(0).normal(size=(2, 7, 3)).astype(np.float32)
    classes = np.zeros((2, 7), int)
    assert example.without_effect(model, x[:1], classes[:1]) == 0
    assert example.without_effect(model, x, classes) > 1e-3


def test_the_same_seed_gives_the_same_bits():
    x, classes = example.data()
    x, classes = x[:, :60] / x[:, :60].max(axis=1), classes[:, :60]
    make = example.BODIES["LSTM of one step"]
    first, second, other = (
        example.held_out(make, x, classes, Options(quick=True, seed=seed))[0] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()

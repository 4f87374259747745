"""SequenceModel: the loss and its gradients, many to one and aligned, with lengths and weights."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

import fusedrnn
from fusedrnn import models, reference
from fusedrnn.models import Batch

T, B, I, H, K = 5, 3, 2, 4, 3  # noqa: E741
LENGTHS = np.array([3, 0, 5])
PAST = np.arange(T)[:, np.newaxis] >= LENGTHS


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def classes(*shape):
    return np.random.default_rng(1).integers(0, K, shape)


def model(kind, head, dtype="float64"):
    layers = [
        models.Linear(I, 3, dtype=dtype, seed=1),
        fusedrnn.GRU(3, H, dtype=dtype, seed=2),
    ]
    if kind != "aligned":
        layers.append({"last": models.Last, "mean": models.Mean}[kind](dtype=dtype))
    made = {"softmax": models.SoftmaxHead, "regression": models.RegressionHead}[head]
    return models.SequenceModel(models.Sequential(*layers), made(H, K, dtype=dtype, seed=3))


def batch(kind, head, *, lengths=None, weights=False, target_lengths=None) -> Batch:
    shape = (T, B) if kind == "aligned" else (B,)
    targets = classes(*shape) if head == "softmax" else normal(*shape, K, seed=2)
    w = np.abs(normal(*shape, seed=3)) if weights else None
    return Batch(normal(T, B, I), targets, lengths, target_lengths, w)


KINDS, HEADS = ["aligned", "last", "mean"], ["softmax", "regression"]
OPTIONS = [
    {},
    {"weights": True},
    {"lengths": LENGTHS},
    {"lengths": LENGTHS, "weights": True},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_loss_is_the_references_of_the_bodys_y(kind, head, options):
    m, data = model(kind, head), batch(kind, head, **options)
    y, state = m.body(data.inputs, lengths=data.lengths)
    f = {"softmax": reference.linear_cross_entropy, "regression": reference.linear_squared_error}
    loss, count, (_, d_weight, d_bias) = f[head](
        y,
        *m.head.parameters.values(),
        data.targets,
        weights=data.weights,
        lengths=data.lengths if kind == "aligned" else None,
        reduction="mean",
    )
    step, evaluation = m.step(data), m.evaluate(data)
    assert (step.loss, step.count) == (evaluation.loss, evaluation.count)
    assert step.loss == pytest.approx(loss, rel=1e-12)
    assert step.count == pytest.approx(count, rel=1e-12)
    np.testing.assert_allclose(step.gradients["head.weight"], d_weight, atol=1e-13)
    np.testing.assert_allclose(step.gradients["head.bias"], d_bias, atol=1e-13)
    for got in (step.state, evaluation.state):
        np.testing.assert_array_equal(got[1], state[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", HEADS)
def test_central_differences_of_every_parameter(kind, head):
    m, data = model(kind, head), batch(kind, head, lengths=LENGTHS, weights=True)
    gradients = m.step(data).gradients
    assert sorted(gradients) == sorted(m.parameters)
    arrays = {name: np.array(a) for name, a in m.parameters.items()}
    for name, array in arrays.items():
        for index in np.ndindex(array.shape):
            value, both = array[index], []
            for step in (1e-6, -1e-6):
                array[index] = value + step
                m.load_parameters(arrays)
                both.append(m.evaluate(data).loss)
            array[index] = value
            # The differences' own error: h^2 and eps / h.
            assert gradients[name][index] == pytest.approx((both[0] - both[1]) / 2e-6, abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", HEADS)
def test_float32_is_float64_rounded(kind, head):
    wide, narrow = model(kind, head), model(kind, head, "float32")
    narrow.load_parameters({k: a.astype(np.float32) for k, a in wide.parameters.items()})
    data = batch(kind, head, lengths=LENGTHS)
    single = replace(data, inputs=data.inputs.astype(np.float32))
    if head == "regression":
        single = replace(single, targets=data.targets.astype(np.float32))
    want, got = wide.step(data), narrow.step(single)
    assert got.loss == pytest.approx(want.loss, rel=1e-5)
    for name, gradient in got.gradients.items():
        assert gradient.dtype == np.float32
        np.testing.assert_allclose(gradient, want.gradients[name], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_past_the_lengths_changes_nothing(kind):
    m, data = model(kind, "softmax"), batch(kind, "softmax", lengths=LENGTHS)
    inputs, targets = data.inputs.copy(), data.targets.copy()
    inputs[PAST] = np.nan
    if kind == "aligned":
        targets[PAST] = 99
    want, got = m.step(data), m.step(replace(data, inputs=inputs, targets=targets))
    assert (got.loss, got.count) == (want.loss, want.count)
    assert np.isfinite(want.loss)
    for name, gradient in want.gradients.items():
        np.testing.assert_array_equal(got.gradients[name], gradient)


def test_targets_may_be_shorter_than_inputs():
    m = model("aligned", "softmax")
    data = batch("aligned", "softmax", lengths=LENGTHS, target_lengths=np.array([1, 0, 4]))
    weights = (np.arange(T)[:, np.newaxis] < data.target_lengths).astype(float)
    want = m.step(replace(data, target_lengths=None, weights=weights))
    got = m.step(data)
    assert got.count == want.count == 5
    assert got.loss == pytest.approx(want.loss)
    for name, gradient in want.gradients.items():
        np.testing.assert_allclose(got.gradients[name], gradient, atol=1e-14)


def test_one_sequence_has_a_length_too():
    m, data = model("aligned", "softmax"), batch("aligned", "softmax")
    x, targets = data.inputs[:, 0], data.targets[:, 0]
    got = m.step(Batch(x, targets, np.array(3)))
    want = m.step(Batch(x[:3], targets[:3]))
    assert (got.count, want.count) == (3, 3)
    assert got.loss == pytest.approx(want.loss, rel=1e-12)
    one = model("last", "softmax").step(Batch(x, np.array(1), np.array(3)))
    assert one.count == 1


def test_a_state_goes_on():
    m, data = model("aligned", "regression"), batch("aligned", "regression")
    whole = m.evaluate(data)
    first = m.step(Batch(data.inputs[:2], data.targets[:2]))
    rest = Batch(data.inputs[2:], data.targets[2:], carry=True)
    second = m.step(rest, first.state)
    losses = (first.loss * first.count + second.loss * second.count) / whole.count
    assert losses == pytest.approx(whole.loss, rel=1e-12)
    np.testing.assert_allclose(second.state[1], whole.state[1], atol=1e-14)
    prediction, state = m.predict(data.inputs[2:], first.state)
    np.testing.assert_allclose(prediction, m.predict(data.inputs)[0][2:], atol=1e-14)
    np.testing.assert_array_equal(state[1], second.state[1])


def test_predictions_are_the_heads():
    data = batch("last", "softmax", lengths=LENGTHS)
    log_p, _ = model("last", "softmax").predict(data.inputs, lengths=LENGTHS)
    assert log_p.shape == (B, K)
    np.testing.assert_allclose(np.exp(log_p).sum(axis=-1), 1)
    o, _ = model("aligned", "regression").predict(data.inputs)
    assert o.shape == (T, B, K)


def test_dropout_acts_in_steps_alone():
    body = models.Sequential(fusedrnn.GRU(I, H, dtype="float64", seed=1))
    dropped = models.Sequential(body["0"], models.Dropout(0.5, dtype="float64", seed=2))
    plain, m = (
        models.SequenceModel(b, models.SoftmaxHead(H, K, dtype="float64", seed=3))
        for b in (body, dropped)
    )
    data = batch("aligned", "softmax")
    assert m.evaluate(data).loss == plain.evaluate(data).loss
    before = m.random_state
    assert before == {"body.1": (2, 0)}
    first, second = m.step(data).loss, m.step(data).loss
    assert len({first, second, m.evaluate(data).loss}) == 3
    m.random_state = before
    assert m.step(data).loss == first


def test_copies_and_configurations():
    m, data = model("last", "softmax"), batch("last", "softmax", lengths=LENGTHS)
    built = models.build(json.loads(json.dumps(models.config(m))))
    built.load_parameters(m.parameters)
    for other in (copy.deepcopy(m), pickle.loads(pickle.dumps(m)), built):
        assert repr(other) == repr(m)
        assert other.step(data).loss == m.step(data).loss


ERRORS = {
    "target_lengths: expected None, since the body's y has no time, (3, 4)": (
        "last", {"target_lengths": LENGTHS},
    ),
    "targets: expected (3,), got (5, 3)": ("last", {"targets": classes(T, B)}),
    "targets: expected (5, 3), got (3,)": ("aligned", {"targets": classes(B)}),
    "lengths: expected (3,), got (2,)": ("aligned", {"lengths": [1, 1]}),
    "lengths: expected 0 to T = 5, got 6": ("last", {"lengths": [1, 6, 1]}),
    "weights: expected (3,), got (5, 3)": ("last", {"weights": np.ones((T, B))}),
    "x: expected (..., 2) [..., I], got (5, 3, 4)": ("last", {"inputs": normal(T, B, 4)}),
}  # fmt: skip


@pytest.mark.parametrize("message", ERRORS)
def test_errors(message):
    kind, changes = ERRORS[message]
    m, data = model(kind, "softmax"), replace(batch(kind, "softmax"), **changes)
    for call in (m.step, m.evaluate):
        with pytest.raises(ValueError, match="expected") as error:
            call(data)
        assert str(error.value) == message

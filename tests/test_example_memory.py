"""examples/memory.py: gradients as in the equations, and a task that only gates learn."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import fusedrnn
from examples import memory as example
from fusedrnn import models
from fusedrnn.demo.example import Options, missed

SHORTEST = min(example.QUICK)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    options = Options(quick=True, pictures=tmp_path_factory.mktemp("pictures"))
    return SimpleNamespace(figures=example.run(options), pictures=options.pictures)


def test_gates_learn_and_the_rnn_does_not(done):
    assert missed(done.figures, example.BOUNDS, quick=True) == []


def test_the_picture_is_there(done):
    assert (done.pictures / "memory.png").read_bytes().startswith(b"\x89PNG")


def bounds(*names):
    return [b for b in example.BOUNDS if b.name.split(", ")[1] in names and "error" in b.name]


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_the_bounds_of_learning_are_out_of_reach_without_it(name):
    untrained = models.SequenceModel(
        models.Sequential(example.CELLS[name](SHORTEST, 0, "float32"), models.Last()),
        models.RegressionHead(example.UNITS, 1, seed=0),
    )
    value = models.evaluate(untrained, example.Adding(SHORTEST, 250, 4, 1))
    learned = [bound for bound in bounds(name) if bound.at_most is not None]
    assert len(learned) == 1
    assert not learned[0].met(value, quick=True)
    assert not learned[0].met(example.BASELINE, quick=True)


def test_what_the_rnn_must_not_reach_is_below_the_baseline_and_above_what_gates_reach():
    (fails,) = (bound for bound in bounds("RNN") if bound.at_least is not None)
    assert fails.met(example.BASELINE, quick=False)
    for bound in bounds("LSTM", "GRU"):
        assert not fails.met(bound.limit(quick=True), quick=True)


@pytest.mark.parametrize("steps", [2, 7, 50])
def test_two_numbers_are_marked_one_in_each_half(steps):
    batch = example.Adding(steps, 300, 1, 0).batch(0, 0)
    numbers, marks = batch.inputs[..., 0], batch.inputs[..., 1]
    assert batch.inputs.dtype == batch.targets.dtype == np.float32
    assert numbers.min() >= 0 and numbers.max() < 1
    assert set(np.unique(marks)) <= {0, 1}
    assert (marks[: steps // 2].sum(axis=0) == 1).all()
    assert (marks[steps // 2 :].sum(axis=0) == 1).all()
    assert (marks.sum(axis=1) > 0).all()  # any step may be one
    np.testing.assert_allclose(batch.targets[:, 0], (numbers * marks).sum(axis=0), rtol=1e-6)


def test_the_answer_1_has_the_error_of_the_baseline():
    targets = example.Adding(10, 100_000, 1, 0).batch(0, 0).targets
    # The squares have a standard deviation of 0.2: of this mean, 0.0006.
    assert np.square(targets - 1).mean() == pytest.approx(example.BASELINE, abs=0.003)


def test_batches_depend_on_seed_epoch_and_index_only():
    data = example.Adding(10, 4, 3, 0)
    again = example.Adding(10, 4, 3, 0).batch(1, 2).inputs
    np.testing.assert_array_equal(data.batch(1, 2).inputs, again)
    others = (data.batch(0, 2), data.batch(1, 1), example.Adding(10, 4, 3, 1).batch(1, 2))
    for other in others:
        assert (other.inputs != again).any()


def test_gradients_of_the_rnn_are_those_of_equation_10_21():
    steps = 20
    rnn = fusedrnn.RNN(2, example.UNITS, seed=0, dtype="float64")
    norms = example.gradient_norms(rnn, steps, seed=3)
    x = example.Adding(steps, 16, 1, 3).batch(0, 0).inputs.astype(np.float64)
    h = rnn(x)[0]
    d_h = np.random.default_rng(3).normal(size=h.shape[1:])
    want = []
    for t in reversed(range(steps)):
        d_a = (1 - h[t] ** 2) * d_h
        want.append(np.linalg.norm(d_a @ rnn.parameters["weight_ih_l0"], axis=1).mean())
        d_h = d_a @ rnn.parameters["weight_hh_l0"]
    np.testing.assert_allclose(norms, np.array(want) / want[0], rtol=1e-12)


def test_what_is_kept_fades_within_1_to_t_steps():
    units, steps = example.UNITS, 1000
    for cell, sign in ((fusedrnn.LSTM, -1), (fusedrnn.GRU, None)):
        layer = example.remember(cell(2, units, seed=0), steps, seed=0)
        bias = layer.parameters["bias_ih_l0"] + layer.parameters["bias_hh_l0"]
        gates = bias.reshape(-1, units)
        keep = 1 / (1 + np.exp(-gates[1].astype(np.float64)))
        after = 1 / (1 - keep)  # the steps in which it decays: a mean of u + 1
        assert after.min() >= 2 and after.max() <= steps
        assert after.max() > steps / 2
        if sign is not None:
            np.testing.assert_array_equal(gates[0], sign * gates[1])
            assert (gates[2:] == 0).all()
        else:
            assert (gates[[0, 2]] == 0).all()


def test_the_same_seed_gives_the_same_bits():
    first, second, other = (example.error("GRU", SHORTEST, 5, seed) for seed in (0, 0, 1))
    assert first == second != other

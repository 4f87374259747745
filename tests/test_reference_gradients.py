"""The gradients of the reference against central differences and the textbook's sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fusedrnn import reference
from reference_problems import CASES, CELLS, LENGTHS, PROJECTIONS, Problem, make, relative

# Step of the four-point difference: its error is about h^4 f''''' / 30 = 3e-14 f''''' from
# truncation and 1e-16 L / h = 1e-13 L from rounding, both far below the tolerance.
STEP = 1e-3
# The bound that the project sets itself for gradients against central differences.
TOLERANCE = 1e-7


def difference(problem: Problem, name: str, direction: np.ndarray) -> float:
    """Return the derivative of the loss along a direction of one array, by differences."""
    array = problem.arrays[name]

    def loss(h: float) -> float:
        return problem.with_array(name, array + h * direction).loss()

    near = loss(STEP) - loss(-STEP)
    far = loss(2 * STEP) - loss(-2 * STEP)
    return (8 * near - far) / (12 * STEP)


def numeric_gradient(problem: Problem, name: str) -> np.ndarray:
    array = problem.arrays[name]
    gradient = np.zeros(array.shape)
    for index in np.ndindex(array.shape):
        direction = np.zeros(array.shape)
        direction[index] = 1
        gradient[index] = difference(problem, name, direction)
    return gradient


def near_kink(problem: Problem) -> bool:
    """Say whether a pre-activation of a relu network is so near 0 that differences cross it.

    A direction has norm 1, so a pre-activation moves by 2 STEP times the gain of the network.
    A gain of 10 is allowed for: not a bound, but the problems are seeded, so none fails by chance.
    """
    if problem.cell != "rnn_relu":
        return False
    tape = problem.forward()[2]
    for k, layer in enumerate(tape.saved):
        for d, steps in enumerate(layer):
            w = tape.network.layers[k][d]
            for x, h, _ in steps:
                a = x @ w.weight_ih.T + w.bias_ih + h @ w.weight_hh.T + w.bias_hh
                if (abs(a) < 20 * STEP).any():
                    return True
    return False


def smooth(cell: str, **options) -> Problem:
    """Return the first of the seeded problems whose differences cross no kink."""
    problems = (make(cell, seed=seed, **options) for seed in range(10_000))
    return next(problem for problem in problems if not near_kink(problem))


@pytest.mark.parametrize("cell", [*CELLS, "projected lstm"])
@pytest.mark.parametrize("lengths", [None, [3, 3], [1, 0]], ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_every_element_of_every_gradient(cell, bidirectional, lengths):
    projection = {"proj_size": 1} if cell.startswith("projected") else {}
    cell = cell.removeprefix("projected ")
    options = {"units": 2, "bidirectional": bidirectional, "lengths": lengths}
    problem = smooth(cell, **options, **projection)
    gradients = problem.gradients()
    assert list(gradients) == list(problem.arrays)
    for name, gradient in gradients.items():
        assert gradient.shape == problem.arrays[name].shape
        assert relative(gradient, numeric_gradient(problem, name)) <= TOLERANCE, name


def check_along_directions(problem: Problem, seed: int) -> None:
    """Compare every gradient with the difference along a random direction.

    A wrong element is missed only if the direction is orthogonal to the error: never.
    """
    rng = np.random.default_rng(seed)
    gradients = problem.gradients()
    assert list(gradients) == list(problem.arrays)
    for name, gradient in gradients.items():
        direction = rng.normal(size=gradient.shape)
        direction /= np.linalg.norm(direction)
        got = (gradient * direction).sum()
        want = difference(problem, name, direction)
        # relative to the whole gradient, since a product along one direction may cancel
        assert abs(got - want) <= TOLERANCE * max(np.linalg.norm(gradient), 1e-3), name


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("case", CASES + LENGTHS, ids=str)
def test_gradients_along_random_directions(cell, case):
    check_along_directions(smooth(cell, **case), seed=1)


@pytest.mark.parametrize("case", PROJECTIONS, ids=str)
def test_gradients_with_a_projection(case):
    check_along_directions(make("lstm", **case), seed=1)


@pytest.mark.parametrize("case", LENGTHS, ids=str)
def test_gradients_with_lengths_and_a_projection(case):
    check_along_directions(make("lstm", proj_size=2, **case), seed=1)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_gradients_of_any_problem(data):
    cell = data.draw(st.sampled_from(CELLS))
    steps = data.draw(st.integers(1, 4))
    batch = data.draw(st.sampled_from([None, 1, 2, 3]))
    units = data.draw(st.integers(1, 3))
    length = st.integers(0, steps)
    lengths = length if batch is None else st.lists(length, min_size=batch, max_size=batch)
    problem = make(
        cell,
        steps=steps,
        batch=batch,
        inputs=data.draw(st.integers(1, 3)),
        units=units,
        proj_size=data.draw(st.integers(0, units - 1 if cell == "lstm" else 0)),
        lengths=data.draw(st.none() | lengths),
        layers=data.draw(st.integers(1, 3)),
        bidirectional=data.draw(st.booleans()),
        bias=data.draw(st.booleans()),
        batch_first=data.draw(st.booleans()),
        dropout=data.draw(st.sampled_from([0.0, 0.3, 1.0])),
        dropout_key=data.draw(st.tuples(*[st.integers(0, 2**64 - 1)] * 2)),
        seed=data.draw(st.integers(0, 2**32)),
    )
    assume(not near_kink(problem))
    check_along_directions(problem, seed=2)


@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu"])
def test_textbook_sums(cell):
    """Goodfellow et al. 10.20, 10.21 (dL/dh), 10.23 (b), 10.26 (W), 10.28 (U), with o = h."""
    p = make(cell, steps=4, batch=1)
    y, _, tape = p.forward()
    got = reference.backward(tape, p.dy)  # dL/do_t = dy_t, and V = 1
    W = p.parameters["weight_hh_l0"]
    h = [p.states[0][0, 0], *y[:, 0]]  # h_0 .. h_T
    slope = [1 - v**2 if cell == "rnn_tanh" else (v > 0) * 1.0 for v in h]
    d_h = {4: p.dy[3, 0]}
    for t in (3, 2, 1):
        d_h[t] = W.T @ np.diag(slope[t + 1]) @ d_h[t + 1] + p.dy[t - 1, 0]
    d_a = {t: np.diag(slope[t]) @ d_h[t] for t in d_h}
    d_b = sum(d_a[t] for t in d_a)
    d_W = sum(np.outer(d_a[t], h[t - 1]) for t in d_a)
    d_U = sum(np.outer(d_a[t], p.x[t - 1, 0]) for t in d_a)
    np.testing.assert_allclose(got.state[0, 0], W.T @ d_a[1], rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(got.parameters["bias_ih_l0"], d_b, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(got.parameters["bias_hh_l0"], d_b, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(got.parameters["weight_hh_l0"], d_W, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(got.parameters["weight_ih_l0"], d_U, rtol=1e-13, atol=1e-14)

"""The gradients of the float64 kernels against central differences of the kernels themselves."""

from __future__ import annotations

import numpy as np
import pytest

from kernel_problems import CELLS, kink_distance, make, make_away_from_kinks, threads
from reference_problems import CASES, relative
from test_reference_gradients import STEP, TOLERANCE, difference, numeric_gradient

pytestmark = pytest.mark.isa

# Differences move a pre-activation by 2 STEP times the gain of the network: 10 is allowed for.
DISTANCE = 20 * STEP


def check_along_directions(problem, directions=3) -> None:
    """Compare every gradient with the differences along random directions."""
    rng = np.random.default_rng(0)
    gradients = problem.gradients()
    assert list(gradients) == list(problem.arrays)
    for name, gradient in gradients.items():
        for _ in range(directions):
            direction = rng.normal(size=gradient.shape)
            direction /= np.linalg.norm(direction)
            got = (gradient * direction).sum()
            want = difference(problem, name, direction)
            # relative to the whole gradient, since a product along one direction may cancel
            assert abs(got - want) <= TOLERANCE * max(np.linalg.norm(gradient), 1e-3), name


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("units", [1, 3, 5, 9])  # around one and two vectors of four
def test_every_element_of_every_gradient(cell, units):
    sizes = {"steps": 3, "batch": 2, "inputs": 2, "units": units}
    problem = make_away_from_kinks(cell, distance=DISTANCE, exact_zeros=True, **sizes)
    gradients = problem.gradients()
    assert list(gradients) == list(problem.arrays)
    for name, gradient in gradients.items():
        assert gradient.shape == problem.arrays[name].shape
        assert relative(gradient, numeric_gradient(problem, name)) <= TOLERANCE, name


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_every_element_in_two_layers_with_dropout(cell, bidirectional):
    sizes = {"steps": 2, "batch": 2, "inputs": 2, "units": 3, "layers": 2}
    problem = make_away_from_kinks(
        cell, distance=DISTANCE, exact_zeros=True, bidirectional=bidirectional, dropout=0.4, **sizes
    )
    for name, gradient in problem.gradients().items():
        assert relative(gradient, numeric_gradient(problem, name)) <= TOLERANCE, name


# The reference's cases, and sizes that fill and overflow a tile and a vector.
KERNEL_CASES = [*CASES, {"batch": 7, "steps": 2}, {"inputs": 17}]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("case", KERNEL_CASES, ids=str)
def test_gradients_along_random_directions(cell, case):
    case = {"steps": 3, "batch": 2, "inputs": 2, "units": 5} | case
    check_along_directions(make_away_from_kinks(cell, distance=DISTANCE, exact_zeros=True, **case))


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell != "rnn_relu"])
@pytest.mark.parametrize(("batch", "bidirectional"), [(1, False), (1, True), (33, False)])
def test_gradients_of_problems_that_threads_share(cell, batch, bidirectional):
    """Sizes at which the units (one sequence) or the rows (33) are divided, and dW in both cases.

    Not relu: among so many pre-activations some are always near the kink.
    """
    problem = make(cell, steps=20, batch=batch, inputs=64, units=129, bidirectional=bidirectional)
    with threads(4):
        check_along_directions(problem, directions=1)


def test_a_difference_over_a_kink_would_be_noticed():
    """The check that keeps the differences from the kink sees one that is there."""
    problem = make("rnn_relu", steps=3, batch=2, inputs=2, units=5)
    near = problem.with_array("x", 1e-9 * problem.x).with_array("h", 1e-9 * problem.states[0])
    for name in ("bias_ih_l0", "bias_hh_l0"):
        near = near.with_array(name, 0 * problem.parameters[name])
    assert 0 < kink_distance(near, exact_zeros=True) < 1e-8

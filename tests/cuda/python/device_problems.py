"""Problems whose arrays are on a GPU, and what to expect of the results."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import kernel_problems
from fusedrnn import cuda, functional, reference
from kernel_problems import KernelProblem

DTYPES = ["float32", "float16", "bfloat16"]

# The difference of 1 and the next larger number.
EPS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}

# The largest ||got - want|| / ||want|| of any result. float32: what the project asks for. Half
# types: each step rounds h, and on the way back the gradients of the gates, to the type, by eps / 2
# each time; through layers and steps some roundings add up.
BOUNDS = {"float32": 1e-5, "float16": 4 * EPS["float16"], "bfloat16": 4 * EPS["bfloat16"]}

# A pre-activation of relu this far from 0 doesn't change its sign by rounding.
DISTANCES = {"float32": 1e-5, "float16": 3e-3, "bfloat16": 2e-2}


def map_arrays(p: KernelProblem, f) -> KernelProblem:
    return replace(
        p,
        x=f(p.x),
        parameters={name: f(array) for name, array in p.parameters.items()},
        states=tuple(map(f, p.states)),
        dy=f(p.dy),
        dstates=tuple(map(f, p.dstates)),
    )


def on_device(p: KernelProblem, dtype: str) -> KernelProblem:
    return map_arrays(p, lambda array: cuda.asarray(array, dtype))


def rounded(p: KernelProblem, dtype: str) -> KernelProblem:
    """Return the problem as it is on the device, in float64: what the reference is given."""
    return map_arrays(p, lambda array: cuda.asarray(array, dtype).numpy().astype(np.float64))


def make(cell: str, dtype: str, **sizes) -> KernelProblem:
    """Return a problem in float64, with values that the dtype has."""
    distance = DISTANCES[dtype]
    return rounded(kernel_problems.make_away_from_kinks(cell, distance=distance, **sizes), dtype)


def run(p: KernelProblem, dtype: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return outputs and gradients by name, as the GPU computes them."""
    outputs, gradients = kernel_problems.run(functional, on_device(p, dtype))
    return numpy(outputs), numpy(gradients)


def numpy(arrays: dict) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in arrays.items()}


def check(p: KernelProblem, dtype: str) -> None:
    """Compare all results with the reference's, each by its norm.

    A result that nearly cancels, such as the gradient of a single bias, can't be better than what
    the rounding of the inputs does to it: 16 times that is allowed, as in `check_norms`.
    """
    got, want = run(p, dtype), kernel_problems.run(reference, p)
    spreads = None
    for part in range(2):
        assert list(got[part]) == list(want[part])
        for name, expected in want[part].items():
            result = got[part][name]
            assert result.shape == expected.shape, name
            error, size = np.linalg.norm(result - expected), np.linalg.norm(expected)
            if error <= BOUNDS[dtype] * size:
                continue
            spreads = spreads or kernel_problems.spread(p, EPS[dtype])
            assert error <= 16 * spreads[part][name], (name, error, size)

"""What the tests of layers share: seeded arrays, and results as lists of arrays."""

from __future__ import annotations

import numpy as np

import fusedrnn
from fusedrnn import functional

F4 = np.float32
LAYERS = [fusedrnn.LSTM, fusedrnn.GRU, fusedrnn.RNN]
GATES = {fusedrnn.LSTM: 4, fusedrnn.GRU: 3, fusedrnn.RNN: 1}


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, F4)


def normal(*shape: int, seed=0, dtype="float32") -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def packed(layer) -> object:
    return layer._weights.packed


def as_tuple(state) -> tuple:
    return state if isinstance(state, tuple) else (state,)


def arrays(gradients: functional.Gradients) -> list[np.ndarray]:
    return [gradients.x, *as_tuple(gradients.state), *gradients.parameters.values()]


def assert_equal(got, want) -> None:
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)

"""Small seeded calls of every module, for tests that hold for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import fusedrnn
from fusedrnn import models

T, B, I = 5, 3, 4  # noqa: E741
LENGTHS = np.array([3, 0, 5])

Make = Callable[[str], Any]  # dtype -> module


@dataclass(frozen=True)
class Call:
    """A module, what it is called with, and the loss sum(w y) + sum(w state) of the result."""

    make: Make
    x: Any
    state: Any = None
    lengths: Any = None
    dtype: str = "float64"

    @property
    def module(self):
        return self.make(self.dtype)

    def cast(self, dtype: str) -> Call:
        return replace(
            self, dtype=dtype, x=cast(self.x, dtype), state=map_state(self.state, cast, dtype)
        )


def cast(array, dtype):
    return array if array.dtype.kind in "iu" else array.astype(dtype)


def map_state(state, f, *arguments):
    """Apply f to the arrays of a state: None, an array, or a tuple of states."""
    if state is None:
        return None
    if isinstance(state, tuple):
        return tuple(map_state(part, f, *arguments) for part in state)
    return f(state, *arguments)


def state_arrays(state) -> list[np.ndarray]:
    if state is None:
        return []
    if isinstance(state, tuple):
        return [array for part in state for array in state_arrays(part)]
    return [state]


def normal(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


def symbols(*shape, seed=1):
    return np.random.default_rng(seed).integers(0, 6, shape)


def stack(dtype):
    return models.Sequential(
        conv=models.Conv1d(I, 6, 3, dtype=dtype, seed=1),
        relu=models.Tanh(dtype=dtype),
        gru=fusedrnn.GRU(6, 5, bidirectional=True, dtype=dtype, seed=2),
        inner=models.Sequential(
            models.Linear(10, 3, dtype=dtype, seed=3), models.Mean(dtype=dtype)
        ),
    )


def language(dtype):
    return models.Sequential(
        models.Embedding(6, I, dtype=dtype, seed=1),
        fusedrnn.LSTM(I, 5, 2, dtype=dtype, seed=2),
        models.Last(dtype=dtype),
    )


def conv(padding, width, *, bias=True) -> Make:
    return lambda dtype: models.Conv1d(I, 3, width, padding=padding, bias=bias, dtype=dtype, seed=0)


X = normal(T, B, I)
CALLS: dict[str, Call] = {
    "linear": Call(lambda d: models.Linear(I, 3, dtype=d, seed=0), X),
    "linear, a row": Call(lambda d: models.Linear(I, 1, bias=False, dtype=d, seed=0), normal(I)),
    "linear, no rows": Call(lambda d: models.Linear(I, 2, dtype=d, seed=0), normal(0, B, I)),
    "embedding": Call(lambda d: models.Embedding(6, 2, dtype=d, seed=0), symbols(T, B)),
    "embedding, nothing": Call(lambda d: models.Embedding(6, 2, dtype=d, seed=0), symbols(0, B)),
    "tanh": Call(lambda d: models.Tanh(dtype=d), X),
    "relu": Call(lambda d: models.Relu(dtype=d), X),
    "last": Call(lambda d: models.Last(dtype=d), X),
    "last, lengths": Call(lambda d: models.Last(dtype=d), X, lengths=LENGTHS),
    "last, one sequence": Call(lambda d: models.Last(dtype=d), normal(T, I), lengths=2),
    "mean": Call(lambda d: models.Mean(dtype=d), X),
    "mean, lengths": Call(lambda d: models.Mean(dtype=d), X, lengths=LENGTHS),
    "mean, one sequence": Call(lambda d: models.Mean(dtype=d), normal(T, I)),
    "causal": Call(conv("causal", 3), X),
    "causal, state": Call(conv("causal", 3), X, normal(2, B, I, seed=2)),
    "causal, state and lengths": Call(conv("causal", 4), X, normal(3, B, I, seed=2), LENGTHS),
    "causal, wider than the sequence": Call(conv("causal", 7), X, normal(6, B, I, seed=2)),
    "causal, width 1": Call(conv("causal", 1, bias=False), X, lengths=LENGTHS),
    "causal, one sequence": Call(conv("causal", 3), normal(T, I), normal(2, I, seed=2), 4),
    "same": Call(conv("same", 3), X),
    "same, even": Call(conv("same", 4, bias=False), X, lengths=LENGTHS),
    "same, one sequence": Call(conv("same", 5), normal(T, I), lengths=3),
    "dropout": Call(lambda d: models.Dropout(0.4, dtype=d, seed=0), X),
    "no dropout": Call(lambda d: models.Dropout(0.0, dtype=d, seed=0), X),
    "sequential": Call(stack, X),
    "sequential, lengths": Call(stack, X, lengths=LENGTHS),
    "sequential, states": Call(
        stack, X, (normal(2, B, I, seed=2), None, normal(2, B, 5, seed=3), (None, None)), LENGTHS
    ),
    "language": Call(language, symbols(T, B), lengths=LENGTHS),
    "layer": Call(lambda d: fusedrnn.LSTM(I, 5, dtype=d, seed=0), X, lengths=LENGTHS),
}

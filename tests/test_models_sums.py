"""Sums over a million positions keep their digits in float32, in the parts of models too.

Beside the same in float64. Running sums of such numbers, which don't cancel, lose a thousand times
the bound.
"""

from __future__ import annotations

import numpy as np
import pytest

from fusedrnn import models

STEPS, BATCH = 250_000, 4
BOUND = 5e-6  # of the largest element


def random(*shape):
    return np.random.default_rng(0).random(shape, np.float32) + np.float32(0.1)


def assert_digits(got, want):
    assert got.dtype == np.float32 and want.dtype == np.float64
    assert np.abs(got - want).max() <= BOUND * np.abs(want).max()


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        (models.Linear, (1, 1)),
        (models.Linear, (3, 2)),
        (models.Conv1d, (1, 1, 3)),
        (models.Conv1d, (3, 2, 2)),
    ],
)
def test_gradients_of_parameters(kind, sizes):
    narrow, wide = kind(*sizes, seed=0), kind(*sizes, dtype="float64", seed=0)
    x, dy = random(STEPS, BATCH, narrow.inputs), random(STEPS, BATCH, narrow.outputs)
    got = narrow.backward(narrow.forward(x)[2], dy).parameters
    want = wide.backward(wide.forward(x.astype(float))[2], dy.astype(float)).parameters
    for name in want:
        assert_digits(got[name], want[name])


def test_gradients_of_an_embedding():
    embedding = models.Embedding(2, 3, seed=0)
    x, dy = np.arange(STEPS * BATCH) % 7 == 0, random(STEPS * BATCH, 3)
    got = embedding.backward(embedding.forward(x.astype(int))[2], dy).parameters["weight"]
    assert_digits(got, np.stack([dy[~x].sum(axis=0, dtype=float), dy[x].sum(axis=0, dtype=float)]))


@pytest.mark.parametrize("kind", [models.AdditiveAttention, models.ScaledDotProductAttention])
def test_gradients_of_an_attention(kind):
    """With weights that are nearly equal, so that nothing cancels but what the softmax does."""
    queries, dc = random(STEPS // 8, BATCH, 3), random(STEPS // 8, BATCH, 2)
    memory = random(2, BATCH, 2)
    narrow, wide = kind(3, 2, 4, seed=0), kind(3, 2, 4, dtype="float64", seed=0)
    wide.load_parameters({name: p.astype(float) for name, p in narrow.parameters.items()})
    got = narrow.backward(narrow.forward(queries, memory)[1], dc).parameters
    tape = wide.forward(queries.astype(float), memory.astype(float))[1]
    want = wide.backward(tape, dc.astype(float)).parameters
    for name in want:
        assert_digits(got[name], want[name])


def test_a_mean():
    x = random(STEPS * BATCH, 3)
    assert_digits(models.Mean()(x)[0], x.mean(axis=0, dtype=float))

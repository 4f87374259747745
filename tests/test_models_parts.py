"""What is special about embeddings, dropout and convolutions."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from fusedrnn import models, reference
from fusedrnn.models import embedding as module
from kernel_problems import DTYPES


def problem(symbols: int, size: int, positions: int, dtype="float32"):
    """An embedding, skewed symbols as those of a language, and a gradient of y."""
    rng = np.random.default_rng(0)
    embedding = models.Embedding(symbols, size, dtype=dtype, seed=0)
    x = np.minimum(rng.zipf(1.5, (positions, 2)), symbols) - 1
    return embedding, x, rng.normal(size=(positions, 2, size)).astype(dtype)


def gradient(embedding, x, dy):
    return embedding.backward(embedding.forward(x)[2], dy).parameters["weight"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chunk", [1, 50, 1 << 18])
def test_an_embeddings_gradient_has_the_bits_of_a_loop(dtype, chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", chunk)
    embedding, x, dy = problem(9, 5, 60, dtype)
    want = np.zeros((9, 5))
    for symbol, row in zip(x.ravel(), dy.reshape(-1, 5), strict=True):
        want[symbol] += row
    np.testing.assert_array_equal(gradient(embedding, x, dy), want.astype(dtype))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "uint64", ">i4"])
def test_symbols_of_any_integers(dtype):
    """Their products with the size, 300, don't fit into a byte, nor do 64 bits unsigned index."""
    embedding, x, dy = problem(120, 300, 20)
    y, _ = embedding(x)
    np.testing.assert_array_equal(embedding(x.astype(dtype))[0], y)
    np.testing.assert_array_equal(
        gradient(embedding, x.astype(dtype), dy), gradient(embedding, x, dy)
    )


def test_an_embeddings_gradient_needs_no_one_hot_symbols():
    """Those would be 3,200 x 10,000 numbers, 128 MB; the gradient has 2.56 MB."""
    embedding, x, dy = problem(10_000, 64, 1_600)
    tape = embedding.forward(x)[2]
    tracemalloc.start()
    try:
        embedding.backward(tape, dy)
        assert tracemalloc.get_traced_memory()[1] < 16e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [1e-12, 0.1, 0.4, 0.5, 1.0])
def test_dropout_has_the_references_masks(dtype, p):
    dropout = models.Dropout(p, dtype=dtype, seed=5)
    x = np.random.default_rng(0).normal(size=(7, 3, 5)).astype(dtype)
    for call in range(3):
        mask = reference.dropout_mask(x.shape, p, (5, call), 0).astype(dtype)
        y, _, tape = dropout.forward(x)
        np.testing.assert_array_equal(y, mask * x)
        np.testing.assert_array_equal(dropout.backward(tape, x).x, mask * x)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_convolution_goes_step_by_step(width):
    """To within rounding: a product of one row adds in another order than that of many."""
    conv = models.Conv1d(4, 3, width, seed=0)
    x = np.random.default_rng(0).normal(size=(12, 2, 4)).astype(np.float32)
    whole, last = conv(x)
    state, steps = None, []
    for x_t in x:
        y, state = conv(x_t[np.newaxis], state)
        steps.append(y)
    np.testing.assert_allclose(np.concatenate(steps), whole, atol=1e-6)
    np.testing.assert_array_equal(state, last)


@pytest.mark.parametrize("padding", ["valid", ["same"], None, np.array(["same", "causal"])])
def test_another_padding(padding):
    with pytest.raises(ValueError, match="padding: expected 'causal' or 'same', got "):
        models.Conv1d(1, 1, 1, padding=padding)

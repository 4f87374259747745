"""What the tests of streams share: inputs, states, comparisons."""

from __future__ import annotations

import numpy as np

import fusedrnn
from layer_problems import as_tuple, normal
from test_determinism import assert_bits


def inputs(layer, batch_size, steps=6, seed=0) -> np.ndarray:
    """Steps of a stream: (T, I) or (T, B, I), which is a sequence for the layer as well."""
    batch = () if batch_size is None else (batch_size,)
    return normal(steps, *batch, layer.input_size, seed=seed, dtype=layer.dtype)


def some_state(layer, batch_size, seed=1):
    batch = () if batch_size is None else (batch_size,)
    shape = (layer.num_layers, *batch, layer.hidden_size)
    parts = [normal(*shape, seed=seed + n, dtype=layer.dtype) for n in range(2)]
    return tuple(parts) if isinstance(layer, fusedrnn.LSTM) else parts[0]


def assert_same_state(got, want) -> None:
    assert type(got) is type(want)
    for a, b in zip(as_tuple(got), as_tuple(want), strict=True):
        assert_bits(a, b)

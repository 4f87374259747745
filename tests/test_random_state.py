"""The random state of a layer: what dropout draws next, read and set."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fusedrnn
from fusedrnn import reference
from layer_problems import LAYERS, assert_equal, normal


def draws(layer, count: int) -> list[np.ndarray]:
    return [layer.forward(normal(6, 2, 3))[0] for _ in range(count)]


@pytest.mark.parametrize("make", LAYERS)
def test_the_same_draws_follow(make):
    layer = make(3, 4, 3, dropout=0.5, seed=0)
    first = draws(layer, 2)
    state = layer.random_state
    following = draws(layer, 3)
    assert (first[0] != first[1]).any() and (first[1] != following[0]).any()
    layer.random_state = state
    assert_equal(draws(layer, 3), following)


def test_another_layer_goes_on_from_it():
    """A layer of any seed that is given parameters and random state becomes the same layer."""
    one = fusedrnn.LSTM(3, 4, 2, dropout=0.5, seed=0)
    draws(one, 5)
    other = fusedrnn.LSTM(3, 4, 2, dropout=0.5, seed=1)
    other.load_parameters(one.parameters)
    other.random_state = one.random_state
    assert_equal(draws(other, 2), draws(one, 2))
    assert other.random_state == one.random_state


def test_it_is_the_key_of_the_references_dropout():
    layer = fusedrnn.GRU(3, 4, 2, dropout=0.4, dtype="f8", seed=0)
    x, key = normal(6, 2, 3, dtype="f8"), (2**64 - 1, 2**40)
    layer.random_state = {"": key}
    y, _, _ = layer.forward(x)
    want, _, _ = reference.forward("gru", x, dict(layer.parameters), dropout=0.4, dropout_key=key)
    np.testing.assert_allclose(y, want, rtol=1e-12)
    assert layer.random_state == {"": (2**64 - 1, 2**40 + 1)}


def test_calls_that_draw_are_counted():
    layer = fusedrnn.GRU(3, 4, 2, dropout=0.5, seed=0)
    seed, calls = layer.random_state[""]
    assert calls == 0
    draws(layer, 3)
    layer(normal(6, 2, 3))  # inference draws nothing
    assert layer.random_state == {"": (seed, 3)}
    assert fusedrnn.GRU(3, 4, 2, dropout=0.5, seed=0).random_state == {"": (seed, 0)}
    assert fusedrnn.GRU(3, 4, 2, dropout=0.5, seed=1).random_state != {"": (seed, 0)}


def test_it_is_plain_data():
    """Integers of Python's own, so that a checkpoint can hold them, and no view into the layer."""
    layer = fusedrnn.GRU(3, 4, 2, dropout=0.5, seed=0)
    state = layer.random_state
    assert type(state) is dict
    assert all(type(word) is int for word in state[""])
    layer.random_state = {"": [np.uint64(2**63), np.int32(7)]}  # as JSON and NumPy hold them
    assert layer.random_state == {"": (2**63, 7)}
    assert all(type(word) is int for word in layer.random_state[""])
    layer.random_state[""] = (0, 0)
    assert layer.random_state == {"": (2**63, 7)}


@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"num_layers": 2, "dropout": 0.0}])
def test_it_is_empty_where_nothing_is_drawn(options):
    layer = fusedrnn.RNN(3, 4, **options)
    assert layer.random_state == {}
    layer.random_state = {}
    with pytest.raises(ValueError, match=r"random_state: expected the names \[\], got \[''\]"):
        layer.random_state = {"": (0, 0)}


def test_one_layer_draws_nothing():
    with pytest.warns(UserWarning, match="no effect"):
        layer = fusedrnn.RNN(3, 4, dropout=0.5)
    assert layer.random_state == {}


def test_dropout_that_is_set_later_draws():
    layer = fusedrnn.RNN(3, 4, 2, seed=0)
    layer.dropout = 0.5
    (state,) = layer.random_state.values()
    draws(layer, 1)
    layer.dropout = 0.0
    draws(layer, 1)
    assert layer.random_state == {}
    layer.dropout = 0.25
    assert layer.random_state == {"": (state[0], state[1] + 1)}


@pytest.mark.parametrize("how", [copy.copy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_have_their_own(how):
    layer = fusedrnn.LSTM(3, 4, 2, dropout=0.5, seed=0)
    draws(layer, 2)
    twin = how(layer)
    assert twin.random_state == layer.random_state
    draws(twin, 1)
    assert twin.random_state[""][1] == layer.random_state[""][1] + 1


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (None, TypeError, r"random_state: expected a mapping .* got NoneType"),
        ((0, 0), TypeError, r"random_state: expected a mapping .* got tuple"),
        ({}, ValueError, r"random_state: expected the names \[''\], got \[\]"),
        ({"0": (0, 0)}, ValueError, r"random_state: expected the names \[''\], got \['0'\]"),
        ({"": (0, 0), 1: (0, 0)}, ValueError, r"names \[''\], got \['', '1'\]"),
        ({"": 0}, TypeError, r"random_state\[''\]: expected a tuple \(seed, call\), got int"),
        ({"": (0,)}, ValueError, r"random_state\[''\]: expected a tuple .* got 1 items"),
        ({"": (0.5, 0)}, TypeError, r"random_state\[''\]\[0\]: expected an integer, got float"),
        ({"": (0, True)}, TypeError, r"random_state\[''\]\[1\]: expected an integer, got bool"),
        ({"": (-1, 0)}, ValueError, r"random_state\[''\]\[0\]: expected .* 2\*\*64\), got -1"),
        ({"": (0, 2**64)}, ValueError, r"random_state\[''\]\[1\]: expected .*, got 18446744073"),
    ],
)
def test_wrong_values_change_nothing(value, error, message):
    layer = fusedrnn.GRU(3, 4, 2, dropout=0.5, seed=0)
    before = layer.random_state
    with pytest.raises(error, match=message):
        layer.random_state = value
    assert layer.random_state == before

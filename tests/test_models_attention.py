"""Attention and convolution against the reference's loops; attention's gradients and lengths."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest

from fusedrnn import models, reference
from fusedrnn.models import attention as module
from kernel_problems import DTYPES

KINDS = [models.ScaledDotProductAttention, models.AdditiveAttention]
T, S, B, Q, M, A = 4, 5, 3, 2, 6, 3
LENGTHS = np.array([3, 0, 5])
BOUND = {"float32": 2e-6, "float64": 1e-14}


def make(kind, dtype="float64"):
    return kind(Q, M, A, dtype=dtype, seed=0)


def arrays(dtype="float64", seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(T, B, Q)).astype(dtype), rng.normal(size=(S, B, M)).astype(dtype)


def score(attention):
    p = attention.parameters
    if isinstance(attention, models.AdditiveAttention):
        return reference.additive_score(p["query"], p["key"], p["bias"], p["v"])
    return reference.dot_product_score(p["query"], p["key"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [None, LENGTHS, [1, 1, 1]])
def test_attention_is_the_references(kind, dtype, lengths):
    attention, (query, memory) = make(kind, dtype), arrays(dtype)
    context, alpha = attention.attend(query, memory, lengths=lengths)
    want, want_alpha = reference.attention(score(attention), query, memory, lengths)
    assert context.dtype == alpha.dtype == dtype
    np.testing.assert_allclose(context, want, atol=BOUND[dtype])
    np.testing.assert_allclose(alpha, want_alpha, atol=BOUND[dtype])
    np.testing.assert_array_equal(attention(query, memory, lengths=lengths), context)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_central_differences(kind, lengths):
    attention, (query, memory) = make(kind), arrays()
    weights = np.random.default_rng(2).normal(size=(T, B, M))
    _, tape = attention.forward(query, memory, lengths=lengths)
    got = attention.backward(tape, weights)

    def differences(array, before=lambda: None):
        found = np.empty_like(array)
        for index in np.ndindex(array.shape):
            value, both = array[index], []
            for step in (1e-6, -1e-6):
                array[index] = value + step
                before()
                both.append((attention(query, memory, lengths=lengths) * weights).sum())
            array[index] = value
            before()
            found[index] = (both[0] - both[1]) / 2e-6
        return found

    np.testing.assert_allclose(got.query, differences(query), atol=1e-8)
    np.testing.assert_allclose(got.memory, differences(memory), atol=1e-8)
    assert list(got.parameters) == list(attention.parameters)
    editable = {name: np.array(a) for name, a in attention.parameters.items()}
    for name, array in editable.items():
        want = differences(array, lambda: attention.load_parameters(editable))
        np.testing.assert_allclose(got.parameters[name], want, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_past_the_lengths_changes_nothing(kind):
    attention, (query, memory) = make(kind), arrays()
    want, tape = attention.forward(query, memory, lengths=LENGTHS)
    want_gradients = attention.backward(tape, want)
    memory[np.arange(S)[:, np.newaxis] >= LENGTHS] = np.nan
    got, tape = attention.forward(query, memory, lengths=LENGTHS)
    gradients = attention.backward(tape, want)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(gradients.memory, want_gradients.memory)
    for name, array in gradients.parameters.items():
        np.testing.assert_array_equal(array, want_gradients.parameters[name])
    assert not got[:, 1].any()  # no memory at all
    assert not gradients.memory[3:, 0].any()


@pytest.mark.parametrize("kind", KINDS)
def test_scores_beyond_the_range_of_exp(kind):
    attention, (query, memory) = make(kind), arrays()
    large = {name: 1e3 * a for name, a in attention.parameters.items()}
    attention.load_parameters(large)
    context, alpha = attention.attend(query, 1e3 * memory)
    assert np.isfinite(context).all()
    np.testing.assert_allclose(alpha.sum(axis=-1), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_keys_that_are_known_give_the_same(kind):
    attention, (query, memory) = make(kind), arrays()
    memory[np.arange(S)[:, np.newaxis] >= LENGTHS] = np.nan
    keys = attention.keys(memory)
    for step in range(T):  # one query at a time, as in decoding
        one = query[step : step + 1]
        want = attention.attend(one, memory, lengths=LENGTHS)
        got = attention.attend(one, memory, lengths=LENGTHS, keys=keys)
        for array, other in zip(got, want, strict=True):
            np.testing.assert_allclose(array, other, atol=1e-15)
    with pytest.raises(ValueError, match=r"keys: expected \(5, 3, 3\), got \(4, 3, 3\)"):
        attention.attend(query, memory, keys=keys[1:])


def test_additive_scores_in_parts_are_the_whole(monkeypatch):
    attention, (query, memory) = make(models.AdditiveAttention), arrays()

    def everything():
        context, tape = attention.forward(query, memory, lengths=LENGTHS)
        gradients = attention.backward(tape, np.ones_like(context))
        return [context, gradients.query, gradients.memory, *gradients.parameters.values()]

    want = everything()
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 1)  # a query at a time
    for got, whole in zip(everything(), want, strict=True):
        np.testing.assert_allclose(got, whole, atol=1e-13)  # sums over parts, in another order


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_configurations(kind):
    attention, (query, memory) = make(kind), arrays()
    built = models.build(json.loads(json.dumps(models.config(attention))))
    built.load_parameters(attention.parameters)
    assert repr(built) == repr(attention) == f"{kind.__name__}(2, 6, 3, dtype='float64')"
    for other in (copy.deepcopy(attention), pickle.loads(pickle.dumps(attention)), built):
        np.testing.assert_array_equal(other(query, memory), attention(query, memory))


@pytest.mark.parametrize("kind", [models.AdditiveAttention, models.ScaledDotProductAttention])
def test_nothing_stands_past_the_ends_where_the_rest_is_infinite(kind):
    """A weight of 0 isn't enough: 0 times infinity is NaN."""
    attention = kind(2, 2, 3, seed=0)
    query, memory = np.ones((2, 2, 2, 2), np.float32)
    memory[:, 0], dc = np.inf, np.full((2, 2, 2), np.inf, np.float32)
    with np.errstate(invalid="ignore"):
        context, tape = attention.forward(query, memory, lengths=[2, 1], query_lengths=[1, 2])
        gradients = attention.backward(tape, dc)
    assert not context[1, 0].any() and not gradients.query[1, 0].any()
    assert not gradients.memory[1, 1].any()


ERRORS = {
    "query: expected (T, B, 2), got (4, 3, 3)": {"query": np.ones((T, B, 3))},
    "query: expected (T, B, 2), got (4, 2)": {"query": np.ones((T, 2))},
    "query: expected an array of float64, got float32": {"query": np.ones((T, B, Q), "f")},
    "memory: expected (S, B, 6), got (5, 3, 7)": {"memory": np.ones((S, B, 7))},
    "memory: expected (5, 3, 6), got (5, 2, 6)": {"memory": np.ones((S, 2, M))},
    "lengths: expected (3,), got (2,)": {"lengths": [1, 1]},
    "lengths: expected 0 to T = 5, got 6": {"lengths": [1, 6, 1]},
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors(message):
    query, memory = arrays()
    arguments = {"query": query, "memory": memory, "lengths": None, **ERRORS[message]}
    with pytest.raises((ValueError, TypeError)) as error:
        make(KINDS[0]).forward(
            arguments["query"], arguments["memory"], lengths=arguments["lengths"]
        )
    assert str(error.value) == message


def test_errors_of_backward():
    attention, (query, memory) = make(KINDS[0]), arrays()
    _, tape = attention.forward(query, memory)
    with pytest.raises(ValueError, match=r"dcontext: expected \(4, 3, 6\), got \(4, 3, 2\)"):
        attention.backward(tape, query)


@pytest.mark.parametrize("padding", ["causal", "same"])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_convolution_is_the_references(padding, width, lengths):
    rng = np.random.default_rng(0)
    conv = models.Conv1d(M, Q, width, padding=padding, dtype="float64", seed=1)
    x = rng.normal(size=(S, B, M))
    state = rng.normal(size=(width - 1, B, M)) if padding == "causal" else None
    want = reference.convolution(
        x, *conv.parameters.values(), padding=padding, state=state, lengths=lengths
    )
    np.testing.assert_allclose(conv(x, state, lengths=lengths)[0], want, atol=1e-14)

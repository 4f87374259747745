"""Arrays that others made, or that hold more than numbers: errors that name the argument."""

from __future__ import annotations

import re

import numpy as np
import pytest

import fusedrnn
from fusedrnn import models, reference


class Refusing:
    """An array that can't be read, as torch's tensors that take gradients can't."""

    def __init__(self, error):
        self.error = error

    def __array__(self, *arguments, **options):
        raise self.error


def cases():
    """What isn't an array of plain numbers, with the end of the message."""
    values = np.zeros((5, 2, 3), np.float32)
    masked = np.ma.array(values, mask=np.zeros_like(values, bool))
    yield masked, "got MaskedArray, whose mask has no meaning here"
    for error in (RuntimeError, TypeError, ValueError):
        yield Refusing(error("it has a reason")), "got Refusing: it has a reason"


LAYER = fusedrnn.GRU(3, 4, seed=0)
X = np.zeros((5, 2, 3), np.float32)
CALLS = {
    "x": [
        LAYER,
        LAYER.forward,
        lambda a: fusedrnn.functional.infer("gru", a, LAYER.parameters),
        lambda a: fusedrnn.functional.forward("gru", a, LAYER.parameters),
        LAYER.stream(2).step,
        models.Linear(3, 2),
        models.Dropout(0.5),
    ],
    "state": [lambda a: LAYER(X, a), lambda a: setattr(LAYER.stream(2), "state", a)],
    "dy": [lambda a: LAYER.backward(LAYER.forward(X)[2], a)],
    "dstate": [lambda a: LAYER.backward(LAYER.forward(X)[2], None, a)],
    "weight_ih_l0": [
        lambda a: LAYER.load_parameters({**LAYER.parameters, "weight_ih_l0": a}),
        lambda a: LAYER.parameters.update(weight_ih_l0=a),
        lambda a: fusedrnn.functional.Weights("gru", {**LAYER.parameters, "weight_ih_l0": a}),
    ],
    "lengths": [lambda a: LAYER(X, lengths=a)],
}


@pytest.mark.parametrize("name", CALLS)
def test_arrays(name):
    expected = "integers" if name == "lengths" else "float32"
    for call in CALLS[name]:
        for value, text in cases():
            with pytest.raises(
                TypeError, match=rf"^{name}: expected an array of .*{expected}"
            ) as e:
                call(value)
            assert str(e.value).endswith(text)


def test_indices_of_models():
    embedding = models.Embedding(5, 3, seed=0)
    for value, text in cases():
        with pytest.raises(TypeError, match=f"^x: expected an array, {re.escape(text)}$"):
            embedding(value)
        with pytest.raises(TypeError, match=f"^inputs: expected an array, {re.escape(text)}$"):
            models.Minibatches(value, X, 2)


P = LAYER.parameters
TAPE = reference.forward("gru", X, P)[2]
REFERENCE = {
    "x": lambda a: reference.forward("gru", a, P),
    "state": lambda a: reference.infer("gru", X, P, a),
    "weight_ih_l0": lambda a: reference.forward("gru", X, {**P, "weight_ih_l0": a}),
    "lengths": lambda a: reference.forward("gru", X, P, lengths=a),
    "dy": lambda a: reference.backward(TAPE, a),
    "dstate": lambda a: reference.backward(TAPE, None, a),
    "o": lambda a: reference.cross_entropy(a, [1]),
    "targets": lambda a: reference.cross_entropy([[0.0, 1.0]], a),
    "weights": lambda a: reference.squared_error([[0.0]], [[1.0]], weights=a),
    "query": lambda a: reference.dot_product_score(a, [[1.0]]),
    "memory": lambda a: reference.attention(None, X, a),
    "bias": lambda a: reference.convolution([[[1.0]]], [[[1.0]]], a),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_the_reference(name):
    for value, text in cases():
        with pytest.raises(TypeError, match=rf"^{name}: expected an array, {re.escape(text)}$"):
            REFERENCE[name](value)
    for value, got in (([1j], "complex128"), (["1"], "<U1"), ([None], "object")):
        with pytest.raises(TypeError, match=rf"^{name}: expected .*s, got {got}$"):
            REFERENCE[name](value)


@pytest.mark.parametrize(
    ("lengths", "got"),
    [
        ([True, False], "bool"),
        ([True, 2], "bool"),
        ((1, np.True_), "bool"),
        (np.array([True, False]), "bool"),
        ([1.0, 2.0], "float64"),
        (np.zeros(2), "float64"),
    ],
)
def test_lengths_are_integers(lengths, got):
    for call in (LAYER, models.Conv1d(3, 2, 2, seed=0)):
        with pytest.raises(TypeError, match=f"^lengths: expected integers, got {got}$"):
            call(X, lengths=lengths)


def test_lists_of_different_lengths():
    for call in (LAYER, models.Conv1d(3, 2, 2, seed=0)):
        with pytest.raises(ValueError, match=r"^lengths: setting an array element with a sequence"):
            call(X, lengths=[[1], [1, 2]])


@pytest.mark.parametrize(
    "targets",
    [
        [[True, 0]] * 5,
        [[np.True_, 0]] * 5,
        [[np.array(True), 0]] * 5,
        [np.array([True, 0]) > 0] * 5,
    ],
)
def test_targets_are_integers_all_the_way_down(targets):
    head = models.SoftmaxHead(3, 2, seed=0)
    with pytest.raises(TypeError, match=r"^targets: expected integers, got bool$"):
        head.loss(X, targets)
    assert head.loss(X[:1], [[1, 0]]).count == 2
    assert head.loss(X[:2, :0], [[], []]).count == 0


def test_tensors_of_torch():
    torch = pytest.importorskip("torch")
    for value, text in (
        (torch.zeros(5, 2, 3, requires_grad=True), "requires grad"),
        (torch.zeros(5, 2, 3, dtype=torch.bfloat16), "BFloat16"),
        (torch.zeros(5, 2, 3, device="meta"), "meta"),
    ):
        for call in CALLS["x"]:
            with pytest.raises(
                TypeError, match=f"^x: expected an array of .*, got Tensor: .*{text}"
            ):
                call(value)

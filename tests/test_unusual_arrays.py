"""Arrays of every kind and layout are taken, and give the same bits as plain ones."""

from __future__ import annotations

import array
import warnings
from collections.abc import Callable

import numpy as np
import pytest

import fusedrnn
from error_problems import F4, OffersArray, World, read_only
from fusedrnn import functional


def misaligned(a: np.ndarray) -> np.ndarray:
    raw = np.frombuffer(b"\0" + a.tobytes(), dtype=np.uint8)
    return np.frombuffer(raw.data, dtype=a.dtype, offset=1).reshape(a.shape)


class Subclass(np.ndarray):
    """A subclass with ideas of its own, which must not matter."""

    def swapaxes(self, *axes):
        raise AssertionError("a method of the subclass was called")

    __getitem__ = __setitem__ = copy = swapaxes


class OffersInterface:
    def __init__(self, a):
        self.array = a
        self.__array_interface__ = a.__array_interface__


class OffersDLPack:
    def __init__(self, a):
        self.array = a

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def negative(a: np.ndarray) -> np.ndarray:
    every = tuple(slice(None, None, -1) for _ in a.shape)
    return np.ascontiguousarray(a[every])[every]


UNUSUAL: dict[str, Callable[[np.ndarray], object]] = {
    "read-only": read_only,
    "Fortran order": np.asfortranarray,
    "negative strides": negative,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "misaligned": misaligned,
    "subclass": lambda a: a.view(Subclass),
    "subclass, strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2].view(Subclass),
    "memoryview": memoryview,
    "strided memoryview": lambda a: memoryview(np.repeat(a, 2, axis=0))[::2],
    "__array__": OffersArray,
    "__array_interface__": OffersInterface,
    "__dlpack__": OffersDLPack,
    "other byte order twice": lambda a: a.astype(">f4").astype("=f4"),
    "dtype with metadata": lambda a: a.view(np.dtype(a.dtype, metadata={"unit": "m"})),
}


def pass_through(make: Callable[[np.ndarray], object], batch_first: bool):
    """Run a whole step in which every array argument went through `make`."""
    w = World()
    layer = fusedrnn.LSTM(3, 4, batch_first=batch_first, seed=1)
    layer.load_parameters({name: make(p) for name, p in w.parameters.items()})
    layer.parameters["bias_ih_l0"] = make(w.parameters["bias_hh_l0"])
    parameters = {name: make(np.array(p)) for name, p in layer.parameters.items()}
    x, dy = (np.swapaxes(a, 0, 1) if batch_first else a for a in (w.x, w.dy))
    state, dstate = (make(w.h), make(w.c)), (make(w.dh), make(w.dc))
    y, last, tape = layer.forward(make(x), state)
    other, _ = functional.infer("lstm", make(x), parameters, state, batch_first=batch_first)
    gradients = layer.backward(tape, make(dy), dstate)
    results = (y, other, *last, gradients.x, *gradients.state, *gradients.parameters.values())
    assert all(type(a) is np.ndarray for a in results)
    return results


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_arrays_give_the_same_bits(kind, batch_first):
    want = pass_through(np.array, batch_first)
    got = pass_through(UNUSUAL[kind], batch_first)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_matrices_and_flat_buffers():
    w = World()
    x = w.x[:, 0].copy()
    want, _ = w.lstm(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        np.testing.assert_array_equal(w.lstm(np.matrix(x))[0], want)
    bias = array.array("f", [1.0] * 16)
    w.lstm.parameters["bias_ih_l0"] = bias
    np.testing.assert_array_equal(w.lstm.parameters["bias_ih_l0"], np.ones(16, F4))
    bias.append(2.0)  # possible again: nobody holds the buffer


def test_zero_strides():
    w = World()
    row, h = w.x[:1, :1], w.h[:, :1]
    x = np.broadcast_to(row, (5, 2, 3))
    state = (np.broadcast_to(h, (1, 2, 4)),) * 2
    got, want = w.lstm(x, state), w.lstm(x.copy(), tuple(s.copy() for s in state))
    np.testing.assert_array_equal(got[0], want[0])
    gradients = []
    for dy in (np.broadcast_to(F4(1), (5, 2, 4)), np.ones((5, 2, 4), F4)):
        tape = w.lstm.forward(x, state)[2]
        gradients.append(w.lstm.backward(tape, dy).parameters["weight_hh_l0"])
    np.testing.assert_array_equal(*gradients)


def test_an_unusual_out_is_filled():
    w = World()
    want = w.infer()[0]
    wide = np.zeros((5, 2, 9), F4)
    for out in (
        np.zeros((5, 2, 4), F4, order="F"),
        wide[:, :, 5:],
        wide[::-1, ::-1, 3::-1],
        np.zeros((5, 2, 4), F4).view(Subclass),
        np.zeros((5, 2, 8), F4)[:, :, ::2].view(Subclass),
        np.frombuffer(bytearray(161), F4, offset=1).reshape(5, 2, 4),
    ):
        y, _ = w.infer(out=out)
        assert y is out
        np.testing.assert_array_equal(np.asarray(out), want)


def test_out_beside_x_in_one_array():
    w = World()
    both = np.zeros((5, 2, 7), F4)
    both[:, :, :3] = w.x
    y, _ = w.infer(both[:, :, :3], out=both[:, :, 3:])
    np.testing.assert_array_equal(y, w.infer()[0])
    np.testing.assert_array_equal(both[:, :, :3], w.x)

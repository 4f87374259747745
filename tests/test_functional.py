"""The functions on bare arrays: packed or not, `out=`, what a tape holds, what is copied."""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import sys
import tracemalloc
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

import fusedrnn
from fusedrnn import functional, reference
from kernel_problems import CELLS, make, threads
from reference_problems import pack, unpack

DTYPES = ["float32", "float64"]
VECTOR_BYTES = {"scalar": 1, "avx2": 32, "avx512": 64}
SMALL = {"steps": 5, "batch": 3, "inputs": 5, "units": 6}
STACKED = {**SMALL, "layers": 2, "bidirectional": True}


def everything(gradients) -> list[np.ndarray]:
    return [gradients.x, *unpack(gradients.state), *gradients.parameters.values()]


def assert_equal(got, want) -> None:
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def step(p, parameters=None, **options):
    parameters = p.parameters if parameters is None else parameters
    y, last, tape = functional.forward(p.cell, p.x, parameters, p.state, **p.options, **options)
    return [y, *unpack(last)], functional.backward(tape, p.dy, pack(p.dstates))


# Weights


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_mapping_and_weights_give_the_same_bits(cell, dtype):
    p = make(cell, dtype, **STACKED, dropout=0.4)
    weights = functional.Weights(cell, p.parameters)
    assert_equal(
        [functional.infer(cell, p.x, weights, p.state)[0]],
        [functional.infer(cell, p.x, p.parameters, p.state)[0]],
    )
    outputs, gradients = step(p)
    outputs2, gradients2 = step(p, weights)
    assert_equal(outputs2, outputs)
    assert_equal(everything(gradients2), everything(gradients))
    assert list(gradients2.parameters) == list(p.parameters)


@pytest.mark.parametrize("cell", CELLS)
def test_any_mapping_in_any_order(cell):
    p = make(cell, "float32", **STACKED)
    names = list(p.parameters)
    mixed = {name: p.parameters[name] for name in reversed(names)}
    outputs, gradients = step(p, mixed)
    want, _ = step(p)
    assert_equal(outputs, want)
    assert list(gradients.parameters) == names  # torch's order, whatever came
    assert [g.shape for g in gradients.parameters.values()] == [
        a.shape for a in p.parameters.values()
    ]


def test_weights_describe_the_network():
    p = make("gru", "float32", **STACKED, bias=False)
    weights = functional.Weights("gru", p.parameters)
    network = weights.network
    assert (network.cell, network.input_size, network.hidden_size) == ("gru", 5, 6)
    assert (network.num_layers, network.bidirectional, network.bias) == (2, True, False)
    assert weights.packed.dtype == "float32"
    assert weights.packed.names == list(weights.parameters) == list(p.parameters)
    assert_equal(weights.parameters.values(), p.parameters.values())
    with pytest.raises(FrozenInstanceError):
        network.hidden_size = 7


def test_weights_are_copies():
    p = make("lstm", "float32", **SMALL)
    want, _ = p.infer()
    weights = functional.Weights("lstm", p.parameters)
    for array in p.parameters.values():
        array[:] = np.nan
    assert_equal([functional.infer("lstm", p.x, weights, p.state)[0]], [want])
    _, gradients = step(p, weights)  # packs for backward what forward did not need
    assert all(np.isfinite(a).all() for a in everything(gradients))


def test_a_mapping_is_read_at_each_call():
    p = make("lstm", "float32", **SMALL)
    before, _ = p.infer()
    p.parameters["bias_ih_l0"][:] += 1
    assert (p.infer()[0] != before).all()


def test_parameters_may_change_between_forward_and_backward():
    p = make("lstm", "float32", **STACKED)
    _, want = step(p)
    _, _, tape = p.forward()
    for array in p.parameters.values():
        array[:] = np.nan
    assert_equal(everything(functional.backward(tape, p.dy, pack(p.dstates))), everything(want))


def test_weights_can_be_pickled():
    p = make("gru", "float64", **STACKED)
    weights = pickle.loads(pickle.dumps(functional.Weights("gru", p.parameters)))
    assert_equal([functional.infer("gru", p.x, weights, p.state)[0]], [p.infer()[0]])


# The same as the reference, at a glance (test_kernels.py looks closely)


@pytest.mark.parametrize("cell", CELLS)
def test_call_shapes_are_the_references(cell):
    p = make(cell, "float64", **STACKED, dropout=0.4, dropout_key=(2**64 - 1, 2**63))
    got = step(p)
    y, last, tape = reference.forward(p.cell, p.x, p.parameters, p.state, **p.options)
    gradients = reference.backward(tape, p.dy, pack(p.dstates))
    for a, b in zip(got[0], [y, *unpack(last)], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14)
    for a, b in zip(everything(got[1]), everything(gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert isinstance(got[1].state, tuple) == isinstance(gradients.state, tuple)


# out=

LAYOUTS = ["plain", "batch first", "one sequence"]


def laid_out(cell, dtype, layout, **more):
    sizes = {**STACKED, **more}
    if layout == "one sequence":
        sizes["batch"] = None
    return make(cell, dtype, **sizes, batch_first=layout == "batch first")


def nan_like(a: np.ndarray) -> np.ndarray:
    return np.full(a.shape, np.nan, a.dtype)


# An array of NaN for a result like `a` to go to.
TARGETS = {
    "contiguous": nan_like,
    "strided": lambda a: np.repeat(nan_like(a), 3, axis=-1)[..., 1::3],
    "flipped": lambda a: nan_like(a)[::-1],
    "Fortran": lambda a: np.asfortranarray(nan_like(a)),
    "transposed": lambda a: nan_like(a.swapaxes(0, -1)).swapaxes(0, -1),
}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_out_of_infer_and_forward(cell, layout, kind):
    p = laid_out(cell, "float32", layout)
    want, last = p.infer()
    out = TARGETS[kind](want)
    y, last2 = p.infer(out=out)
    assert y is out
    assert_equal([y, *unpack(last2)], [want, *unpack(last)])

    _, gradients = step(p)
    out = TARGETS[kind](want)
    y, last2, tape = functional.forward(cell, p.x, p.parameters, p.state, **p.options, out=out)
    assert y is out
    assert y.flags.writeable
    assert_equal([y, *unpack(last2)], [want, *unpack(last)])
    y[:] = np.nan  # the caller's own: the tape does not need it
    again = functional.backward(tape, p.dy, pack(p.dstates))
    assert_equal(everything(again), everything(gradients))


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", CELLS)
def test_out_of_backward(cell, layout, kind):
    p = laid_out(cell, "float64", layout)
    _, want = step(p)
    out = functional.Gradients(
        TARGETS[kind](want.x),
        pack(tuple(TARGETS[kind](s) for s in unpack(want.state))),
        {name: TARGETS[kind](a) for name, a in want.parameters.items()},
    )
    _, _, tape = p.forward()
    got = functional.backward(tape, p.dy, pack(p.dstates), out=out)
    assert got.x is out.x
    assert all(a is b for a, b in zip(unpack(got.state), unpack(out.state), strict=True))
    assert all(got.parameters[name] is out.parameters[name] for name in out.parameters)
    assert_equal(everything(got), everything(want))


def test_out_of_backward_in_part():
    p = make("lstm", "float32", **SMALL)
    _, want = step(p)
    h = np.full_like(want.state[0], np.nan)
    names = {name: None for name in p.parameters}
    for state in ((h, None), [h, None]):
        _, _, tape = p.forward()
        out = functional.Gradients(None, state, names)
        got = functional.backward(tape, p.dy, pack(p.dstates), out=out)
        assert got.state[0] is h
        assert_equal(everything(got), everything(want))


def test_the_same_out_again_and_again():
    """As a training loop uses it: nothing of the last step remains."""
    problems = [make("gru", "float32", **STACKED, seed=n) for n in range(3)]
    y = np.empty_like(problems[0].dy)
    _, out = step(problems[0])
    for p in problems:
        want, gradients = step(p)
        got, last, tape = functional.forward("gru", p.x, p.parameters, p.state, out=y)
        assert_equal([got, *unpack(last)], want)
        again = functional.backward(tape, p.dy, pack(p.dstates), out=out)
        assert again.parameters["bias_ih_l0"] is out.parameters["bias_ih_l0"]
        assert_equal(everything(again), everything(gradients))


def test_nothing_around_a_strided_out_is_written():
    p = make("lstm", "float32", **SMALL)
    frame = np.full((7, 5, 14), 7, np.float32)
    inner = frame[1:6, 1:4, 1:13:2]
    p.infer(out=inner)
    mask = np.ones(frame.shape, bool)
    mask[1:6, 1:4, 1:13:2] = False
    assert (frame[mask] == 7).all()
    assert (frame[~mask] != 7).all()


# Absent gradients


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", CELLS)
def test_absent_gradients_are_zero(cell, layout):
    p = laid_out(cell, "float32", layout)
    zero_states = tuple(0 * s for s in p.dstates)

    def gradients(dy, dstate=None):
        return everything(functional.backward(p.forward()[2], dy, dstate))

    assert_equal(gradients(p.dy), gradients(p.dy, pack(zero_states)))
    assert_equal(gradients(None, pack(p.dstates)), gradients(0 * p.dy, pack(p.dstates)))
    assert not any(a.any() for a in gradients(None))
    if cell == "lstm":
        dh, dc = p.dstates
        assert_equal(gradients(p.dy, (dh, None)), gradients(p.dy, (dh, 0 * dc)))
        assert_equal(gradients(None, (None, dc)), gradients(0 * p.dy, (0 * dh, dc)))
        assert not any(a.any() for a in gradients(None, (None, None)))


def test_gradients_are_linear_in_what_comes_in():
    p = make("gru", "float64", **STACKED)
    parts = [
        everything(functional.backward(p.forward()[2], dy, dstate))
        for dy, dstate in [(p.dy, None), (None, p.dstates[0]), (p.dy, p.dstates[0])]
    ]
    for a, b, both in zip(*parts, strict=True):
        np.testing.assert_allclose(a + b, both, rtol=1e-10, atol=1e-13)


# Tapes and memory


def padded(units: int, dtype: str) -> int:
    isa = fusedrnn.info()["isa"]
    lanes = max(VECTOR_BYTES[isa] // np.dtype(dtype).itemsize, 1)
    if isa == "avx512" and not os.environ.get("FUSEDRNN_ISA") and 2 * units <= lanes:
        lanes //= 2  # few units run on the kernels of AVX2
    return -(-units // lanes) * lanes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("units", [1, 16, 100])
@pytest.mark.parametrize("cell", CELLS)
def test_a_tape_holds_what_it_must(cell, units, dtype):
    """i f g o and c of an LSTM, r z n and R_n h + b of a GRU, nothing of an RNN."""
    steps, batch = 20, 3
    p = make(cell, dtype, steps=steps, batch=batch, inputs=7, units=units)
    floats = {"lstm": 5, "gru": 4}.get(cell, 0)
    row = padded(units, dtype) * np.dtype(dtype).itemsize
    assert p.forward()[2].nbytes == floats * steps * batch * row


@pytest.mark.parametrize("cell", CELLS)
def test_a_tape_of_layers_also_holds_what_runs_between_them(cell):
    p = make(cell, "float32", steps=20, batch=3, inputs=7, units=16, layers=3, bidirectional=True)
    alone = make(cell, "float32", steps=20, batch=3, inputs=7, units=16)
    between = 20 * 3 * 2 * 16 * 4
    layers = 6 * alone.forward()[2].nbytes + 2 * between
    assert p.forward()[2].nbytes == layers
    dropping = replace(p, options={"dropout": 0.5})
    assert dropping.forward()[2].nbytes == layers + 2 * between


def test_training_copies_neither_x_nor_y():
    p = make("rnn_tanh", "float32", steps=50, batch=8, inputs=64, units=64)
    weights = functional.Weights("rnn_tanh", p.parameters)
    functional.forward(p.cell, p.x, weights)
    references = sys.getrefcount(p.x)
    gc.collect()
    tracemalloc.start()  # NumPy's arrays are traced
    y, last, tape = functional.forward(p.cell, p.x, weights)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert y.nbytes == p.x.nbytes
    assert peak < y.nbytes + last.nbytes + 10_000  # y itself, and small things
    counts = sys.getrefcount(p.x) - references, sys.getrefcount(y.base)
    assert counts == (2, 3)  # the tape reads x where it is, and the array that y is a view of
    assert np.shares_memory(y, y.base)
    del tape
    counts = sys.getrefcount(p.x) - references, sys.getrefcount(y.base)
    assert counts == (0, 2)


class MallInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "o", "s", "h", "mapped", "u", "f")]
    _fields_ += [(name, ctypes.c_size_t) for name in ("used", "free", "keep")]


def allocated() -> int:
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        pytest.skip("this C library has no mallinfo2")
    mallinfo2.restype = MallInfo
    info = mallinfo2()
    return info.used + info.mapped


def test_a_tape_frees_its_memory_as_soon_as_it_is_spent():
    p = make("lstm", "float32", steps=100, batch=32, inputs=4, units=64)
    weights = functional.Weights("lstm", p.parameters)
    step(p, weights)
    before = allocated()
    y, last, tape = functional.forward("lstm", p.x, weights, p.state)
    others = y.nbytes + 3 * last[0].nbytes  # the last states, and the tape's copy of h_0
    assert 0 <= allocated() - before - tape.nbytes - others < 100_000
    gradients = functional.backward(tape, y)
    others += sum(a.nbytes for a in everything(gradients))
    assert tape.spent
    assert 0 <= allocated() - before - others < 100_000


def test_a_tape_keeps_its_arrays_alive():
    p = make("lstm", "float32", **STACKED)
    _, want = step(p)
    tape = functional.forward("lstm", p.x.copy(), dict(p.parameters), p.state)[2]
    gc.collect()
    junk = [np.full(p.x.shape, np.nan, np.float32) for _ in range(50)]
    got = functional.backward(tape, p.dy, pack(p.dstates))
    assert_equal(everything(got), everything(want))
    assert len(junk) == 50


def test_x_of_a_buffer_stays_exported_while_a_tape_reads_it():
    buffer = bytearray(np.ones((5, 2, 3), np.float32).tobytes())
    x = np.frombuffer(buffer, np.float32).reshape(5, 2, 3)
    layer = fusedrnn.GRU(3, 4, seed=0)
    y, _, tape = layer.forward(x)
    del x
    with pytest.raises(BufferError):
        buffer.clear()
    layer.backward(tape, y)
    del tape
    buffer.clear()


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_out_with_threads(n):
    p = make("lstm", "float32", steps=30, batch=9, inputs=64, units=100)
    want, gradients = step(p)
    with threads(n):
        out = TARGETS["strided"](want[0])
        functional.forward(p.cell, p.x, p.parameters, p.state, out=out)
        assert_equal([out], want[:1])
        _, again = step(p)
    assert_equal(everything(again), everything(gradients))

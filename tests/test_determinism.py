"""The same bits, however a result comes about.

No sum is divided among threads, tiles, chunks or calls: each element is one chain of operations in
a fixed order. So a result must not depend on the number of threads, the rest of the batch, the
layout, the memory it is written to, or what was computed before, and every comparison is exact.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from fusedrnn import functional
from fusedrnn.functional import Gradients
from kernel_problems import CELLS, DTYPES, make, run, threads
from reference_problems import pack, unpack

pytestmark = pytest.mark.isa

VARIANTS = list(itertools.product(CELLS, DTYPES))

# How the threads may divide a problem: by rows, by units with a barrier a step, a direction each,
# both at once, and a layer each, the next one step of a wavefront behind. All but the first are
# large enough that 2 to 4 threads divide them.
DIVISIONS = {
    "small": {"steps": 3, "batch": 2, "inputs": 3, "units": 5},
    "rows": {"steps": 12, "batch": 33, "inputs": 31, "units": 64},
    "units": {"steps": 30, "batch": 1, "inputs": 100, "units": 200},
    "few rows": {"steps": 20, "batch": 3, "inputs": 64, "units": 129},
    "directions": {"steps": 12, "batch": 7, "inputs": 64, "units": 64, "bidirectional": True},
    "directions and units": {
        "steps": 20, "batch": 1, "inputs": 129, "units": 200, "bidirectional": True
    },
    "layers": {
        "steps": 10, "batch": 17, "inputs": 31, "units": 65, "layers": 3, "bidirectional": True,
        "dropout": 0.3,
    },
    "wavefront": {
        "steps": 67, "batch": 2, "inputs": 40, "units": 65, "layers": 4, "dropout": 0.3,
    },
    "deep wavefront": {"steps": 150, "batch": 1, "inputs": 33, "units": 32, "layers": 7},
}  # fmt: skip


def everything(p):
    """Return outputs and gradients in one dict; names of the two never coincide."""
    outputs, gradients = run(functional, p)
    return outputs | gradients


def assert_same(got: dict, want: dict) -> None:
    assert list(got) == list(want)
    for name in want:
        assert_bits(got[name], want[name], name)


def assert_bits(got, want, name="") -> None:
    """Assert equal bits: unlike ==, it tells -0 from 0."""
    got, want = (np.ascontiguousarray(a) for a in (got, want))
    assert got.dtype == want.dtype, name
    word = f"u{got.itemsize}"
    np.testing.assert_array_equal(got.view(word), want.view(word), err_msg=name)


@pytest.mark.parametrize("division", DIVISIONS)
@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
def test_every_number_of_threads_and_every_run(cell, dtype, division):
    p = make(cell, dtype, **DIVISIONS[division])
    with threads(1):
        want = everything(p)
        want_inferred = p.infer()
    for n in (1, 2, 3, 4, 4):
        with threads(n):
            assert_same(everything(p), want)
            y, state = p.infer()
        assert_bits(y, want_inferred[0])
        assert_bits(state, want_inferred[1])  # as one array of h and c


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
@pytest.mark.parametrize("state", [False, True])
def test_inference_and_training(cell, dtype, state):
    p = make(
        cell,
        dtype,
        steps=13,
        batch=5,
        inputs=7,
        units=33,
        layers=3,
        bidirectional=True,
        state=state,
    )
    y, last, _ = p.forward()
    y_inferred, last_inferred = p.infer()
    assert_bits(y_inferred, y)
    assert_bits(last_inferred, last)


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
def test_layouts(cell, dtype):
    """batch_first only swaps two axes; one sequence may leave the axis of the batch out."""
    sizes = {"steps": 6, "inputs": 7, "units": 19, "layers": 2, "bidirectional": True}
    p = make(cell, dtype, batch=5, dropout=0.4, **sizes)
    first = replace(
        p,
        x=p.x.swapaxes(0, 1),
        dy=p.dy.swapaxes(0, 1),
        options={**p.options, "batch_first": True},
    )
    got = everything(first)
    for name in ("x", "y"):
        got[name] = got[name].swapaxes(0, 1)
    assert_same(got, everything(p))

    p = make(cell, dtype, batch=1, **sizes)
    alone = replace(
        p,
        x=p.x[:, 0],
        dy=p.dy[:, 0],
        states=tuple(s[:, 0] for s in p.states),
        dstates=tuple(s[:, 0] for s in p.dstates),
    )
    want = everything(p)
    for name in want:
        if name not in p.parameters:
            want[name] = want[name][:, 0]
    assert_same(everything(alone), want)


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
@pytest.mark.parametrize("units", [1, 31, 129])
def test_a_sequence_alone_and_in_a_batch(cell, dtype, units):
    sizes = {"steps": 5, "inputs": 17, "units": units, "layers": 2, "bidirectional": True}
    p = make(cell, dtype, batch=17, **sizes)
    want = everything(p)
    for r in (slice(0, 1), slice(8, 9), slice(16, 17), slice(3, 10)):
        row = replace(
            p,
            x=p.x[:, r],
            dy=p.dy[:, r],
            states=tuple(s[:, r] for s in p.states),
            dstates=tuple(s[:, r] for s in p.dstates),
        )
        for name, got in everything(row).items():
            if name not in p.parameters:  # those sum over the batch
                assert_bits(got, want[name][:, r], name)


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
@pytest.mark.parametrize("pieces", [[1] * 12, [5, 1, 6], [11, 1]], ids=str)
def test_pieces_of_a_sequence(cell, dtype, pieces):
    """A state that is carried from call to call gives the whole sequence."""
    p = make(cell, dtype, steps=12, batch=3, inputs=9, units=33, layers=2)
    want, want_state = p.infer()
    for call in ("infer", "forward"):
        state, outputs, begin = p.state, [], 0
        for length in pieces:
            x = p.x[begin : begin + length]
            y, state, *_ = getattr(functional, call)(cell, x, p.parameters, state)
            outputs.append(y)
            begin += length
        assert_bits(np.concatenate(outputs), want)
        assert_bits(state, want_state)


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
def test_the_reverse_direction_is_the_forward_one_on_the_reversed_sequence(cell, dtype):
    p = make(cell, dtype, steps=11, batch=3, inputs=9, units=33, bidirectional=True)
    y, state = p.infer()
    for d, suffix in enumerate(("", "_reverse")):
        own = {
            name.removesuffix("_reverse"): array
            for name, array in p.parameters.items()
            if name.endswith("_reverse") == bool(suffix)
        }
        flip = slice(None, None, -1 if d else 1)
        one, last = functional.infer(cell, p.x[flip], own, pack([s[d : d + 1] for s in p.states]))
        assert_bits(one[flip], y[:, :, 33 * d : 33 * (d + 1)])
        for part, whole in zip(unpack(last), unpack(state), strict=True):
            assert_bits(part[0], whole[d])


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
def test_none_is_zero(cell, dtype):
    p = make(cell, dtype, steps=4, batch=3, inputs=5, units=9, layers=2, state=False)
    zeros = replace(p, state_given=True)
    assert_same(everything(p), everything(zeros))
    blank = tuple(0 * s for s in p.dstates)
    parts = [(p.dy, blank, None), (0 * p.dy, p.dstates, pack(p.dstates))]
    if cell == "lstm":
        parts.append((p.dy, (p.dstates[0], blank[1]), (p.dstates[0], None)))
        parts.append((p.dy, (blank[0], p.dstates[1]), [None, p.dstates[1]]))
    for dy, dstates, given in parts:
        want = run(functional, replace(p, dy=dy, dstates=dstates))[1]
        got = functional.backward(p.forward()[2], dy if dy.any() else None, given)
        np.testing.assert_array_equal(got.x, want["x"])
        for name, gradient in got.parameters.items():
            np.testing.assert_array_equal(gradient, want[name])


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
def test_strided_and_read_only_inputs(cell, dtype):
    p = make(cell, dtype, steps=4, batch=3, inputs=5, units=9, layers=2, bidirectional=True)

    def strided(array):
        wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), np.nan, dtype)
        wide[..., ::2] = array
        view = wide[..., ::2]
        view.setflags(write=False)
        return view

    got = replace(
        p,
        x=strided(p.x),
        dy=strided(p.dy),
        states=tuple(np.asfortranarray(s) for s in p.states),
        dstates=tuple(strided(s) for s in p.dstates),
        parameters={name: strided(array) for name, array in p.parameters.items()},
    )
    assert_same(everything(got), everything(p))


# Memory


def poisoned(array):
    return np.full_like(array, np.nan)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("sizes", [
    {"steps": 13, "batch": 5, "inputs": 7, "units": 17, "layers": 2, "bidirectional": True},
    {"steps": 1, "batch": 1, "inputs": 1, "units": 1},
    {"steps": 3, "batch": 0, "inputs": 3, "units": 5, "layers": 2},
    {"steps": 9, "batch": 33, "inputs": 129, "units": 64, "bias": False},
], ids=str)  # fmt: skip
@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
def test_outputs_full_of_nan_are_overwritten(cell, dtype, sizes, batch_first):
    p = make(cell, dtype, batch_first=batch_first, **sizes)
    outputs, gradients = run(functional, p)
    with threads(4):
        out = poisoned(outputs["y"])
        assert p.infer(out=out)[0] is out
        assert_bits(out, outputs["y"])

        out = poisoned(outputs["y"])
        y, _, tape = functional.forward(
            cell, p.x, p.parameters, p.state, batch_first=batch_first, out=out
        )
        assert y is out
        assert_bits(out, outputs["y"])
        out[...] = np.nan  # the tape doesn't need it
        target = Gradients(
            poisoned(p.x),
            pack(tuple(poisoned(s) for s in p.states)),
            {name: poisoned(array) for name, array in p.parameters.items()},
        )
        got = functional.backward(tape, p.dy, pack(p.dstates), out=target)
    assert got.x is target.x
    assert_bits(target.x, gradients["x"])
    for part, name in zip(unpack(target.state), ("h", "c"), strict=False):
        assert_bits(part, gradients[name])
    for name, array in target.parameters.items():
        assert_bits(array, gradients[name])


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
def test_memory_used_before(cell, dtype):
    """Calls that fill the memory that is used again with NaN leave no trace in later ones."""
    sizes = [
        {"steps": 5, "batch": 3, "inputs": 5, "units": 9, "layers": 3, "bidirectional": True},
        {"steps": 2, "batch": 7, "inputs": 31, "units": 17, "bias": False, "state": False},
        {"steps": 7, "batch": 1, "inputs": 3, "units": 33, "layers": 2, "dropout": 0.5},
    ]
    small = [make(cell, dtype, **size) for size in sizes]
    wants = [(everything(p), p.infer()[0]) for p in small]
    large = make(cell, dtype, steps=20, batch=17, inputs=40, units=70, layers=3, bidirectional=True)
    large.x[...] = np.nan
    for n in (1, 4):
        with threads(n):
            for p, (want, want_inferred) in zip(small, wants, strict=True):
                large.infer()
                large.gradients()
                assert_same(everything(p), want)
                assert_bits(p.infer()[0], want_inferred)


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
def test_inputs_are_not_written(cell, dtype):
    p = make(cell, dtype, steps=5, batch=3, inputs=5, units=9, layers=2, dropout=0.5)
    arrays = [p.x, p.dy, *p.states, *p.dstates, *p.parameters.values()]
    copies = [array.copy() for array in arrays]
    with threads(4):
        everything(p)
        p.infer()
    for array, copy in zip(arrays, copies, strict=True):
        assert_bits(array, copy)


def test_flushed_denormals_stay_in_the_kernels():
    """The kernels flush denormals; the caller's arithmetic goes on without that."""
    p = make("lstm", "float32", steps=5, batch=33, inputs=31, units=64)
    tiny = np.finfo(np.float32).tiny
    for n in (1, 4):
        with threads(n):
            everything(p)
        assert np.float32(tiny) / np.float32(2) > 0

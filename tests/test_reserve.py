"""Training in memory that the caller gives: `train` and `gradients` of packed weights.

They are `forward` and `backward` for frameworks that keep every array themselves, so all
comparisons are exact. And packed batches, and fingerprints.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from fusedrnn import _core, functional
from kernel_problems import CELLS, DTYPES, KernelProblem, make, threads
from reference_problems import pack, unpack
from test_determinism import assert_bits
from test_kernel_lengths import KINDS

pytestmark = pytest.mark.isa

CASES: list[dict[str, Any]] = [
    {},
    {"layers": 3, "bidirectional": True, "batch_first": True},
    {"layers": 2, "dropout": 0.4, "dropout_key": (7, 3)},
    {"layers": 2, "bidirectional": True, "dropout": 0.4, "lengths": [5, 0, 9, 2, 9]},
    {"lengths": [5, 0, 9, 2, 9], "batch_first": True, "state": False},
    {"batch": None, "layers": 2},
    {"batch": None, "lengths": 4, "bidirectional": True},
]


def packed_of(p: KernelProblem) -> _core.PackedWeights:
    return functional.Weights(p.cell, p.parameters).packed


def train(p: KernelProblem, packed, reserve=None, **ends):
    """Return y, the last state and the reserve."""
    dropout = p.options.get("dropout", 0.0)
    rows = p.x.size // p.x.shape[-1]
    if reserve is None:
        reserve = np.full(rows * packed.reserve_row(dropout > 0), np.nan, p.dtype)
    first = p.options.get("batch_first", False)
    y, last = packed.train(p.x, p.state, first, dropout, *key_of(p), reserve, **ends or ends_of(p))
    return y, last, reserve


def gradients(p: KernelProblem, packed, y, reserve, **ends):
    first, dropout = p.options.get("batch_first", False), p.options.get("dropout", 0.0)
    return packed.gradients(
        p.x, p.state, y, reserve, first, dropout, *key_of(p), p.dy, pack(p.dstates),
        **ends or ends_of(p),
    )  # fmt: skip


def key_of(p):
    return p.options.get("dropout_key", (0, 0))


def ends_of(p):
    return {"lengths": p.options.get("lengths")}


def assert_same_call(got, want) -> None:
    """Compare nested tuples and lists of arrays."""
    if isinstance(want, (tuple, list)):
        for g, w in zip(got, want, strict=True):
            assert_same_call(g, w)
    else:
        assert_bits(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("cell", "projects"), KINDS)
def test_as_forward_and_backward(cell, projects, dtype, case):
    sizes = {"steps": 9, "batch": 5, "units": 9} | case | ({"proj_size": 4} if projects else {})
    p = make(cell, dtype, **sizes)
    packed = packed_of(p)
    y, last, tape = p.forward()
    want = functional.backward(tape, p.dy, pack(p.dstates))
    got_y, got_last, reserve = train(p, packed)
    assert_same_call((got_y, got_last), (y, last))
    kept = reserve.copy()
    reserve.flags.writeable = False
    for _ in range(2):  # nothing is used up
        dx, dstate, parameters = gradients(p, packed, got_y, reserve)
        assert_same_call((dx, dstate), (want.x, want.state))
        assert_same_call(parameters, list(want.parameters.values()))
    assert_bits(reserve, kept)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("n", [1, 3])
def test_chunks_and_threads(cell, n):
    """Long and wide enough for several chunks of BPTT and for a team."""
    p = make(cell, "float32", steps=60, batch=17, inputs=40, units=65, layers=2)
    with threads(n):
        packed = packed_of(p)
        want = p.gradients()
        y, _, reserve = train(p, packed)
        dx, dstate, parameters = gradients(p, packed, y, reserve)
    for got, expected in zip((dx, *unpack(dstate), *parameters), want.values(), strict=True):
        assert_bits(got, expected)


def test_rows_of_zero():
    """None of the gradients that come in may be given, and all lengths may be 0."""
    p = make("lstm", "float32", steps=4, batch=2, lengths=[0, 0])
    packed = packed_of(p)
    y, _, reserve = train(p, packed)
    assert not y.any()
    dx, dstate, parameters = packed.gradients(
        p.x, p.state, y, reserve, False, 0.0, 0, 0, None, None, p.options["lengths"]
    )
    for array in (dx, *dstate, *parameters):
        assert not array.any()


# Packed batches


def packed_batch(p: KernelProblem):
    """Return the rows of x and of dy, time by time, of sequences sorted by length; their number."""
    lengths = np.array(p.options["lengths"])
    sizes = [int((lengths > t).sum()) for t in range(lengths[0])]

    def rows(a):
        return np.concatenate([a[t, :n] for t, n in enumerate(sizes)])

    return rows, np.array(sizes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize(("cell", "projects"), KINDS)
def test_packed_batches_are_sorted_ones(cell, projects, dtype, options):
    if projects:
        options = {**options, "proj_size": 2}
    p = make(cell, dtype, steps=6, batch=4, lengths=[6, 4, 4, 1], **options)
    rows, sizes = packed_batch(p)
    packed = packed_of(p)
    want_y, want_last, tape = p.forward()
    want = functional.backward(tape, p.dy, pack(p.dstates))
    y, last = packed.infer(rows(p.x), p.state, False, None, None, sizes)
    assert_same_call((y, last), (rows(want_y), want_last))
    reserve = np.full(sizes.sum() * packed.reserve_row(False), np.nan, dtype)
    y, last = packed.train(rows(p.x), p.state, False, 0.0, 0, 0, reserve, None, sizes)
    assert_same_call((y, last), (rows(want_y), want_last))
    dx, dstate, parameters = packed.gradients(
        rows(p.x), p.state, y, reserve, False, 0.0, 0, 0, rows(p.dy), pack(p.dstates), None, sizes
    )
    assert_same_call((dx, dstate), (rows(want.x), want.state))
    assert_same_call(parameters, list(want.parameters.values()))


# Errors


def test_wrong_reserves():
    p = make("gru", "float32")
    packed = packed_of(p)
    rows, row = 6, packed.reserve_row(False)
    for reserve, error, message in [
        (np.empty(rows * row - 1, np.float32), ValueError, f"of at least {rows * row} elements"),
        (np.empty((rows, row), np.float32), ValueError, "one contiguous dimension"),
        (np.empty(2 * rows * row, np.float32)[::2], ValueError, "one contiguous dimension"),
        (np.empty(rows * row), TypeError, "reserve: expected an array of float32, got float64"),
        (None, TypeError, "reserve: expected an array of float32, got NoneType"),
    ]:
        with pytest.raises(error, match=message):
            packed.train(p.x, p.state, False, 0.0, 0, 0, reserve)
        with pytest.raises(error, match=message):
            gradients(p, packed, p.dy, reserve)
    reserve = np.empty(rows * row, np.float32)
    reserve.flags.writeable = False
    with pytest.raises(ValueError, match="reserve: expected a writable array"):
        train(p, packed, reserve)
    with pytest.raises(ValueError, match=r"y: expected \(3, 2, 3\) \[T, B, H\], got \(3, 2, 4\)"):
        gradients(p, packed, np.zeros((3, 2, 4), np.float32), np.empty(rows * row, np.float32))


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ([2, 2, 1], ValueError, "batch_sizes: expected a sum of 6, the rows of x, got 5"),
        ([1, 2, 3], ValueError, "batch_sizes: expected none larger than the one before"),
        ([6, 0], ValueError, "batch_sizes: expected 1 to the rows of x = 6, got 0"),
        ([7], ValueError, "batch_sizes: expected 1 to the rows of x = 6, got 7"),
        ([], ValueError, "batch_sizes: expected a sum of 6, the rows of x, got 0"),
        ([[6]], ValueError, r"batch_sizes: expected shape \(1,\), got \(1, 1\)"),
        ([6.0], TypeError, "batch_sizes: expected integers, got float64"),
    ],
)
def test_wrong_batch_sizes(sizes, error, message):
    p = make("gru")
    with pytest.raises(error, match=message):
        packed_of(p).infer(p.x.reshape(6, -1), None, False, None, None, sizes)


def test_packed_batches_have_no_lengths():
    p = make("gru")
    with pytest.raises(ValueError, match="lengths: expected None beside batch_sizes, got both"):
        packed_of(p).infer(p.x.reshape(6, -1), None, False, None, [3, 3], [2, 2, 2])
    with pytest.raises(ValueError, match=r"x: expected \(N, 2\) \[N, I\], got \(3, 2, 2\)"):
        packed_of(p).infer(p.x, None, False, None, None, [2, 2, 2])


# Fingerprints


def test_a_fingerprint_sees_every_change():
    """Of every element, at every place of a stripe, in any array, and of the order."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=n).astype(np.float32) for n in (1, 63, 64, 200)]
    first = _core.fingerprint(arrays)
    assert first == _core.fingerprint([a.copy() for a in arrays])
    seen = {first}
    for array in arrays:
        for i in range(array.size):
            before = array[i]
            array[i] = np.nextafter(before, np.float32(9))
            seen.add(_core.fingerprint(arrays))
            array[i] = before
    assert len(seen) == 1 + sum(a.size for a in arrays)
    assert _core.fingerprint(arrays) == first
    others = [
        _core.fingerprint(arrays[::-1]),
        _core.fingerprint([arrays[3][::-1].copy()]),
        _core.fingerprint([arrays[3]]),
        _core.fingerprint([np.zeros(8, np.float32)]),
        _core.fingerprint([np.zeros(9, np.float32)]),
        _core.fingerprint([np.zeros(8, np.float32), np.zeros(1, np.float32)]),
        _core.fingerprint([]),
    ]
    assert len({first, *others}) == 1 + len(others)


def on_every_isa(code):
    """Return what a program prints, by the ISA that it runs on."""
    return {
        isa: subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "FUSEDRNN_ISA": isa},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for isa in _core.info()["isa_available"]
    }


def test_a_fingerprint_is_the_same_on_every_isa():
    code = (
        "import numpy as np; from fusedrnn import _core;"
        "print(_core.fingerprint([np.arange(n, dtype='f4') for n in (3, 100, 5000)]))"
    )
    assert len(set(on_every_isa(code).values())) == 1


def test_a_portable_reserve_is_as_large_on_every_isa_and_large_enough():
    code = """
import numpy as np
from fusedrnn._network import Network
for cell, proj in (("lstm", 0), ("lstm", 1), ("gru", 0), ("rnn_tanh", 0)):
    for dtype in ("float32", "float64"):
        for units in (2, 7, 8, 9, 16, 24, 33):
            network = Network(cell, 3, units, 2, units == 7, True, proj)
            zeros = {name: np.zeros(shape, dtype) for name, shape in network.shapes()}
            packed = network.pack(zeros, dtype)
            for dropout in (False, True):
                row = packed.portable_reserve_row(dropout)
                assert row >= packed.reserve_row(dropout)
                print(row)
"""
    sizes = on_every_isa(code)
    assert len(set(sizes.values())) == 1
    assert len(sizes["scalar"].split()) == 4 * 2 * 7 * 2


def test_fingerprints_need_whole_arrays():
    with pytest.raises(
        ValueError, match="arrays: expected C-contiguous arrays, got one that isn't"
    ):
        _core.fingerprint([np.zeros((4, 4)).T[1:]])

"""Forward and backward on a GPU, against the reference in float64."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import kernel_problems
from device_problems import BOUNDS, DTYPES, check, make, on_device, run
from fusedrnn import _device, cuda, functional
from kernel_problems import CELLS
from reference_problems import CASES, LENGTHS

VARIANTS = list(itertools.product(CELLS, DTYPES))

# Around the tiles of a warp (16 units, 8 rows) and of a block; one of everything.
SIZES = [
    {"units": 1, "inputs": 1, "batch": 1, "steps": 1},
    {"units": 16, "inputs": 16, "batch": 8, "steps": 4},
    {"units": 17, "inputs": 5, "batch": 9, "steps": 3},
    {"units": 31, "inputs": 33, "batch": 1, "steps": 6, "bidirectional": True},
    {"units": 33, "inputs": 2, "batch": 17, "steps": 2},
]
LARGE = [
    {"units": 100, "inputs": 7, "batch": 3, "steps": 4, "layers": 2, "bidirectional": True},
    {"units": 48, "inputs": 40, "batch": 33, "steps": 5, "layers": 3},
]


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
@pytest.mark.parametrize("case", [*CASES, *LENGTHS], ids=str)
def test_the_cases_of_the_reference(cell, dtype, case):
    check(make(cell, dtype, **case), dtype)


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
@pytest.mark.parametrize("case", SIZES, ids=str)
def test_sizes_around_tiles(cell, dtype, case):
    if cell == "rnn_relu" and dtype != "float32":
        case = case | {"units": min(case["units"], 17), "batch": min(case["batch"], 3)}
    check(make(cell, dtype, **case), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])  # relu has too many kinks
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_larger_networks(cell, dtype, case):
    check(make(cell, dtype, **case), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_large_ragged_batch(dtype):
    lengths = np.random.default_rng(0).integers(0, 8, 19).tolist()
    p = make(
        "gru",
        dtype,
        steps=9,
        batch=19,
        units=20,
        layers=2,
        bidirectional=True,
        lengths=lengths,
        dropout=0.3,
    )
    check(p, dtype)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 2])
def test_an_empty_batch(cell, layers):
    p = kernel_problems.make(cell, batch=0, layers=layers, units=5)
    outputs, gradients = run(p, "float32")
    assert outputs["y"].shape == (3, 0, 5)
    assert not any(gradients[name].any() for name in p.parameters)


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_inference_gives_what_training_gives(cell, dtype, state, batch_first):
    p = kernel_problems.make(
        cell, layers=3, units=18, batch=3, state=state, batch_first=batch_first
    )
    q = on_device(p, dtype)
    y, last, _ = q.forward()
    other, final = q.infer()
    unpack = kernel_problems.unpack
    for a, b in zip((y, *unpack(last)), (other, *unpack(final)), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_no_initial_state_is_zero():
    p = kernel_problems.make("lstm", state=False)
    given = kernel_problems.make("lstm", state=True)
    zeros = [np.zeros_like(s) for s in given.states]
    parameters = {name: cuda.asarray(a, "float32") for name, a in p.parameters.items()}
    x = cuda.asarray(p.x, "float32")
    state = tuple(cuda.asarray(s, "float32") for s in zeros)
    y = functional.infer("lstm", x, parameters)[0].numpy()
    np.testing.assert_array_equal(y, functional.infer("lstm", x, parameters, state)[0].numpy())


@pytest.mark.parametrize("lengths", [None, [3, 1]], ids=str)
@pytest.mark.parametrize("dropout", [0.25, 0.5, 1.0])
def test_dropout_has_the_masks_of_the_cpu(dropout, lengths):
    """W x of a second layer that is the identity shows the mask, element by element."""
    units = 40
    p = kernel_problems.make(
        "rnn_relu",
        "float32",
        units=units,
        layers=2,
        dropout=dropout,
        dropout_key=(2**63 + 5, 2**40),
        lengths=lengths,
    )
    parameters = {name: np.zeros_like(array) for name, array in p.parameters.items()}
    parameters["bias_ih_l0"] += 1
    parameters["weight_ih_l1"] = np.eye(units, dtype=np.float32)
    want = functional.forward("rnn_relu", p.x, parameters, **p.options)[0]
    on_gpu = {name: cuda.asarray(array) for name, array in parameters.items()}
    got = functional.forward("rnn_relu", cuda.asarray(p.x), on_gpu, **p.options)[0].numpy()
    np.testing.assert_array_equal(got, want)
    assert (want == 0).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_every_time(dtype):
    p = kernel_problems.make("lstm", steps=5, batch=9, units=20, layers=2, bidirectional=True)
    for first, second in zip(run(p, dtype), run(p, dtype), strict=True):
        for name, array in first.items():
            np.testing.assert_array_equal(array, second[name])


def test_no_gradients_given_are_zeros():
    p = on_device(kernel_problems.make("lstm", layers=2), "float32")
    zeros = cuda.asarray(np.zeros(p.dy.shape, np.float32))
    given = functional.backward(p.forward()[2], zeros, (p.dstates[0], None))
    none = functional.backward(p.forward()[2], None, (p.dstates[0], None))
    np.testing.assert_array_equal(given.x.numpy(), none.x.numpy())
    assert not functional.backward(p.forward()[2], None).x.numpy().any()


def test_what_the_cpu_computes():
    """A test of the comparison itself: float32 on both sides differs by roundings only."""
    p = kernel_problems.make("gru", "float32", steps=4, batch=3, units=16)
    for got, want in zip(run(p, "float32"), kernel_problems.run(functional, p), strict=True):
        for name, array in want.items():
            error = np.linalg.norm(got[name] - array)
            assert error <= BOUNDS["float32"] * np.linalg.norm(array), name


def test_calls_from_many_threads():
    problems = [on_device(kernel_problems.make(cell, layers=2), "float32") for cell in CELLS]

    def gradient(p):
        return functional.backward(p.forward()[2], p.dy).x.numpy()

    want = [gradient(p) for p in problems]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for got, expected in zip(pool.map(gradient, problems), want, strict=True):
                np.testing.assert_array_equal(got, expected)


def test_a_state_may_be_written_to_once_the_call_is_done():
    p = on_device(kernel_problems.make("gru"), "float32")
    want = functional.backward(p.forward()[2], p.dy)
    tape = p.forward()[2]
    _device.required()._zero(*p.states)
    got = functional.backward(tape, p.dy)
    for name, gradient in want.parameters.items():
        np.testing.assert_array_equal(got.parameters[name].numpy(), gradient.numpy())


def test_a_tape_shows_its_call():
    p = on_device(kernel_problems.make("gru", steps=3, batch=2, inputs=4), "float32")
    tape = p.forward()[2]
    assert repr(tape) == "<Tape of gru: x (3, 2, 4) float32 on cuda:0, not spent>"
    functional.backward(tape, p.dy)
    assert repr(tape) == "<Tape of gru: x (3, 2, 4) float32 on cuda:0, spent>"

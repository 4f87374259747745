"""Denormals count as zero in the kernels: with them every result has the bits of zeros.

`docs/guarantees.md` says it, and what is only copied.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest

import fusedrnn
from fusedrnn import functional, models
from kernel_problems import make, threads
from reference_problems import pack, unpack
from scripts import output

VARIANTS = [
    {"cell": "lstm", "layers": 2, "bidirectional": True},
    {"cell": "lstm", "layers": 2, "proj_size": 5},
    {"cell": "lstm", "layers": 2, "dropout": 0.5},
    {"cell": "gru", "layers": 2, "bidirectional": True},
    {"cell": "rnn_tanh", "layers": 2},
    {"cell": "rnn_relu", "layers": 2, "bias": False},
]
GIVEN = ("x", "states", "dy", "dstates", "weight", "bias")
SIZES = {"steps": 5, "inputs": 7, "units": 20}


def arrays_of(p, what):
    if what in ("weight", "bias"):
        return [a for name, a in p.parameters.items() if name.startswith(what)]
    return list(unpack(getattr(p, what)))


def problem(variant, dtype, batch=9):
    return make(**SIZES, **{"dtype": dtype, "batch": batch, **variant})


def fill(p, what, value):
    """Put a number into all arrays of a kind, with the signs that they have."""
    for array in arrays_of(p, what):
        array[...] = value * np.sign(array)


def results(p, lengths=None) -> list[np.ndarray]:
    """Return all that a call gives: inference, training and gradients."""
    y, last = functional.infer(p.cell, p.x, p.parameters, p.state, lengths=lengths)
    again, _, tape = functional.forward(
        p.cell, p.x, p.parameters, p.state, lengths=lengths, **p.options
    )
    g = functional.backward(tape, p.dy, pack(p.dstates))
    return [y, *unpack(last), again, g.x, *unpack(g.state), *g.parameters.values()]


def denormal(array) -> np.ndarray:
    """Return where an array is denormal, by its bits: so that no flush can hide it."""
    bits = array.view(np.uint32 if array.dtype == np.float32 else np.uint64)
    fraction = np.finfo(array.dtype).nmant
    magnitude = bits & ~(bits.dtype.type(1) << bits.dtype.type(8 * array.itemsize - 1))
    return (magnitude != 0) & (magnitude >> bits.dtype.type(fraction) == 0)


def largest_denormal(dtype):
    return np.nextafter(np.finfo(dtype).smallest_normal, np.array(0, dtype))


def assert_same(got, want):
    for array, expected in zip(got, want, strict=True):
        assert not denormal(array).any()
        np.testing.assert_array_equal(array, expected)


def check_given(variant, dtype, what, batch=9):
    """Compare with zeros: the smallest and the largest denormal, and times a large number."""
    for factor in (1, 1e6):
        want = None
        for value in (0, np.finfo(dtype).smallest_subnormal, largest_denormal(dtype)):
            p = problem(variant, dtype, batch)
            for other in {"x", "weight"} - {what}:
                for array in arrays_of(p, other):
                    array *= array.dtype.type(factor)
            fill(p, what, value)
            found = results(p)
            want = found if want is None else want
            assert_same(found, want)


def check_results(variant, dtype, batch=9):
    """Where products, or what states decay to, would be denormal, zeros come."""
    p = problem(variant, dtype, batch)
    for what in GIVEN:
        for array in arrays_of(p, what):
            array *= array.dtype.type(np.sqrt(float(np.finfo(dtype).smallest_normal)) / 10)
    found = results(p)
    assert not any(denormal(array).any() for array in found)
    if variant["cell"] == "rnn_relu":  # whose y is nothing but such products, without biases
        assert not found[0].any()


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_denormals_count_as_zero_and_none_comes(variant, dtype, n):
    with threads(n):
        for what in GIVEN:
            check_given(variant, dtype, what)
        check_results(variant, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_batch_of_one_flushes_too(dtype):
    for variant in VARIANTS:
        check_given(variant, dtype, "states", batch=1)
        check_results(variant, dtype, batch=1)


@pytest.mark.parametrize("isa", fusedrnn.info()["isa_available"])
def test_denormals_count_as_zero_on_every_isa(isa):
    script = """
    import fusedrnn
    from test_denormals import VARIANTS, check_given, check_results
    for dtype in ("float32", "float64"):
        for variant in VARIANTS[1::2]:
            check_results(variant, dtype)
            for what in ("x", "weight", "dy"):
                check_given(variant, dtype, what)
    print(fusedrnn.info()["isa"])
    """
    assert output(script, FUSEDRNN_ISA=isa) == isa


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_of_a_stream_flushes(dtype):
    layer = fusedrnn.RNN(1, 3, nonlinearity="relu", bias=False, dtype=dtype, seed=0)
    with layer.edit_parameters() as p:
        p["weight_hh_l0"][:] = np.eye(3)
    stream = layer.stream()
    stream.state = np.full((1, 3), largest_denormal(dtype))
    assert denormal(stream.state).all()
    assert not stream.step(np.zeros(1, dtype)).view(f"u{np.dtype(dtype).itemsize}").any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_only_copied_keeps_its_denormals(dtype):
    """The state of a sequence without a step, its gradient, and parameters that are loaded."""
    value = largest_denormal(dtype)
    for variant in VARIANTS:
        p = problem(variant, dtype, batch=3)
        fill(p, "states", value)
        fill(p, "dstates", value)
        found = results(p, lengths=[5, 0, 2])
        count = len(p.states)
        for kept, given in (
            (found[1 : 1 + count], p.states),
            (found[3 + count : 3 + 2 * count], p.dstates),
        ):
            for array, source in zip(kept, given, strict=True):
                assert array[:, 1].tobytes() == source[:, 1].tobytes()
                assert denormal(source).any() and not denormal(array[:, [0, 2]]).any()
    layer = fusedrnn.GRU(2, 3, dtype=dtype)
    layer.load_parameters({k: np.full_like(a, value) for k, a in layer.parameters.items()})
    assert all(denormal(array).all() for array in layer.parameters.values())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("what", ["y", "weight", "bias"])
def test_the_losses_of_linear_heads_flush(what, dtype):
    random = np.random.default_rng(0)
    arrays = {
        "y": random.normal(size=(9, 20)),
        "weight": random.normal(size=(5, 20)),
        "bias": random.normal(size=5),
    }
    targets = random.normal(size=(9, 5)).astype(dtype)
    for loss, wanted in (
        (models.linear_squared_error, targets),
        (models.linear_cross_entropy, np.arange(9) % 5),
    ):
        found = []
        for value in (0, largest_denormal(dtype)):
            given = {name: a.astype(dtype) for name, a in arrays.items()}
            given[what] = value * np.sign(given[what])
            result = loss(*given.values(), wanted)
            found.append([np.array(result.value), *result.gradients])
        for got, want in zip(found[1], found[0], strict=True):
            np.testing.assert_array_equal(got, want)
            assert not denormal(got).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_beside_the_kernels_keeps_denormals(dtype):
    value = largest_denormal(dtype)
    x = np.full((2, 1), value)
    assert denormal(models.Relu(dtype=dtype)(x)[0]).all()
    linear = models.Linear(1, 1, bias=False, dtype=dtype, seed=0)
    linear.load_parameters({"weight": np.ones((1, 1), dtype)})
    assert denormal(linear(x)[0]).all()
    assert denormal(x / x.dtype.type(2)).all()
    assert sys.float_info.min / 2 > 0

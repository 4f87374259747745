"""The compiled kernels against the reference: every cell, dtype, size, option and special value."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import fusedrnn
from fusedrnn import functional, reference
from kernel_problems import (
    BATCHES,
    CELLS,
    DTYPES,
    FACTORS,
    SIZES,
    check_elements,
    check_norms,
    design,
    make,
    make_away_from_kinks,
    norm_bounds,
    pairs,
    run,
    threads,
)
from reference_problems import unpack

pytestmark = pytest.mark.isa

VARIANTS = list(itertools.product(CELLS, DTYPES))


def check(p, label, n_threads=1) -> None:
    with threads(n_threads):
        got = run(functional, p)
    want = run(reference, p)
    check_norms(p, got, want, label)
    check_elements(p, got, want, label)


# The grid


@pytest.mark.parametrize("seed", range(len(VARIANTS)))
def test_the_design_has_every_pair_of_values(seed):
    factors = {**FACTORS, "units": SIZES, "inputs": SIZES, "batch": BATCHES}
    wanted = {
        ((first, a), (second, b))
        for first, second in itertools.combinations(sorted(factors), 2)
        for a, b in itertools.product(factors[first], factors[second])
    }
    assert set().union(*map(pairs, design(seed))) == wanted


@pytest.mark.parametrize("units", SIZES)
@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
def test_grid(cell, dtype, units):
    number = VARIANTS.index((cell, dtype))
    for seed, row in enumerate(design(number)):
        if row["units"] != units:
            continue
        sizes = {name: value for name, value in row.items() if name != "threads"}
        # The largest shed layers. Of their up to 2.5 million pre-activations some would always lie
        # within float32's rounding of relu's kink, and the reference would take seconds.
        directions = 1 + row["bidirectional"]
        if row["steps"] * row["batch"] * units * row["layers"] * directions > 1e5:
            sizes |= {"layers": 1, "bidirectional": False}
        # Float32's errors of pre-activations are below 4e-6; float64 needs no such care.
        distance = 4e-6 if dtype == "float32" else 0
        p = make_away_from_kinks(cell, dtype, distance=distance, seed=seed, **sizes)
        check(p, row, row["threads"])


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
def test_unbatched(cell, dtype):
    for seed, (units, batch_first) in enumerate(itertools.product(SIZES, (False, True))):
        sizes = {"units": units, "inputs": 3, "steps": 5, "layers": 2, "bidirectional": True}
        p = make_away_from_kinks(
            cell, dtype, distance=4e-6, seed=seed, batch=None, batch_first=batch_first, **sizes
        )
        check(p, units)


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
def test_inference(cell, dtype):
    """`infer` is `forward` without dropout, which the other tests have compared."""
    for seed, row in enumerate(design(VARIANTS.index((cell, dtype)))[::3]):
        sizes = {name: value for name, value in row.items() if name not in ("threads", "dropout")}
        p = make(cell, dtype, seed=seed, **sizes)
        y, state, _ = p.forward()
        with threads(row["threads"]):
            y_infer, state_infer = p.infer()
        np.testing.assert_array_equal(y_infer, y)
        np.testing.assert_array_equal(state_infer, state)


# Sizes around and beyond the blocks in which the kernels work


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
@pytest.mark.parametrize("batch", [1, 3, 16, 256])
def test_around_the_chunks_of_backward(cell, dtype, batch):
    """BPTT sums its products over chunks of 256 rows, or the next whole number of steps."""
    chunk = -(-256 // batch)
    for steps in (chunk - 1, chunk, chunk + 1, 2 * chunk + 1):
        if steps > 0:
            sizes = {"steps": steps, "batch": batch, "inputs": 5, "units": 9}
            check(make_away_from_kinks(cell, dtype, distance=4e-6, **sizes), sizes)


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
@pytest.mark.parametrize(("batch", "steps"), [(1, 32), (3, 88), (5, 7), (40, 8)])
def test_around_the_parts_of_a_wavefront(cell, dtype, batch, steps):
    """Stacked layers work on an eighth of the steps at a time, on 32 to 256 rows."""
    for n, more in enumerate((-1, 0, 1), start=2):
        sizes = {"steps": steps + more, "batch": batch, "inputs": 5, "units": 33, "layers": 3}
        check(make_away_from_kinks(cell, dtype, distance=4e-6, **sizes), sizes, n)


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_around_the_chunks_of_forward(cell, dtype, bidirectional):
    """W x is computed for as many steps as fill 256 KiB: 4 gates in an LSTM, and in a GRU."""
    units, slots = 64, 4 if cell in ("lstm", "gru") else 1
    rows = (256 << 10) // (slots * units * np.dtype(dtype).itemsize)
    for batch, steps in [(1, rows - 1), (1, rows), (1, rows + 1), (3, 2 * rows // 3 + 1)]:
        sizes = {"inputs": 3, "units": units, "bidirectional": bidirectional}
        p = make(cell, dtype, steps=steps, batch=batch, **sizes)
        want, _ = reference.infer(cell, p.x, p.parameters, p.state)
        for y in (p.infer()[0], p.forward()[0]):
            assert np.linalg.norm(y - want) <= norm_bounds(p)[0] * np.linalg.norm(want)


BEYOND = {
    "many sequences": {"steps": 3, "batch": 1000, "inputs": 3, "units": 5},
    "a step of many rows": {"steps": 2, "batch": 1100, "inputs": 1, "units": 64},
    "wide": {"steps": 1, "batch": 2, "inputs": 5, "units": 700},
    "many inputs": {"steps": 2, "batch": 3, "inputs": 1500, "units": 2},
    "deep": {"steps": 3, "batch": 2, "inputs": 2, "units": 3, "layers": 9},
}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", BEYOND)
def test_beyond_every_block(cell, name):
    check(make(cell, **BEYOND[name]), name)


@pytest.mark.parametrize(
    ("cell", "steps", "layers"), [("lstm", 20_000, 1), ("gru", 2_100, 2), ("rnn_tanh", 2_100, 3)]
)
def test_very_many_steps(cell, steps, layers):
    """Beyond 2048 steps even an eighth of them, a part of a wavefront, exceeds a chunk."""
    p = make(cell, steps=steps, batch=1, inputs=2, units=8, layers=layers)
    check_norms(p, run(functional, p), run(reference, p))


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
def test_saturated_gates(cell, dtype):
    """Weights 30 times as large drive sigmoid and tanh into saturation, at some units for good.

    Few steps: of such weights each step enlarges the errors of the one before. Relu only grows.
    """
    p = make_away_from_kinks(
        cell, dtype, distance=1e-4, gain=30, steps=1, batch=5, inputs=7, units=33
    )
    check_norms(p, run(functional, p), run(reference, p))


# Dropout


def identity_network(layers, units, dtype, bidirectional) -> dict[str, np.ndarray]:
    """Return relu layers with y = x for x >= 0; each direction passes on its half of y."""
    width = units * (1 + bidirectional)
    parameters = {}
    for k, d in itertools.product(range(layers), range(1 + bidirectional)):
        suffix = f"_l{k}" + ("_reverse" if d else "")
        rows = slice(d * units, (d + 1) * units)
        parameters["weight_ih" + suffix] = np.eye(width, dtype=dtype)[rows]
        parameters["weight_hh" + suffix] = np.zeros((units, units), dtype)
    return parameters


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [2, 3])
def test_the_dropout_mask_itself(dtype, bidirectional, layers):
    """y and dx of ones are the product of all masks, in both layouts, whatever the threads."""
    keys = [(0, 0), (1, 2), (2**64 - 1, 2**63 + 5)]
    shapes = [(1, 1, 1), (3, 5, 7), (50, 4, 33), (2, 33, 64)]
    for key, (steps, batch, units), rate in itertools.product(keys, shapes, [0.25, 1 / 3, 1.0]):
        width = units * (1 + bidirectional)
        parameters = identity_network(layers, units, dtype, bidirectional)
        want = np.ones((steps, batch, width), dtype)
        for k in range(layers - 1):
            want = want * reference.dropout_mask(want.shape, rate, key, k).astype(dtype)
        x = np.ones_like(want)
        for n, batch_first in [(1, False), (4, False), (3, True)]:
            flip = (lambda a: a.swapaxes(0, 1)) if batch_first else (lambda a: a)
            options = {"dropout": rate, "dropout_key": key, "batch_first": batch_first}
            with threads(n):
                y, _, tape = functional.forward("rnn_relu", flip(x), parameters, **options)
                gradients = functional.backward(tape, flip(x))
            # The factors are multiplied in another order.
            np.testing.assert_allclose(flip(y), want, rtol=3 * np.finfo(dtype).eps)
            np.testing.assert_allclose(flip(gradients.x), want, rtol=3 * np.finfo(dtype).eps)


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_dropout(cell, dtype, bidirectional):
    for seed, (layers, rate) in enumerate(itertools.product((1, 2, 3), (0.1, 0.5, 1.0))):
        sizes = {"steps": 6, "batch": 5, "inputs": 3, "units": 19, "layers": layers}
        key = (seed, 2**64 - 1 - seed)
        p = make_away_from_kinks(
            cell,
            dtype,
            distance=4e-6,
            seed=seed,
            bidirectional=bidirectional,
            dropout=rate,
            dropout_key=key,
            **sizes,
        )
        check(p, (layers, rate))


# NaN and infinity


def check_special(p) -> None:
    """Assert NaN and infinities where the reference has them, and its values elsewhere."""
    with np.errstate(all="ignore"):
        want = run(reference, p)
    got = run(functional, p)
    for part, bound in enumerate(norm_bounds(p)):
        for name, expected in want[part].items():
            result = got[part][name]
            if p.cell == "rnn_relu" and part == 1:
                # relu's derivative at NaN is 1 in the kernels, as in torch, NaN in the reference.
                assert not (np.isnan(result) & ~np.isnan(expected)).any(), name
                result = np.where(np.isnan(expected), expected, result)
            np.testing.assert_array_equal(np.isnan(result), np.isnan(expected), err_msg=name)
            infinite = np.isinf(expected)
            np.testing.assert_array_equal(result[infinite], expected[infinite], err_msg=name)
            finite = np.isfinite(expected)
            error = np.linalg.norm(result[finite] - expected[finite])
            # Ten times the bound: little may be left to be relative to.
            assert error <= 10 * bound * np.linalg.norm(expected[finite]), name


PLACES = ["x", "h", "c", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0_reverse"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize(
    ("cell", "dtype", "place"),
    [(c, d, p) for (c, d), p in itertools.product(VARIANTS, PLACES) if c == "lstm" or p != "c"],
)
def test_nan_and_infinity_reach_what_they_must(cell, dtype, place, value):
    """A single one, in a batch that fills tiles, with units that leave lanes of a vector unused."""
    sizes = {"steps": 7, "batch": 8, "inputs": 5, "units": 11, "layers": 2, "bidirectional": True}
    p = make_away_from_kinks(cell, dtype, distance=4e-6, **sizes)
    array = p.arrays[place].copy()
    array[tuple(size // 2 for size in array.shape)] = value
    check_special(p.with_array(place, array))


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
def test_nan_reaches_later_steps_of_its_sequence_only(cell, dtype):
    p = make(cell, dtype, steps=9, batch=7, inputs=5, units=17)
    p.x[4, 3, 2] = np.nan
    y, state, tape = p.forward()
    others = np.delete(y, 3, axis=1)
    assert np.isnan(y[4:, 3]).all()
    assert np.isfinite(y[:4]).all()
    assert np.isfinite(others).all()
    for part in unpack(state):
        assert np.isnan(part[:, 3]).all()
        assert np.isfinite(np.delete(part, 3, axis=1)).all()
    gradients = functional.backward(tape, p.dy)
    assert np.isfinite(np.delete(gradients.x, 3, axis=1)).all()
    assert np.isnan(gradients.parameters["weight_ih_l0"][:, 2]).all()
    assert np.isnan(gradients.parameters["weight_hh_l0"]).all()


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
def test_nan_in_dy_reaches_earlier_steps_of_its_sequence_only(cell, dtype):
    # weights > 0 keep relu on, so that no derivative stops a gradient
    p = make(cell, dtype, steps=9, batch=7, inputs=5, units=17)
    x, parameters = np.abs(p.x), {name: np.abs(a) for name, a in p.parameters.items()}
    tape = functional.forward(cell, x, parameters)[2]
    dy = p.dy.copy()
    dy[4, 3] = np.nan
    gradients = functional.backward(tape, dy)
    assert np.isnan(gradients.x[:5, 3]).all()
    assert np.isfinite(gradients.x[5:]).all()
    assert np.isfinite(np.delete(gradients.x, 3, axis=1)).all()
    assert all(np.isnan(gradient).all() for gradient in gradients.parameters.values())


# Instruction sets


def save_samples(path: str) -> None:
    np.savez(
        path, **{f"{label}/{name}": a for label, part in samples() for name, a in part.items()}
    )


def samples():
    for cell, dtype in VARIANTS:
        sizes = {"steps": 9, "batch": 5, "inputs": 20, "units": 37, "layers": 2}
        p = make_away_from_kinks(
            cell, dtype, distance=4e-6, bidirectional=True, dropout=0.3, **sizes
        )
        for kind, part in zip(("outputs", "gradients"), run(functional, p), strict=True):
            yield f"{cell}/{dtype}/{kind}", part


@pytest.fixture(scope="module")
def by_isa(tmp_path_factory):
    """What a process of its own computes with each instruction set and number of threads."""
    results = {}
    for n, isa in enumerate(fusedrnn.info()["isa_available"]):
        path = str(tmp_path_factory.mktemp("isa") / f"{isa}.npz")
        code = (
            "import sys, fusedrnn, test_kernels; "
            f"assert fusedrnn.info()['isa'] == {isa!r}; "
            f"assert fusedrnn.get_num_threads() == {n + 1}; "
            "test_kernels.save_samples(sys.argv[1])"
        )
        environment = {
            **os.environ,
            "FUSEDRNN_ISA": isa,
            "FUSEDRNN_NUM_THREADS": str(n + 1),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        subprocess.run([sys.executable, "-c", code, path], env=environment, check=True)
        with np.load(path) as file:
            results[isa] = dict(file)
    return results


def test_this_isa_gives_the_same_bits_in_another_process(by_isa):
    same = by_isa[fusedrnn.info()["isa"]]
    for label, part in samples():
        for name, array in part.items():
            np.testing.assert_array_equal(array, same[f"{label}/{name}"], err_msg=name)


def test_instruction_sets_agree(by_isa):
    """Each is within the bound of the reference, so two are within twice the bound."""
    bounds = {"float32": (1e-6, 5e-6), "float64": (1e-13, 1e-12)}
    one, *others = by_isa.values()
    for other, name in itertools.product(others, one):
        _, dtype, kind, *_ = name.split("/")
        bound = 2 * bounds[dtype][kind == "gradients"]
        assert one[name].dtype == dtype
        assert np.linalg.norm(one[name] - other[name]) <= bound * np.linalg.norm(one[name]), name


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
def test_saturated_units(cell, dtype, sign):
    """The slope 1 - y^2 of a tanh near 1 has lost digits that y, rounded, doesn't have."""
    p = make(cell, dtype, steps=3, batch=4, inputs=5, units=6, layers=2)
    biases = {n: b + b.dtype.type(4 * sign) for n, b in p.parameters.items() if "bias_ih" in n}
    p = replace(p, parameters=p.parameters | biases)
    check_norms(p, run(functional, p), run(reference, p))

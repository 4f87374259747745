"""Ragged batches and projections in the compiled kernels, against the reference; and their bits."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

import fusedrnn
from error_problems import rejects
from fusedrnn import functional, reference
from kernel_problems import (
    CELLS,
    DTYPES,
    KernelProblem,
    check_elements,
    check_norms,
    design,
    make,
    make_away_from_kinks,
    run,
    threads,
)
from reference_problems import LENGTHS, PROJECTIONS, relative, unpack
from test_determinism import DIVISIONS, assert_bits, assert_same, everything
from test_kernel_gradients import DISTANCE, TOLERANCE, check_along_directions
from test_reference_gradients import numeric_gradient

pytestmark = pytest.mark.isa

VARIANTS = list(itertools.product(CELLS, DTYPES))
KINDS = [*((cell, False) for cell in CELLS), ("lstm", True)]  # cell, whether it projects


def check(p: KernelProblem, label) -> None:
    got, want = run(functional, p), run(reference, p)
    check_norms(p, got, want, label)
    check_elements(p, got, want, label)


def draw_lengths(rng: np.random.Generator, steps: int, batch: int) -> list[int]:
    """Return lengths of which some are 0, 1 and T, the others anything."""
    lengths = rng.integers(0, steps + 1, batch)
    kind = rng.integers(0, 6, batch)
    lengths = np.select([kind == 0, kind == 1, kind == 2], [0, 1, steps], lengths)
    return lengths.tolist()


def with_options(p: KernelProblem, **options) -> KernelProblem:
    return replace(p, options={**p.options, **options})


# Against the reference


@pytest.mark.parametrize(("cell", "projects"), KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("part", range(3))
def test_ragged_grid(cell, dtype, projects, part):
    rng = np.random.default_rng([VARIANTS.index((cell, dtype)), part])
    for seed, row in [*enumerate(design(VARIANTS.index((cell, dtype))))][part::3]:
        sizes = {name: value for name, value in row.items() if name != "threads"}
        if sizes["steps"] * sizes["batch"] * sizes["units"] > 2e4 or sizes["batch"] == 0:
            continue
        if projects:
            if sizes["units"] == 1:
                continue
            sizes["proj_size"] = int(rng.integers(1, sizes["units"]))
        if not projects or seed % 4:
            sizes["lengths"] = draw_lengths(rng, sizes["steps"], sizes["batch"])
        distance = 4e-6 if dtype == "float32" else 0
        p = make_away_from_kinks(cell, dtype, distance=distance, seed=seed, **sizes)
        with threads(row["threads"]):
            check(p, sizes)


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
@pytest.mark.parametrize("case", LENGTHS, ids=str)
def test_the_cases_of_the_reference(cell, dtype, case):
    check(make_away_from_kinks(cell, dtype, distance=4e-6, **case), case)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", PROJECTIONS, ids=str)
def test_the_projections_of_the_reference(dtype, case):
    check(make("lstm", dtype, **case), case)
    check(make("lstm", dtype, **(case | {"units": 70, "proj_size": 65})), case)


# Against central differences


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("case", LENGTHS, ids=str)
def test_gradients_of_ragged_batches(cell, case):
    check_along_directions(make_away_from_kinks(cell, distance=DISTANCE, exact_zeros=True, **case))


@pytest.mark.parametrize("lengths", [None, [3, 1]], ids=str)
@pytest.mark.parametrize("case", PROJECTIONS, ids=str)
def test_gradients_of_projections(case, lengths):
    if lengths is not None and {"batch", "steps"} & case.keys():
        lengths = None
    check_along_directions(make("lstm", **case, lengths=lengths))


@pytest.mark.parametrize("units", [2, 5, 9])
def test_every_element_of_a_projection(units):
    p = make("lstm", units=units, proj_size=units - 1, layers=2, bidirectional=True, lengths=[3, 1])
    gradients = p.gradients()
    assert list(gradients) == list(p.arrays)
    for name, gradient in gradients.items():
        assert relative(gradient, numeric_gradient(p, name)) <= TOLERANCE, name


# The same bits


def ragged_division(cell, dtype, name, projects) -> KernelProblem:
    sizes = dict(DIVISIONS[name])
    rng = np.random.default_rng(len(name))
    lengths = draw_lengths(rng, sizes["steps"], sizes["batch"])
    lengths[0] = sizes["steps"] - 1
    if projects:
        sizes["proj_size"] = sizes["units"] // 2
    return make(cell, dtype, lengths=lengths, **sizes)


@pytest.mark.parametrize("name", DIVISIONS)
@pytest.mark.parametrize(("cell", "projects"), KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_threads(cell, dtype, projects, name):
    p = ragged_division(cell, dtype, name, projects)
    with threads(1):
        want = everything(p)
    for n in (2, 3, 4):
        with threads(n):
            assert_same(everything(p), want)


@pytest.mark.parametrize("name", ["few rows", "layers", "wavefront"])
@pytest.mark.parametrize(("cell", "projects"), KINDS)
def test_checkpoints(cell, projects, name):
    p = ragged_division(cell, "float32", name, projects)
    want = everything(p)
    for every in (1, 7, 30):
        assert_same(everything(with_options(p, checkpoint_every=every)), want)


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
def test_inference_is_training_without_dropout(cell, dtype):
    for name in DIVISIONS:
        p = ragged_division(cell, dtype, name, cell == "lstm")
        p = with_options(p, dropout=0.0)
        y, state, _ = p.forward()
        y_infer, state_infer = p.infer()
        assert_bits(y_infer, y)
        for got, want in zip(unpack(state_infer), unpack(state), strict=True):
            assert_bits(got, want)


@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
def test_batch_first_is_the_same(cell, dtype):
    p = make(cell, dtype, steps=7, batch=4, layers=2, bidirectional=True, lengths=[3, 7, 0, 5])
    swapped = replace(
        p, x=p.x.swapaxes(0, 1), dy=p.dy.swapaxes(0, 1), options={**p.options, "batch_first": True}
    )
    got, want = everything(swapped), everything(p)
    for name in ("x", "y"):
        got[name] = got[name].swapaxes(0, 1)
    assert_same(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_batches_are_sorted_by_a_team(dtype):
    """Enough bytes that several threads gather and scatter the rows."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 301, 50).tolist()
    p = make("gru", dtype, steps=300, batch=50, inputs=40, units=8, lengths=lengths)
    with threads(4):
        check(p, "large")


# Memory


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("strided", [False, True])
def test_out_is_filled_whole(batch_first, strided):
    p = make("lstm", "float32", steps=6, batch=3, lengths=[2, 6, 0], batch_first=batch_first)
    want, want_state = p.infer()
    out = np.full((*want.shape[:-1], want.shape[-1] * 2), np.nan, np.float32)
    out = out[..., ::2] if strided else np.ascontiguousarray(out[..., : want.shape[-1]])
    y, state = p.infer(out=out)
    assert y is out
    assert_bits(out, want)
    assert_bits(state[0], want_state[0])
    tape_out = np.full_like(want, np.nan)
    y, _, tape = functional.forward(
        p.cell, p.x, p.parameters, p.state, lengths=[2, 6, 0], batch_first=batch_first, out=tape_out
    )
    tape_out[...] = np.nan  # the tape has its own copy
    got = functional.backward(tape, p.dy, p.dstates)
    assert_bits(got.x, p.gradients()["x"])


def test_what_a_tape_keeps():
    """The copies of x and y of a ragged batch, and the activations of its valid steps only."""
    lengths = [100] + [1] * 9
    p = make("lstm", "float32", steps=100, batch=10, inputs=16, units=16, lengths=lengths)
    ragged, padded = p.forward()[2].nbytes, with_options(p, lengths=None).forward()[2].nbytes
    rows = sum(lengths)
    assert padded * rows / 1000 < ragged < padded * rows / 1000 + 2 * rows * 16 * 4 + 4096


# Layers


@pytest.mark.parametrize("make_layer", [fusedrnn.LSTM, fusedrnn.GRU, fusedrnn.RNN])
@pytest.mark.parametrize("proj_size", [0, 3])
def test_layers_take_lengths(make_layer, proj_size):
    if proj_size and make_layer is not fusedrnn.LSTM:
        with pytest.raises(TypeError, match="proj_size"):
            make_layer(4, 5, proj_size=proj_size)
        return
    options = {"proj_size": proj_size} if proj_size else {}
    layer = make_layer(4, 5, 2, bidirectional=True, dropout=0.5, seed=0, **options)
    x = np.random.default_rng(0).normal(size=(6, 3, 4)).astype(np.float32)
    lengths = np.array([6, 0, 2])
    y, state = layer(x, lengths=lengths)
    cell, parameters = layer._network.cell, dict(layer.parameters)
    want, _ = reference.infer(cell, x, parameters, lengths=lengths)
    np.testing.assert_allclose(y, want, atol=1e-6)
    again, _ = layer(x, state, lengths=lengths)
    want, _ = reference.infer(cell, x, parameters, state, lengths=lengths)
    np.testing.assert_allclose(again, want, atol=1e-6)
    y, state, tape = layer.forward(x, lengths=lengths)
    gradients = layer.backward(tape, y)
    assert not gradients.x[2:, 2].any() and gradients.x[:2, 2].any()
    assert list(gradients.parameters) == list(layer.parameters)


def test_projected_layers_are_layers():
    layer = fusedrnn.LSTM(3, 8, 2, proj_size=5, bidirectional=True, seed=1)
    assert (layer.proj_size, layer.hidden_size) == (5, 8)
    assert "proj_size=5" in repr(layer)
    shapes = {name: p.shape for name, p in layer.parameters.items()}
    assert shapes == reference.parameter_shapes("lstm", 3, 8, 2, bidirectional=True, proj_size=5)
    assert list(shapes) == list(
        reference.parameter_shapes("lstm", 3, 8, 2, bidirectional=True, proj_size=5)
    )
    weights = functional.Weights("lstm", layer.parameters)
    assert (weights.network.proj_size, weights.network.hidden_size) == (5, 8)
    assert weights.network.counts() == (20, sum(p.size for p in layer.parameters.values()))


@pytest.mark.parametrize("batch", [None, 4])
def test_projected_streams(batch):
    layer = fusedrnn.LSTM(3, 20, 2, proj_size=7, seed=1)
    stream = layer.stream(batch)
    x = np.random.default_rng(0).normal(size=(9, *(() if batch is None else (batch,)), 3))
    x = x.astype(np.float32)
    want, state = layer(x)
    assert_bits(np.stack([stream.step(row) for row in x]), want)
    for got, expected in zip(stream.state, state, strict=True):
        assert_bits(got, expected)
    stream.state = state
    assert_bits(stream.step(x[0]), layer(x[:1], state)[0][0])


# Errors


def test_wrong_projections():
    for size in (4, 5, -1):
        with pytest.raises(ValueError, match=f"proj_size: expected 0 to H - 1 = 3, got {size}"):
            fusedrnn.LSTM(3, 4, proj_size=size)
    with pytest.raises(TypeError, match="proj_size: expected an integer, got float"):
        fusedrnn.LSTM(3, 4, proj_size=2.0)
    p = make("lstm", units=4, proj_size=2)
    wide = {**p.parameters, "weight_hr_l0": np.zeros((4, 4))}
    with rejects(ValueError, "weight_hr_l0: its rows: expected 0 to H - 1 = 3, got 4"):
        functional.infer("lstm", p.x, wide)
    with rejects(ValueError, "parameters: unexpected weight_hr_l0"):
        functional.infer("gru", p.x, {**make("gru").parameters, "weight_hr_l0": np.zeros((2, 3))})
    with rejects(ValueError, "weight_hh_l0: expected (16, 2) [4*H, P], got (16, 4)"):
        functional.infer("lstm", p.x, {**p.parameters, "weight_hh_l0": np.zeros((16, 4))})
    with rejects(ValueError, "state[0]: expected (1, 2, 2) [L, B, P], got (1, 2, 4)"):
        functional.infer("lstm", p.x, p.parameters, (np.zeros((1, 2, 4)),) * 2)
    tape = p.forward()[2]
    with rejects(ValueError, "dy: expected (3, 2, 2) [T, B, P], got (3, 2, 4)"):
        functional.backward(tape, np.zeros((3, 2, 4)))

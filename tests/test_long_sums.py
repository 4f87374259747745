"""Gradients of weights keep their digits however many rows they are summed over.

The rows are a sequence's steps times its batch: up to a million of them. Beside the float64
kernels, which other tests compare with the reference, only the rounding of float32 is left. The
bound is that of few rows: a running sum of so many would be wrong by up to a hundred times as much.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import head_problems
from fusedrnn import functional, models
from kernel_problems import CELLS, KernelProblem, make, run, threads
from test_determinism import assert_same, everything

pytestmark = pytest.mark.isa

BOUND = 2e-6  # of the largest element

# (T, B): one long sequence; a step with more rows than a sum takes at once; one of many chunks.
SHAPES = [(100_000, 1), (1, 100_000), (200, 512)]
MILLION = {"lstm": (1_000_000, 1), "gru": (2000, 512), "rnn_tanh": (50, 20_000)}

# Of the input: enough that on every ISA an element is one chain of additions, as in narrow panels
# it is not.
INPUTS = 33

HEADS = {
    "cross_entropy": models.linear_cross_entropy,
    "squared_error": models.linear_squared_error,
}


def make_long(cell, steps, batch, inputs=INPUTS, **sizes) -> KernelProblem:
    """Return a problem whose gradients grow with its rows, as those of a mean do not cancel.

    relu's pre-activations are positive, away from the kink: of so many some would fall on its other
    side by rounding alone.
    """
    p = make(cell, "float32", steps=steps, batch=batch, inputs=inputs, units=4, **sizes)
    p = replace(p, dy=p.dy + np.float32(1))
    if cell != "rnn_relu":
        return p
    positive = {name: abs(array) / 2 for name, array in p.parameters.items()}
    return replace(p, x=abs(p.x), parameters=positive, states=tuple(abs(s) for s in p.states))


def in_float64(p: KernelProblem) -> KernelProblem:
    wide = {name: array.astype(np.float64) for name, array in p.parameters.items()}
    return replace(
        p,
        x=p.x.astype(np.float64),
        parameters=wide,
        states=tuple(s.astype(np.float64) for s in p.states),
        dy=p.dy.astype(np.float64),
        dstates=tuple(s.astype(np.float64) for s in p.dstates),
    )


def assert_digits(got: dict, want: dict, names) -> None:
    for name in names:
        error = np.abs(got[name] - want[name]).max() / np.abs(want[name]).max()
        assert error <= BOUND, (name, error)


def check(p: KernelProblem) -> None:
    with threads(1):  # of so small layers others would only wait for each other
        assert_digits(p.gradients(), in_float64(p).gradients(), p.parameters)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_hundred_thousand_rows(cell, shape):
    check(make_long(cell, *shape))


@pytest.mark.parametrize("cell", list(MILLION))
def test_a_million_rows(cell):
    check(make_long(cell, *MILLION[cell], inputs=9))


@pytest.mark.parametrize(
    "case",
    [
        {"proj_size": 3},
        {"layers": 2},
        {"bidirectional": True},
        {"checkpoint_every": 300},
        {"layers": 2, "bidirectional": True, "checkpoint_every": 5000},
    ],
    ids=str,
)
def test_every_way_through_a_long_sequence(case):
    check(make_long("lstm", 30_000, 2, **case))


def test_sequences_that_end_early():
    """One long sequence among many short ones: the first chunk has nearly all of the rows."""
    p = make_long("gru", 5000, 600, inputs=9)
    lengths = np.full(600, 150)
    lengths[123] = 5000
    valid = np.arange(5000)[:, np.newaxis] < lengths
    p = replace(
        p,
        x=np.where(valid[..., np.newaxis], p.x, 0),
        dy=np.where(valid[..., np.newaxis], p.dy, 0),
        options={"lengths": lengths},
    )
    check(p)


@pytest.mark.parametrize("kind", list(HEADS))
@pytest.mark.parametrize("rows", [100_000, 300_000])
def test_a_head(kind, rows):
    p = head_problems.make(kind, positions=(rows,), units=INPUTS, classes=4, ignored=False)
    arrays = {name: (array + 1).astype(np.float32) for name, array in p.arrays.items()}

    def gradients(dtype):
        *inputs, targets = (a.astype(dtype) for a in (*arrays.values(), p.targets))
        if kind == "cross_entropy":
            targets = p.targets
        found = HEADS[kind](*inputs, targets).gradients
        return dict(zip(arrays, found, strict=True))

    with threads(1):
        assert_digits(gradients(np.float32), gradients(np.float64), ("weight", "bias"))


# What such sums must not lose: long enough that they keep what they round off.
MANY_TERMS = [
    {"steps": 300, "batch": 33, "inputs": 31, "units": 33},
    {"steps": 5000, "batch": 1, "inputs": 3, "units": 5, "bidirectional": True},
    {"steps": 700, "batch": 9, "inputs": 5, "units": 9, "layers": 3, "dropout": 0.3},
    {"steps": 9, "batch": 2100, "inputs": 2, "units": 3},
]


@pytest.mark.parametrize("sizes", MANY_TERMS, ids=str)
def test_the_same_bits_for_threads_and_checkpoints(sizes):
    p = make("lstm", "float32", proj_size=2, **sizes)
    want = everything(p)
    for n in (2, 3):
        with threads(n):
            assert_same(everything(p), want)
    for every in (1, 200):
        with threads(2):
            assert_same(
                everything(replace(p, options={**p.options, "checkpoint_every": every})), want
            )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_sum_that_overflows_stays_infinite(dtype):
    huge = np.finfo(dtype).max / 64
    p = make("rnn_relu", dtype, steps=6000, batch=1, inputs=1, units=1, bias=False)
    zeros = {name: np.zeros_like(array) for name, array in p.parameters.items()}
    zeros["weight_ih_l0"] += 1
    p = replace(p, x=np.ones_like(p.x), parameters=zeros, dy=np.full_like(p.dy, huge))
    outputs, gradients = run(functional, p)
    assert np.isfinite(outputs["y"]).all()
    assert gradients["weight_ih_l0"] == np.inf

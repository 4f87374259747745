"""What holds for any problem, with fresh draws at every run.

A failure prints `@reproduce_failure(...)`, which put on the test draws the same problem again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from fusedrnn import functional, reference
from kernel_problems import (
    BATCHES,
    CELLS,
    DTYPES,
    SIZES,
    KernelProblem,
    check_norms,
    kink_distance,
    make,
    run,
    threads,
)
from reference_problems import pack, unpack
from test_reference_gradients import STEP, check_along_directions

fresh = settings(deadline=None, derandomize=False, database=None, print_blob=True)

# The sizes of the grid, where vectors and tiles begin and end, or any up to three vectors of 16.
sizes = st.one_of(st.integers(1, 48), st.sampled_from(SIZES))
batches = st.one_of(st.integers(0, 20), st.sampled_from(BATCHES))
words = st.integers(0, 2**64 - 1)


@st.composite
def problems(draw, max_steps=40, work=3e6, **fixed) -> KernelProblem:
    """Any problem of at most about `work` products a layer, so that the reference takes no time."""
    options = {
        "cell": draw(st.sampled_from(CELLS)),
        "dtype": draw(st.sampled_from(DTYPES)),
        "inputs": draw(sizes),
        "units": draw(sizes),
        "batch": draw(st.one_of(st.none(), batches)),
        "layers": draw(st.integers(1, 3)),
        "bidirectional": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "state": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "dropout": draw(st.sampled_from([0.0, 0.0, 0.2, 0.5, 1.0])),
        "dropout_key": draw(st.tuples(words, words)),
        "seed": draw(st.integers(0, 2**32)),
    } | fixed
    step_work = (options["batch"] or 1) * options["units"] * (options["units"] + options["inputs"])
    options["steps"] = draw(st.integers(1, max(1, min(max_steps, int(work / step_work)))))
    return make(**options)


@settings(fresh, max_examples=150)
@given(p=problems(), n=st.integers(1, 4))
def test_any_problem_agrees_with_the_reference(p, n):
    # float32's errors of pre-activations stay below 4e-6, see test_kernels.
    distance = 4e-6 if p.dtype == np.float32 else 1e-12
    assume(p.cell != "rnn_relu" or kink_distance(p, exact_zeros=False) > distance)
    with threads(n):
        got = run(functional, p)
    check_norms(p, got, run(reference, p))


@settings(fresh, max_examples=60)
@given(p=problems(), n=st.integers(2, 4))
def test_any_problem_has_the_same_bits_on_any_number_of_threads(p, n):
    with threads(1):
        want = run(functional, p)
    with threads(n):
        got = run(functional, p)
    for part, expected in zip(got, want, strict=True):
        for name, array in expected.items():
            np.testing.assert_array_equal(part[name], array, err_msg=name)


@settings(fresh, max_examples=60)
@given(p=problems(max_steps=600), every=st.integers(1, 600), n=st.integers(1, 4))
def test_any_checkpoints_change_no_bit(p, every, n):
    want = run(functional, p)
    with threads(n):
        got = run(functional, replace(p, options={**p.options, "checkpoint_every": every}))
    for part, expected in zip(got, want, strict=True):
        for name, array in expected.items():
            np.testing.assert_array_equal(part[name], array, err_msg=name)


@settings(fresh, max_examples=60)
@given(
    p=problems(bidirectional=False, batch_first=False, dropout=0.0),
    cut=st.integers(1, 39),
    n=st.integers(1, 4),
)
def test_any_sequence_may_be_cut_anywhere(p, cut, n):
    assume(cut < len(p.x))
    y, state = p.infer()
    with threads(n):
        first, middle = functional.infer(p.cell, p.x[:cut], p.parameters, p.state)
        second, last = functional.infer(p.cell, p.x[cut:], p.parameters, middle)
    np.testing.assert_array_equal(np.concatenate((first, second)), y)
    np.testing.assert_array_equal(last, state)


@settings(fresh, max_examples=60)
@given(p=problems(batch_first=False, dropout=0.0), data=st.data())
def test_any_part_of_a_batch_is_computed_as_in_the_whole(p, data):
    assume(p.x.ndim == 3 and p.x.shape[1] > 0)
    rows = data.draw(st.lists(st.integers(0, p.x.shape[1] - 1), min_size=1, max_size=8))
    part = replace(
        p,
        x=p.x[:, rows],
        dy=p.dy[:, rows],
        states=tuple(s[:, rows] for s in p.states),
        dstates=tuple(s[:, rows] for s in p.dstates),
    )
    (outputs, gradients), (want, want_gradients) = run(functional, part), run(functional, p)
    for name, array in outputs.items():
        np.testing.assert_array_equal(array, want[name][:, rows], err_msg=name)
    for name in ("x", *reference.CELLS[p.cell].states):
        np.testing.assert_array_equal(gradients[name], want_gradients[name][:, rows])


@settings(fresh, max_examples=60)
@given(p=problems(dtype="float64"))
def test_backward_is_linear_in_the_gradients_it_is_given(p):
    """Twice dy and dstate give exactly twice the gradients: a power of two rounds nothing.

    In float64: in float32 long decays reach the numbers that are flushed.
    """
    twice = replace(p, dy=2 * p.dy, dstates=tuple(2 * s for s in p.dstates))
    want = p.gradients()
    for name, gradient in twice.gradients().items():
        np.testing.assert_array_equal(gradient, 2 * want[name], err_msg=name)


@settings(fresh, max_examples=40)
@given(p=problems(max_steps=4, work=2e3, dtype="float64"), seed=st.integers(0, 2**32))
@example(p=make("lstm", steps=3, batch=2, inputs=3, units=5, layers=2), seed=0)
def test_any_gradient_agrees_with_differences(p, seed):
    assume(p.x.size > 0)
    assume(p.cell != "rnn_relu" or kink_distance(p, exact_zeros=True) > 20 * STEP)
    check_along_directions(p, seed)


@settings(fresh, max_examples=40)
@given(p=problems(), data=st.data())
def test_nan_in_any_sequence_stays_there(p, data):
    assume(p.x.ndim == 3 and p.x.size > 0)
    axis = 0 if p.options["batch_first"] else 1
    row = data.draw(st.integers(0, p.x.shape[axis] - 1))
    index = tuple(data.draw(st.integers(0, size - 1)) for size in p.x.shape)
    index = tuple(row if k == axis else i for k, i in enumerate(index))
    x = p.x.copy()
    x[index] = np.nan
    y, state, tape = p.with_array("x", x).forward()
    gradients = functional.backward(tape, p.dy, pack(p.dstates))
    clean = p.forward()
    want = functional.backward(clean[2], p.dy, pack(p.dstates))
    for got, expected in [(y, clean[0]), (gradients.x, want.x)]:
        others = [k for k in range(got.shape[axis]) if k != row]
        np.testing.assert_array_equal(got.take(others, axis), expected.take(others, axis))
    for got, expected in zip(unpack(state), unpack(clean[1]), strict=True):
        others = [k for k in range(got.shape[1]) if k != row]
        np.testing.assert_array_equal(got[:, others], expected[:, others])
    if p.options["dropout"] == 0:
        assert np.isnan(y).any()
    assert np.isnan(gradients.parameters["weight_ih_l0"]).any()

"""The losses' kernels against the reference and central differences, in every shape and dtype."""

from __future__ import annotations

import numpy as np
import pytest

import head_problems
from fusedrnn import reference
from fusedrnn.models import (
    cross_entropy,
    linear_cross_entropy,
    linear_squared_error,
    losses,
    squared_error,
)
from kernel_problems import DTYPES, threads

pytestmark = pytest.mark.isa

FUSED = {"cross_entropy": linear_cross_entropy, "squared_error": linear_squared_error}
PLAIN = {"cross_entropy": cross_entropy, "squared_error": squared_error}
REFERENCE = {"cross_entropy": reference.cross_entropy, "squared_error": reference.squared_error}
KINDS = list(FUSED)

# Of a sum of some hundred products of normal numbers, relative to the largest result: a few
# roundings each, which add up like a random walk.
BOUND = {"float32": 1e-5, "float64": 1e-13}

# Around the lanes of every ISA, a panel's width and a block's 128 columns.
CLASSES = (1, 2, 3, 7, 8, 15, 17, 33, 64, 65, 127, 128, 129, 257, 300)
UNITS = (1, 2, 5, 8, 16, 31, 33, 64, 100, 129)


def problem(kind, dtype, **options):
    p = head_problems.make(kind, **options)
    arrays = {name: array.astype(dtype) for name, array in p.arrays.items()}
    for name, array in arrays.items():
        p = p.with_array(name, array)
    return p if kind == "cross_entropy" else p.with_array("targets", p.targets.astype(dtype))


def run(p, **options):
    return FUSED[p.kind](p.y, p.weight, p.bias, p.targets, **p.options, **options)


def assert_close(got, want, dtype) -> None:
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=BOUND[dtype] * (np.abs(want).max(initial=1)))


def check(p, dtype) -> None:
    got, (value, count, gradients) = run(p), p.run()
    assert_close(got.value, value, dtype)
    assert got.count == pytest.approx(count, rel=1e-12)
    for name, gradient, want in zip(p.arrays, got.gradients, gradients, strict=True):
        assert gradient.dtype == dtype, name
        assert_close(gradient, want, dtype)
    alone = run(p, gradients=False)
    assert (alone.value, alone.count, alone.gradients) == (got.value, got.count, None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", head_problems.CASES, ids=str)
def test_every_option(kind, dtype, case):
    check(problem(kind, dtype, **case), dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_size(kind, dtype):
    for seed, classes in enumerate(CLASSES):
        check(problem(kind, dtype, positions=(13,), units=9, classes=classes, seed=seed), dtype)
    for seed, units in enumerate(UNITS):
        check(problem(kind, dtype, positions=(7,), units=units, classes=11, seed=seed), dtype)
    for seed, rows in enumerate((1, 2, 3, 5, 6, 7, 12, 13, 511, 512, 513, 1100)):
        check(problem(kind, dtype, positions=(rows,), units=5, classes=6, seed=seed), dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_central_differences(kind):
    p = problem(kind, "float64", positions=(3, 2), units=3, classes=4, lengths=[3, 1], weights=True)
    gradients = run(p).gradients
    for (name, array), gradient in zip(p.arrays.items(), gradients, strict=True):
        differences = np.empty_like(array)
        for index in np.ndindex(array.shape):
            step = np.zeros_like(array)
            step[index] = 1e-6
            above, below = (run(p.with_array(name, array + s)).value for s in (step, -step))
            differences[index] = (above - below) / 2e-6
        # The differences' own error: h^2 and eps / h.
        np.testing.assert_allclose(gradient, differences, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", head_problems.CASES, ids=str)
def test_losses_of_logits_that_are_there(kind, dtype, case):
    p = problem(kind, dtype, **case)
    o = np.asarray(reference.linear(p.y, p.weight, p.bias)).astype(dtype)
    got = PLAIN[kind](o, p.targets, **p.options)
    value, count, d_o = REFERENCE[kind](o, p.targets, **p.options)
    assert_close(got.value, value, dtype)
    assert got.count == pytest.approx(count, rel=1e-12)
    assert got.d_o.dtype == dtype
    assert_close(got.d_o, d_o, dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_of_threads_gives_the_same_bits(kind, dtype):
    # Several chunks of rows, and work enough for a team.
    p = problem(kind, dtype, positions=(90, 7), units=65, classes=403, weights=True)
    with threads(1):
        want = run(p)
    for n in (1, 2, 3, 4):
        with threads(n):
            got = run(p)
            alone = [run(p, gradients=False).value for _ in range(5)]
        assert got.value == want.value
        assert alone == [want.value] * 5
        for gradient, other in zip(got.gradients, want.gradients, strict=True):
            np.testing.assert_array_equal(gradient, other)


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_count_is_not_read(kind):
    p = problem(kind, "float32", positions=(5, 4), lengths=[5, 0, 2, 3], weights=True)
    want, counts = run(p), p.counts()
    assert 0 < counts.sum() < counts.size
    y, targets = p.y.copy(), p.targets.copy()
    y[~counts] = np.nan
    targets[~counts] = np.nan if kind == "squared_error" else -100
    got = FUSED[kind](y, p.weight, p.bias, targets, **p.options)
    assert got.value == want.value
    for gradient, other in zip(got.gradients, want.gradients, strict=True):
        np.testing.assert_array_equal(gradient, other)
    assert not got.gradients.y[~counts].any()


def test_garbage_targets_past_the_end_are_not_judged():
    y, weight = np.ones((3, 2, 4), np.float32), np.ones((5, 4), np.float32)
    targets = np.array([[0, 1], [2, 999], [-7, 999]])
    loss = linear_cross_entropy(y, weight, None, targets, lengths=[2, 1])
    assert loss.count == 3
    assert loss.value == pytest.approx(3 * np.log(5), rel=1e-6)
    assert loss.gradients.bias is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_beyond_the_range_of_exp(dtype):
    y = np.ones((2, 1), dtype)
    weight = np.array([[1e4], [-1e4], [1e4]], dtype)
    loss = linear_cross_entropy(y, weight, np.zeros(3, dtype), np.array([0, 1]))
    assert loss.value == pytest.approx(2 * np.log(2) + 2e4)
    assert loss.gradients.bias.tolist() == [0, -1, 1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fused", [False, True])
def test_a_class_that_can_not_be(dtype, fused):
    """A bias of minus infinity: probability 0, also of a whole block of classes."""
    classes = 300
    o = np.zeros((1, classes), dtype)
    o[0, 128:256] = -np.inf
    if fused:
        y, weight = np.zeros((1, 1), dtype), np.zeros((classes, 1), dtype)
        loss = linear_cross_entropy(y, weight, o[0], np.array([0]))
        d_o = loss.gradients.bias
    else:
        loss = cross_entropy(o, np.array([0]))
        d_o = loss.d_o[0]
    assert loss.value == pytest.approx(np.log(classes - 128), rel=1e-6)
    assert not d_o[128:256].any()
    assert d_o[1] == pytest.approx(1 / (classes - 128), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_makes_the_loss_a_nan(kind):
    p = problem(kind, "float32", positions=(3,), classes=40, ignored=False)
    p.y[1] = np.nan
    got = run(p)
    assert np.isnan(got.value)
    assert np.isnan(got.gradients.y[1]).all()
    assert np.isfinite(got.gradients.y[[0, 2]]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_not_written_and_may_be_of_any_layout(kind):
    p = problem(kind, "float32", positions=(6, 5), units=7, classes=9)
    want = run(p)
    for name, array in p.arrays.items():
        strided = np.repeat(array, 2, axis=-1)[..., ::2]
        strided.flags.writeable = False
        p = p.with_array(name, strided)
    got = run(p)
    assert got.value == want.value
    for gradient, other in zip(got.gradients, want.gradients, strict=True):
        np.testing.assert_array_equal(gradient, other)


def test_the_matrix_of_all_logits_is_never_in_memory():
    """The results and a chunk of logits, not 4,000 x 20,000 numbers, which would be 320 MB."""
    import resource

    rng = np.random.default_rng(0)
    y, weight = (rng.normal(size=(n, 8)).astype(np.float32) for n in (4_000, 20_000))
    targets = rng.integers(0, 20_000, 4_000)
    linear_cross_entropy(y[:64], weight, None, targets[:64])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    linear_cross_entropy(y, weight, None, targets)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


ERRORS = {
    "y: expected an array of float32 or float64, got int64": {"y": np.ones((3, 4), int)},
    "y: expected at least one dimension, got ()": {"y": np.float32(1)},
    "y: expected a last dimension of at least 1, got (3, 0)": {"y": np.ones((3, 0), np.float32)},
    "weight: expected an array of float32, got float64": {"weight": np.ones((5, 4))},
    "weight: expected (K, 4) [K, H], got (5, 3)": {"weight": np.ones((5, 3), np.float32)},
    "weight: expected (K, 4) [K, H], got (0, 4)": {"weight": np.ones((0, 4), np.float32)},
    "bias: expected (5,), got (4,)": {"bias": np.ones(4, np.float32)},
    "targets: expected integers, got float64": {"targets": np.ones(3)},
    "targets: expected (3,), got (4,)": {"targets": np.ones(4, int)},
    "targets: expected 0 to K - 1 = 4, got 5": {"targets": np.array([0, 5, -100])},
    "targets: expected 0 to K - 1 = 4, got -1": {"targets": np.array([0, -1, 1])},
    "weights: expected (3,), got (1,)": {"weights": [1.0]},
    "weights: expected finite numbers of at least 0, got -1.0": {"weights": [1.0, -1.0, 0.0]},
    "weights: expected finite numbers of at least 0, got nan": {"weights": [1.0, np.nan, 0.0]},
    "weights: expected numbers, got <U1": {"weights": ["a", "b", "c"]},
    "weights: expected a finite sum, got inf": {"weights": [1e308, 1e308, 0.0]},
    "lengths: expected (), got (1,)": {"lengths": [3]},
    "lengths: expected 0 to T = 3, got 4": {"lengths": 4},
    "lengths: expected integers, got float64": {"lengths": 2.5},
    "ignore_index: expected an integer, got float": {"ignore_index": 0.5},
    "reduction: expected 'sum' or 'mean', got 'max'": {"reduction": "max"},
    "gradients: expected a bool, got int": {"gradients": 1},
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors(message):
    arguments = {
        "y": np.ones((3, 4), np.float32),
        "weight": np.ones((5, 4), np.float32),
        "bias": np.ones(5, np.float32),
        "targets": np.zeros(3, int),
    }
    with pytest.raises((ValueError, TypeError)) as error:
        linear_cross_entropy(**{**arguments, **ERRORS[message]})
    assert str(error.value) == message
    kind = TypeError if "numbers, got" in message or "an array of" in message else None
    assert kind is None or error.type is kind


def test_errors_of_the_squared_error():
    y, weight = np.ones((3, 4), np.float32), np.ones((5, 4), np.float32)
    for targets, message in (
        (np.ones((3, 4), np.float32), "targets: expected (3, 5), got (3, 4)"),
        (np.ones((3, 5)), "targets: expected an array of float32, got float64"),
        ([[1.0] * 5] * 3, "targets: expected an array of float32, got list"),
    ):
        with pytest.raises((ValueError, TypeError)) as error:
            linear_squared_error(y, weight, None, targets)
        assert str(error.value) == message


@pytest.mark.parametrize("shape", [(), (3, 2, 2)])
def test_lengths_need_time_and_sequences(shape):
    """With a third axis as long as the second, lengths of the one would fit the other, too."""
    o, targets = np.ones((*shape, 3), np.float32), np.ones(shape, int)
    with pytest.raises(ValueError, match="lengths: expected targets over time"):
        cross_entropy(o, targets, lengths=np.ones(shape[1:2], int))
    with pytest.raises(ValueError, match="lengths: expected targets over time"):
        squared_error(o, o, lengths=np.ones(shape[1:2], int))


@pytest.mark.parametrize("array", ["targets", "weights"])
def test_lists_of_different_lengths(array):
    arguments = {"targets": [[0], [1]], array: [[0], [1, 2]]}
    with pytest.raises(ValueError, match=f"{array}: "):
        cross_entropy(np.ones((2, 1, 3), np.float32), **arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mean_with_weights_so_small_that_one_over_their_sum_is_infinite(kind):
    p = problem(kind, "float64", positions=(4, 3), reduction="mean", ignored=False)
    want = run(p)
    p.options["weights"] = np.full((4, 3), 1e-310)
    got = run(p)
    assert got.value == pytest.approx(want.value, rel=1e-9)
    np.testing.assert_allclose(got.gradients.weight, want.gradients.weight, rtol=1e-9)


# Called as losses.py never does, the module must neither crash nor guess.
CORE = (
    np.ones((3, 4), np.float32),
    np.ones((5, 4), np.float32),
    None,
    np.zeros(2, np.int64),
    np.array([0, 2]),
    np.ones(2),
    True,
)


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, np.ones((3, 5), np.float32)),
        (1, np.ones((0, 4), np.float32)),
        (3, np.zeros(3, np.int64)),
        (3, np.array([0, 5])),
        (3, np.ones((2, 5), np.float32)),
        (4, np.array([2, 0])),
        (4, np.array([1, 1])),
        (4, np.array([0, 3])),
        (4, np.array([0.0, 2.0])),
        (5, np.ones(3)),
    ],
)
def test_the_compiled_function_checks_what_it_reads(position, value):
    arguments = list(CORE)
    assert losses._core.head_loss("cross_entropy", *arguments)[0] > 0
    arguments[position] = value
    with pytest.raises((ValueError, TypeError)):
        losses._core.head_loss("cross_entropy", *arguments)
    with pytest.raises(ValueError, match="there is no loss hinge"):
        losses._core.head_loss("hinge", *CORE)

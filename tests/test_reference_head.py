"""The head and its losses in the reference: by hand, by central differences, by torch; errors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from fusedrnn import reference
from head_problems import CASES, LOSSES, make
from reference_problems import relative
from test_reference_gradients import TOLERANCE, numeric_gradient

# Sums of some ten products in two orders.
ROUNDING = 1e-13


# By hand


def test_two_positions_of_two_classes():
    """o = (2 y + 1/2, -y); position 0 has target 0 and weight 3, position 1 target 1."""
    y, targets, weights = [[0.7], [-0.4]], [0, 1], [3.0, 1.0]
    loss, count, (d_y, d_weight, d_bias) = reference.linear_cross_entropy(
        y, [[2.0], [-1.0]], [0.5, 0.0], targets, weights=weights
    )
    # p of class 0 is sigmoid of the difference 3 y + 1/2.
    p = [1 / (1 + math.exp(-(3 * v + 0.5))) for v in (0.7, -0.4)]
    d = [3 * (p[0] - 1), p[1]]  # of o of class 0; of class 1 the opposite
    assert loss == pytest.approx(-3 * math.log(p[0]) - math.log(1 - p[1]), rel=1e-14)
    assert count == 4
    assert d_y.ravel().tolist() == pytest.approx([3 * d[0], 3 * d[1]], rel=1e-14)
    v = 0.7 * d[0] - 0.4 * d[1]
    assert d_weight.ravel().tolist() == pytest.approx([v, -v], rel=1e-14)
    assert d_bias.tolist() == pytest.approx([d[0] + d[1], -d[0] - d[1]], rel=1e-14)


def test_squares_have_no_half_and_count_positions():
    loss, count, d_o = reference.squared_error(
        [[1.0, 2.0], [0.0, 4.0]], [[0.0, 4.0], [0.0, 1.0]], weights=[2.0, 1.0]
    )
    assert (loss, count) == (2 * (1 + 4) + 9, 3)
    assert d_o.tolist() == [[4, -8], [0, 6]]
    mean = reference.squared_error(
        [[1.0, 2.0], [0.0, 4.0]], [[0.0, 4.0], [0.0, 1.0]], weights=[2.0, 1.0], reduction="mean"
    )
    assert mean[0] == pytest.approx(19 / 3, rel=1e-15)


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_equal_logits_cost_the_logarithm_of_the_classes(classes):
    loss, count, d_o = reference.cross_entropy(np.full((3, classes), 5.0), [0, classes - 1, 0])
    assert loss == pytest.approx(3 * math.log(classes), rel=1e-14)
    assert count == 3
    np.testing.assert_allclose(d_o.sum(axis=1), 0, atol=1e-15)


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
def test_logits_of_any_size(offset):
    """softmax doesn't see what all logits have in common, and a certain mistake costs its logit."""
    loss, _, d_o = reference.cross_entropy([[offset, offset + 1000.0]], [0])
    assert loss == 1000
    assert d_o.tolist() == [[-1, 1]]


def test_an_impossible_class():
    """o = -inf is p = 0: no gradient, and an infinite loss for who expects it."""
    o = [[0.0, -math.inf, 0.0]]
    loss, _, d_o = reference.cross_entropy(o, [2])
    assert loss == pytest.approx(math.log(2), rel=1e-15)
    np.testing.assert_allclose(d_o, [[0.5, 0, -0.5]], rtol=1e-15)
    assert reference.cross_entropy(o, [1])[0] == math.inf


def test_a_nan_that_counts_is_seen():
    p = make("cross_entropy", ignored=False)
    y = p.y.copy()
    y[1, 2, 0] = np.nan
    loss, _, (d_y, d_weight, d_bias) = replace(p, y=y).run()
    assert math.isnan(loss)
    assert np.isnan(d_y[1, 2]).all()
    assert np.isfinite(np.delete(d_y.reshape(12, 3), 5, axis=0)).all()
    assert np.isnan(d_weight).all() and np.isnan(d_bias).all()


def test_everything_is_float64():
    p = make("cross_entropy")
    single = replace(p, **{name: a.astype(np.float32) for name, a in p.arrays.items()})
    for gradient in single.gradients().values():
        assert gradient.dtype == np.float64


@pytest.mark.parametrize("kind", LOSSES)
def test_no_bias_is_a_bias_of_zero(kind):
    p = make(kind)
    zero = replace(p, bias=np.zeros(5)).run()
    none = LOSSES[kind](p.y, p.weight, None, p.targets)
    assert none[:2] == zero[:2]
    for a, b in zip(none[2], zero[2], strict=True):
        np.testing.assert_array_equal(a, b)


# Gradients


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_against_central_differences(kind, case):
    p = make(kind, **case)
    for name, gradient in p.gradients().items():
        assert gradient.shape == p.arrays[name].shape
        assert relative(gradient, numeric_gradient(p, name)) <= TOLERANCE, name


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_mean_is_the_sum_divided(kind, case):
    p = make(kind, **case)
    total, count, gradients = replace(p, options={**p.options, "reduction": "sum"}).run()
    mean, same, divided = replace(p, options={**p.options, "reduction": "mean"}).run()
    weights = p.options.get("weights", np.ones(p.y.shape[:-1]))
    assert same == count == pytest.approx(weights[p.counts()].sum(), rel=1e-15)
    assert mean == pytest.approx(total / (count or 1), rel=1e-15)
    for a, b in zip(divided, gradients, strict=True):
        np.testing.assert_allclose(a, b / (count or 1), rtol=1e-13, atol=1e-15)


# What doesn't count


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -1e300])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_does_not_count_does_not_leak(kind, case, garbage):
    """Neither y, nor targets, nor weights past the end change the loss or any gradient."""
    p = make(kind, **case)
    off = ~p.counts()
    y, targets, options = p.y.copy(), p.targets.copy(), dict(p.options)
    y[off] = garbage
    if kind == "squared_error":
        targets[off] = garbage
    else:
        targets[off & (targets != -100)] = 10**6
    if "weights" in options and "lengths" in options:
        past = np.arange(len(y))[:, None] >= options["lengths"]
        options["weights"] = np.where(past, garbage, options["weights"])
    loss, count, gradients = replace(p, y=y, targets=targets, options=options).run()
    want, want_count, want_gradients = p.run()
    assert (loss, count) == (want, want_count)
    assert (gradients[0][off] == 0).all()
    for a, b in zip(gradients, want_gradients, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", LOSSES)
def test_lengths_are_sequences_of_their_own(kind):
    lengths = [4, 0, 2]
    p = make(kind, lengths=lengths)
    parts = [
        replace(p, y=p.y[:n, b], targets=p.targets[:n, b], options={}).run()
        for b, n in enumerate(lengths)
    ]
    loss, count, (d_y, d_weight, d_bias) = p.run()
    assert loss == pytest.approx(sum(part[0] for part in parts), rel=ROUNDING)
    assert count == sum(part[1] for part in parts)
    for b, n in enumerate(lengths):
        np.testing.assert_allclose(d_y[:n, b], parts[b][2][0], rtol=ROUNDING)
        assert (d_y[n:, b] == 0).all()
    for got, k in ((d_weight, 1), (d_bias, 2)):
        want = np.sum([part[2][k] for part in parts], axis=0)
        np.testing.assert_allclose(got, want, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_nothing_counts(kind, reduction):
    p = make(kind, reduction=reduction)
    p.options["weights"] = np.zeros((4, 3))
    loss, count, gradients = p.run()
    assert (loss, count) == (0, 0)
    for gradient in gradients:
        assert (gradient == 0).all()


@pytest.mark.parametrize("ignore_index", [-100, -1, 0, 4])
def test_the_index_to_ignore_may_be_a_class(ignore_index):
    p = make("cross_entropy", ignored=False)
    weights = np.where(p.targets == ignore_index, 0.0, 1.0)
    want = replace(p, options={"weights": weights}).run()
    got = replace(p, options={"ignore_index": ignore_index}).run()
    assert got[:2] == want[:2]
    for a, b in zip(got[2], want[2], strict=True):
        np.testing.assert_array_equal(a, b)


def test_unsigned_targets():
    p = make("cross_entropy", ignored=False)
    want = p.run()
    for dtype in (np.uint8, np.uint64, np.int8):
        assert replace(p, targets=p.targets.astype(dtype)).run()[:2] == want[:2]


# torch


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("ignored", [False, True])
def test_equals_torch(torch, kind, reduction, ignored):
    """torch's mean of squares is over elements, so it is ours divided by their number K."""
    p = make(kind, reduction=reduction, ignored=ignored, positions=(7, 5))
    arrays = {name: torch.tensor(a, requires_grad=True) for name, a in p.arrays.items()}
    o = torch.nn.functional.linear(arrays["y"], arrays["weight"], arrays["bias"])
    targets = torch.tensor(p.targets)
    if kind == "cross_entropy":
        want = torch.nn.functional.cross_entropy(
            o.reshape(35, 5), targets.reshape(35), reduction=reduction
        )
    else:
        want = torch.nn.functional.mse_loss(o, targets, reduction=reduction)
        want = want * 5 if reduction == "mean" else want
    want.backward()
    assert p.loss() == pytest.approx(want.item(), rel=ROUNDING)
    for name, gradient in p.gradients().items():
        assert relative(gradient, arrays[name].grad.numpy()) <= ROUNDING, name


# Errors


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"y": np.zeros((4, 3, 2))}, ValueError, r"y: expected \(..., 3\), got \(4, 3, 2\)"),
        ({"y": np.zeros(())}, ValueError, r"y: expected \(..., 3\), got \(\)"),
        ({"weight": np.zeros(3)}, ValueError, r"weight: expected \(K, H\), got \(3,\)"),
        ({"bias": np.zeros(4)}, ValueError, r"bias: expected \(5,\), got \(4,\)"),
        (
            {"targets": np.zeros((3, 4), int)},
            ValueError,
            r"targets: expected shape \(4, 3\), got \(3, 4\)",
        ),
        ({"targets": np.zeros((4, 3))}, TypeError, "targets: expected integers, got float64"),
        ({"targets": np.zeros((4, 3), bool)}, TypeError, "targets: expected integers, got bool"),
        ({"targets": np.full((4, 3), 5)}, ValueError, "targets: expected 0 to K - 1 = 4, got 5"),
        ({"targets": np.full((4, 3), -1)}, ValueError, "targets: expected 0 to K - 1 = 4, got -1"),
    ],
)
def test_wrong_arrays(change, error, message):
    with pytest.raises(error, match=message):
        replace(make("cross_entropy", ignored=False), **change).run()


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("weights", np.ones(3), ValueError, r"weights: expected shape \(4, 3\), got \(3,\)"),
        ("weights", np.full((4, 3), -0.5), ValueError, "weights: expected finite .* got -0.5"),
        ("weights", np.full((4, 3), np.nan), ValueError, "weights: expected finite .* got nan"),
        ("weights", np.full((4, 3), np.inf), ValueError, "weights: expected finite .* got inf"),
        ("lengths", [1, 2], ValueError, r"lengths: expected shape \(3,\), got \(2,\)"),
        ("lengths", [1, 5, 2], ValueError, "lengths: expected 0 to T = 4, got 5"),
        ("lengths", [-1, 2, 2], ValueError, "lengths: expected 0 to T = 4, got -1"),
        ("lengths", [1.0, 2.0, 2.0], TypeError, "lengths: expected integers, got float64"),
        ("reduction", "none", ValueError, "reduction: expected 'sum' or 'mean', got 'none'"),
    ],
)
def test_wrong_options(kind, name, value, error, message):
    p = make(kind, ignored=False)
    p.options[name] = value
    with pytest.raises(error, match=message):
        p.run()


def test_lengths_are_for_steps_and_sequences():
    p = make("cross_entropy", positions=(6,), lengths=[3])
    with pytest.raises(ValueError, match=r"lengths: expected None unless .* \(T, B\), got \(6,\)"):
        p.run()


def test_wrong_targets_of_the_squared_error():
    p = replace(make("squared_error"), targets=np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"targets: expected shape \(4, 3, 5\), got \(4, 3\)"):
        p.run()

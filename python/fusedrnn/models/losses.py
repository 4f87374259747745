r"""Losses with their gradients, alone and fused with the linear head in front of them.

With the hidden states y (..., H), a weight (K, H), a bias (K), targets and their weights w (...)::

    o = y weight^T + bias                                  (..., K)
    cross entropy   L_n = log sum_k exp(o_nk) - o_nt       t the target of n, of K classes
    squared error   L_n = sum_k (o_nk - t_nk)^2
    L = sum_n w_n L_n                                      / sum_n w_n for the mean

    d_o = w (softmax(o) - onehot(t)), or 2 w (o - t)
    d_weight = d_o^T y      d_bias = sum_n d_o      d_y = d_o weight

The `linear_` functions compute o and d_o for a few rows at a time, in C++, so that an array of all
rows and K columns is never in memory: for a vocabulary of 10,000 and 3,200 positions that would be
128 MB.

What doesn't count: positions past the `lengths` of their sequences, those of weight 0, and those
whose target is `ignore_index`. Nothing that stands there is read.

Source: Goodfellow, Bengio and Courville, Deep Learning, 2016, equations 10.10 to 10.24.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from .._arguments import flag, integer
from .._network import Array
from ._positions import Integers, Positions, check_shape, integers, like, positions

#: The target of positions that don't count, as in torch.
IGNORE_INDEX = -100


class HeadGradients(NamedTuple):
    """The gradients of a loss with respect to what a linear head takes."""

    y: Array  # (..., H)
    weight: Array  # (K, H)
    bias: Array | None  # (K,); None where there is no bias


@dataclass(frozen=True)
class LinearLoss:
    """A loss, and its gradients where they were wanted."""

    value: float
    count: float  # the sum of the weights of the positions that count
    gradients: HeadGradients | None


@dataclass(frozen=True)
class Loss:
    """A loss, and its gradient with respect to o."""

    value: float
    count: float  # the sum of the weights of the positions that count
    d_o: Array


def linear_cross_entropy(
    y: Any,
    weight: Any,
    bias: Any,
    targets: Any,
    *,
    weights: Any = None,
    lengths: Any = None,
    ignore_index: int = IGNORE_INDEX,
    reduction: str = "sum",
    gradients: bool = True,
) -> LinearLoss:
    """Return the cross entropy of a softmax over a linear head, and its gradients.

    Parameters
    ----------
    y : array (..., H)
        The hidden states; (T, B, H) where there are lengths. float32 or float64.
    weight : array (K, H)
    bias : array (K,) or None
    targets : array of integers (...)
        The class of each position, 0 to K - 1.
    weights : array (...), optional
        Of the positions, at least 0; 1 if not given.
    lengths : array of integers (B,), optional
        How many steps each sequence has, from 0 to T.
    ignore_index : int
        The target of positions that don't count.
    reduction : "sum" or "mean"
        The mean is the sum over the sum of the weights.
    gradients : bool
        Whether they are wanted.

    Returns
    -------
    LinearLoss
        `value`, in nats; `count`, the sum of the weights; `gradients`, a `HeadGradients` or None.
        Where nothing counts the loss is 0 and so are the gradients.

    Raises
    ------
    ValueError
        For a wrong shape, a target that is no class, a weight below 0, a length outside 0 to T.
    TypeError
        For a wrong dtype or kind of argument.
    MemoryError
        Where memory runs out.

    Examples
    --------
    Two classes, equally likely, then 3 to 1:

    >>> import numpy as np
    >>> from fusedrnn.models import linear_cross_entropy
    >>> y = np.array([[0.0], [np.log(3.0)]])
    >>> loss = linear_cross_entropy(y, np.array([[1.0], [0.0]]), None, np.array([0, 0]))
    >>> np.exp(-loss.value).round(6)  # 1/2 times 3/4
    np.float64(0.375)
    >>> loss.gradients.weight.ravel().round(6)
    array([-0.274653,  0.274653])
    """
    head = _head(y, weight, bias)
    shape, classes = head.y.shape[:-1], len(head.weight)
    chosen, wanted = _classes(targets, shape, classes, weights, lengths, ignore_index)
    return _fused("cross_entropy", head, wanted, chosen, reduction, gradients)


def linear_squared_error(
    y: Any,
    weight: Any,
    bias: Any,
    targets: Any,
    *,
    weights: Any = None,
    lengths: Any = None,
    reduction: str = "sum",
    gradients: bool = True,
) -> LinearLoss:
    """Return the squared error of a linear head, and its gradients.

    Parameters
    ----------
    y, weight, bias, weights, lengths, reduction, gradients
        As in `linear_cross_entropy`.
    targets : array (..., K)
        What the head should give; the dtype of y.

    Returns
    -------
    LinearLoss
        As from `linear_cross_entropy`. The mean is over positions, not over the K outputs.

    Raises
    ------
    ValueError, TypeError, MemoryError
        As in `linear_cross_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.models import linear_squared_error
    >>> y, targets = np.array([[1.0], [2.0]]), np.array([[3.0], [3.0]])
    >>> loss = linear_squared_error(y, np.array([[2.0]]), np.array([0.0]), targets)
    >>> loss.value, loss.gradients.weight, loss.gradients.bias
    (2.0, array([[2.]]), array([0.]))
    """
    head = _head(y, weight, bias)
    shape = head.y.shape[:-1]
    wanted = like(targets, "targets", (*shape, len(head.weight)), head.y.dtype)
    chosen = positions(shape, weights, lengths)
    rows = wanted.reshape(-1, len(head.weight))
    if chosen.rows is not None:
        rows = rows[chosen.rows]
    return _fused("squared_error", head, rows, chosen, reduction, gradients)


def cross_entropy(
    o: Any,
    targets: Any,
    *,
    weights: Any = None,
    lengths: Any = None,
    ignore_index: int = IGNORE_INDEX,
    reduction: str = "sum",
) -> Loss:
    """Return the cross entropy of the softmax of o, and its gradient: for logits that are there.

    Where a linear head makes them, `linear_cross_entropy` takes less time and memory.

    Parameters
    ----------
    o : array (..., K)
        Unnormalised log probabilities; float32 or float64.
    targets, weights, lengths, ignore_index, reduction
        As in `linear_cross_entropy`.

    Returns
    -------
    Loss
        `value`, `count` and `d_o`, 0 where nothing counts.

    Raises
    ------
    ValueError, TypeError
        As `linear_cross_entropy` does.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.models import cross_entropy
    >>> cross_entropy(np.log([[1.0, 3.0]]), np.array([1])).d_o
    array([[ 0.25, -0.25]])
    """
    o = _rows(o, "o")
    chosen, wanted = _classes(targets, o.shape[:-1], o.shape[-1], weights, lengths, ignore_index)
    part = o.reshape(-1, o.shape[-1])
    part = part.copy() if chosen.rows is None else part[chosen.rows]
    part -= part.max(axis=1, keepdims=True, initial=np.finfo(o.dtype).min)
    at_target = np.arange(len(part)), wanted
    at_targets = part[at_target]
    np.exp(part, out=part)
    sums = part.sum(axis=1, keepdims=True)
    losses = np.log(sums[:, 0].astype(np.float64)) - at_targets
    part /= sums
    part[at_target] -= 1
    return _loss(o, losses, part, chosen, reduction)


def squared_error(
    o: Any, targets: Any, *, weights: Any = None, lengths: Any = None, reduction: str = "sum"
) -> Loss:
    """Return the squared error of o, and its gradient.

    Parameters
    ----------
    o : array (..., K)
        float32 or float64.
    targets : array (..., K)
        The dtype of o.
    weights, lengths, reduction
        As in `linear_cross_entropy`; the mean is over positions, not over the K outputs.

    Returns
    -------
    Loss
        `value`, `count` and `d_o`, 0 where nothing counts.

    Raises
    ------
    ValueError, TypeError
        As `linear_cross_entropy` does.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.models import squared_error
    >>> squared_error(np.array([[1.0, 5.0]]), np.array([[1.0, 3.0]]))
    Loss(value=4.0, count=1.0, d_o=array([[0., 4.]]))
    """
    o = _rows(o, "o")
    wanted = like(targets, "targets", o.shape, o.dtype)
    chosen = positions(o.shape[:-1], weights, lengths)
    here = slice(None) if chosen.rows is None else chosen.rows
    d = o.reshape(-1, o.shape[-1])[here] - wanted.reshape(-1, o.shape[-1])[here]
    losses = np.square(d, dtype=np.float64).sum(axis=1)
    return _loss(o, losses, 2 * d, chosen, reduction)


class _Head(NamedTuple):
    y: Array  # [..., H]
    weight: Array  # [K, H]
    bias: Array | None  # [K]


def _rows(value: Any, name: str) -> Array:
    array = _core.as_array(value, name)
    if array.ndim < 1:
        raise ValueError(f"{name}: expected at least one dimension, got {array.shape}")
    if array.shape[-1] < 1:
        raise ValueError(f"{name}: expected a last dimension of at least 1, got {array.shape}")
    return array


def _head(y: Any, weight: Any, bias: Any) -> _Head:
    y = _rows(y, "y")
    weight = _core.as_array(weight, "weight", y.dtype.name)
    if weight.ndim != 2 or weight.shape[1] != y.shape[-1] or len(weight) < 1:
        raise ValueError(f"weight: expected (K, {y.shape[-1]}) [K, H], got {weight.shape}")
    if bias is not None:
        bias = like(bias, "bias", weight.shape[:1], y.dtype)
    return _Head(y, weight, bias)


def _classes(
    targets: Any,
    shape: tuple[int, ...],
    classes: int,
    weights: Any,
    lengths: Any,
    ignore_index: int,
) -> tuple[Positions, Integers]:
    """Return which positions count, and their classes, checked."""
    array = integers(targets, "targets")
    check_shape(array, "targets", shape)
    chosen = positions(shape, weights, lengths, array != integer(ignore_index, "ignore_index"))
    wanted = array.ravel() if chosen.rows is None else array.ravel()[chosen.rows]
    if wanted.size and not (wanted.min() >= 0 and wanted.max() < classes):
        wrong = wanted[(wanted < 0) | (wanted >= classes)][0]
        raise ValueError(f"targets: expected 0 to K - 1 = {classes - 1}, got {wrong}")
    return chosen, wanted.astype(np.int64)


def _factors(chosen: Positions, reduction: str, rows: int) -> Array:
    """Return w_n, or w_n / sum w for the mean, of each row that counts."""
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction: expected 'sum' or 'mean', got {reduction!r}")
    weights = np.ones(rows) if chosen.weights is None else chosen.weights
    # Not times 1 / count, which overflows where the weights are denormals.
    return weights / chosen.count if reduction == "mean" and rows > 0 else weights


def _loss(
    o: Array, losses: npt.NDArray[np.float64], d: Array, chosen: Positions, reduction: str
) -> Loss:
    """Return the loss of the rows that count, and the gradient of all."""
    factors = _factors(chosen, reduction, len(losses))
    d *= factors.astype(d.dtype)[:, np.newaxis]
    if chosen.rows is not None:
        rows, d = d, np.zeros((o[..., 0].size, o.shape[-1]), o.dtype)
        d[chosen.rows] = rows
    return Loss(float(factors @ losses), chosen.count, d.reshape(o.shape))


def _fused(
    loss: str,
    head: _Head,
    targets: npt.NDArray[Any],
    chosen: Positions,
    reduction: str,
    gradients: bool,
) -> LinearLoss:
    """Return a loss of the kernels; `targets` are those of the rows that count."""
    y, weight, bias = head
    value, d_y, d_weight, d_bias = _core.head_loss(
        loss,
        y.reshape(-1, y.shape[-1]),
        weight,
        bias,
        targets,
        chosen.rows,
        _factors(chosen, reduction, len(targets)),
        flag(gradients, "gradients"),
    )
    if not gradients:
        return LinearLoss(value, chosen.count, None)
    return LinearLoss(value, chosen.count, HeadGradients(d_y.reshape(y.shape), d_weight, d_bias))

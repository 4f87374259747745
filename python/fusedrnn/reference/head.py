"""The head of a sequence model and its losses: from hidden states to L and its gradients.

With y (..., H) the hidden states, V = weight (K, H), c = bias (K), at each position n, which is one
step of one sequence, with a weight w_n >= 0:

Linear::

    o_n = V y_n + c                                         (10.10)

Cross-entropy, t_n in 0 .. K-1::

    p_n = softmax(o_n) = exp(o_n) / sum_k exp(o_n,k)        (10.11)
    L   = -sum_n w_n log p_n[t_n]                           (10.12 to 10.14)
    d_o_n = w_n (p_n - onehot(t_n))                         (10.18)

Squared error, t_n in R^K::

    L   = sum_n w_n ||o_n - t_n||^2                         no factor 1/2
    d_o_n = 2 w_n (o_n - t_n)

and through the linear part, for either::

    d_y_n = V^T d_o_n                                       (10.19; the last term of 10.20)
    d_c   = sum_n d_o_n                                     (10.22)
    d_V   = sum_n d_o_n y_n^T                               (10.24)

The number of counted positions is N = sum_n w_n. L and its gradients are those sums for
reduction "sum", and divided by N for "mean": L / N. Where N = 0 they are 0.

A position counts unless w_n = 0, or t_n is the index to ignore, or it lies past the end of its
sequence. Where it doesn't, its gradients are 0, and what stands there, be it NaN, changes nothing.

Sources: Goodfellow, Bengio and Courville, Deep Learning, 2016, equations 10.10 to 10.24. The index
to ignore and its default: torch.nn.functional.cross_entropy; squares without 1/2:
torch.nn.functional.mse_loss (with reduction="sum").
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .._arguments import any_array, float64_array
from .cell import Array


def linear(y: npt.ArrayLike, weight: npt.ArrayLike, bias: npt.ArrayLike | None) -> Array:
    """Return o = V y + c at each position.

    Parameters
    ----------
    y : array (..., H)
    weight : array (K, H)
    bias : array (K,), or None for 0

    Returns
    -------
    array (..., K)

    Raises
    ------
    ValueError
        If a shape is wrong.

    Examples
    --------
    >>> linear([[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0], [0.0, 0.0]], [0.5, 0.0, -1.0])
    array([[11.5, 17. , -1. ]])
    """
    y, V = float64_array(y, "y"), float64_array(weight, "weight")
    if V.ndim != 2:
        raise ValueError(f"weight: expected (K, H), got {V.shape}")
    c = np.zeros(len(V)) if bias is None else float64_array(bias, "bias")
    if c.shape != V.shape[:1]:
        raise ValueError(f"bias: expected {V.shape[:1]}, got {c.shape}")
    if y.shape[-1:] != V.shape[1:]:
        raise ValueError(f"y: expected (..., {V.shape[1]}), got {y.shape}")
    with np.errstate(invalid="ignore", over="ignore"):  # in positions that don't count
        o: Array = y @ V.T + c
    return o


def log_softmax(o: npt.ArrayLike) -> Array:
    """Return log p, over the last axis.

    The largest element is subtracted first, so that exp doesn't overflow:
    ``log p = o - m - log(sum_k exp(o_k - m))`` with ``m = max_k o_k``.

    Parameters
    ----------
    o : array (..., K)

    Returns
    -------
    array (..., K)

    Examples
    --------
    >>> import numpy as np
    >>> np.exp(log_softmax([1000.0, 1000.0]))
    array([0.5, 0.5])
    """
    o = float64_array(o, "o")
    shifted = o - o.max(axis=-1, keepdims=True)
    log_p: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return log_p


def cross_entropy(
    o: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    ignore_index: int = -100,
    lengths: npt.ArrayLike | None = None,
    reduction: str = "sum",
) -> tuple[float, float, Array]:
    """Return the cross-entropy of softmax(o) against integer targets, and its gradient.

    Parameters
    ----------
    o : array (..., K)
        Log probabilities that needn't be normalised.
    targets : array of integers (...)
        In 0 .. K-1 at each position that counts.
    weights : array (...), optional
        Of the positions, at least 0; 1 if not given.
    ignore_index : int
        Positions with this target don't count.
    lengths : array of integers (B,), optional
        How many steps each sequence has, from 0 to T. The positions are then (T, B).
    reduction : "sum" or "mean"

    Returns
    -------
    loss : float
        L, or L / N.
    count : float
        N, the sum of the weights of the positions that count.
    d_o : array (..., K)
        The gradient of `loss`.

    Raises
    ------
    ValueError
        If a shape, target, weight, length or the reduction is wrong.
    TypeError
        If targets or lengths are no integers.

    Examples
    --------
    The second position is ignored:

    >>> loss, count, d_o = cross_entropy([[0.0, 0.0], [1.0, 2.0]], [1, -100])
    >>> round(loss, 4), count
    (0.6931, 1.0)
    >>> d_o
    array([[ 0.5, -0.5],
           [ 0. ,  0. ]])
    """
    o, t = float64_array(o, "o"), any_array(targets, "targets")
    if t.dtype.kind not in "iu":
        raise TypeError(f"targets: expected integers, got {t.dtype}")
    if o.ndim == 0 or o.shape[:-1] != t.shape:
        raise ValueError(f"targets: expected shape {o.shape[:-1]}, got {t.shape}")
    w = position_weights(t.shape, weights, lengths, counted=t != ignore_index)
    at = w > 0
    wrong = t[at][(t[at] < 0) | (t[at] >= o.shape[-1])]
    if wrong.size:
        raise ValueError(f"targets: expected 0 to K - 1 = {o.shape[-1] - 1}, got {wrong[0]}")

    log_p = log_softmax(o[at]) if at.any() else o[at]  # [counted, K]
    onehot = np.arange(o.shape[-1]) == t[at][:, None]
    loss = -float((w[at] * log_p[onehot]).sum())
    d_o = np.zeros(o.shape)
    d_o[at] = w[at][:, None] * (np.exp(log_p) - onehot)
    return _reduce(loss, float(w.sum()), d_o, reduction)


def squared_error(
    o: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    lengths: npt.ArrayLike | None = None,
    reduction: str = "sum",
) -> tuple[float, float, Array]:
    """Return the squared error of o against targets of its shape, and its gradient.

    A position is one vector of K elements: N is the sum of the weights of the positions, not of
    their elements, so the mean is that of ``||o - t||^2``.

    Parameters
    ----------
    o, targets : array (..., K)
    weights : array (...), optional
    lengths : array of integers (B,), optional
    reduction : "sum" or "mean"
        All as in `cross_entropy`.

    Returns
    -------
    loss, count : float
    d_o : array (..., K)
        As from `cross_entropy`.

    Raises
    ------
    ValueError, TypeError
        As from `cross_entropy`.

    Examples
    --------
    >>> squared_error([[1.0, 2.0], [3.0, 0.0]], [[0.0, 0.0], [3.0, 1.0]], reduction="mean")
    (3.0, 2.0, array([[ 1.,  2.],
           [ 0., -1.]]))
    """
    o, t = float64_array(o, "o"), float64_array(targets, "targets")
    if o.ndim == 0 or o.shape != t.shape:
        raise ValueError(f"targets: expected shape {o.shape}, got {t.shape}")
    w = position_weights(t.shape[:-1], weights, lengths)
    at = w > 0
    error = o[at] - t[at]  # [counted, K]
    loss = float((w[at] * (error**2).sum(axis=-1)).sum())
    d_o = np.zeros(o.shape)
    d_o[at] = 2 * w[at][:, None] * error
    return _reduce(loss, float(w.sum()), d_o, reduction)


def linear_cross_entropy(
    y: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    targets: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    ignore_index: int = -100,
    lengths: npt.ArrayLike | None = None,
    reduction: str = "sum",
) -> tuple[float, float, tuple[Array, Array, Array]]:
    """Return the cross-entropy of softmax(V y + c), and the gradients of y, V and c.

    Parameters
    ----------
    y : array (..., H)
    weight : array (K, H)
    bias : array (K,), or None for 0
    targets, weights, ignore_index, lengths, reduction
        As in `cross_entropy`.

    Returns
    -------
    loss, count : float
        As from `cross_entropy`.
    gradients : (d_y, d_weight, d_bias)
        Of `loss`, shaped like y, V and c.

    Raises
    ------
    ValueError, TypeError
        As from `cross_entropy`.

    Examples
    --------
    >>> loss, count, (d_y, d_weight, d_bias) = linear_cross_entropy(
    ...     [[2.0]], [[0.0], [0.0]], [0.0, 0.0], [0]
    ... )
    >>> d_weight, d_bias
    (array([[-1.],
           [ 1.]]), array([-0.5,  0.5]))
    """
    loss, count, d_o = cross_entropy(
        linear(y, weight, bias),
        targets,
        weights=weights,
        ignore_index=ignore_index,
        lengths=lengths,
        reduction=reduction,
    )
    return loss, count, linear_backward(y, weight, d_o)


def linear_squared_error(
    y: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    targets: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    lengths: npt.ArrayLike | None = None,
    reduction: str = "sum",
) -> tuple[float, float, tuple[Array, Array, Array]]:
    """Return the squared error of V y + c, and the gradients of y, V and c.

    Parameters
    ----------
    y : array (..., H)
    weight : array (K, H)
    bias : array (K,), or None for 0
    targets : array (..., K)
    weights, lengths, reduction
        As in `cross_entropy`.

    Returns
    -------
    loss, count, gradients
        As from `linear_cross_entropy`.

    Raises
    ------
    ValueError, TypeError
        As from `cross_entropy`.

    Examples
    --------
    >>> linear_squared_error([[2.0]], [[3.0]], [1.0], [[6.0]])
    (1.0, 1.0, (array([[6.]]), array([[4.]]), array([2.])))
    """
    loss, count, d_o = squared_error(
        linear(y, weight, bias), targets, weights=weights, lengths=lengths, reduction=reduction
    )
    return loss, count, linear_backward(y, weight, d_o)


def linear_backward(
    y: npt.ArrayLike, weight: npt.ArrayLike, d_o: Array
) -> tuple[Array, Array, Array]:
    """Return the gradients of y, V and c from d_o, by the equations at the top of this file.

    Where d_o is 0 in all elements of a position, y is not read there.

    Parameters
    ----------
    y : array (..., H)
    weight : array (K, H)
    d_o : array (..., K)

    Returns
    -------
    d_y, d_weight, d_bias : arrays shaped like y, V and c

    Examples
    --------
    >>> import numpy as np
    >>> linear_backward([[5.0], [np.nan]], [[2.0]], np.array([[3.0], [0.0]]))
    (array([[6.],
           [0.]]), array([[15.]]), array([3.]))
    """
    y, V = float64_array(y, "y"), float64_array(weight, "weight")
    at = (d_o != 0).any(axis=-1)  # NaN != 0: a NaN stays a NaN
    d_y = np.zeros(y.shape)
    d_y[at] = d_o[at] @ V
    d_V = d_o[at].T @ y[at]
    d_c = d_o[at].sum(axis=0)
    return d_y, d_V, d_c


def position_weights(
    shape: tuple[int, ...],
    weights: npt.ArrayLike | None,
    lengths: npt.ArrayLike | None,
    counted: npt.NDArray[np.bool_] | None = None,
) -> Array:
    """Return w_n at each position: 0 where a position doesn't count.

    Parameters
    ----------
    shape : tuple of int
        Of the positions; (T, B) with lengths.
    weights : array of that shape, or None for 1
    lengths : array of integers (B,), or None for T
    counted : array of bool of that shape, or None for True

    Returns
    -------
    array of that shape

    Raises
    ------
    ValueError
        If a shape is wrong, a length is outside 0 .. T, or a weight that counts is below 0 or not
        finite.
    TypeError
        If the lengths are no integers.

    Examples
    --------
    >>> position_weights((3, 2), None, [2, 0])
    array([[1., 0.],
           [1., 0.],
           [0., 0.]])
    """
    w = np.ones(shape) if weights is None else float64_array(weights, "weights")
    if w.shape != shape:
        raise ValueError(f"weights: expected shape {shape}, got {w.shape}")
    if counted is not None:
        w = np.where(counted, w, 0.0)
    if lengths is not None:
        w = np.where(_inside(shape, lengths), w, 0.0)
    wrong = w[~(np.isfinite(w) & (w >= 0))]
    if wrong.size:
        raise ValueError(f"weights: expected finite numbers of at least 0, got {wrong[0]}")
    return w


def _inside(shape: tuple[int, ...], lengths: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return where t < lengths, [T, B]."""
    if len(shape) != 2:
        raise ValueError(f"lengths: expected None unless the positions are (T, B), got {shape}")
    n = any_array(lengths, "lengths")
    if n.dtype.kind not in "iu":
        raise TypeError(f"lengths: expected integers, got {n.dtype}")
    if n.shape != shape[1:]:
        raise ValueError(f"lengths: expected shape {shape[1:]}, got {n.shape}")
    wrong = n[(n < 0) | (n > shape[0])]
    if wrong.size:
        raise ValueError(f"lengths: expected 0 to T = {shape[0]}, got {wrong[0]}")
    inside: npt.NDArray[np.bool_] = np.arange(shape[0])[:, None] < n
    return inside


def _reduce(loss: float, count: float, d_o: Array, reduction: str) -> tuple[float, float, Array]:
    """Divide by the count for "mean"; without a position that counts all is 0 already."""
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction: expected 'sum' or 'mean', got {reduction!r}")
    if reduction == "mean" and count > 0:
        return loss / count, count, d_o / count
    return loss, count, d_o

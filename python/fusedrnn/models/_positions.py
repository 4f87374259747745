"""Which positions of an array of targets count in a loss, and how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .._arguments import any_array
from .._network import Array

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Positions:
    """The positions that count, as indices into the flattened targets."""

    rows: Integers | None  # None: all, in order
    weights: Array | None  # (rows,), float64; None: 1 each
    count: float  # the sum of the weights


def integers(value: Any, name: str) -> npt.NDArray[Any]:
    """Return `value` as an array, if all of it are integers and no bools; [] is one, and [[]].

    Examples
    --------
    >>> integers([0.5], "targets")
    Traceback (most recent call last):
    TypeError: targets: expected integers, got float64
    """
    if _has_bool(value):  # which NumPy makes integers of, beside some
        raise TypeError(f"{name}: expected integers, got bool")
    found = any_array(value, name)
    if found.size == 0 and isinstance(value, (list, tuple)):
        found = found.astype(np.int64)
    if found.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got {found.dtype}")
    return found


def _has_bool(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_has_bool, value))
    return isinstance(value, (bool, np.bool_)) or getattr(value, "dtype", None) == np.bool_


def check_shape(array: npt.NDArray[Any], name: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the array has this shape."""
    if array.shape != shape:
        raise ValueError(f"{name}: expected {shape}, got {array.shape}")


def check_lengths(lengths: Any, shape: tuple[int, ...], name: str = "lengths") -> Integers:
    """Return the lengths (B,) of sequences of shape (T, B), or () of one of shape (T,)."""
    array = integers(lengths, name)
    check_shape(array, name, shape[1:2])
    wrong = array[(array < 0) | (array > shape[0])]
    if wrong.size:
        raise ValueError(f"{name}: expected 0 to T = {shape[0]}, got {wrong.flat[0]}")
    return array.astype(np.int64)  # in which lengths - 1 is below 0, and lengths + k an index


def steps_inside(steps: int, lengths: Integers) -> npt.NDArray[np.bool_]:
    """Return which of so many steps are within the lengths: (T, B), or (T,).

    Examples
    --------
    >>> steps_inside(2, np.array([2, 1, 0]))
    array([[ True,  True, False],
           [ True, False, False]])
    """
    inside: npt.NDArray[np.bool_] = np.arange(steps).reshape(-1, *(1,) * lengths.ndim) < lengths
    return inside


def positions(shape: tuple[int, ...], weights: Any, lengths: Any, counts: Any = None) -> Positions:
    """Return which positions of an array of this shape count.

    Parameters
    ----------
    shape : tuple of int
        (T, B) or (T,) where there are lengths.
    weights : array of floats of this shape, or None
        At least 0; those of 0 don't count.
    lengths : array of integers (B,), or None
    counts : array of bool of this shape, or None
        What else there is to say.

    Examples
    --------
    >>> positions((2, 2), None, [2, 1]).rows
    array([0, 1, 2])
    >>> positions((3,), [0.0, 1.0, 0.5], None)
    Positions(rows=array([1, 2]), weights=array([1. , 0.5]), count=1.5)
    """
    if lengths is not None:
        if len(shape) not in (1, 2):
            raise ValueError(f"lengths: expected targets over time, (T,) or (T, B), got {shape}")
        inside = steps_inside(shape[0], check_lengths(lengths, shape))
        counts = inside if counts is None else counts & inside
    if weights is not None:
        weights = _weights(weights, shape, counts)
        counts = weights > 0 if counts is None else counts & (weights > 0)
    rows = None
    if counts is not None and not np.all(counts):
        rows = np.flatnonzero(np.broadcast_to(counts, shape))
    if weights is None:
        return Positions(rows, None, float(np.prod(shape) if rows is None else len(rows)))
    flat = weights.ravel() if rows is None else weights.ravel()[rows]
    with np.errstate(over="ignore"):
        count = float(flat.sum())
    if not np.isfinite(count):
        raise ValueError("weights: expected a finite sum, got inf")
    return Positions(rows, flat, count)


def _weights(value: Any, shape: tuple[int, ...], counts: Any) -> Array:
    """Return the weights in float64; what stands where nothing counts is not judged."""
    array = any_array(value, "weights")
    if array.dtype.kind not in "fiub":
        raise TypeError(f"weights: expected numbers, got {array.dtype}")
    check_shape(array, "weights", shape)
    array = array.astype(np.float64)
    if counts is not None:
        array[~np.broadcast_to(counts, shape)] = 0
    wrong = array[~((array >= 0) & np.isfinite(array))]
    if wrong.size:
        raise ValueError(f"weights: expected finite numbers of at least 0, got {wrong.flat[0]}")
    return array


def like(value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an array of this shape and dtype."""
    array = _core.as_array(value, name, dtype.name)
    check_shape(array, name, shape)
    return array

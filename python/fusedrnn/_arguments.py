"""Checks of arguments that aren't arrays: each returns the value, or says what it expected."""

from __future__ import annotations

import math
import numbers
import operator
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


def integer(value: int, name: str) -> int:
    """Return `value` as an int, if it is an integer and no bool."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None


def size(value: int, name: str) -> int:
    """Return `value` as an int, if it is at least 1."""
    number = integer(value, name)
    if number < 1:
        raise ValueError(f"{name}: expected at least 1, got {number}")
    return number


def projection(value: int, hidden_size: int, name: str) -> int:
    """Return `value` as an int, if it is 0, for none, or smaller than the hidden size."""
    number = integer(value, name)
    if not 0 <= number < hidden_size:
        raise ValueError(f"{name}: expected 0 to H - 1 = {hidden_size - 1}, got {number}")
    return number


def interval(value: int | None, name: str) -> int:
    """Return `value` as an int, if it is at least 1, and 0 for None."""
    return 0 if value is None else min(size(value, name), sys.maxsize)


def word(value: int, name: str) -> int:
    """Return `value` as an int, if it fits in 64 bits."""
    number = integer(value, name)
    if not 0 <= number < 2**64:
        raise ValueError(f"{name}: expected an integer in [0, 2**64), got {number}")
    return number


def key(value: tuple[int, int], name: str) -> tuple[int, int]:
    """Return `value` as a tuple of two words."""
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name}: expected a tuple (seed, call), got {type(value).__name__}")
    if len(value) != 2:
        raise ValueError(f"{name}: expected a tuple (seed, call), got {len(value)} items")
    return word(value[0], f"{name}[0]"), word(value[1], f"{name}[1]")


def random_state(
    value: Mapping[str, tuple[int, int]], names: Iterable[str]
) -> dict[str, tuple[int, int]]:
    """Return `value` as a dict, if it has a (seed, calls) for each of these names and no other."""
    if not isinstance(value, Mapping):
        raise TypeError(
            "random_state: expected a mapping of names to (seed, calls), "
            f"got {type(value).__name__}"
        )
    if set(value) != set(names):
        raise ValueError(
            f"random_state: expected the names {sorted(names)}, got {sorted(map(str, value))}"
        )
    return {name: key(value[name], f"random_state[{name!r}]") for name in value}


def probability(value: float, name: str) -> float:
    """Return `value` as a float, if it is a real number in [0, 1]."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number in [0, 1], got {type(value).__name__}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a number in [0, 1], got {value}")
    return float(value)


def number(value: float, name: str, *, positive: bool = False, below: float = math.inf) -> float:
    """Return `value` as a float, if it is finite, at least 0 and below a limit.

    Parameters
    ----------
    value : float
    name : str
        What the message calls it.
    positive : bool
        Whether 0 is too small.
    below : float
        What is too large.

    Examples
    --------
    >>> number(1, "momentum", below=1.0)
    Traceback (most recent call last):
    ValueError: momentum: expected a number in [0, 1), got 1
    """
    start = "(0" if positive else "[0"
    expected = f"expected a number in {start}, {'inf' if below == math.inf else f'{below:g}'})"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: {expected}, got {type(value).__name__}")
    if not 0 <= value < below or (positive and value == 0):
        raise ValueError(f"{name}: {expected}, got {value}")
    return float(value)


def flag(value: bool, name: str) -> bool:
    """Return `value` as a bool, if it is one."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")
    return bool(value)


def any_array(value: Any, name: str) -> npt.NDArray[Any]:
    """Return `value` as an array of any dtype, if NumPy can read it and it has no mask."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: expected an array, got MaskedArray, whose mask has no meaning here"
        )
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # torch's reasons, and others'
        if isinstance(error, ValueError) and isinstance(value, (list, tuple)):
            raise ValueError(f"{name}: {error}") from None  # of different lengths
        raise TypeError(f"{name}: expected an array, got {type(value).__name__}: {error}") from None


def float64_array(value: Any, name: str) -> npt.NDArray[np.float64]:
    """Return `value` as an array of float64, the same where it is one, if it holds real numbers."""
    array = any_array(value, name)
    if array.dtype.kind not in "biufV":  # V: types that others have added, such as bfloat16
        raise TypeError(f"{name}: expected real numbers, got {array.dtype}")
    try:
        return array.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected real numbers, got {array.dtype}: {error}") from None


def float_dtype(value: npt.DTypeLike, name: str) -> np.dtype[Any]:
    """Return the dtype float32 or float64, in this machine's byte order."""
    message = f"{name}: expected 'float32' or 'float64', got {value!r}"
    if value is None:  # which NumPy takes for float64
        raise TypeError(message)
    try:
        dtype = np.dtype(value)
    except (TypeError, ValueError, SyntaxError):
        raise TypeError(message) from None
    if dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(message)
    return dtype

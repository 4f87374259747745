"""What stands past the lengths of sequences: nothing reads it, and 0 stands there in its place.

0 in x isn't enough: 0 times a gradient of NaN is NaN, and a bias makes y of an x of 0. So a part
takes x and dy without their padding, and gives y and dx without theirs, all by one `Padding`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._network import Array
from ._positions import Integers, check_lengths, steps_inside


@dataclass(frozen=True)
class Padding:
    """Where sequences have ended.

    Attributes
    ----------
    ends : array of integers (B,) or (), or None
        The lengths, checked; None where none were given.
    outside : array of bool (T, B) or (T,), or None
        The positions past them; None where there is none.

    Examples
    --------
    >>> padding = Padding.of([2, 1], (2, 2))  # T, B
    >>> padding.without(np.array([[5.0, 6.0], [7.0, np.nan]]))
    array([[5., 6.],
           [7., 0.]])
    """

    ends: Integers | None = None
    outside: npt.NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, lengths: Any, shape: tuple[int, ...], name: str = "lengths") -> Padding:
        """Return that of sequences of shape (T, B, ...), or (T,) for one, with these lengths."""
        if lengths is None:
            return cls()
        if not shape:
            raise ValueError(f"{name}: expected None without an axis of time, got lengths")
        ends = check_lengths(lengths, shape, name)
        outside = ~steps_inside(shape[0], ends)
        return cls(ends, outside if outside.any() else None)

    def without(self, array: Array) -> Array:
        """Return an array (T, B, ...) with 0 in its padding: a copy, or the same if none is."""
        if self.outside is None:
            return array
        copy = array.copy()
        copy[self.outside] = 0
        return copy

    def clear(self, array: Array) -> None:
        """Write 0 into the padding of an array (T, B, ...)."""
        if self.outside is not None:
            array[self.outside] = 0

"""From a sequence to one vector."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import numpy.typing as npt

from .._network import Array
from ..functional import Gradients
from ._part import Part
from ._positions import Integers, steps_inside
from ._registry import register
from ._sums import sum_over


class _Pooling(Part):
    """From x (T, B, H) to y (B, H), or from (T, H) to (H,); y is 0 where there is no step."""

    ends_time = True

    @abc.abstractmethod
    def _pool(self, x: Array, lengths: Integers) -> tuple[Array, Any]:
        """Return y (B, H) of x (T, B, H), and what `_spread` needs of the lengths (B,)."""

    @abc.abstractmethod
    def _spread(self, kept: Any, dy: Array, dx: Array) -> None:
        """Write the gradient of x into dx (T, B, H), which is 0."""

    def _read(self, x: Any) -> Array:
        array = super()._read(x)
        if array.ndim not in (2, 3):
            raise ValueError(f"x: expected (T, B, H) or (T, H), got {array.shape}")
        return array

    def _forward(
        self, x: Array, state: None, lengths: Integers | None
    ) -> tuple[Array, None, tuple[Any, tuple[int, ...]]]:
        ends = (np.full(x.shape[1:-1], len(x)) if lengths is None else lengths).reshape(-1)
        y, kept = self._pool(x.reshape(len(x), len(ends), x.shape[-1]), ends)
        return y.reshape(x.shape[1:]), None, (kept, x.shape)

    def _backward(self, kept: Any, dy: Array, dstate: None) -> Gradients:
        of_lengths, shape = kept
        dx = np.zeros(shape, dy.dtype)
        rows = np.atleast_2d(dy)  # (B, H)
        self._spread(of_lengths, rows, dx.reshape(shape[0], *rows.shape))
        return Gradients(dx, None, {})


@register
class Last(_Pooling):
    """The last step: y = x_n, where n is the last step of the sequence.

    What a model of many to one reads; of a layer in two directions it is the end of the first and
    the beginning of the second (one step of it): there `Mean` is the better choice.

    Parameters
    ----------
    dtype : "float32" or "float64"

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.models import Last
    >>> x = np.arange(6, dtype=np.float32).reshape(3, 2, 1)  # T, B, H
    >>> y, _ = Last()(x, lengths=[3, 1])
    >>> y.ravel()
    array([4., 1.], dtype=float32)
    """

    def __init__(self, *, dtype: npt.DTypeLike = "float32") -> None:
        super().__init__(dtype=dtype)

    def _pool(self, x: Array, lengths: Integers) -> tuple[Array, Any]:
        rows = np.flatnonzero(lengths)
        last = lengths[rows] - 1, rows
        y = np.zeros(x.shape[1:], x.dtype)
        y[rows] = x[last]
        return y, last

    def _spread(self, kept: Any, dy: Array, dx: Array) -> None:
        dx[kept] = dy[kept[1]]


@register
class Mean(_Pooling):
    """The mean over the steps: y = sum_t x_t / n, of the n steps that the sequence has.

    Parameters
    ----------
    dtype : "float32" or "float64"

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.models import Mean
    >>> x = np.arange(6, dtype=np.float32).reshape(3, 2, 1)  # T, B, H
    >>> y, _ = Mean()(x, lengths=[3, 2])
    >>> y.ravel()
    array([2., 2.], dtype=float32)
    """

    def __init__(self, *, dtype: npt.DTypeLike = "float32") -> None:
        super().__init__(dtype=dtype)

    def _pool(self, x: Array, lengths: Integers) -> tuple[Array, Any]:
        inside = steps_inside(len(x), lengths)
        weights = (inside / np.maximum(lengths, 1)).astype(x.dtype)[..., np.newaxis]
        return sum_over(weights * x), weights

    def _spread(self, kept: Any, dy: Array, dx: Array) -> None:
        np.multiply(kept, dy, out=dx, where=kept > 0)

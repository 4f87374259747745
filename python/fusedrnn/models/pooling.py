"""From a sequence to one vector."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .._network import Array
from ..functional import Gradients
from ._module import Stateless, no_state
from ._positions import Integers, check_lengths, check_shape, steps_inside
from ._registry import register


class _Pooling(Stateless):
    """From x (T, B, H) to y (B, H)."""

    #: y has no axis of time, so lengths say nothing of it: see `Sequential`.
    ends_time = True

    @abc.abstractmethod
    def _pool(self, x: Array, lengths: Integers) -> tuple[Array, Any]:
        """Return y (B, H) of x (T, B, H), and what `_spread` needs of the lengths (B,)."""

    @abc.abstractmethod
    def _spread(self, kept: Any, dy: Array, dx: Array) -> None:
        """Write the gradient of x into dx (T, B, H), which is 0."""

    def __call__(self, x: Any, state: Any = None, *, lengths: Any = None) -> tuple[Array, None]:
        """Return y (B, H), and None for a state; the arguments are those of `forward`."""
        y, _, _ = self.forward(x, state, lengths=lengths)
        return y, None

    def forward(self, x: Any, state: Any = None, *, lengths: Any = None) -> tuple[Array, None, Any]:
        """Return one vector for each sequence, and a tape for `backward`.

        Parameters
        ----------
        x : array
            (T, B, H), or (T, H) for one sequence. Not read past the lengths.
        state : None
        lengths : array of integers (B,), optional
            How many steps each sequence has, from 0 to T; an integer for one sequence.

        Returns
        -------
        y : array
            (B, H), or (H,); 0 where there is no step.
        state : None
        tape

        Raises
        ------
        ValueError, TypeError
            For a wrong shape, dtype or length, or a state.
        """
        no_state(state)
        x = _core.as_array(x, "x", self._dtype_name)
        if x.ndim not in (2, 3) or len(x) == 0:
            raise ValueError(f"x: expected (T, B, H) or (T, H) with T > 0, got {x.shape}")
        if lengths is None:
            lengths = np.full(x.shape[1:-1], len(x))
        ends = check_lengths(lengths, x.shape[:-1]).reshape(-1)
        y, kept = self._pool(x.reshape(len(x), len(ends), x.shape[-1]), ends)
        return y.reshape(x.shape[1:]), None, (kept, x.shape)

    def backward(self, tape: Any, dy: Any, dstate: Any = None) -> Gradients:
        """Return the gradient of x: dx_t = w_t dy.

        Parameters
        ----------
        tape
            From `forward`.
        dy : array
            Like y.
        dstate : None

        Returns
        -------
        Gradients

        Raises
        ------
        ValueError, TypeError
            For a wrong shape or dtype.
        """
        no_state(dstate, "dstate")
        kept, shape = tape
        dy = _core.as_array(dy, "dy", self._dtype_name)
        check_shape(dy, "dy", shape[1:])
        dx = np.zeros(shape, dy.dtype)
        rows = np.atleast_2d(dy)  # (B, H)
        self._spread(kept, rows, dx.reshape(shape[0], *rows.shape))
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
        # Past the length 0, whatever stands there.
        weighted = np.multiply(weights, x, out=np.zeros_like(x), where=weights > 0)
        return weighted.sum(axis=0), weights

    def _spread(self, kept: Any, dy: Array, dx: Array) -> None:
        np.multiply(kept, dy, out=dx, where=kept > 0)

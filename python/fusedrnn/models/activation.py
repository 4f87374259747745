"""Activations of every element: tanh and relu."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import numpy.typing as npt

from .._network import Array
from ..functional import Gradients
from ._part import Part
from ._registry import register


class _Activation(Part):
    """y = f(x), element by element, of any shape; the derivative is a function of y."""

    def __init__(self, *, dtype: npt.DTypeLike = "float32") -> None:
        super().__init__(dtype=dtype)

    @abc.abstractmethod
    def _f(self, x: Array) -> Array:
        """Return f(x)."""

    @abc.abstractmethod
    def _derivative(self, y: Array) -> Array:
        """Return f'(x) where f(x) is y."""

    def _forward(self, x: Array, state: None, lengths: Any) -> tuple[Array, None, Array]:
        y = np.asarray(self._f(x))
        return y, None, y

    def forward(self, x: Any, state: Any = None, *, lengths: Any = None) -> tuple[Array, Any, Any]:
        """Return what that of every part does; y is read-only, since the tape reads it again."""
        y, last, tape = super().forward(x, state, lengths=lengths)
        y.flags.writeable = False
        return y, last, tape

    def _backward(self, kept: Array, dy: Array, dstate: None) -> Gradients:
        return Gradients(self._derivative(kept) * dy, None, {})


@register
class Tanh(_Activation):
    """y = tanh(x), with dx = (1 - y^2) dy.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.models import Tanh
    >>> Tanh(dtype="float64")(np.array([0.0, 1.0]))[0].round(4)
    array([0.    , 0.7616])
    """

    def _f(self, x: Array) -> Array:
        return np.tanh(x)

    def _derivative(self, y: Array) -> Array:
        return 1 - y * y


@register
class Relu(_Activation):
    """y = max(x, 0), with dx = dy where y > 0, and 0 elsewhere. A NaN stays a NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.models import Relu
    >>> Relu(dtype="float64")(np.array([-1.0, 2.0]))[0]
    array([0., 2.])
    """

    def _f(self, x: Array) -> Array:
        return np.maximum(x, 0)

    def _derivative(self, y: Array) -> Array:
        return np.heaviside(y, 0)

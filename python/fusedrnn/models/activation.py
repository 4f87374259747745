"""Activations of every element: tanh and relu."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .._network import Array
from ..functional import Gradients
from ._module import Stateless, no_state
from ._positions import check_shape
from ._registry import register


class _Activation(Stateless):
    """y = f(x), element by element; the derivative is a function of y."""

    def __init__(self, *, dtype: npt.DTypeLike = "float32") -> None:
        super().__init__(dtype=dtype)

    @abc.abstractmethod
    def _f(self, x: Array) -> Array:
        """Return f(x)."""

    @abc.abstractmethod
    def _derivative(self, y: Array) -> Array:
        """Return f'(x) where f(x) is y."""

    def __call__(self, x: Any, state: Any = None, *, lengths: Any = None) -> tuple[Array, None]:
        """Return y, and None for a state; the arguments are those of `forward`."""
        no_state(state)
        return self._f(_core.as_array(x, "x", self._dtype_name)), None

    def forward(self, x: Any, state: Any = None, *, lengths: Any = None) -> tuple[Array, None, Any]:
        """Return y, None for a state, and a tape for `backward`.

        Parameters
        ----------
        x : array
            Of any shape.
        state : None
        lengths
            Not used.

        Returns
        -------
        y : array
            Like x. Read-only, since the tape reads it again.
        state : None
        tape

        Raises
        ------
        ValueError, TypeError
            For a state, or a wrong dtype.
        """
        y = np.asarray(self(x, state)[0])
        y.flags.writeable = False
        return y, None, y

    def backward(self, tape: Any, dy: Any, dstate: Any = None) -> Gradients:
        """Return the gradient of x: dx = f' dy.

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
        dy = _core.as_array(dy, "dy", self._dtype_name)
        check_shape(dy, "dy", tape.shape)
        return Gradients(self._derivative(tape) * dy, None, {})


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

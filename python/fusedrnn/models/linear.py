"""A linear layer on every position."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from .._arguments import flag, size
from .._network import Array
from ..functional import Gradients
from ._part import Part
from ._registry import register
from ._sums import sum_outer, sum_over


@register
class Linear(Part):
    r"""y = W x + b on the last axis, whatever axes stand before it: of x (..., I) a y (..., O).

    .. math::
        y = W x + b \qquad
        dx = W^T dy, \quad dW = \sum dy\, x^T, \quad db = \sum dy

    Parameters
    ----------
    inputs, outputs : int
        I and O, at least 1.
    bias : bool
        Whether there is a bias b.
    dtype : "float32" or "float64"
        Of everything.
    seed : int, optional
        For the initial parameters; fresh entropy if not given.

    Attributes
    ----------
    parameters : mapping of str to read-only array
        ``weight`` (O, I) and ``bias`` (O,). Initially U(-1/sqrt(I), 1/sqrt(I)).

    Raises
    ------
    ValueError
        For a size below 1, or another dtype.
    TypeError
        For a size that isn't an integer or a flag that isn't a bool.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.models import Linear
    >>> linear = Linear(3, 2, seed=0)
    >>> y, _, tape = linear.forward(np.ones((5, 4, 3), np.float32))
    >>> y.shape, linear.backward(tape, y).parameters["weight"].shape
    ((5, 4, 2), (2, 3))
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool = True,
        dtype: npt.DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        self._inputs = size(inputs, "inputs")
        self._outputs = size(outputs, "outputs")
        self._bias = flag(bias, "bias")
        super().__init__(dtype=dtype, seed=seed)

    @property
    def inputs(self) -> int:
        """I, the size of x."""
        return self._inputs

    @property
    def outputs(self) -> int:
        """O, the size of y."""
        return self._outputs

    @property
    def bias(self) -> bool:
        """Whether there is a bias."""
        return self._bias

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.outputs, self.inputs)}
        return shapes | ({"bias": (self.outputs,)} if self.bias else {})

    def _read(self, x: Any) -> Array:
        array = super()._read(x)
        if array.ndim < 1 or array.shape[-1] != self.inputs:
            raise ValueError(f"x: expected (..., {self.inputs}) [..., I], got {array.shape}")
        return array

    def _forward(self, x: Array, state: None, lengths: Any) -> tuple[Array, None, Any]:
        p = self.parameters  # of one version, whatever another thread loads
        y: Array = x.reshape(-1, self.inputs) @ p["weight"].T
        if self.bias:
            y += p["bias"]
        return y.reshape((*x.shape[:-1], self.outputs)), None, (x, p["weight"])

    def _backward(self, kept: Any, dy: Array, dstate: None) -> Gradients:
        x, weight = kept
        rows = dy.reshape(-1, self.outputs)
        parameters = {"weight": sum_outer(dy, x)}
        if self.bias:
            parameters["bias"] = sum_over(rows)
        return Gradients((rows @ weight).reshape(x.shape), None, parameters)

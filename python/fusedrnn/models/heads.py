"""Heads: from hidden states to predictions, with the loss that trains them.

::

    o = y weight^T + bias          10.10: o_t = c + V h_t
    SoftmaxHead      p = softmax(o), cross entropy
    RegressionHead   o itself, squared error

The losses are `linear_cross_entropy` and `linear_squared_error` of `fusedrnn.models`, which compute
loss and gradients together in C++.

Source: Goodfellow, Bengio and Courville, Deep Learning, 2016, equations 10.10 to 10.24.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .._arguments import integer, size
from .._network import Array
from ._module import Stateless, no_state
from ._padding import Padding
from ._registry import register
from .losses import IGNORE_INDEX, LinearLoss, linear_cross_entropy, linear_squared_error


class _Head(Stateless):
    """A weight (K, H) and a bias (K,)."""

    def __init__(
        self, input_size: int, outputs: int, dtype: npt.DTypeLike, seed: int | None
    ) -> None:
        self._input_size = size(input_size, "input_size")
        self._outputs = outputs
        super().__init__(dtype=dtype, seed=seed)

    @property
    def input_size(self) -> int:
        """H, the size of a hidden state."""
        return self._input_size

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self._outputs, self.input_size), "bias": (self._outputs,)}

    def _checked(self, y: Any) -> Array:
        array = _core.as_array(y, "y", self._dtype_name)
        if array.ndim < 1 or array.shape[-1] != self.input_size:
            raise ValueError(f"y: expected (..., {self.input_size}) [..., H], got {array.shape}")
        return array

    def __call__(self, y: Any, state: Any = None, *, lengths: Any = None) -> tuple[Array, None]:
        """Return the predictions, and None for a state.

        Parameters
        ----------
        y : array (..., H)
            With lengths (T, B, H), or (T, H) for one sequence. Not read past them.
        state : None
        lengths : array of integers (B,), optional
            How many steps each sequence has, from 0 to T; an integer for one sequence.

        Returns
        -------
        prediction : array (..., K)
            0 past the end of a sequence.
        state : None

        Raises
        ------
        ValueError, TypeError
            For a wrong shape, dtype or length, or a state.
        """
        no_state(state)
        y, p = self._checked(y), self.parameters
        padding = Padding.of(lengths, y.shape[:-1])
        # One product of two matrices, however many axes there are.
        o: Array = padding.without(y).reshape(-1, self.input_size) @ p["weight"].T
        o += p["bias"]
        prediction = self._of_linear(o).reshape((*y.shape[:-1], self._outputs))
        padding.clear(prediction)
        return prediction, None

    def _of_linear(self, o: Array) -> Array:
        """Return the predictions of o, which may be changed."""
        return o


@register
class SoftmaxHead(_Head):
    r"""The probabilities of K classes: :math:`p = \mathrm{softmax}(V h + c)`.

    A call returns log p, in nats: of y (..., H) an array (..., K).

    Parameters
    ----------
    input_size : int
        H, the size of a hidden state.
    classes : int
        K.
    ignore_index : int
        The target of positions that don't count in the loss.
    dtype : "float32" or "float64"
        Of everything.
    seed : int, optional
        For the initial parameters; fresh entropy if not given.

    Attributes
    ----------
    parameters : mapping of str to read-only array
        ``weight`` (K, H) and ``bias`` (K,). Initially U(-1/sqrt(H), 1/sqrt(H)).

    Raises
    ------
    ValueError
        For a size below 1, or another dtype.
    TypeError
        For a size that isn't an integer.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.models import SoftmaxHead
    >>> head = SoftmaxHead(4, 3, seed=0)
    >>> y = np.ones((5, 2, 4), np.float32)  # T, B, H
    >>> log_p, _ = head(y)
    >>> log_p.shape, np.exp(log_p[0, 0]).sum().round(5)
    ((5, 2, 3), np.float32(1.0))
    >>> loss = head.loss(y, np.zeros((5, 2), int), lengths=[5, 3])
    >>> loss.count, loss.gradients.y.shape
    (8.0, (5, 2, 4))
    """

    def __init__(
        self,
        input_size: int,
        classes: int,
        *,
        ignore_index: int = IGNORE_INDEX,
        dtype: npt.DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        self._ignore_index = integer(ignore_index, "ignore_index")
        super().__init__(input_size, size(classes, "classes"), dtype, seed)

    @property
    def classes(self) -> int:
        """K, the number of classes."""
        return self._outputs

    @property
    def ignore_index(self) -> int:
        """The target of positions that don't count in the loss."""
        return self._ignore_index

    def _of_linear(self, o: Array) -> Array:
        o -= o.max(axis=-1, keepdims=True)
        o -= np.log(np.exp(o).sum(axis=-1, keepdims=True))
        return o

    def loss(
        self,
        y: Any,
        targets: Any,
        *,
        weights: Any = None,
        lengths: Any = None,
        reduction: str = "mean",
        gradients: bool = True,
    ) -> LinearLoss:
        """Return the cross entropy and its gradients.

        Parameters
        ----------
        y, targets, weights, lengths, reduction, gradients
            As in `linear_cross_entropy`.

        Returns
        -------
        LinearLoss
            `value`, `count` and `gradients` (of `y`, `weight`, `bias`).

        Raises
        ------
        ValueError, TypeError, MemoryError
            As from `linear_cross_entropy`.
        """
        p = self.parameters
        return linear_cross_entropy(
            self._checked(y),
            p["weight"],
            p["bias"],
            targets,
            weights=weights,
            lengths=lengths,
            ignore_index=self.ignore_index,
            reduction=reduction,
            gradients=gradients,
        )


@register
class RegressionHead(_Head):
    r"""K numbers, :math:`o = V h + c`, with the squared error :math:`\sum_k (o_k - t_k)^2`.

    A call returns o: of y (..., H) an array (..., K).

    Parameters
    ----------
    input_size : int
        H, the size of a hidden state.
    outputs : int
        K.
    dtype, seed
        As in `SoftmaxHead`.

    Attributes
    ----------
    parameters : mapping of str to read-only array
        As in `SoftmaxHead`.

    Raises
    ------
    ValueError, TypeError
        As `SoftmaxHead` does.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.models import RegressionHead
    >>> head = RegressionHead(4, 2, seed=0)
    >>> y = np.ones((5, 3, 4), np.float32)
    >>> o, _ = head(y)
    >>> round(head.loss(y, o).value, 6)  # by BLAS, and by the kernels
    0.0
    """

    def __init__(
        self,
        input_size: int,
        outputs: int,
        *,
        dtype: npt.DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        super().__init__(input_size, size(outputs, "outputs"), dtype, seed)

    @property
    def outputs(self) -> int:
        """K, the number of outputs."""
        return self._outputs

    def loss(
        self,
        y: Any,
        targets: Any,
        *,
        weights: Any = None,
        lengths: Any = None,
        reduction: str = "mean",
        gradients: bool = True,
    ) -> LinearLoss:
        """Return the squared error and its gradients.

        Parameters
        ----------
        y, targets, weights, lengths, reduction, gradients
            As in `linear_squared_error`.

        Returns
        -------
        LinearLoss
            `value`, `count` and `gradients` (of `y`, `weight`, `bias`).

        Raises
        ------
        ValueError, TypeError, MemoryError
            As from `linear_squared_error`.
        """
        p = self.parameters
        return linear_squared_error(
            self._checked(y),
            p["weight"],
            p["bias"],
            targets,
            weights=weights,
            lengths=lengths,
            reduction=reduction,
            gradients=gradients,
        )

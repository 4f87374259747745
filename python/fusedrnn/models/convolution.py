"""A convolution over time: a window that slides along the sequence in front of the recurrence."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .._arguments import flag, size
from .._network import Array
from ..functional import Gradients
from ._module import no_state
from ._part import Part
from ._positions import Integers, check_shape
from ._registry import register
from ._sums import sum_outer, sum_over

PADDINGS = ("causal", "same")


@register
class Conv1d(Part):
    r"""A convolution over time, of odd or even width K.

    .. math::
        y_t = b + \sum_{k=0}^{K-1} W_k\, x_{t+k-p}
        \qquad
        dx_t = \sum_k W_k^T dy_{t-k+p}, \quad dW_k = \sum_t dy_t\, x_{t+k-p}^T

    Causal: p = K - 1, so that y_t sees x_{t-K+1} to x_t and nothing that comes later. Same:
    p = (K - 1) // 2, so that the window is centred. Beyond its ends a sequence is 0; but a causal
    convolution goes on where the last call ended, given its state: the last K - 1 inputs.

    As in every framework this is a correlation: W is not turned round.

    x is (T, B, I), or (T, I) for one sequence, and y (T, B, O), or (T, O). The state of a causal
    convolution is (K - 1, B, I), or (K - 1, I); zero if not given. The other has none.

    Parameters
    ----------
    inputs, outputs : int
        I and O, at least 1.
    width : int
        K, at least 1.
    padding : "causal" or "same"
    bias : bool
        Whether there is a bias b.
    dtype : "float32" or "float64"
        Of everything.
    seed : int, optional
        For the initial parameters; fresh entropy if not given.

    Attributes
    ----------
    parameters : mapping of str to read-only array
        ``weight`` (O, K, I), the oldest input first, and ``bias`` (O,). Initially
        U(-1/sqrt(K I), 1/sqrt(K I)).

    Raises
    ------
    ValueError
        For a size below 1, another padding or another dtype.
    TypeError
        For a size that isn't an integer or a flag that isn't a bool.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.models import Conv1d
    >>> difference = Conv1d(1, 1, 2, bias=False, dtype="float64")
    >>> difference.load_parameters({"weight": np.array([[[-1.0], [1.0]]])})
    >>> x = np.array([1.0, 4.0, 9.0, 16.0]).reshape(4, 1, 1)  # T, B, I
    >>> y, state = difference(x)
    >>> y.ravel(), state.ravel()
    (array([1., 3., 5., 7.]), array([16.]))
    >>> difference(np.array([[[25.0]]]), state)[0].ravel()
    array([9.])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int,
        *,
        padding: str = "causal",
        bias: bool = True,
        dtype: npt.DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        self._inputs = size(inputs, "inputs")
        self._outputs = size(outputs, "outputs")
        self._width = size(width, "width")
        if not isinstance(padding, str) or padding not in PADDINGS:
            raise ValueError(f"padding: expected 'causal' or 'same', got {padding!r}")
        self._padding = padding
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
    def width(self) -> int:
        """K, how many steps the window sees."""
        return self._width

    @property
    def padding(self) -> str:
        """Where the window stands: "causal" or "same"."""
        return self._padding

    @property
    def bias(self) -> bool:
        """Whether there is a bias."""
        return self._bias

    @property
    def _before(self) -> int:
        """p, how many steps before t the window begins."""
        return self.width - 1 if self.padding == "causal" else (self.width - 1) // 2

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.outputs, self.width, self.inputs)}
        return shapes | ({"bias": (self.outputs,)} if self.bias else {})

    def _read(self, x: Any) -> Array:
        array = super()._read(x)
        if array.ndim not in (2, 3) or array.shape[-1] != self.inputs:
            wanted = f"(T, B, {self.inputs}) or (T, {self.inputs})"
            raise ValueError(f"x: expected {wanted}, got {array.shape}")
        return array

    def _read_state(self, state: Any, shape: tuple[int, ...], name: str) -> Array | None:
        if state is None or self.padding == "same":
            no_state(state, name)
            return None
        before = _core.as_array(state, name, self._dtype_name)
        check_shape(before, name, (self.width - 1, *shape[1:]))
        return before

    def _forward(
        self, x: Array, state: Array | None, lengths: Integers | None
    ) -> tuple[Array, Any, Any]:
        padded = self._padded(x, state)
        p = self.parameters  # of one version, whatever another thread loads
        weight = p["weight"]
        y: Array = self._windows(padded, len(x)) @ weight.reshape(self.outputs, -1).T
        if self.bias:
            y += p["bias"]
        last = self._last(padded, len(x), lengths)
        y = y.reshape((*x.shape[:-1], self.outputs))
        return y, last, (padded, x.shape, weight, lengths)

    def _backward(self, kept: Any, dy: Array, dstate: Array | None) -> Gradients:
        padded, shape, weight, lengths = kept
        steps = shape[0]
        rows = dy.reshape(-1, self.outputs)
        d_weight = sum_outer(rows, self._windows(padded, steps)).reshape(weight.shape)
        d_padded = np.zeros_like(padded)
        for k in range(self.width):
            d_padded[k : k + steps] += (rows @ weight[:, k]).reshape(shape)
        parameters: dict[str, Array] = {"weight": d_weight}
        if self.bias:
            parameters["bias"] = sum_over(rows)
        if dstate is not None:
            d_padded[self._last_index(shape, lengths)] += dstate
        dx = d_padded[self._before : self._before + steps]
        state = d_padded[: self.width - 1] if self.padding == "causal" else None
        return Gradients(dx, state, parameters)

    def _padded(self, x: Array, state: Array | None) -> Array:
        """Return x with the p inputs before it, and zeros behind it."""
        steps, before = len(x), self._before
        padded = np.zeros((steps + self.width - 1, *x.shape[1:]), self.dtype)
        if state is not None:
            padded[:before] = state
        padded[before : before + steps] = x
        return padded

    def _windows(self, padded: Array, steps: int) -> Array:
        """Return the window of each position as a row: (T*B, K*I)."""
        if steps == 0:  # no window fits into what is padded
            return np.zeros((0, self.width * self.inputs), self.dtype)
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.width, axis=0)
        windows = np.moveaxis(windows, -1, -2)  # (T, B, K, I)
        rows: Array = windows.reshape(-1, self.width * self.inputs)
        return rows

    def _last(self, padded: Array, steps: int, lengths: Any) -> Array | None:
        """Return the last K - 1 inputs of each sequence."""
        if self.padding == "same":
            return None
        last: Array = padded[self._last_index((steps, *padded.shape[1:]), lengths)]
        return last.copy()

    def _last_index(self, shape: tuple[int, ...], lengths: Any) -> Any:
        """Return where the last K - 1 inputs stand in the padded x: from step `length` on."""
        if lengths is None:
            return slice(shape[0], shape[0] + self.width - 1)
        offsets = np.arange(self.width - 1).reshape(-1, *(1,) * lengths.ndim)
        times = offsets + lengths  # (K - 1, B)
        return (times, *np.indices(times.shape)[1:])

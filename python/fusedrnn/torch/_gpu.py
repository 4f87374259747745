"""Parameters on a GPU as the layers use them: of tensors what `_core.PackedWeights` is of arrays.

Nothing is packed: the kernels read the parameters where they lie. What comes out is in memory of
torch's allocator, and all work goes on torch's current stream.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import _device
from .._network import CELLS, Network
from ._switches import Unsupported

if TYPE_CHECKING:
    from .._cuda import DeviceArray

__all__ = [
    "DTYPES",
    "DeviceWeights",
    "capturing",
    "number_of",
    "on_gpu",
    "reserve_size",
    "stream_of",
    "why_not",
]

DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def on_gpu(tensor: Tensor) -> bool:
    """Return whether a tensor is on a GPU of CUDA."""
    return bool(tensor.is_cuda)


def number_of(tensor: Tensor) -> int:
    """Return the number of a tensor's GPU."""
    number: int = tensor.get_device()
    return number


def stream_of(tensor: Tensor) -> int:
    """Return the handle of the stream that is current on a tensor's GPU."""
    handle: int = torch.cuda.current_stream(tensor.device).cuda_stream
    return handle


def capturing() -> bool:
    """Return whether the calls on the current stream become part of a CUDA graph."""
    return bool(torch.cuda.is_current_stream_capturing())


def why_not(device: int, dtype: torch.dtype) -> str | None:
    """Return why there are no kernels for a dtype on a GPU, or None."""
    reason = _device.why_not_yet()
    if reason is not None:
        return f"no kernels for GPUs: {reason}"
    if dtype not in DTYPES:
        return f"{dtype} on a GPU"
    return _why_not_on(device, DTYPES[dtype])


@functools.cache
def _why_not_on(device: int, dtype: str) -> str | None:
    reason: str | None = _device.required().why_not_on(device, dtype)
    return reason


# What torch.compiler.assume_constant_result does, besides importing Dynamo, which takes seconds.
why_not._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _reserve_row(network: Network, dtype: torch.dtype, dropout: bool) -> tuple[int, int]:
    row, besides = _device.required().reserve_size(
        network.cell,
        network.input_size,
        network.hidden_size,
        network.num_layers,
        network.bidirectional,
        DTYPES[dtype],
        dropout,
    )
    # In elements. Both are whole numbers of them.
    return row // dtype.itemsize, besides // dtype.itemsize


def reserve_size(network: Network, dtype: torch.dtype, rows: int, dropout: bool) -> int:
    """Return how many elements `DeviceWeights.train` keeps of so many rows, at most."""
    row, besides = _reserve_row(network, dtype, dropout)
    return rows * row + besides


class DeviceWeights:
    """The parameters of one call, checked. The methods are those of `_core.PackedWeights`.

    Parameters
    ----------
    network : Network
    weights : sequence of Tensor
        In torch's order, of one dtype, on one GPU, with the network's shapes.

    Raises
    ------
    Unsupported
        If the kernels can't take them.
    """

    def __init__(self, network: Network, weights: Sequence[Tensor]) -> None:
        reason = why_not(number_of(weights[0]), weights[0].dtype)
        if reason is not None:
            raise Unsupported(reason)
        if network.proj_size:
            raise Unsupported("a projection on a GPU")
        self._network = network
        self._device, self._dtype = weights[0].device, weights[0].dtype
        self._index, self._stream = number_of(weights[0]), stream_of(weights[0])
        self._weights = list(map(self._take, weights))
        arrays = list(map(self._array, self._weights))
        self._kernels = _device.required().Weights(
            network.cell,
            arrays,
            list(network.names),
            network.input_size,
            network.hidden_size,
            network.num_layers,
            network.bidirectional,
            network.bias,
            arrays[0],
        )

    def reserve_size(self, x: Tensor, dropout: bool) -> int:
        """Return how many elements `train` keeps, at most."""
        self._check(x)
        return reserve_size(self._network, x.dtype, math.prod(x.shape[:-1]), dropout)

    def infer(
        self,
        x: Tensor,
        state: Any,
        batch_first: bool,
        out: None,
        lengths: Any = None,
        batch_sizes: Any = None,
    ) -> tuple[Tensor, Any]:
        """Return y and the last state."""
        x = self._time_first(x, batch_first)
        y, last = self._outputs(x, batch_sizes)
        self._run(
            self._kernels.infer,
            self._array(x),
            self._state(state),
            False,
            lengths,
            batch_sizes,
            (self._array(y), self._arrays(last)),
        )
        return _time_second(y, batch_first), last

    def train(
        self,
        x: Tensor,
        state: Any,
        batch_first: bool,
        dropout: float,
        seed: int,
        call: int,
        reserve: Tensor,
        lengths: Any,
        batch_sizes: Any,
    ) -> tuple[Tensor, Any]:
        """Return y and the last state; what else `gradients` needs goes to `reserve`."""
        x = self._time_first(x, batch_first)
        y, last = self._outputs(x, batch_sizes)
        self._run(
            self._kernels.train,
            self._array(x),
            self._state(state),
            False,
            dropout,
            seed,
            call,
            self._array(reserve),
            lengths,
            batch_sizes,
            (self._array(y), self._arrays(last)),
        )
        return _time_second(y, batch_first), last

    def gradients(
        self,
        x: Tensor,
        state: Any,
        y: Tensor,
        reserve: Tensor,
        batch_first: bool,
        dropout: float,
        seed: int,
        call: int,
        dy: Tensor | None,
        dstate: Any,
        lengths: Any,
        batch_sizes: Any,
    ) -> tuple[Tensor, Any, list[Tensor]]:
        """Return the gradients of x, of the state and of the parameters."""
        x = self._time_first(x, batch_first)
        dx = torch.empty_like(x)
        _, dfirst = self._outputs(x, batch_sizes)
        dweights = list(map(torch.empty_like, self._weights))
        self._run(
            self._kernels.gradients,
            self._array(x),
            self._state(state),
            self._array(self._time_first(y, batch_first)),
            self._array(reserve if reserve.data_ptr() % 16 == 0 else reserve.clone()),
            False,
            dropout,
            seed,
            call,
            None if dy is None else self._array(self._time_first(dy, batch_first)),
            self._state(dstate),
            lengths,
            batch_sizes,
            (self._array(dx), self._arrays(dfirst), list(map(self._array, dweights))),
        )
        return _time_second(dx, batch_first), dfirst, dweights

    def _run(self, call: Callable[..., None], *arguments: Any) -> None:
        """Call the kernels, which take memory beside torch's allocator while they run."""
        try:
            call(*arguments)
        except MemoryError:
            if capturing():
                raise
            torch.cuda.empty_cache()  # what the allocator keeps for later is memory too
            try:
                call(*arguments)
            except MemoryError as error:
                raise torch.cuda.OutOfMemoryError(str(error)) from None

    # Tensors, as the kernels read them

    def _check(self, tensor: Any) -> None:
        """Raise Unsupported for what isn't like the parameters, or not on a GPU (an array)."""
        device = tensor.device if isinstance(tensor, Tensor) else "cpu"
        if device != self._device:
            raise Unsupported(f"a tensor on {device}, and parameters on {self._device}")
        if tensor.dtype is not self._dtype:
            raise Unsupported(f"tensors of other dtypes than the parameters', {self._dtype}")

    def _take(self, tensor: Tensor) -> Tensor:
        """Return a contiguous tensor of these values, perhaps the same."""
        self._check(tensor)
        if tensor.is_neg() or tensor._is_zerotensor():  # has no memory of its own
            tensor = tensor.clone()
        return tensor.detach().contiguous()

    def _array(self, tensor: Tensor) -> DeviceArray:
        array: DeviceArray = _device.required().DeviceArray.at(
            tensor.data_ptr(),
            tuple(tensor.shape),
            DTYPES[tensor.dtype],
            self._index,
            self._stream,
            tensor,
        )
        return array

    def _arrays(self, state: Any) -> Any:
        return tuple(map(self._array, state)) if type(state) is tuple else self._array(state)

    def _state(self, state: Any) -> Any:
        """Return a state of tensors, None, or a tuple with None in it, as the kernels take it."""
        if state is None:
            return None
        if type(state) is tuple:
            return tuple(map(self._state, state))
        return self._array(self._take(state))

    def _time_first(self, rows: Tensor, batch_first: bool) -> Tensor:
        """Return x or the like with the time as the first axis."""
        self._check(rows)
        return self._take(_time_second(rows, batch_first))

    def _outputs(self, x: Tensor, batch_sizes: Any) -> tuple[Tensor, Any]:
        """Return a new y and a new state, for x with the time as its first axis."""
        network = self._network
        if x.dim() not in (2, 3):
            raise Unsupported("an input of the wrong shape")
        y = x.new_empty(*x.shape[:-1], network.directions * network.hidden_size)
        batch = [] if x.dim() == 2 else [x.size(1)]
        if batch_sizes is not None:
            batch = [int(batch_sizes[0])]
        leading = [network.num_layers * network.directions, *batch]
        states = [x.new_empty(*leading, network.hidden_size) for _ in range(CELLS[network.cell][1])]
        return y, states[0] if len(states) == 1 else tuple(states)


def _time_second(rows: Tensor, batch_first: bool) -> Tensor:
    """Return rows with the first two axes exchanged, where the batch is (or is to be) the first."""
    return rows.transpose(0, 1) if batch_first and rows.dim() == 3 else rows

"""The mathematics of a call as autograd sees it, for eager calls and for the operators alike.

What is called an array here is the memory of a tensor on the CPU, or a tensor on a GPU.

    y, h_n, c_n, reserve = forward(x, h_0, c_0, weights)
    d_x, d_h_0, d_c_0, d_weights = backward(reserve, x, h_0, c_0, d_y, d_h_n, d_c_n)

`reserve` is one block of memory: what the kernels keep for each row (time step and sequence), and
then a copy of y. A copy, since torch lets its users write into a layer's outputs before `backward`,
as in ``y += skip``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from .. import _core
from .._network import CELLS, Array, Network
from . import _differentiable
from ._gpu import DeviceWeights
from ._switches import NotAccelerated, Unsupported, strict
from ._weights import as_array, as_tensor, packed_weights

__all__ = [
    "Call",
    "FusedRNN",
    "arrays_of",
    "backward",
    "forward",
    "modes_are_active",
    "needs_gradients",
    "state_of",
]


@dataclass(frozen=True, slots=True)
class Call:
    """What a call computes, besides its tensors."""

    network: Network
    batch_first: bool = False
    dropout: float = 0.0  # 0 also where the layer is not in training
    key: tuple[int, int] = (0, 0)  # of the dropout's mask
    lengths: Tensor | None = None  # (B,), int64, on the CPU
    batch_sizes: Tensor | None = None  # (T,), int64, on the CPU: then x and y are packed, (rows, I)
    step: bool = False  # a cell's call: x (B, I) or (I,) is one time step, and so are the states

    @property
    def drops(self) -> bool:
        """Whether there is dropout."""
        return self.dropout > 0 and self.network.num_layers > 1

    @property
    def states(self) -> int:
        """How many states the cell has: h, or h and c."""
        return CELLS[self.network.cell][1]

    @property
    def width(self) -> int:
        """The last dimension of y."""
        return self.network.directions * self.network.output_size

    def arguments(self) -> tuple[Any, ...]:
        """Return the last arguments of the operators, from `lengths` on."""
        return (
            self.lengths,
            self.batch_sizes,
            torch.tensor(self.key, dtype=torch.int64),
            self.network.cell,
            self.network.num_layers,
            self.network.bidirectional,
            self.batch_first,
            self.dropout,
        )


Packed = _core.PackedWeights | DeviceWeights


def forward(
    packed: Packed, call: Call, x: Any, state: Sequence[Any], portable: bool = False
) -> tuple[Any, Sequence[Any], Any]:
    """Return y, the last state and the reserve.

    A portable reserve is a function of the arguments alone, on every machine: it has a size of its
    own, and what the kernels don't write is 0.
    """
    reserve, kept = _new_reserve(packed, call, x, portable)
    y, last = packed.train(
        x,
        state_of(state),
        call.batch_first,
        call.dropout,
        *call.key,
        reserve[:kept],
        *arrays_of(call.lengths, call.batch_sizes),
    )
    _copy_of_y(call, reserve, x)[...] = y
    return y, _parts_of(last), reserve


def _new_reserve(packed: Packed, call: Call, x: Any, portable: bool) -> tuple[Any, int]:
    """Return a reserve, and how much of it is the kernels', in elements."""
    rows, copy = math.prod(x.shape[:-1]), math.prod(x.shape[:-1]) * call.width
    if isinstance(packed, DeviceWeights):
        kept = packed.reserve_size(x, call.drops)
        return (x.new_zeros if portable else x.new_empty)(kept + copy), kept
    row = packed.reserve_row(call.drops)
    kept = rows * (packed.portable_reserve_row(call.drops) if portable else row)
    reserve = np.empty(kept + copy, x.dtype)
    if portable:
        written = rows if call.lengths is None else int(call.lengths.sum())
        reserve[written * row : kept] = 0
    return reserve, kept


def backward(
    packed: Packed,
    call: Call,
    x: Any,
    state: Sequence[Any],
    reserve: Any,
    gradients: Sequence[Any],
) -> tuple[Any, Sequence[Any], list[Any]]:
    """Return the gradients of x, of the initial state and of the parameters.

    `gradients` are those of y and of the last state; None is zero. The reserve stays as it is, so
    this may be called again.
    """
    y = _copy_of_y(call, reserve, x)
    dx, dfirst, dparameters = packed.gradients(
        x,
        state_of(state),
        y,
        reserve[: len(reserve) - math.prod(y.shape)],
        call.batch_first,
        call.dropout,
        *call.key,
        gradients[0],
        state_of(gradients[1:]),
        *arrays_of(call.lengths, call.batch_sizes),
    )
    return dx, _parts_of(dfirst), dparameters


def _copy_of_y(call: Call, reserve: Any, x: Any) -> Any:
    """Return the reserve's end as an array shaped like y."""
    rows, width = math.prod(x.shape[:-1]), call.width
    tail = reserve[len(reserve) - rows * width :]
    if call.batch_first and x.ndim == 3:  # the kernels' order is time first
        return tail.reshape(x.shape[1], x.shape[0], width).swapaxes(0, 1)
    return tail.reshape(*x.shape[:-1], width)


def arrays_of(*tensors: Tensor | None) -> list[Array | None]:
    """Return the tensors as arrays: lengths, batch sizes."""
    return [None if tensor is None else tensor.numpy() for tensor in tensors]


def state_of(parts: Sequence[Any]) -> Any:
    """Return a state as the kernels take it: None, h, or (h, c)."""
    if all(part is None for part in parts):
        return None
    return parts[0] if len(parts) == 1 else tuple(parts)


def _parts_of(state: Any) -> Sequence[Any]:
    return state if isinstance(state, tuple) else (state,)


_transforms_are_active: Callable[[], bool] = torch._C._are_functorch_transforms_active
_count_dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack


def modes_are_active() -> bool:
    """Whether torch interprets calls: tensors may then be other than they seem (vmap, tracing)."""
    return _transforms_are_active() or _count_dispatch_modes() > 0


def needs_gradients(x: Tensor, states: Sequence[Any], weights: Sequence[Any]) -> bool:
    """Return whether autograd must see the call."""
    return torch.is_grad_enabled() and (
        x.requires_grad
        or any(weight.requires_grad for weight in weights)
        or any(part is not None and part.requires_grad for part in states)
    )


class FusedRNN(Function):
    """A call in autograd's graph, without the cost of the dispatcher."""

    @staticmethod
    def forward(
        ctx: Any, packed: Packed, call: Call, x: Tensor, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        states = tensors[: call.states]  # and then the weights
        y, last, reserve = forward(packed, call, _lifted(call, x), _lifted_parts(call, states))
        # On a GPU backward reads the parameters again, which by then may lie elsewhere (FSDP).
        ctx.packed = None if isinstance(packed, DeviceWeights) else packed
        ctx.call = call
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(as_tensor(reserve), x, *tensors)
        if call.step:
            return tuple(as_tensor(part[0]) for part in last)
        return (as_tensor(y), *map(as_tensor, last))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        call: Call = ctx.call
        reserve, x, *tensors = ctx.saved_tensors
        states, weights = tensors[: call.states], tensors[call.states :]
        given = (None, *gradients) if call.step else gradients
        found: Sequence[Tensor | None]
        try:
            if torch.is_grad_enabled():
                raise Unsupported("a backward pass with create_graph=True")
            if modes_are_active():
                found = _by_operator(call, x, states, weights, reserve, given)
            else:
                packed = ctx.packed or packed_weights(call.network, weights)
                found = _by_kernels(packed, call, x, states, reserve, given)
        except Unsupported as reason:  # also gradients of is_grads_batched=True
            if strict.enabled:
                raise NotAccelerated(f"{call.network.cell}: {reason}") from None
            found = _differentiable.gradients(call, x, states, weights, given)
        needed = zip(found, ctx.needs_input_grad[2:], strict=True)
        return (None, None, *(gradient if need else None for gradient, need in needed))


def _by_kernels(
    packed: Packed,
    call: Call,
    x: Tensor,
    states: Sequence[Tensor | None],
    reserve: Tensor,
    gradients: Sequence[Tensor | None],
) -> list[Tensor]:
    """Return the gradients, straight from the kernels."""
    dx, dfirst, dparameters = backward(
        packed,
        call,
        _lifted(call, x),
        _lifted_parts(call, states),
        as_array(reserve),
        _lifted_parts(call, gradients),
    )
    results = [d[0] for d in (dx, *dfirst)] if call.step else [dx, *dfirst]
    return [as_tensor(d) for d in (*results, *dparameters)]


def _lifted(call: Call, tensor: Tensor) -> Any:
    """Return a tensor's array, with the time axis that a cell's tensors lack."""
    array = as_array(tensor)
    return array[None] if call.step else array


def _lifted_parts(call: Call, parts: Sequence[Tensor | None]) -> list[Any]:
    return [None if part is None else _lifted(call, part) for part in parts]


def _by_operator(
    call: Call,
    x: Tensor,
    states: Sequence[Tensor | None],
    weights: Sequence[Tensor],
    reserve: Tensor,
    gradients: Sequence[Tensor | None],
) -> Sequence[Tensor]:
    """Return the gradients by the operator, which has rules for what modes make of tensors."""

    def lift(tensor: Tensor | None) -> Tensor | None:
        return tensor.unsqueeze(0) if call.step and tensor is not None else tensor

    found: Sequence[Tensor] = torch.ops.fusedrnn.rnn_backward(
        [lift(d) for d in gradients],
        lift(x),
        [lift(part) for part in states if part is not None],
        weights,
        reserve,
        *call.arguments(),
    )
    if call.step:
        found = [*(d.squeeze(0) for d in found[: 1 + call.states]), *found[1 + call.states :]]
    return found

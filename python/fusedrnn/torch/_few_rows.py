"""Calls of few rows (time steps and sequences), straight from torch's tensors.

The kernels read the parameters where they lie, so that there is nothing packed that a write could
make stale, and the call goes from tensors to tensors in C++, by DLPack's C exchange. What is out of
the ordinary about a call is left to the way of all others: `infer` and `train` then return None.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from .. import _core
from . import _differentiable, _gpu
from ._autograd import Call, modes_are_active, needs_gradients
from ._switches import NotAccelerated, strict
from ._weights import PLAIN, network_of

__all__ = ["MOST_ROWS", "FewRows", "few_rows", "has_exchange", "is_ordinary", "run"]

#: Of a call, time steps times sequences; see csrc/bindings/unpacked.cpp.
MOST_ROWS = _core.most_unpacked_rows()


@functools.cache
def has_exchange() -> bool:
    """Whether this torch has DLPack's C exchange, as of 2.10."""
    exchange = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    return exchange is not None and _core.use_tensors(exchange, list(PLAIN))


_tracing_state = torch._C._get_tracing_state
_any_autocast = torch._C._is_any_autocast_enabled
_is_negative: Callable[[Tensor], bool] = Tensor.is_neg


class FewRows:
    """What calls of one layer, or cell, have in common."""

    def __init__(self, call: Call) -> None:
        network = call.network
        self.call = call
        self.kernels = _core.Unpacked(
            network.cell,
            network.input_size,
            network.hidden_size,
            network.num_layers,
            network.bidirectional,
            network.bias,
            call.step,
            call.batch_first,
        )


@functools.cache
def few_rows(
    cell: str,
    input_size: int,
    hidden_size: int,
    num_layers: int,
    bidirectional: bool,
    bias: bool,
    batch_first: bool,
    step: bool,
) -> FewRows | None:
    """Return how these calls are run, or None where they can't be so."""
    if not has_exchange() or min(input_size, hidden_size, num_layers) < 1:
        return None
    network = network_of(cell, input_size, hidden_size, num_layers, bidirectional, bias)
    return FewRows(Call(network, batch_first, step=step))


def is_ordinary() -> bool:
    """Whether nothing listens to calls (tracers, transforms), or changes them (autocast)."""
    return (
        _tracing_state() is None
        and not _any_autocast()
        and not modes_are_active()
        and forward_ad._current_level < 0
    )


def run(
    rows: FewRows, x: Tensor, states: Sequence[Tensor] | None, weights: Sequence[Tensor]
) -> Sequence[Tensor] | None:
    """Return y and the last state's parts (of a step the parts alone); None if not in this way.

    Nothing is known of the arguments, but that `is_ordinary`.
    """
    kernels = rows.kernels
    parts = () if states is None else states
    try:
        if _gpu.on_gpu(weights[0]):
            return None
        if any(map(_is_negative, (x, *parts, *weights))):  # a sign that memory doesn't show
            return None
        if not needs_gradients(x, parts, weights):
            found: Sequence[Tensor] | None = kernels.infer(x, states, weights)
            return found
    except (TypeError, AttributeError):  # no tensors
        return None
    results = kernels.train(x, states, weights)
    if results is None:
        return None
    recorded: Sequence[Tensor] = _Recorded.apply(rows, results, x, *parts, *weights)
    return recorded


class _Recorded(Function):
    """Such a call in autograd's graph."""

    @staticmethod
    def forward(
        ctx: Any, rows: FewRows, results: Sequence[Tensor], x: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.rows = rows
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(results[-1], x, *tensors)
        return tuple(results[:-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        rows: FewRows = ctx.rows
        call = rows.call
        kept, x, *tensors = ctx.saved_tensors
        given = len(tensors) - len(call.network.names)  # of states
        states, weights = tensors[:given], tensors[given:]
        needed = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled() or modes_are_active():
            found = None
        else:
            every = needed[: 1 + given] + (False,) * (call.states - given) + needed[1 + given :]
            found = rows.kernels.gradients(x, states or None, weights, kept, gradients, every)
        if found is None:
            # With create_graph=True, with is_grads_batched=True, for a gradient on another device.
            if strict.enabled:
                raise NotAccelerated(f"{call.network.cell}: a backward pass in a mode")
            parts = states or [None] * call.states
            outputs = (None, *gradients) if call.step else gradients
            found = _differentiable.gradients(call, x, parts, weights, outputs)
        if not given:
            found = [found[0], *found[1 + call.states :]]
        return (None, None, *(d if need else None for d, need in zip(found, needed, strict=True)))

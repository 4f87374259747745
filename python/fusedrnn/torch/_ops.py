"""The kernels as operators of torch.library, for whatever traces, transforms or compiles calls.

``fusedrnn::rnn`` is what layers call, ``rnn_train`` what it becomes where autograd records, and
``rnn_backward`` the gradients of that one. They are functions of their arguments alone, and change
none.

=================  =================================================================================
``x``              (T, B, I), (B, T, I) with `batch_first`, (rows, I) with `batch_sizes`
``hx``             [h] or [h, c], (L*D, B, H); none is zero
``weights``        the parameters in torch's order
``lengths``        (B,), int64, or None
``batch_sizes``    (T,), int64, of a PackedSequence, or None
``dropout_key``    (2,), int64: which mask; needed for dropout > 0
``cell``           "lstm", "gru", "rnn_tanh", "rnn_relu"
=================  =================================================================================

They return y, h_n, c_n (empty where the cell has none), and ``rnn_train`` also `reserve`.
``rnn_backward`` returns the gradients of x, of the states and of the weights.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._network import CELLS, Network
from . import _autograd, _dynamo, _gpu, _transforms
from ._autograd import Call, arrays_of, state_of
from ._few_rows import MOST_ROWS, few_rows
from ._operands import check_gradients, check_operands
from ._weights import as_array, as_tensor, dtypes_of, packed_weights

__all__: list[str] = []

_shape: Callable[[Tensor], Any] = operator.attrgetter("shape")
_dtype: Callable[[Tensor], Any] = operator.attrgetter("dtype")
_place: Callable[[Tensor], Any] = operator.attrgetter("device")

#: Of calls whose shapes are kept, so that a program with ever new ones doesn't grow.
_MOST_SIGNATURES = 256

_library = torch.library.Library("fusedrnn", "DEF")
_HEAD = "Tensor x, Tensor[] hx, Tensor[] weights, "
_TAIL = (
    "Tensor? lengths, Tensor? batch_sizes, Tensor? dropout_key, "
    "str cell, int num_layers, bool bidirectional, bool batch_first, float dropout"
)
_SCHEMAS = {
    "rnn": f"({_HEAD}{_TAIL}) -> (Tensor, Tensor, Tensor)",
    "rnn_train": f"({_HEAD}{_TAIL}) -> (Tensor, Tensor, Tensor, Tensor)",
    "rnn_backward": f"(Tensor?[] gradients, {_HEAD}Tensor reserve, {_TAIL}) -> Tensor[]",
}
for _name, _schema in _SCHEMAS.items():
    _library.define(_name + _schema, tags=(torch.Tag.pt2_compliant_tag,))


def _given(hx: Sequence[Tensor] | None) -> Sequence[Tensor]:
    """Return the states of a call: packages of AOTInductor hand over an empty list as None."""
    return [] if hx is None else hx


def _call(arguments: Sequence[Any]) -> Call:
    """Return the call of an operator's arguments, checked."""
    x, hx, weights, lengths, batch_sizes, dropout_key, *rest = arguments
    if lengths is batch_sizes is dropout_key is None:
        return _plain_call(x, hx, weights, *rest)
    return _checked(arguments)


_plain_calls: dict[Any, Call] = {}


def _plain_call(x: Tensor, hx: Sequence[Tensor], weights: Sequence[Tensor], *rest: Any) -> Call:
    """Return the call of these arguments: from the last one of the same shapes, which was checked.

    The checks take twice the time of a small layer's step.
    """
    tensors = (x, *hx, *weights)
    signature = (
        *map(_shape, tensors),
        *map(_dtype, tensors),
        *map(_place, tensors),
        len(hx),
        *rest,
        *map(type, rest),  # 1, 1.0 and True are equal
    )
    call = _plain_calls.get(signature)
    if call is None:
        if len(_plain_calls) >= _MOST_SIGNATURES:
            _plain_calls.clear()
        call = _plain_calls[signature] = _checked((x, hx, weights, None, None, None, *rest))
    return call


def _checked(arguments: Sequence[Any]) -> Call:
    network = check_operands(*arguments)
    x, _, _, lengths, batch_sizes, dropout_key, *_, batch_first, dropout = arguments
    if batch_sizes is None and x.shape[1 if batch_first else 0] == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    key = (0, 0) if dropout_key is None else tuple(dropout_key.tolist())
    if min(key) < 0:
        raise ValueError(f"dropout_key: expected integers of at least 0, got {list(key)}")
    return Call(network, batch_first, dropout, key, lengths, batch_sizes)


# On the CPU, and on GPUs


@_dynamo.untraced
def _rnn(
    x: Tensor, hx: Sequence[Tensor], weights: Sequence[Tensor], *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    hx = _given(hx)
    found = _few_rows_of(x, hx, weights, *rest)
    if found is not None:
        return found[0], found[1], found[2] if len(found) > 2 else x.new_empty(0)
    call = _call((x, hx, weights, *rest))
    packed = packed_weights(call.network, weights)
    states = [as_array(p) for p in hx]
    if call.drops:
        y, last, _ = _autograd.forward(packed, call, as_array(x), states)
    else:
        y, state = packed.infer(
            as_array(x),
            state_of(states),
            call.batch_first,
            None,
            *arrays_of(call.lengths, call.batch_sizes),
        )
        last = state if isinstance(state, tuple) else (state,)
    return _results(y, last)


def _few_rows_of(
    x: Tensor,
    hx: Sequence[Tensor],
    weights: Sequence[Tensor],
    lengths: Tensor | None,
    batch_sizes: Tensor | None,
    dropout_key: Tensor | None,
    cell: str,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
    dropout: float,
) -> Sequence[Tensor] | None:
    """Return what a call of few rows returns, in eager calls' way; None for others."""
    if x.dim() != 3 or x.numel() > MOST_ROWS * x.shape[-1] or dropout > 0 or cell not in CELLS:
        return None
    if lengths is not None or batch_sizes is not None or len(weights) < 2 or weights[1].dim() != 2:
        return None
    if _gpu.on_gpu(weights[0]):
        return None
    # Whether this is so of all of them, the kernels find out.
    input_size, hidden_size = x.shape[-1], weights[1].shape[-1]
    bias = len(weights) == 4 * num_layers * (2 if bidirectional else 1)
    rows = few_rows(
        cell, input_size, hidden_size, num_layers, bidirectional, bias, batch_first, False
    )
    found: Sequence[Tensor] | None = None
    if rows is not None:
        found = rows.kernels.infer(x, hx or None, weights)
    return found


@_dynamo.untraced
def _rnn_train(
    x: Tensor, hx: Sequence[Tensor], weights: Sequence[Tensor], *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    call = _call((x, hx, weights, *rest))
    packed = packed_weights(call.network, weights)
    states = [as_array(p) for p in hx]
    y, last, reserve = _autograd.forward(packed, call, as_array(x), states, portable=True)
    return (*_results(y, last), as_tensor(reserve))


def _results(y: Any, last: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor]:
    y, h, *c = map(as_tensor, (y, *last))
    return y, h, c[0] if c else y.new_empty(0)


@_dynamo.untraced
def _rnn_backward(
    gradients: Sequence[Tensor | None],
    x: Tensor,
    hx: Sequence[Tensor],
    weights: Sequence[Tensor],
    reserve: Tensor,
    *rest: Any,
) -> list[Tensor]:
    call = _call((x, hx, weights, *rest))
    elements = _reserve_size(call.network, x, call.drops)
    check_gradients(gradients, x, reserve, call.network, elements)
    dx, dfirst, dweights = _autograd.backward(
        packed_weights(call.network, weights),
        call,
        as_array(x),
        [as_array(part) for part in hx],
        as_array(reserve),
        [None if d is None else as_array(d) for d in gradients],
    )
    return [as_tensor(d) for d in (dx, *dfirst, *dweights)]


# What they return, where there are no values


def _fake_rnn(x: Tensor, hx: Any, weights: Any, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    network = check_operands(x, hx, weights, *rest)
    lengths, batch_sizes, _, cell, num_layers, _, batch_first, _ = rest
    directions, outputs = network.directions, network.output_size
    if batch_sizes is not None:
        y = x.new_empty(x.shape[0], directions * outputs)
        batch = hx[0].shape[1] if len(hx) > 0 else _new_size()
    else:
        batch, steps = (x.shape[0], x.shape[1]) if batch_first else (x.shape[1], x.shape[0])
        if batch_first and not _time_outermost(x, lengths):
            y = x.new_empty(batch, steps, directions * outputs)
        else:
            y = x.new_empty(steps, batch, directions * outputs)
            y = y.transpose(0, 1) if batch_first else y
    h = x.new_empty(num_layers * directions, batch, outputs)
    return (
        y,
        h,
        h.new_empty(*h.shape[:2], network.hidden_size) if CELLS[cell][1] == 2 else x.new_empty(0),
    )


def _new_size() -> Any:
    """Return a symbol for the batch of a packed sequence without a state.

    It is a value in batch_sizes, no size of a tensor. torch.compile would break its graph at such a
    symbol, unless a setting is on, if it were made by `new_dynamic_size`.
    """
    context = torch.library.get_ctx()
    if context._shape_env is None:
        return context.new_dynamic_size()  # which says why there can be none
    return torch._library.fake_impl.allocate_size(context._shape_env)


def _time_outermost(x: Tensor, lengths: Tensor | None) -> bool:
    """Return whether results are (T, B, ...) in memory, batch_first or not.

    On the CPU sequences with lengths stay as they come, since they are gathered anyway.
    """
    return lengths is None or _gpu.on_gpu(x)


def _fake_rnn_train(
    x: Tensor, hx: Any, weights: Any, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    network = check_operands(x, hx, weights, *rest)
    _, _, _, _, num_layers, _, _, dropout = rest
    drops = dropout > 0 and num_layers > 1
    results = _fake_rnn(x, hx, weights, *rest)
    return (*results, x.new_empty(_reserve_size(network, x, drops)))


def _reserve_size(network: Network, x: Tensor, drops: bool) -> int:
    """Return how many elements a reserve has."""
    rows = math.prod(x.shape[:-1])
    if _gpu.on_gpu(x):
        kept = _gpu.reserve_size(network, x.dtype, rows, drops)
    else:
        kept = rows * _reserve_row(network, dtypes_of(x)[x.dtype], drops)
    elements: int = kept + rows * network.directions * network.output_size
    return elements


@functools.cache
def _reserve_row(network: Network, dtype: str, dropout: bool) -> int:
    zeros = {name: np.zeros(shape, dtype) for name, shape in network.shapes()}
    return network.pack(zeros, dtype).portable_reserve_row(dropout)


def _fake_rnn_backward(
    gradients: Any, x: Tensor, hx: Any, weights: Any, reserve: Tensor, *rest: Any
) -> list[Tensor]:
    lengths, batch_sizes, _, cell, _, _, batch_first, _ = rest
    turned = batch_first and batch_sizes is None and _time_outermost(x, lengths)
    dx = x.transpose(0, 1) if turned else x
    dx = torch.empty_like(dx, memory_format=torch.contiguous_format)
    dx = dx.transpose(0, 1) if turned else dx
    if len(hx) > 0:
        states = [torch.empty_like(p, memory_format=torch.contiguous_format) for p in hx]
    else:
        _, h, c = _fake_rnn(x, hx, weights, *rest)
        states = [h, c][: CELLS[cell][1]]
    return [
        dx,
        *states,
        *(torch.empty_like(w, memory_format=torch.contiguous_format) for w in weights),
    ]


# Autograd


_NOT_OURS = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)  # it falls through


@_dynamo.untraced
def _rnn_recorded(keyset: Any, *arguments: Any) -> Any:
    x, hx, weights = arguments[:3]
    hx = _given(hx)
    arguments = (x, hx, weights, *arguments[3:])
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *hx, *weights)):
        return torch.ops.fusedrnn.rnn_train(*arguments)[:3]
    with torch._C._AutoDispatchBelowAutograd():
        below = keyset & torch._C._after_autograd_keyset
        next_one = (below - _NOT_OURS).highestPriorityTypeId()
        if next_one == torch._C.DispatchKey.CPU:  # through the dispatcher takes as long as a step
            return _rnn(*arguments)
        return torch.ops.fusedrnn.rnn.default.redispatch(below, *arguments)


def _autocast(name: str) -> Callable[..., Any]:
    """Return an operator in float32, as `torch.library.register_autocast` would, which 2.6 lacks.

    Unlike that one, it takes None for hx.
    """

    @_dynamo.untraced
    def in_float32(x: Tensor, hx: Sequence[Tensor], *rest: Any) -> Any:
        keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
        cast: Any = torch.amp.autocast_mode._cast
        with torch._C._ExcludeDispatchKeyGuard(keys):
            operator = getattr(torch.ops.fusedrnn, name)
            return operator(*cast((x, _given(hx), *rest), "cpu", torch.float32))

    return in_float32


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, hx, weights, lengths, batch_sizes, key, *ctx.rest = inputs
    reserve = output[3]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(reserve)
    ctx.states, ctx.weights = len(hx), len(weights)
    ctx.save_for_backward(x, reserve, lengths, batch_sizes, key, *hx, *weights)


@_dynamo.untraced
def _differentiate(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
    x, reserve, lengths, batch_sizes, key, *tensors = ctx.saved_tensors
    hx, weights = tensors[: ctx.states], tensors[ctx.states :]
    states = CELLS[ctx.rest[0]][1]
    found = torch.ops.fusedrnn.rnn_backward(
        list(gradients[: 1 + states]), x, hx, weights, reserve, lengths, batch_sizes, key, *ctx.rest
    )
    dx, dhx, dweights = found[0], found[1 : 1 + states], found[1 + states :]
    return (dx, dhx if ctx.states else [], dweights, *(None for _ in range(8)))


def _save_nothing(ctx: Any, inputs: Any, output: Any) -> None:
    pass


def _refuse(ctx: Any, *_: Any) -> Any:
    raise RuntimeError(
        "fusedrnn::rnn_backward can't be differentiated: gradients of gradients need eager calls "
        "of fusedrnn.torch's layers, or torch.nn's layers"
    )


for _device in ("CPU", "CUDA"):
    _library.impl("rnn", _rnn, _device)
    _library.impl("rnn_train", _rnn_train, _device)
    _library.impl("rnn_backward", _rnn_backward, _device)
torch.library.register_fake("fusedrnn::rnn", _fake_rnn, lib=_library)
torch.library.register_fake("fusedrnn::rnn_train", _fake_rnn_train, lib=_library)
torch.library.register_fake("fusedrnn::rnn_backward", _fake_rnn_backward, lib=_library)
_library.impl("rnn", _rnn_recorded, "Autograd", with_keyset=True)
torch.library.register_autograd(
    "fusedrnn::rnn_train", _differentiate, setup_context=_save, lib=_library
)
torch.library.register_autograd(
    "fusedrnn::rnn_backward", _refuse, setup_context=_save_nothing, lib=_library
)
torch.library.register_vmap(
    "fusedrnn::rnn", _transforms.folded(torch.ops.fusedrnn.rnn), lib=_library
)
for _name in ("rnn_train", "rnn_backward"):
    torch.library.register_vmap(
        f"fusedrnn::{_name}", _transforms.each(getattr(torch.ops.fusedrnn, _name)), lib=_library
    )
for _name in ("rnn", "rnn_train"):
    _library.impl(_name, _autocast(_name), "AutocastCPU")

"""The operators under torch.func: rules for vmap, and for grad the functions that it asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .._network import CELLS

__all__ = ["call_operator", "each", "folded"]


def call_operator(x: Tensor, hx: Any, weights: Any, *rest: Any) -> Any:
    """Call ``fusedrnn::rnn``, or what torch.func.grad wants in its place."""
    if not torch.compiler.is_compiling() and _grad_is_active():
        return _recorded(x, hx, weights, *rest)
    return torch.ops.fusedrnn.rnn(x, hx, weights, *rest)


def _recorded(x: Tensor, hx: Any, weights: Any, *rest: Any) -> Any:
    return _Recorded.apply(len(hx), rest, x, *hx, *weights)


def _grad_is_active() -> bool:
    stack = torch._C._functorch.get_interpreter_stack() or ()
    grad = torch._C._functorch.TransformType.Grad
    return any(interpreter.key() == grad for interpreter in stack)


# torch.func.grad takes no gradients from an operator's registration, and no lists of tensors.


class _Recorded(Function):
    """``fusedrnn::rnn``, recorded: y, h_n, c_n and reserve of x, states, weights."""

    @staticmethod
    def forward(states: int, rest: Any, x: Tensor, *tensors: Tensor) -> Any:
        return torch.ops.fusedrnn.rnn_train(x, tensors[:states], tensors[states:], *rest)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.states, ctx.rest, x, *tensors = inputs
        ctx.mark_non_differentiable(output[3])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, output[3], *tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, reserve, *tensors = ctx.saved_tensors
        states = CELLS[ctx.rest[3]][1]
        given = gradients[: 1 + states]
        found = _Gradients.apply(ctx.states, ctx.rest, x, reserve, *given, *tensors)
        dx, dhx, dweights = found[0], found[1 : 1 + states], found[1 + states :]
        return (None, None, dx, *(dhx if ctx.states else ()), *dweights)

    @staticmethod
    def vmap(info: Any, in_dims: Any, states: int, rest: Any, x: Tensor, *tensors: Any) -> Any:
        if not _grad_is_active():  # any more: it was applied to each example
            return each(_Recorded.apply)(info, in_dims, states, rest, x, *tensors)
        x_dim, *dims = in_dims[2:]
        nested = (x_dim, dims[:states], dims[states:], *in_dims[1])
        return folded(_recorded)(info, nested, x, tensors[:states], tensors[states:], *rest)


class _Gradients(Function):
    """``fusedrnn::rnn_backward``, which has no gradients itself."""

    generate_vmap_rule = True

    @staticmethod
    def forward(states: int, rest: Any, x: Tensor, reserve: Tensor, *tensors: Any) -> Any:
        count = 1 + CELLS[rest[3]][1]
        given, tensors = tensors[:count], tensors[count:]
        found = torch.ops.fusedrnn.rnn_backward(
            list(given), x, tensors[:states], tensors[states:], reserve, *rest
        )
        return tuple(found)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError("fusedrnn.torch: gradients of gradients aren't there within torch.func")


# vmap


def _at(tree: Any, dims: Any, i: int) -> Any:
    """Return the i-th of the arguments that are stacked along `dims`."""
    if isinstance(tree, (list, tuple)):
        return [_at(item, dim, i) for item, dim in zip(tree, dims, strict=True)]
    return tree if dims is None else tree.select(dims, i)


def each(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Return the rule that calls the operator for each example and stacks the results."""

    def rule(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        found = [operator(*_at(arguments, in_dims, i)) for i in range(info.batch_size)]
        stacked = [torch.stack(parts) for parts in zip(*found, strict=True)]
        if isinstance(found[0], tuple):
            return tuple(stacked), (0,) * len(stacked)
        return stacked, [0] * len(stacked)

    return rule


def folded(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Return the rule that takes the examples as more sequences of one batch.

    That needs the same weights for all, no packed sequences, and no dropout, whose mask is a
    batch's; otherwise it is that of `each`.
    """

    def rule(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        x, hx, weights, lengths, batch_sizes, key, *rest = arguments
        x_dim, hx_dims, weight_dims, lengths_dim, *_ = in_dims
        if key is not None or batch_sizes is not None or any(d is not None for d in weight_dims):
            found: tuple[Any, Any] = each(operator)(info, in_dims, *arguments)
            return found
        axis = 0 if rest[3] else 1  # of the batch, in x and y
        size = info.batch_size

        def fold(tensor: Tensor, dim: int | None, axis: int) -> Tensor:
            if dim is None:
                shape = (*tensor.shape[:axis], size, *tensor.shape[axis:])
                return tensor.unsqueeze(axis).expand(shape).flatten(axis, axis + 1)
            return tensor.movedim(dim, axis).flatten(axis, axis + 1)

        def unfold(tensor: Tensor, axis: int) -> Tensor:
            return tensor.unflatten(axis, (size, tensor.shape[axis] // size))

        y, h, c, *reserve = operator(
            fold(x, x_dim, axis),
            [fold(part, dim, 1) for part, dim in zip(hx, hx_dims, strict=True)],
            weights,
            None if lengths is None else fold(lengths, lengths_dim, 0),
            None,
            None,
            *rest,
        )
        two = c.dim() > 1  # states
        results = (unfold(y, axis), unfold(h, 1), unfold(c, 1) if two else c, *reserve)
        return results, (axis, 1, 1 if two else None, *(None for _ in reserve))

    return rule

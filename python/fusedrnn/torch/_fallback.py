"""When the kernels can't take a call, why, and torch's own path instead."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence

from ._autograd import modes_are_active
from ._switches import NotAccelerated, Unsupported, strict
from ._weights import PLAIN

__all__ = ["checked_lengths", "decline", "is_traced"]

_tracing_state = torch._C._get_tracing_state


def is_traced(x: Tensor) -> bool:
    """Return whether a call must go through torch's dispatcher, which something listens to.

    Raises
    ------
    Unsupported
        Where it must take torch's own path.
    """
    if _tracing_state() is not None:
        raise Unsupported("torch.jit.trace")
    if forward_ad._current_level >= 0:
        raise Unsupported("forward-mode differentiation")
    if modes_are_active():
        _check_transforms()
        return True
    if type(x) in PLAIN:
        return False
    if isinstance(x, FakeTensor):
        return True
    if isinstance(x, torch.fx.Proxy):
        raise RuntimeError(
            "torch.fx: expected a tracer whose is_leaf_module takes fusedrnn.torch's layers for "
            "leaves, as torch.fx.Tracer does, got one that traces into a layer; "
            "fusedrnn.torch.restore(model) makes torch's layers of them"
        )
    raise Unsupported(f"an input of type {type(x).__name__}")


def _check_transforms() -> None:
    """Raise Unsupported within transforms of torch.func that the operators have no rules for."""
    stack = torch._C._functorch.get_interpreter_stack() or ()
    kinds = [interpreter.key() for interpreter in stack]
    transforms = torch._C._functorch.TransformType
    if transforms.Jvp in kinds:
        raise Unsupported("forward-mode differentiation")
    if kinds.count(transforms.Grad) > 1:
        raise Unsupported("gradients of gradients")


def decline(module: Any, reason: str, run: Callable[[], Any]) -> Any:
    """Take torch's path, or raise NotAccelerated in strict mode.

    Where a call is wrong, torch's own error comes first in both.
    """
    result = run()
    if strict.enabled or module.strict:
        raise NotAccelerated(f"{type(module).__name__}: {reason}")
    return result


def checked_lengths(lengths: Any, x: Any, batch_first: bool, values: bool = True) -> Tensor:
    """Return `lengths` as the kernels read them: int64, on the CPU.

    Parameters
    ----------
    lengths : Tensor or sequence of int
    x : Tensor
        The input, which must be batched.
    batch_first : bool
    values : bool
        Whether to look at the values. (Where calls are traced, they aren't known.)

    Raises
    ------
    TypeError
        If they are no integers.
    ValueError
        If there isn't one for each sequence, if one isn't in [0, T], or if x has no batch.
    """
    if isinstance(x, PackedSequence):
        raise ValueError("lengths: a PackedSequence has its own, got some more")
    if x.dim() != 3:
        raise ValueError(f"lengths: expected a batched input, of 3 dimensions, got {x.dim()}")
    batch, steps = (x.size(0), x.size(1)) if batch_first else (x.size(1), x.size(0))
    if isinstance(lengths, Tensor):
        if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype is torch.bool:
            raise TypeError(f"lengths: expected integers, got {lengths.dtype}")
        tensor = lengths.detach().to("cpu", torch.int64)
    else:
        tensor = torch.tensor([_integer(n) for n in lengths], dtype=torch.int64, device="cpu")
    if tensor.dim() != 1 or tensor.size(0) != batch:
        raise ValueError(f"lengths: expected ({batch},) [B], got {tuple(tensor.shape)}")
    if values and not all(0 <= n <= steps for n in tensor.tolist()):
        raise ValueError(f"lengths: expected values in [0, {steps}] [0, T], got {tensor.tolist()}")
    return tensor


def _integer(value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"lengths: expected integers, got {type(value).__name__}") from None

"""When the kernels can't take a call, why, and torch's own path instead."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence

from ._autograd import modes_are_active
from ._checks import listed
from ._switches import NotAccelerated, Unsupported, strict
from ._weights import PLAIN

__all__ = ["checked_lengths", "decline", "is_traced", "unseen"]

_Result = TypeVar("_Result")

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


def _is_jit_tracing() -> bool:
    return not torch.compiler.is_compiling() and _tracing_state() is not None


def unseen(look: Callable[[], _Result]) -> _Result:
    """Return what a look at sizes and values gives, hidden from torch.jit.trace.

    It would make tensors of sizes, and warn of each that becomes a Python number or bool.
    """
    if not _is_jit_tracing():
        return look()
    state = _tracing_state()
    torch._C._set_tracing_state(None)
    try:
        return look()
    finally:
        torch._C._set_tracing_state(state)


def decline(module: Any, reason: Exception | str, run: Callable[[], Any]) -> Any:
    """Take torch's path, or raise NotAccelerated in strict mode.

    Where a call is wrong, torch's own error comes first. If torch has none, the kernels' has to do:
    they say by a ValueError that a call is wrong, and by others that they can't take it.
    """
    result = run()
    if isinstance(reason, ValueError):
        raise reason
    if strict.enabled or module.strict:
        raise NotAccelerated(f"{type(module).__name__}: {reason}")
    return result


def checked_lengths(lengths: Any, x: Any, batch_first: bool) -> Tensor:
    """Return `lengths` as the kernels read them: int64, on the CPU.

    Parameters
    ----------
    lengths : Tensor or sequence of int
        Their values are looked at where they can be: not those of a tensor within a mode or
        torch.compile. The operators check them once they run.
    x : Tensor
        The input, which must be batched.
    batch_first : bool

    Raises
    ------
    TypeError
        If they are no integers.
    ValueError
        If there isn't one for each sequence, if one isn't in [0, T], or if x has no batch.
    RuntimeError
        torch's, for T = 0.
    """
    tensor = unseen(lambda: _checked_lengths(lengths, x, batch_first))
    if _is_jit_tracing() and isinstance(lengths, Tensor) and not lengths.is_meta:
        return lengths.detach().to("cpu", torch.int64)  # an input of the trace, not a constant
    return tensor


def _checked_lengths(lengths: Any, x: Any, batch_first: bool) -> Tensor:
    if isinstance(x, PackedSequence):
        raise ValueError("lengths: a PackedSequence has its own, got some more")
    if x.dim() != 3:
        raise ValueError(f"lengths: expected a batched input, of 3 dimensions, got {x.dim()}")
    batch, steps = (x.size(0), x.size(1)) if batch_first else (x.size(1), x.size(0))
    if steps == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    if isinstance(lengths, Tensor):
        tensor, values = _tensor_of_lengths(lengths, x, steps)
    else:
        values = _integers(lengths)
        tensor = torch.tensor(values, dtype=torch.int64, device="cpu")
    if tensor.dim() != 1 or tensor.size(0) != batch:
        raise ValueError(f"lengths: expected ({batch},) [B], got {tuple(tensor.shape)}")
    if values is not None and not all(0 <= n <= steps for n in values):
        raise ValueError(f"lengths: expected values in [0, {steps}] [0, T], got {values}")
    return tensor


def _tensor_of_lengths(lengths: Tensor, x: Tensor, steps: int) -> tuple[Tensor, Any]:
    """Return lengths of 64 bits on the CPU, and their values, or None where they can't be seen."""
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype is torch.bool:
        raise TypeError(f"lengths: expected integers, got {lengths.dtype}")
    if lengths.is_meta and x.is_meta:  # where all lengths have the same results
        return torch.full(lengths.shape, steps, dtype=torch.int64, device="cpu"), None
    tensor = lengths.detach().to("cpu", torch.int64)
    return tensor, None if torch.compiler.is_compiling() else _values(tensor)


def _values(tensor: Tensor) -> Any:
    """Return what a tensor holds, of all examples within vmap; None where a mode hides it."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    if torch._C._len_torch_dispatch_stack() > 0 or type(tensor) is FakeTensor:
        return None
    return listed(tensor.flatten())


def _integers(lengths: Any) -> list[int]:
    try:
        items = list(lengths)
    except TypeError:
        got = type(lengths).__name__
        raise TypeError(f"lengths: expected a sequence of integers, got {got}") from None
    return [_integer(item) for item in items]


def _integer(value: Any) -> int:
    """Return an item of lengths as an int. Of tensors, even of bools, Python takes the index."""
    kind = value.dtype if isinstance(value, Tensor) else type(value)
    if kind is bool or kind is torch.bool:
        raise TypeError("lengths: expected integers, got bool")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"lengths: expected integers, got {type(value).__name__}") from None

"""What torch's own path leaves unchecked: calls that are wrong must not come there.

torch says itself what is wrong with most calls. But its LSTM looks at nothing of a packed sequence,
and oneDNN takes shapes for granted: it reads past the ends of parameters and states.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

__all__ = ["check_cell", "check_indices", "check_layer", "listed", "undo_each_other"]


def check_layer(
    layer: Any,
    shapes: Iterable[tuple[str, tuple[int, ...]]],
    input: Any,
    hx: Any,
    lengths: Tensor | None,
) -> None:
    """Raise an error for a call of a layer that torch's path wouldn't refuse, and that is wrong.

    Parameters
    ----------
    layer : torch.nn.RNNBase
    shapes : iterable of (str, tuple of int)
        The names and shapes that the layer's sizes ask of its parameters.
    input, hx
        As the layer was called.
    lengths : Tensor or None
        Right ones for the input: torch is to be given a packed one, whose states it leaves as they
        are.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        torch's own where it has one for other layers.
    """
    layer._update_flat_weights()
    wanted, weights = list(shapes), layer._flat_weights
    if len(weights) != len(wanted):
        raise ValueError(f"parameters: expected {len(wanted)} tensors, got {len(weights)}")
    for (name, shape), weight in zip(wanted, weights, strict=True):
        if weight is not None and tuple(weight.shape) != shape:
            raise ValueError(f"{name}: expected {shape}, got {tuple(weight.shape)}")
    if layer.mode == "LSTM":
        _check_count(hx, "lstm")
    if isinstance(input, PackedSequence):
        _check_packed(layer, input, hx)
    elif lengths is not None:
        _check_padded(layer, input, hx)


def check_cell(cell: Any, input: Any, hx: Any) -> None:
    """Raise an error for a call of a cell that torch's path wouldn't refuse, and that is wrong."""
    if hx is None:
        return
    states = hx if isinstance(hx, (tuple, list)) else (hx,)
    if isinstance(cell, torch.nn.LSTMCell):
        _check_count(hx, "lstm_cell")
    shape = (cell.hidden_size,)
    for i, part in enumerate(states):
        # torch takes the first dimension of a batch for the units.
        if input.dim() == 1 and _has_rank(part, 2) and part.shape[:1] == shape:
            raise RuntimeError(
                f"hx[{i}]: expected {shape} [H] beside an input of one sequence, "
                f"got {tuple(part.shape)}"
            )


def check_indices(order: Tensor | None, inverse: Tensor | None, batch: int) -> None:
    """Raise an error unless the indices of a PackedSequence are those of a batch in some order."""
    for name, indices in (("sorted_indices", order), ("unsorted_indices", inverse)):
        found = None if indices is None else _values(indices)
        if indices is None or found is None:
            continue
        integers = indices.dtype in (torch.int64, torch.int32) and indices.dim() == 1
        if not integers or sorted(found) != list(range(batch)):
            raise ValueError(f"{name}: expected 0 to {batch - 1} in any order")


def undo_each_other(order: Tensor | None, inverse: Tensor | None, batch: int) -> bool:
    """Return whether indices on the CPU are right, or soon found to be wrong: negative ones.

    That is so for those that torch makes. Where not, they may be right nevertheless.
    """
    if order is None or inverse is None:
        return order is inverse
    a, b = order.numpy(), inverse.numpy()
    try:
        return bool(a.shape == b.shape == (batch,) and a[b].tobytes() == _counted(batch))
    except IndexError:
        return False


@functools.lru_cache(maxsize=64)
def _counted(count: int) -> bytes:
    return np.arange(count, dtype=np.int64).tobytes()


def _check_count(hx: Any, name: str) -> None:
    """Raise torch's error where there are states that nobody would look at."""
    if isinstance(hx, (tuple, list)) and len(hx) > 2:
        raise RuntimeError(f"{name} expects two hidden states")


def _check_packed(layer: Any, packed: PackedSequence, hx: Any) -> None:
    """Raise an error unless a PackedSequence, perhaps made by hand, and the states are right."""
    data, sizes, order, inverse = packed
    if sizes.dim() != 1 or sizes.dtype is not torch.int64 or sizes.device.type != "cpu":
        raise ValueError(
            "batch_sizes: expected one dimension of torch.int64 on cpu, "
            f"got {tuple(sizes.shape)} of {sizes.dtype} on {sizes.device}"
        )
    numbers = _values(sizes)
    if numbers is not None:
        _check_batch_sizes(numbers, data.size(0))
        check_indices(order, inverse, numbers[0])
    layer.check_input(data, sizes)
    if layer.mode == "LSTM" and isinstance(hx, (tuple, list)):
        if len(hx) != 2:
            raise RuntimeError("lstm expects two hidden states")
        if not all(isinstance(part, Tensor) for part in hx):
            return  # torch says so
    if hx is None:
        return
    hx = layer.permute_hidden(hx, order)
    h = hx[0] if layer.mode == "LSTM" else hx
    if numbers is None and isinstance(h, Tensor):  # then it says itself how many sequences it is of
        numbers = [h.size(1) if h.dim() > 1 else 0]
    layer.check_forward_args(data, hx, sizes if numbers is None else numbers)


def _check_padded(layer: Any, x: Tensor, hx: Any) -> None:
    """Raise the error that torch's layer has for a padded input and its states."""
    layer.check_input(x, None)
    if hx is None:
        return
    if layer.mode == "LSTM":
        if hx[0].dim() != 3 or hx[1].dim() != 3:
            raise RuntimeError(
                "For batched 3-D input, hx and cx should also be 3-D but got "
                f"({hx[0].dim()}-D, {hx[1].dim()}-D) tensors"
            )
    elif hx.dim() != 3:
        raise RuntimeError(
            f"For batched 3-D input, hx should also be 3-D but got {hx.dim()}-D tensor"
        )
    layer.check_forward_args(x, hx, None)


def _check_batch_sizes(sizes: Sequence[int], rows: int) -> None:
    if not sizes or sizes[-1] < 1 or any(a < b for a, b in pairwise(sizes)) or sum(sizes) != rows:
        raise ValueError(
            "batch_sizes: expected positive numbers, none larger than the one before, with the sum "
            f"{rows}, the rows of data; got {len(sizes)} with the sum {sum(sizes)}"
        )


def _has_rank(value: Any, rank: int) -> bool:
    return isinstance(value, Tensor) and value.dim() == rank


def _values(tensor: Tensor) -> Any:
    """Return what a tensor holds, or None where a mode, a transform or torch.compile hides it."""
    if torch.compiler.is_compiling():
        return None
    functorch = torch._C._functorch
    while functorch.is_gradtrackingtensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    try:
        return listed(tensor)
    except RuntimeError:
        return None


def listed(tensor: Tensor) -> Any:
    """Return `tensor.tolist()` of a tensor that isn't wrapped, within torch.func's transforms too.

    (There torch 2.6 wraps it again on the way.)
    """
    if not torch._C._are_functorch_transforms_active():
        return tensor.tolist()
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    with temporarily_clear_interpreter_stack():
        return tensor.tolist()

"""Put fusedrnn's layers in the place of torch's in an existing model, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.utils.parametrize import is_parametrized

from ._layer import RecurrentLayer
from ._switches import NotAccelerated, Unsupported
from ._weights import check_tensors
from .cells import GRUCell, LSTMCell, RecurrentCell, RNNCell
from .modules import GRU, LSTM, RNN

__all__ = ["Report", "accelerate", "restore"]

#: torch's class -> ours.
ACCELERATED: dict[type[torch.nn.Module], type[Any]] = {
    kind.torch_class: kind for kind in (LSTM, GRU, RNN, LSTMCell, GRUCell, RNNCell)
}


@dataclass(frozen=True)
class Report:
    """What `accelerate` did.

    Attributes
    ----------
    swapped : tuple of str
        The names of the layers that run on fusedrnn's kernels now; "" is the model itself.
    left : mapping of str to str
        The names of the recurrent layers that stay torch's, each with the reason.
    """

    swapped: tuple[str, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{name or '(the model)'}: accelerated" for name in self.swapped]
        lines += [f"{name or '(the model)'}: left, {why}" for name, why in self.left.items()]
        return "\n".join(lines) or "no recurrent layers"


def accelerate(model: torch.nn.Module, *, strict: bool = False) -> Report:
    """Let every LSTM, GRU and RNN in a model, and every such cell, run on fusedrnn's kernels.

    The layers stay the same objects and only change their class, so that parameters, hooks,
    buffers, optimizers, shared layers and attributes stay what they are. `restore` changes it back.

    Parameters
    ----------
    model : torch.nn.Module
        It may be a recurrent layer itself.
    strict : bool
        Raise an error, and change nothing, if a recurrent layer would have to be left; and let a
        layer that is swapped raise `NotAccelerated` in a call that the kernels can't take. Without,
        torch's own path is taken in such calls.

    Returns
    -------
    Report
        What was swapped, what was left, and why. Layers that were swapped before are among the
        swapped.

    Raises
    ------
    TypeError
        If `model` is no module or `strict` no bool.
    NotAccelerated
        If a layer would be left, and `strict`.

    Examples
    --------
    >>> import torch
    >>> import fusedrnn.torch
    >>> model = torch.nn.ModuleDict({
    ...     "encoder": torch.nn.LSTM(3, 4),
    ...     "decoder": torch.nn.GRU(4, 4, dtype=torch.bfloat16),
    ... })
    >>> print(fusedrnn.torch.accelerate(model))
    encoder: accelerated
    decoder: left, parameters of torch.bfloat16, not float32 or float64
    >>> fusedrnn.torch.restore(model)
    ('encoder',)
    """
    _check_module(model)
    if not isinstance(strict, bool):
        raise TypeError(f"strict: expected a bool, got {type(strict).__name__}")
    swaps: dict[str, tuple[Any, type[Any]]] = {}
    left: dict[str, str] = {}
    for name, module in model.named_modules():
        if not isinstance(module, (torch.nn.RNNBase, torch.nn.RNNCellBase)):
            continue
        try:
            swaps[name] = module, _class_for(module)
        except Unsupported as reason:
            left[name] = str(reason)
    report = Report(tuple(swaps), left)
    if strict and left:
        raise NotAccelerated(f"model: expected to accelerate every layer, got\n{report}")
    for module, kind in swaps.values():
        _change_class(module, kind)
        if strict:
            module.strict = True
    return report


def restore(model: torch.nn.Module) -> tuple[str, ...]:
    """Make torch's layers out of fusedrnn's again: the reverse of `accelerate`.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    tuple of str
        The names of the layers that were changed; "" is the model itself.

    Raises
    ------
    TypeError
        If `model` is no module.

    Examples
    --------
    See `accelerate`.
    """
    _check_module(model)
    names = []
    for name, module in model.named_modules():
        kind = _plain_class(module)
        if kind in ACCELERATED.values():
            _change_class(module, kind.torch_class)
            module.__dict__.pop("strict", None)
            names.append(name)
    return tuple(names)


def _check_module(model: Any) -> None:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")


def _plain_class(module: Any) -> type[Any]:
    """Return the module's class, or the one below that torch made for its parametrizations."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def _class_for(module: Any) -> type[Any]:
    """Return the class that the layer is to have; raise Unsupported if it must be left."""
    kind = _plain_class(module)
    if "forward" in vars(module):
        raise Unsupported("its forward was replaced")
    target = kind if issubclass(kind, (RecurrentLayer, RecurrentCell)) else ACCELERATED.get(kind)
    if target is None:
        raise Unsupported(f"{kind.__module__}.{kind.__qualname__} is a class of its own")
    check_tensors(list(module.parameters()))
    return target


def _change_class(module: Any, kind: type[Any]) -> None:
    """Give the module another class, under the one that torch made for its parametrizations."""
    if is_parametrized(module):
        own = type(module)
        members = {n: v for n, v in vars(own).items() if n not in ("__dict__", "__weakref__")}
        kind = type(f"Parametrized{kind.__name__}", (kind, *own.__bases__[1:]), members)
    module.__class__ = kind

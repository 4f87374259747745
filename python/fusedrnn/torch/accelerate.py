"""Put fusedrnn's layers in the place of torch's in an existing model, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ._classes import change_class, class_for, is_recurrent, restored_class
from ._switches import NotAccelerated, Unsupported

__all__ = ["Report", "accelerate", "restore"]


@dataclass(frozen=True)
class Report:
    """What `accelerate` did.

    Attributes
    ----------
    swapped : tuple of str
        The names of the layers that run on fusedrnn's kernels now; "" is the model itself.
    left : mapping of str to str
        The names of the recurrent layers that stay torch's, each with the reason.
    trusted : tuple of str
        The names of the swapped layers that believe version counters alone.
    """

    swapped: tuple[str, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)
    trusted: tuple[str, ...] = ()

    def __str__(self) -> str:
        trusted = {name: ", trusting version counters" for name in self.trusted}
        lines = [
            f"{name or '(the model)'}: accelerated{trusted.get(name, '')}" for name in self.swapped
        ]
        lines += [f"{name or '(the model)'}: left, {why}" for name, why in self.left.items()]
        return "\n".join(lines) or "no recurrent layers"


def accelerate(model: torch.nn.Module, *, strict: bool = False, trust: bool = False) -> Report:
    """Let every LSTM, GRU and RNN in a model, and every such cell, run on fusedrnn's kernels.

    The layers stay the same objects and only change their class, so that parameters, hooks,
    buffers, optimizers, shared layers and attributes stay what they are. `restore` changes it back.

    A subclass of torch's layers is accelerated too, and keeps its methods and attributes: what it
    calls as ``super().forward()`` runs on the kernels. One whose own forward, with the methods that
    it calls, never comes to that is left, and the report says so: it would gain nothing, and among
    the swapped layers it would promise what no call of it keeps, with `strict` too. One that
    overrides a method which torch's forward calls, such as ``check_input``, is left as well.

    Call `restore` before what looks for torch's exact classes, or must run without fusedrnn:

    - `torch.ao.quantization`: ``quantize_dynamic`` finds layers by their class, and passes over
      ours without a word.
    - Tracers of `torch.fx` whose ``is_leaf_module`` asks for the name torch.nn itself, as that of
      FX quantization; `torch.fx.symbolic_trace` works.
    - `torch.save` and pickle of a whole model that is to be loaded where fusedrnn isn't installed:
      there it ends in ``No module named 'fusedrnn'``. A ``state_dict`` needs no such care.
    - `torch.export`, where the program is to run without fusedrnn: it calls ``fusedrnn::rnn``.
      (`torch.onnx.export` works: it is given torch's own operators.)

    Parameters
    ----------
    model : torch.nn.Module
        It may be a recurrent layer itself.
    strict : bool
        Raise an error, and change nothing, if a recurrent layer would have to be left; and let a
        layer that is swapped raise `NotAccelerated` in a call that the kernels can't take. Without,
        torch's own path is taken in such calls.
    trust : bool
        Let the swapped layers believe torch's version counters alone that their parameters are
        unchanged, as `trust_version_counters` lets all layers: single steps and short calls are
        faster, and writes that torch doesn't count, by ``parameter.data``, NumPy, fused optimizers
        or other processes, go unseen.

    Returns
    -------
    Report
        What was swapped, what was left, and why. Layers that were swapped before are among the
        swapped.

    Raises
    ------
    TypeError
        If `model` is no module, or `strict` or `trust` no bool.
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
    for name, value in {"strict": strict, "trust": trust}.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")
    swaps: dict[str, tuple[Any, type[Any]]] = {}
    left: dict[str, str] = {}
    for name, module in model.named_modules():
        if not is_recurrent(module):
            continue
        try:
            swaps[name] = module, class_for(module)
        except Unsupported as reason:
            left[name] = str(reason)
    trusted = tuple(
        n for n, (module, _) in swaps.items() if trust or getattr(module, "trust", False)
    )
    report = Report(tuple(swaps), left, trusted)
    if strict and left:
        raise NotAccelerated(f"model: expected to accelerate every layer, got\n{report}")
    for module, kind in swaps.values():
        change_class(module, kind)
        if strict:
            module.strict = True
        if trust:
            module.trust = True
    return report


def restore(model: torch.nn.Module) -> tuple[str, ...]:
    """Make torch's layers out of fusedrnn's again: the reverse of `accelerate`.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    tuple of str
        The names of the layers that were changed; "" is the model itself. Layers of subclasses that
        somebody has derived from fusedrnn's own stay what they are.

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
        kind = restored_class(module)
        if kind is not None:
            change_class(module, kind)
            module.__dict__.pop("strict", None)
            module.__dict__.pop("trust", None)
            names.append(name)
    return tuple(names)


def _check_module(model: Any) -> None:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")

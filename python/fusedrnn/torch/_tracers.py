"""Let torch.fx and TorchScript treat our layers as they treat torch's own."""

from __future__ import annotations

import functools
from typing import Any

import torch

from ._layer import RecurrentLayer
from .cells import RecurrentCell
from .modules import LSTM

__all__ = ["admit"]


def admit() -> None:
    """Prepare both, once."""
    _make_leaves()
    _replace_in_script_modules()


def _make_leaves() -> None:
    """Let torch.fx.Tracer take our layers, like torch.nn's, for leaves of a graph."""
    tracer: Any = torch.fx.Tracer
    is_torchs = tracer.is_leaf_module

    @functools.wraps(is_torchs)
    def is_leaf_module(self: Any, m: torch.nn.Module, module_qualified_name: str) -> bool:
        return m.__module__ == LSTM.__module__ or bool(is_torchs(self, m, module_qualified_name))

    tracer.is_leaf_module = is_leaf_module


def _replace_in_script_modules() -> None:
    """Let a ScriptModule compile torch's own layers in place of ours.

    torch.jit.script asks modules for that (``__prepare_scriptable__``), ScriptModule doesn't.
    """
    compiler: Any = torch.jit._recursive
    create = compiler.create_script_module

    @functools.wraps(create)
    def create_script_module(
        nn_module: Any, stubs_fn: Any, share_types: bool = True, is_tracing: bool = False
    ) -> Any:
        if not is_tracing:
            _replace_layers(nn_module)
        return create(nn_module, stubs_fn, share_types, is_tracing)

    compiler.create_script_module = create_script_module


def _replace_layers(module: torch.nn.Module) -> None:
    made: dict[torch.nn.Module, torch.nn.Module] = {}
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, (RecurrentLayer, RecurrentCell)):
                if child not in made:
                    made[child] = child.__prepare_scriptable__()
                parent._modules[name] = made[child]

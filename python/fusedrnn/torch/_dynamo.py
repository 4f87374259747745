"""Let torch.compile trace through our layers.

Dynamo breaks the graph at every LSTM, GRU and RNN, subclasses included, unless its setting
`allow_rnn` is on: torch's own would be unrolled over time. Ours are one operator. So the setting is
on while Dynamo looks at a layer of ours, and only then. Importing Dynamo takes seconds, hence it is
prepared when somebody else has imported it.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeVar, cast

import torch

from ._layer import RecurrentLayer

__all__ = ["admit", "untraced"]

Function = TypeVar("Function", bound=Callable[..., Any])

_BUILDER = "torch._dynamo.variables.builder"


def admit() -> None:
    """Prepare Dynamo, now or once it is imported."""
    if _BUILDER in sys.modules:
        _prepare(sys.modules[_BUILDER])
    else:
        sys.meta_path.insert(0, _AfterImport())


def untraced(function: Function) -> Function:
    """Let Dynamo never trace a function, nor what it calls: an operator is a node of a graph."""
    frames: Any = torch._C._dynamo.eval_frame
    if hasattr(frames, "set_code_exec_strategy"):
        skip = frames._FrameAction.SKIP
        frames.set_code_exec_strategy(function.__code__, frames._FrameExecStrategy(skip, skip))
        return function

    # In torch 2.6 only single frames can be skipped; for what they call, Dynamo is set aside.
    def aside(*arguments: Any) -> Any:
        before = frames.set_eval_frame(None)
        try:
            return function(*arguments)
        finally:
            frames.set_eval_frame(before)

    frames.skip_code(aside.__code__)
    return cast(Function, aside)


def _prepare(builder: Any) -> None:
    wrap = builder.VariableBuilder.wrap_module

    @functools.wraps(wrap)
    def wrap_module(self: Any, value: Any) -> Any:
        if not isinstance(value, RecurrentLayer):
            return wrap(self, value)
        with builder.config.patch(allow_rnn=True):
            return wrap(self, value)

    builder.VariableBuilder.wrap_module = wrap_module


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds nothing but Dynamo's builder, once, and prepares it after its import."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _BUILDER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _prepare(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

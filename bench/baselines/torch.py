"""PyTorch: `torch.nn.LSTM`, `GRU` and `RNN`, and autograd; on a GPU also captured in a graph."""

from __future__ import annotations

import torch

from .. import cuda
from ..problem import Problem
from . import Contestant, Unsupported, modules


def prepare(problem: Problem, threads: int) -> list[Contestant]:
    """Return a call of the module in inference mode, or with the gradients of everything."""
    if problem.case.device == "cuda":
        if isinstance(reason := cuda.torch_on_gpu(), str):
            raise Unsupported(reason)
        with cuda.around():
            found = modules.prepare("torch", torch.nn, problem, cuda.around)
        return [*found, *map(cuda.captured, found)]
    torch.set_num_threads(threads)
    return modules.prepare("torch", torch.nn, problem)

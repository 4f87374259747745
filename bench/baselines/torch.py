"""PyTorch on the CPU: `torch.nn.LSTM`, `GRU` and `RNN`, and autograd."""

from __future__ import annotations

import torch

from ..problem import Problem
from . import Contestant, modules


def prepare(problem: Problem, threads: int) -> list[Contestant]:
    """Return a call of the module in inference mode, or with the gradients of everything."""
    torch.set_num_threads(threads)
    return modules.prepare("torch", torch.nn, problem)

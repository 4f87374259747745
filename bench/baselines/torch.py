"""PyTorch on the CPU: `torch.nn.LSTM`, `GRU` and `RNN`, and autograd."""

from __future__ import annotations

from typing import Any

import torch

from ..problem import Array, Problem, by_state
from . import Contestant

MODULES: dict[str, tuple[Any, dict[str, str]]] = {
    "lstm": (torch.nn.LSTM, {}),
    "gru": (torch.nn.GRU, {}),
    "rnn_tanh": (torch.nn.RNN, {}),
    "rnn_relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
}


def prepare(problem: Problem, threads: int) -> list[Contestant]:
    """Return a call of the module in inference mode, or with the gradients of everything."""
    torch.set_num_threads(threads)
    case = problem.case
    make, options = MODULES[case.cell]
    module = make(case.input, case.hidden, dtype=getattr(torch, case.dtype), **options)
    module.load_state_dict({name: torch.from_numpy(p) for name, p in problem.parameters.items()})
    inputs = [torch.from_numpy(x) for x in problem.inputs]
    state = [torch.from_numpy(s) for s in problem.state or ()]
    first = None if not state else state[0] if len(state) == 1 else tuple(state)
    if case.mode != "train":
        return [
            Contestant(
                "torch", lambda i: module(inputs[i], first), outputs, around=torch.inference_mode
            )
        ]

    for tensor in (*inputs, *state):
        tensor.requires_grad_()
    dy = torch.from_numpy(problem.dy)

    def run(i: int) -> Any:
        y, last = module(inputs[i], first)
        wanted = [inputs[i], *state, *module.parameters()]
        return (y, last), torch.autograd.grad(y, wanted, dy)

    def arrays(result: Any) -> dict[str, Array]:
        forward, gradients = result
        names = ["dx", *("dh", "dc")[: len(state)], *(f"d_{name}" for name in problem.parameters)]
        found = {name: g.numpy() for name, g in zip(names, gradients, strict=True)}
        return outputs(forward) | found

    return [Contestant("torch", run, arrays)]


def outputs(result: Any) -> dict[str, Array]:
    y, last = result
    tensors: dict[str, Any] = {"y": y, **by_state("", last)}
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}

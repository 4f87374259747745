"""Ours, by the calls that a user makes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import fusedrnn
from fusedrnn import functional, reference

from .. import cuda
from ..cases import Case
from ..problem import Array, Problem, named, results
from . import (
    ARRAYS,
    ONE_THREAD,
    OURS,
    STACK,
    STACKED,
    STREAM,
    Contestant,
    Unsupported,
    ours,
)

LAYERS: dict[str, tuple[Callable[..., Any], dict[str, str]]] = {
    "lstm": (fusedrnn.LSTM, {}),
    "gru": (fusedrnn.GRU, {}),
    "rnn_tanh": (fusedrnn.RNN, {}),
    "rnn_relu": (fusedrnn.RNN, {"nonlinearity": "relu"}),
}


def prepare(problem: Problem, threads: int) -> list[Contestant]:
    """Return the call of a layer; on several threads also on one; as a step also the stream."""
    case = problem.case
    if case.device == "cuda":
        return on_gpu(problem)
    if case.call != "arrays":
        return modules(problem, threads)
    if case.mode == "step":
        return steps(problem, threads)
    make = training if case.mode == "train" else inference
    alone = [make(ours(ONE_THREAD), problem, 1)] if threads > 1 else []
    return [make(ours(), problem, threads), *alone]


def modules(problem: Problem, threads: int) -> list[Contestant]:
    """Return fusedrnn.torch's modules, and what else stands beside them."""
    try:
        import fusedrnn.torch

        from . import modules
    except ImportError as error:
        raise Unsupported(f"not installed ({error})") from None
    found = modules.prepare(OURS, fusedrnn.torch, problem, on_threads(threads))
    if problem.case.call == "eager":
        make = training if problem.case.mode == "train" else inference
        found.append(make(ours(ARRAYS), problem, threads))
    return found


def on_threads(threads: int) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Return what sets the number of threads for a block of calls."""

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        before = fusedrnn.get_num_threads()
        fusedrnn.set_num_threads(threads)
        try:
            yield
        finally:
            fusedrnn.set_num_threads(before)

    return around


def layer_of(case: Case, layers: int, parameters: dict[str, Array]) -> Any:
    make, options = LAYERS[case.cell]
    layer = make(case.input, case.hidden, layers, dtype=case.dtype, seed=0, **options)
    layer.load_parameters(parameters)
    return layer


def inference(name: str, problem: Problem, threads: int) -> Contestant:
    case = problem.case
    layer = layer_of(case, 1, problem.parameters)
    weights = functional.Weights(case.cell, problem.parameters)

    def poisoned(i: int) -> Any:
        out = poison(problem.dy)
        return functional.infer(case.cell, problem.inputs[i], weights, problem.call_state, out=out)

    return Contestant(
        name,
        lambda i: layer(problem.inputs[i], problem.call_state),
        lambda result: named(*result),
        on_threads(threads),
        poisoned,
    )


def training(name: str, problem: Problem, threads: int) -> Contestant:
    """Return forward and backward with new parameters in each call: packing included."""
    cell, state = problem.case.cell, problem.call_state

    def run(i: int, out: Array | None = None, gradients: Any = None) -> Any:
        y, last, tape = functional.forward(
            cell, problem.inputs[i], problem.parameters, state, out=out
        )
        return y, last, functional.backward(tape, problem.dy, out=gradients)

    def poisoned(i: int) -> Any:
        d_state = tuple(poison(s) for s in problem.state or ())
        gradients = functional.Gradients(
            poison(problem.inputs[i]),
            d_state[0] if len(d_state) == 1 else (d_state[0], d_state[1]),
            {name: poison(p) for name, p in problem.parameters.items()},
        )
        return run(i, poison(problem.dy), gradients)

    return Contestant(name, run, lambda r: named(*r), on_threads(threads), poisoned)


def on_gpu(problem: Problem) -> list[Contestant]:
    """Return the functions' calls on arrays of the GPU, and the same captured in a graph."""
    case = problem.case
    if (reason := fusedrnn.cuda.why_not()) is not None:
        raise Unsupported(reason)
    if case.dtype == "bfloat16" and float(fusedrnn.cuda.devices()[0]["capability"]) < 8:
        raise Unsupported("bfloat16 needs compute capability 8.0")
    with cuda.around():
        moved = problem.moved(lambda array: fusedrnn.cuda.asarray(array, case.dtype))
    eager = Contestant(
        ours(),
        lambda i: results(functional, moved, i),
        lambda result: {name: array.numpy() for name, array in named(*result).items()},  # type: ignore[attr-defined]
        cuda.around,
    )
    return [eager] if isinstance(cuda.torch_on_gpu(), str) else [eager, cuda.captured(eager)]


def steps(problem: Problem, threads: int) -> list[Contestant]:
    """Return single steps by the layer and by its stream, of one layer and of a stack.

    A layer of the stack reads its weights as one step does, and the cost of the call is paid
    once: so (stack - one) / (STACK - 1) is the time of the kernels alone.
    """
    case = problem.case
    shapes = reference.parameter_shapes(case.cell, case.input, case.hidden, STACK)
    own = {name: problem.parameters[name[:-1] + "0"] for name in shapes}

    def expected(i: int) -> dict[str, Array]:
        return named(*reference.infer(case.cell, problem.inputs[i], own))

    return [
        *one_step(problem, threads, 1, problem.parameters, None),
        *one_step(problem, threads, STACK, own, expected),
    ]


def one_step(
    problem: Problem,
    threads: int,
    layers: int,
    parameters: dict[str, Array],
    expected: Callable[[int], dict[str, Array]] | None,
) -> list[Contestant]:
    """Return a step of so many layers, by the layer and by its stream."""
    layer = layer_of(problem.case, layers, parameters)
    variant, around = STACKED if layers > 1 else "", on_threads(threads)

    def call(i: int) -> Any:
        return layer(problem.inputs[i])

    found = [Contestant(ours(variant), call, lambda r: named(*r), around, expected=expected)]
    if hasattr(layer, "stream"):
        stream = layer.stream(1)
        rows = [x[0] for x in problem.inputs]  # [B, I]
        found.append(
            Contestant(
                ours(STREAM, variant),
                lambda i: stream.step(rows[i]),
                lambda y: {"y": y[np.newaxis]},
                around,
                reset=stream.reset,
                expected=expected,
            )
        )
    return found


def poison(like: Array) -> Array:
    """Return an array of that shape, full of NaN: what isn't written is found."""
    return np.full_like(like, np.nan)


def tape_bytes(problem: Problem) -> int:
    """Return what the tape of one training call holds."""
    _, _, tape = functional.forward(
        problem.case.cell, problem.inputs[0], problem.parameters, problem.call_state
    )
    return int(tape.nbytes)

"""torch's layers, or fusedrnn's in their place, called in every way that a case may say."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ..cases import Case
from ..problem import Array, Problem, by_state
from . import ALONE, DENSE, LENGTHS, OURS, Contestant

LAYERS: dict[str, tuple[str, dict[str, str]]] = {
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {}),
    "rnn_tanh": ("RNN", {}),
    "rnn_relu": ("RNN", {"nonlinearity": "relu"}),
}
PRODUCTS, PRODUCT_SIZE = 4, 512  # torch's work before a call, in the cases of two pools: 1 GFLOP

Around = Callable[[], contextlib.AbstractContextManager[Any]]


def prepare(
    name: str, library: Any, problem: Problem, around: Around = contextlib.nullcontext
) -> list[Contestant]:
    """Return the calls of `library`'s layer: torch.nn or fusedrnn.torch.

    Ours may not take torch's path, nor leave the compiled graph: that would be timed as ours.
    """
    case = problem.case
    if case.call == "cell":
        cell = cell_of(library, problem)
        return [call_of(name, cell, problem, around, loop_of(cell))]
    layer = layer_of(library, problem)
    if case.call == "compiled":
        call = compiled(layer, fullgraph=name == OURS)
        return [call_of(name, layer, problem, around, call)]
    found = call_of(name, layer, problem, around)
    if case.call == "pools":
        alone = dataclasses.replace(found, name=f"{name}:{ALONE}", before=products(alone=True))
        return [dataclasses.replace(found, before=products()), alone]
    if case.call == "packed" and name == OURS:
        lengths = torch.from_numpy(problem.lengths)
        padded = call_of(f"{name}:{LENGTHS}", layer, problem, around, lengths=lengths)
        even = Problem(dataclasses.replace(case, call="eager"))
        dense = call_of(f"{name}:{DENSE}", layer_of(library, even), even, around)
        return [found, padded, dataclasses.replace(dense, expected=even.expected)]
    return [found]


def layer_of(library: Any, problem: Problem) -> Any:
    case = problem.case
    kind, options = LAYERS[case.cell]
    layer = getattr(library, kind)(
        case.input,
        case.hidden,
        case.layers,
        bidirectional=case.bidirectional,
        dtype=getattr(torch, case.dtype),
        device=place(case),
        **options,
    )
    layer.load_state_dict({name: torch.from_numpy(p) for name, p in problem.parameters.items()})
    layer.strict = True  # of fusedrnn.torch; torch.nn's don't know it
    return layer


def cell_of(library: Any, problem: Problem) -> Any:
    """Return the module of one step, with the parameters of the first layer."""
    case = problem.case
    kind, options = LAYERS[case.cell]
    dtype = getattr(torch, case.dtype)
    cell = getattr(library, f"{kind}Cell")(case.input, case.hidden, dtype=dtype, **options)
    values = {
        name.removesuffix("_l0"): torch.from_numpy(p) for name, p in problem.parameters.items()
    }
    cell.load_state_dict(values)
    cell.strict = True
    return cell


def loop_of(cell: Any) -> Callable[..., Any]:
    """Return a call over all steps by a cell, of a layer's arguments and results."""

    def call(x: Any, hx: Any) -> Any:
        two = isinstance(hx, tuple)
        state: Any = (hx[0][0], hx[1][0]) if two else hx[0]
        outputs = []
        for step in x.unbind():
            state = cell(step, state)
            outputs.append(state[0] if two else state)
        return torch.stack(outputs), ((state[0][None], state[1][None]) if two else state[None])

    return call


def compiled(layer: Any, fullgraph: bool) -> Callable[..., Any]:
    """Return what torch.compile makes of a layer, for the sizes of its calls alone."""

    def call(x: Any, hx: Any) -> Any:
        return layer(x, hx)

    # torch.compile keeps what it made, a few results, by code; and for code where it once gave up,
    # as on torch.nn's layers, it does no more. So each layer is called by code of its own.
    call.__code__ = call.__code__.replace()
    function: Callable[..., Any] = torch.compile(call, fullgraph=fullgraph, dynamic=False)
    return function


def products(alone: bool = False) -> Callable[[], None]:
    """Return products of large matrices, which all of torch's threads work on, or one alone.

    One alone leaves the caches and the clock as all do, but no thread that spins.
    """
    a, b = torch.randn(2, PRODUCT_SIZE, PRODUCT_SIZE)
    out = torch.empty_like(a)
    threads = torch.get_num_threads()

    def run() -> None:
        torch.set_num_threads(1 if alone else threads)
        with torch.no_grad():
            for _ in range(PRODUCTS):
                torch.mm(a, b, out=out)
        torch.set_num_threads(threads)

    return run


def call_of(
    name: str,
    layer: Any,
    problem: Problem,
    around: Around,
    call: Callable[..., Any] | None = None,
    **options: Any,
) -> Contestant:
    """Return a call of the layer on x, or on the packed sequence of x where there are lengths.

    `call` is what calls the layer, if not itself.

    In training one parameter is another one in each call, as after a step of an optimizer, but by
    the smallest difference that a number can have. Not so on a GPU, where nobody keeps packed
    weights from call to call.
    """
    case, call = problem.case, call or layer
    packed = problem.lengths is not None and not options
    training, steps = case.mode == "train", len(problem.dy)
    given = [sequence(problem, x, packed, training) for x in problem.inputs]
    state = [tensor(problem, s).requires_grad_(training) for s in problem.state or ()]
    first = None if not state else state[0] if len(state) == 1 else tuple(state)

    @contextlib.contextmanager
    def for_inference() -> Iterator[None]:
        with around(), torch.inference_mode():
            yield

    def infer(i: int) -> Any:
        return call(given[i], first, **options)

    def outputs(result: Any) -> dict[str, Array]:
        y, last = result
        tensors: dict[str, Any] = {
            "y": unpacked(tensor_of(y), given[0], steps),
            **by_state("", last),
        }
        return {name: numpy(t) for name, t in tensors.items()}

    if not training:
        return Contestant(name, infer, outputs, for_inference)

    dy = tensor_of(sequence(problem, problem.dy, packed, False))
    parameters = list(layer.parameters())
    fixed = case.device != "cpu" or case.dtype == "bfloat16"  # which NumPy doesn't have
    change = (lambda i: None) if fixed else another_version(parameters[0])

    def train(i: int) -> Any:
        change(i)
        y, last = call(given[i], first, **options)
        wanted = [tensor_of(given[i]), *state, *parameters]
        return (y, last), torch.autograd.grad(tensor_of(y), wanted, dy)

    def gradients(result: Any) -> dict[str, Array]:
        forward, (dx, *others) = result
        names = [*("dh", "dc")[: len(state)], *(f"d_{name}" for name in problem.parameters)]
        found = {name: numpy(g) for name, g in zip(names, others, strict=True)}
        return outputs(forward) | {"dx": numpy(unpacked(dx, given[0], steps))} | found

    return Contestant(name, train, gradients, around)


def another_version(parameter: Any) -> Callable[[int], None]:
    """Return what sets one element to another value for every input."""
    weight = parameter.detach().numpy()
    versions = [weight[0, 0], np.nextafter(weight[0, 0], weight.dtype.type(2))]

    def change(i: int) -> None:
        weight[0, 0] = versions[i]

    return change


def tensor(problem: Problem, array: Array) -> Any:
    """Return an array where the case runs, in its dtype; mostly the same memory."""
    case = problem.case
    return torch.from_numpy(array).to(place(case), getattr(torch, case.dtype))


def place(case: Case) -> str:
    """Return torch's device of a case."""
    return case.device


def numpy(tensor: Any) -> Array:
    """Return the values of a tensor; those that NumPy has no dtype for in float32."""
    tensor = tensor.detach().cpu()
    array: Array = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
    return array


def sequence(problem: Problem, array: Array, packed: bool, training: bool) -> Any:
    """Return [T, B, .] as a tensor, or packed by the problem's lengths."""
    values = tensor(problem, array)
    if not packed:
        return values.requires_grad_(training)
    lengths = torch.from_numpy(problem.lengths)
    data, *rest = pack_padded_sequence(values, lengths, enforce_sorted=False)
    return PackedSequence(data.requires_grad_(training), *rest)


def tensor_of(value: Any) -> Any:
    """Return the tensor that a sequence is, or that of the packed one."""
    return value.data if isinstance(value, PackedSequence) else value


def unpacked(tensor: Any, like: Any, steps: int) -> Any:
    """Return the sequences in a tensor as [T, B, .], with zeros past their ends."""
    if not isinstance(like, PackedSequence):
        return tensor
    return pad_packed_sequence(PackedSequence(tensor, *like[1:]), total_length=steps)[0]

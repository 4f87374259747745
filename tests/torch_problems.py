"""Layers of fusedrnn.torch with twins of torch's, and one step of both compared."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

import fusedrnn.torch

#: Of torch: (2, 13).
TORCH = tuple(map(int, torch.__version__.split(".")[:2]))

LAYERS = [fusedrnn.torch.LSTM, fusedrnn.torch.GRU, fusedrnn.torch.RNN]
CELLS = [fusedrnn.torch.LSTMCell, fusedrnn.torch.GRUCell, fusedrnn.torch.RNNCell]
# With the options that make RNN and RNNCell two cells each, and LSTM with a projection.
KINDS = [(kind, {}) for kind in LAYERS] + [
    (fusedrnn.torch.RNN, {"nonlinearity": "relu"}),
    (fusedrnn.torch.LSTM, {"proj_size": 2}),
]
CELL_KINDS = [(kind, {}) for kind in CELLS] + [(fusedrnn.torch.RNNCell, {"nonlinearity": "relu"})]

# Both round in every step, in different orders: some tens of roundings of 6e-8 and 1e-16.
BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-12}


def kind_id(value: Any) -> str | None:
    if isinstance(value, type):
        return value.__name__
    return str(value) if isinstance(value, dict) else None


def twins(kind: type[Any], *arguments: Any, **options: Any) -> tuple[Any, Any]:
    """A layer of ours and one of torch's with the same parameters."""
    ours = kind(*arguments, **options)
    theirs = kind.torch_class(*arguments, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def states_of(layer: Any, batch: int | None, dtype: torch.dtype = torch.float32) -> Any:
    """A random state: (L*D, B, Hout), for LSTMs a tuple."""
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    middle = () if batch is None else (batch,)
    h = torch.randn(rows, *middle, layer.proj_size or layer.hidden_size, dtype=dtype)
    if layer.mode != "LSTM":
        return h
    return h, torch.randn(rows, *middle, layer.hidden_size, dtype=dtype)


def tensors(value: Any) -> list[torch.Tensor]:
    """The tensors in a result."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, PackedSequence):
        return [value.data]
    return [t for item in value if item is not None for t in tensors(item)]


def leaves(value: Any) -> Any:
    """A copy of x or a state whose tensors are leaves that take gradients."""
    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_()
    if isinstance(value, PackedSequence):
        return PackedSequence(leaves(value.data), *value[1:])
    return type(value)(leaves(item) for item in value)


def step(layer: Any, x: Any, hx: Any, **options: Any) -> tuple[list[Any], list[Any]]:
    """Results, and gradients of x, states and parameters, of a loss that weighs all results."""
    x, hx = leaves(x), leaves(hx)
    results = tensors(layer(x, hx, **options))
    layer.zero_grad()
    weighed(results).backward()
    inputs = tensors([x]) + ([] if hx is None else tensors(hx))
    gradients = [t.grad for t in [*inputs, *layer.parameters()]]
    return [t.detach() for t in results], [g.clone() for g in gradients]


def weighed(results: Iterable[torch.Tensor]) -> torch.Tensor:
    """A loss: the sum of all elements, each with a weight that every dtype has."""
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randint(-16, 17, result.shape, generator=generator) / 8 for result in results]
    return sum((r * w.to(r)).sum() for r, w in zip(results, weights, strict=True))


def assert_near(found: Iterable[torch.Tensor], wanted: Iterable[torch.Tensor]) -> None:
    """Equal shapes, dtypes and, to rounding, values."""
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert (a - b).norm() <= BOUNDS[a.dtype] * b.norm()


def assert_same_step(ours: Any, theirs: Any, x: Any, hx: Any = None, **options: Any) -> None:
    """Inference and training give torch's results and gradients."""
    found, wanted = step(ours, x, hx, **options), step(theirs, x, hx)
    assert_near(found[0], wanted[0])
    assert_near(found[1], wanted[1])
    with torch.no_grad():
        assert_near(tensors(ours(x, hx, **options)), wanted[0])


def cut(x: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
    """The sequences of x, (T, B, I), without their padding."""
    return [x[:length, b] for b, length in enumerate(lengths)]


def outcome(call: Any) -> Any:
    """What a call raises: type and text; or its result."""
    try:
        return call()
    except Exception as error:
        return type(error), str(error)


def copied(model: Any) -> Any:
    return copy.deepcopy(model)

"""Calls of fusedrnn.torch's layers and cells that are wrong, and what tries them all in a process.

Some of them make torch's own layers read and write where they must not: so a process of its own
tries them, and a test looks at how it ends.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import PackedSequence

import fusedrnn.torch
from torch_problems import CELLS, KINDS, outcome, states_of, tensors

# No two are equal.
T, B, INPUTS, UNITS = 5, 3, 4, 6
VARIANTS = [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True, "bias": False}]
BATCH_SIZES = [3, 3, 2, 1, 1]
LENGTHS = [T, 0, 2]

DOCUMENTED = (RuntimeError, ValueError, TypeError)


class Problem(NamedTuple):
    """A wrong call of a layer or cell."""

    name: str
    module: Any
    x: Any
    state: Any = None
    lengths: list[int] | None = None

    def call(self) -> None:
        options = {} if self.lengths is None else {"lengths": self.lengths}
        self.module(self.x, self.state, **options)

    def call_of_torch(self) -> None:
        self.module.torch_class.forward(self.module, self.x, self.state)


def packed(
    sizes: Any = BATCH_SIZES,
    rows: tuple[int, ...] = (10, INPUTS),
    order: Any = None,
    inverse: Any = None,
    dtype: torch.dtype = torch.float32,
) -> PackedSequence:
    """A PackedSequence made by hand."""
    indices = [None if i is None else torch.tensor(i) for i in (order, inverse)]
    return PackedSequence(torch.randn(rows, dtype=dtype), torch.as_tensor(sizes), *indices)


def wrong_packings(dtype: torch.dtype) -> dict[str, PackedSequence]:
    """Packed sequences that are none."""
    cases: dict[str, dict[str, Any]] = {
        "batch sizes that grow": {"sizes": [1, 1, 2, 3, 3]},
        "one that grows": {"sizes": [3, 2, 3, 1, 1]},
        "too few rows": {"sizes": [3, 3, 3, 3]},
        "too many rows": {"sizes": [3, 3, 2]},
        "a batch size of zero": {"sizes": [*BATCH_SIZES, 0]},
        "nothing but zero": {"sizes": [0], "rows": (0, INPUTS)},
        "a negative batch size": {"sizes": [3, 3, 3, 2, -1]},
        "no batch size": {"sizes": torch.zeros(0, dtype=torch.int64), "rows": (0, INPUTS)},
        "no batch size, but rows": {"sizes": torch.zeros(0, dtype=torch.int64)},
        "no batch size, of reals": {"sizes": []},
        "batch sizes of two dimensions": {"sizes": [[3], [3], [2], [1], [1]]},
        "batch sizes of no dimension": {"sizes": 10},
        "batch sizes of reals": {"sizes": [float(n) for n in BATCH_SIZES]},
        "batch sizes of bools": {"sizes": [True] * 10},
        "rows of three dimensions": {"rows": (10, 1, INPUTS)},
        "rows of one dimension": {"rows": (10,)},
        "wider rows": {"rows": (10, INPUTS + 1)},
        "rows of no width": {"rows": (10, 0)},
        "an order beyond the batch": {"order": [0, 1, 3], "inverse": [0, 1, 2]},
        "a long order": {"order": [0, 1, 2, 2], "inverse": [0, 1, 2]},
        "a short order": {"order": [0, 1], "inverse": [0, 1, 2]},
        "a negative order": {"order": [0, 1, -4], "inverse": [0, 1, 2]},
        "an order of one sequence alone": {"order": [0, 0, 0], "inverse": [0, 1, 2]},
        "an order of no dimension": {"order": 0, "inverse": [0, 1, 2]},
        "an order of reals": {"order": [0.0, 1.0, 2.0], "inverse": [0, 1, 2]},
        "an inverse beyond the batch": {"order": [0, 1, 2], "inverse": [0, 1, 99]},
        "a short inverse": {"order": [0, 1, 2], "inverse": [0, 1]},
        "a long inverse": {"order": [0, 1, 2], "inverse": [0, 1, 2, 0]},
        "an inverse of one sequence alone": {"order": [1, 0, 2], "inverse": [0, 0, 2]},
        "a negative inverse": {"order": [0, 1, 2], "inverse": [0, 1, -1]},
        "an inverse of two dimensions": {"order": [0, 1, 2], "inverse": [[0, 1, 2]]},
    }
    return {name: packed(**options, dtype=dtype) for name, options in cases.items()}


def wrong_shapes(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Shapes of other ranks, and those with one size changed."""
    yield shape[1:]
    yield (1, *shape)
    yield (*shape, 1)
    yield ()
    for axis, size in enumerate(shape):
        for other in {0, 1, size + 1} - {size}:
            yield (*shape[:axis], other, *shape[axis + 1 :])


def wrong_states(state: Any) -> Iterator[tuple[str, Any]]:
    """States of other shapes and numbers."""
    parts = tensors(state)
    for i, part in enumerate(parts):
        for shape in wrong_shapes(tuple(part.shape)):
            changed = [*parts[:i], part.new_zeros(shape), *parts[i + 1 :]]
            yield f"state {i} of {shape}", changed[0] if len(parts) == 1 else tuple(changed)
    for axis in range(parts[0].dim()):
        both = [part.sum(axis) for part in parts]
        yield f"states without axis {axis}", both[0] if len(parts) == 1 else tuple(both)
    for count in {0, 1, 2, 3} - {len(parts)}:
        yield f"a list of {count} states", [parts[0]] * count
    if len(parts) == 1:
        yield "a list of one state", [parts[0]]
    elif parts[0].dim() == 3:  # torch takes the parts of a tensor for those of one sequence
        yield "one tensor", torch.stack([parts[1], parts[1]])
    yield "a list of None", [None] * len(parts)
    yield "a number", 5


def layer_problems(dtype: torch.dtype) -> Iterator[Problem]:
    """Wrong calls of layers."""
    for (kind, options), variant in itertools.product(KINDS, VARIANTS):
        layer = kind(INPUTS, UNITS, **options, **variant, dtype=dtype)
        name = f"{kind.__name__} {options} {variant}"
        x = torch.randn(*((B, T) if layer.batch_first else (T, B)), INPUTS, dtype=dtype)
        inputs: dict[str, tuple[Any, int | None, list[int] | None]] = {
            "batch": (x, B, None),
            "one": (x[0], None, None),
            "packed": (packed(dtype=dtype), B, None),
            "lengths": (x, B, LENGTHS),
        }
        for what, (given, batch, lengths) in inputs.items():
            for which, state in wrong_states(states_of(layer, batch, dtype)):
                yield Problem(f"{name}: {what}, {which}", layer, given, state, lengths)
        time = 1 if layer.batch_first else 0
        for shape in wrong_shapes(tuple(x.shape)):
            wrong_x = x.new_zeros(shape)
            if len(shape) != 3 or shape[time] <= T:  # not only more steps
                yield Problem(f"{name}: x of {shape} and lengths", layer, wrong_x, None, LENGTHS)
            if len(shape) in (2, 3) and shape[-1] == INPUTS and 0 not in shape:
                continue  # another batch, or more steps
            if len(shape) == 3 and shape[-1] == INPUTS and shape[time] > 0:
                continue  # an empty batch
            yield Problem(f"{name}: x of {shape}", layer, wrong_x)
        for which, wrong in wrong_packings(dtype).items():
            for state in (None, states_of(layer, B, dtype)):
                yield Problem(f"{name}: {which}", layer, wrong, state)
        for parameter, value in layer.named_parameters():
            for shape in wrong_shapes(tuple(value.shape)):
                other = copy.copy(layer)
                other._parameters = {
                    **layer._parameters,
                    parameter: value.detach().new_zeros(shape),
                }
                for what in ("batch", "packed", "lengths"):
                    given, _, lengths = inputs[what]
                    which = f"{what}, {parameter} of {shape}"
                    yield Problem(f"{name}: {which}", other, given, None, lengths)


def cell_problems(dtype: torch.dtype) -> Iterator[Problem]:
    """Wrong calls of cells."""
    for kind, hidden in itertools.product(CELLS, (0, B, UNITS)):
        cell = kind(INPUTS, hidden, dtype=dtype)
        name = f"{kind.__name__} of {hidden} units"
        two = kind is fusedrnn.torch.LSTMCell
        for shape in ((B, INPUTS), (INPUTS,), (hidden, INPUTS), (1, INPUTS)):
            x = torch.randn(shape, dtype=dtype)
            h = torch.randn(*shape[:-1], hidden, dtype=dtype)
            for which, state in wrong_states((h, h.clone()) if two else h):
                if isinstance(state, torch.Tensor) and state.shape == h.shape:
                    continue  # no other than before
                yield Problem(f"{name}: x of {shape}, {which}", cell, x, state)
        for shape in ((), (1, B, INPUTS), (B, INPUTS + 1), (B, 0), (B, 1), (INPUTS + 1,)):
            yield Problem(f"{name}: x of {shape}", cell, torch.zeros(shape, dtype=dtype))


def refuse_all(dtype: torch.dtype, problems: Callable[[torch.dtype], Iterator[Problem]]) -> None:
    """Try all calls; print those that are taken, and each one's name before it runs.

    Errors of other kinds than documented are torch's, for the same call, or a fault of ours.
    """
    layer, x = fusedrnn.torch.LSTM(INPUTS, UNITS, 2), torch.randn(T, B, INPUTS)
    want = layer(x)[0]
    for i, problem in enumerate(problems(dtype)):
        print("\r", problem.name, end="", flush=True)
        with torch.set_grad_enabled(i % 3 == 0):
            error = outcome(problem.call)
            if error is None:
                print("\nTAKEN", problem.name)
            elif not issubclass(error[0], DOCUMENTED) and error != outcome(problem.call_of_torch):
                print("\nFAULT", problem.name, error)
    assert torch.equal(layer(x)[0], want)
    print("\nDONE")

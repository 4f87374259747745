"""Small seeded problems for the tests of the reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fusedrnn import reference

CELLS = sorted(reference.CELLS)

# Options of a problem that gradients are checked for, beside the plain one.
CASES = [
    {"layers": 2},
    {"layers": 3, "bidirectional": True},
    {"layers": 2, "dropout": 0.4, "dropout_key": (7, 3)},
    {"layers": 3, "bidirectional": True, "dropout": 0.5, "batch_first": True},
    {"batch_first": True},
    {"batch": None, "layers": 2, "bidirectional": True},
    {"batch": None, "batch_first": True},
    {"steps": 1},
    {"steps": 1, "layers": 2, "bidirectional": True},
    {"steps": 6, "batch": 1},
    {"bias": False, "layers": 2},
    {"units": 1, "inputs": 1},
]

LENGTHS = [
    {"batch": 3, "lengths": [2, 3, 1]},
    {"batch": 3, "lengths": [2, 0, 3], "layers": 2, "bidirectional": True},
    {"batch": 5, "steps": 4, "lengths": [0, 4, 2, 4, 0], "bidirectional": True},
    {"lengths": [3, 3], "bidirectional": True},
    {"lengths": [2, 2], "layers": 2, "bidirectional": True},
    {"lengths": [0, 0], "layers": 2, "bidirectional": True},
    {"steps": 1, "lengths": [0, 1], "layers": 2},
    {"batch": 3, "lengths": [3, 0, 2], "layers": 3, "bidirectional": True, "dropout": 0.4},
    {"batch": 3, "lengths": [1, 2, 0], "layers": 2, "bidirectional": True, "batch_first": True},
    {"lengths": [1, 3], "layers": 2, "bias": False},
    {"batch": None, "lengths": 2, "layers": 2, "bidirectional": True},
    {"batch": None, "lengths": 0, "bidirectional": True},
]

# Of an LSTM alone.
PROJECTIONS = [
    {"proj_size": 1},
    {"proj_size": 2, "layers": 2},
    {"proj_size": 2, "layers": 3, "bidirectional": True},
    {"proj_size": 1, "layers": 2, "bidirectional": True, "dropout": 0.4, "dropout_key": (7, 3)},
    {"proj_size": 2, "layers": 2, "bias": False, "batch_first": True},
    {"proj_size": 2, "batch": None, "layers": 2, "bidirectional": True},
    {"proj_size": 4, "units": 5, "steps": 1, "batch": 1},
]


@dataclass(frozen=True)
class Problem:
    """A call of the reference, and the gradients that come into its backward."""

    cell: str
    x: np.ndarray
    parameters: dict[str, np.ndarray]
    states: tuple[np.ndarray, ...]
    dy: np.ndarray
    dstates: tuple[np.ndarray, ...]
    options: dict[str, Any]

    @property
    def engine(self):
        """What computes it."""
        return reference

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that has a gradient, by name."""
        names = reference.CELLS[self.cell].states
        return {"x": self.x, **dict(zip(names, self.states, strict=True)), **self.parameters}

    def with_array(self, name: str, array: np.ndarray) -> Problem:
        if name == "x":
            return replace(self, x=array)
        if name in self.parameters:
            return replace(self, parameters={**self.parameters, name: array})
        names = reference.CELLS[self.cell].states
        states = dict(zip(names, self.states, strict=True)) | {name: array}
        return replace(self, states=tuple(states.values()))

    def forward(self):
        return reference.forward(
            self.cell, self.x, self.parameters, pack(self.states), **self.options
        )

    def loss(self) -> float:
        """L = <dy, y> + <dstate, state>, whose gradients are those that backward returns."""
        y, final, _ = self.forward()
        terms = zip((self.dy, *self.dstates), (y, *unpack(final)), strict=True)
        return float(sum((d * value).sum() for d, value in terms))

    def gradients(self) -> dict[str, np.ndarray]:
        tape = self.forward()[2]
        got = reference.backward(tape, self.dy, pack(self.dstates))
        names = reference.CELLS[self.cell].states
        states = dict(zip(names, unpack(got.state), strict=True))
        return {"x": got.x, **states, **got.parameters}


def pack(states):
    return states if len(states) > 1 else states[0]


def unpack(state):
    return state if isinstance(state, tuple) else (state,)


def make(
    cell,
    *,
    steps=3,
    batch: int | None = 2,
    inputs=2,
    units=3,
    layers=1,
    bidirectional=False,
    bias=True,
    proj_size=0,
    seed=0,
    **options,
) -> Problem:
    rng = np.random.default_rng(seed)
    shapes = reference.parameter_shapes(
        cell, inputs, units, layers, bias=bias, bidirectional=bidirectional, proj_size=proj_size
    )
    directions = 2 if bidirectional else 1
    middle = () if batch is None else (batch,)
    leading = (steps, *middle)
    if batch is not None and options.get("batch_first"):
        leading = (batch, steps)
    outputs = proj_size or units  # of a direction
    sizes = {"h": outputs, "c": units}
    state_shapes = [
        (layers * directions, *middle, sizes[name]) for name in reference.CELLS[cell].states
    ]
    return Problem(
        cell,
        x=rng.normal(size=(*leading, inputs)),
        parameters={name: rng.normal(size=shape) / 2 for name, shape in shapes.items()},
        states=tuple(rng.normal(size=shape) for shape in state_shapes),
        dy=rng.normal(size=(*leading, directions * outputs)),
        dstates=tuple(rng.normal(size=shape) for shape in state_shapes),
        options=options,
    )


def relative(got, want) -> float:
    """||got - want|| / ||want||, with an exact zero allowed to meet a rounded one."""
    return float(np.linalg.norm(np.subtract(got, want)) / max(np.linalg.norm(want), 1e-3))

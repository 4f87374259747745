"""A world of valid arguments, in which a call may fail but do no harm."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

import fusedrnn
from fusedrnn import functional

F4 = np.float32


class World:
    """Layers of 3 inputs and 4 units in float32, and arguments that they accept."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)

        def draw(*shape: int) -> np.ndarray:
            return rng.normal(size=shape).astype(F4)

        self.lstm = fusedrnn.LSTM(3, 4, seed=0)
        self.gru = fusedrnn.GRU(3, 4, seed=0)
        self.x, self.dy, self.out = draw(5, 2, 3), draw(5, 2, 4), draw(5, 2, 4)
        self.h, self.c, self.dh, self.dc = (draw(1, 2, 4) for _ in range(4))
        self.parameters = {name: p.copy() for name, p in self.lstm.parameters.items()}
        self.weights = functional.Weights("lstm", self.parameters)
        self.y, _, self.tape = self.forward()
        tape = self.forward()[2]
        self.gradients = functional.backward(tape, self.dy, (self.dh, self.dc))
        self.spent_tape = tape
        self.targets = functional.Gradients(
            draw(5, 2, 3),
            (draw(1, 2, 4), draw(1, 2, 4)),
            {name: draw(*p.shape) for name, p in self.parameters.items()},
        )

    def infer(self, x=None, parameters=None, state=None, **options):
        x = self.x if x is None else x
        parameters = self.parameters if parameters is None else parameters
        return functional.infer("lstm", x, parameters, state, **options)

    def forward(self):
        return functional.forward("lstm", self.x, self.parameters, (self.h, self.c))

    def backward(self, **options):
        return functional.backward(self.tape, self.dy, (self.dh, self.dc), **options)

    def load(self, name, value):
        self.lstm.load_parameters({**self.parameters, name: value})

    def replace(self, **changes):
        return self.backward(out=replace(self.targets, **changes))

    def bytes(self) -> list[bytes]:
        targets = [self.targets.x, *self.targets.state, *self.targets.parameters.values()]
        arrays = [self.x, self.dy, self.out, self.h, self.c, self.dh, self.dc, self.y]
        arrays += [*self.parameters.values(), *self.weights.parameters.values(), *targets]
        return [a.tobytes() for a in arrays]

    def results(self) -> list[bytes]:
        state = (self.h, self.c)
        y, last = self.lstm(self.x, state)
        other, _ = functional.infer("lstm", self.x, self.weights, state)
        return [a.tobytes() for a in (y, *last, other, *self.gru(self.x))]


@contextlib.contextmanager
def rejects(error: type[Exception], message: str) -> Iterator[World]:
    """Give a world to a block that must fail, and see that it did no harm."""
    world = World()
    before, results = world.bytes(), world.results()
    with pytest.raises(error) as caught:
        yield world
    assert type(caught.value) is error
    assert str(caught.value) == message
    assert world.bytes() == before
    assert world.results() == results
    assert not world.tape.spent
    again = world.backward()
    assert again.x.tobytes() == world.gradients.x.tobytes()
    for name, gradient in again.parameters.items():
        assert gradient.tobytes() == world.gradients.parameters[name].tobytes()


def read_only(a: np.ndarray) -> np.ndarray:
    view = a.view()
    view.flags.writeable = False
    return view


class OffersArray:
    def __init__(self, value):
        self.value = value

    def __array__(self, dtype=None, copy=None):
        return self.value

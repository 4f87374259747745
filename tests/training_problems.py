"""Small models and data for the tests of training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

import fusedrnn
from fusedrnn.models import training
from fusedrnn.models.data import Batch, Minibatches, Streams
from fusedrnn.models.optimizers import Adam


class Line:
    """y = x w + b with the loss 1/2 |y - target|^2: the smallest model that can be trained."""

    def __init__(self, inputs: int = 3, dtype: str = "float64") -> None:
        self.random_state: dict[str, tuple[int, int]] = {}
        self.load_parameters({"w": np.zeros(inputs, dtype), "b": np.zeros(1, dtype)})

    def load_parameters(self, parameters):
        self.parameters = {name: np.array(a) for name, a in parameters.items()}

    def evaluate(self, batch: Batch, state=None):
        error = batch.inputs @ self.parameters["w"] + self.parameters["b"] - batch.targets
        loss = float(np.mean(error**2)) / 2
        return SimpleNamespace(loss=loss, count=error.size, state=None, error=error)

    def step(self, batch: Batch, state=None):
        result = self.evaluate(batch)
        error = result.error / result.count
        result.gradients = {"w": error @ batch.inputs, "b": np.array([error.sum()])}
        return result


class Symbols:
    """A language model: symbols as one-hot vectors -> two LSTM layers with dropout -> softmax."""

    def __init__(self, symbols: int = 5, units: int = 8, dropout: float = 0.3, seed: int = 0):
        self.layer = fusedrnn.LSTM(symbols, units, 2, dropout=dropout, seed=seed)
        random = np.random.default_rng(seed)
        self.head = random.uniform(-0.3, 0.3, (symbols, units)).astype(np.float32)

    @property
    def parameters(self):
        return {**self.layer.parameters, "head": self.head}

    def load_parameters(self, parameters):
        rest = dict(parameters)
        self.head = np.array(rest.pop("head"))
        self.layer.load_parameters(rest)

    @property
    def random_state(self):
        return self.layer.random_state

    @random_state.setter
    def random_state(self, value):
        self.layer.random_state = value

    def _loss(self, y, targets):
        o = y @ self.head.T
        log_p = o - o.max(axis=-1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(axis=-1, keepdims=True))
        onehot = np.eye(len(self.head), dtype=np.float32)[targets]
        return -(onehot * log_p).sum() / targets.size, (np.exp(log_p) - onehot) / targets.size

    def step(self, batch: Batch, state=None):
        x = np.eye(len(self.head), dtype=np.float32)[batch.inputs]
        y, state, tape = self.layer.forward(x, state)
        loss, do = self._loss(y, batch.targets)
        gradients = self.layer.backward(tape, do @ self.head).parameters
        head = np.tensordot(do, y, axes=([0, 1], [0, 1]))
        return SimpleNamespace(
            loss=loss, count=batch.targets.size, state=state, gradients={**gradients, "head": head}
        )

    def evaluate(self, batch: Batch, state=None):
        y, state = self.layer(np.eye(len(self.head), dtype=np.float32)[batch.inputs], state)
        loss, _ = self._loss(y, batch.targets)
        return SimpleNamespace(loss=loss, count=batch.targets.size, state=state)


WEIGHTS = np.array([1.0, -2.0, 0.5])


def line_data(count: int = 50, seed: int = 0, **options) -> Minibatches:
    """Points of a line, with a little noise."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 3))
    y = x @ WEIGHTS + 0.25 + random.normal(scale=0.01, size=count)
    return Minibatches(x, y, 8, batch_axis=0, **options)


def text(count: int, seed: int = 0) -> np.ndarray:
    """Symbols 0 to 4, each after 0 more often than not the one before it plus 1."""
    random = np.random.default_rng(seed)
    jumps = np.where(random.random(count) < 0.8, 1, random.integers(5, size=count))
    return np.cumsum(jumps) % 5


def streams(count: int = 1000, seed: int = 0, **options) -> Streams:
    return Streams(text(count, seed), streams=3, steps=8, seed=seed, **options)


def fit(model, data=None, optimizer=None, **options):
    """Fit without a display; to a line, with Adam at 0.01."""
    data = line_data() if data is None else data
    optimizer = Adam(model, 0.01) if optimizer is None else optimizer
    return training.fit(model, data, optimizer, progress=False, **options)


def without_seconds(history) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history.records]


@contextlib.contextmanager
def raises(error: type[Exception], message: str) -> Iterator[None]:
    """Expect exactly this exception with exactly this message."""
    with pytest.raises(error) as caught:
        yield
    assert type(caught.value) is error
    assert str(caught.value) == message

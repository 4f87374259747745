"""A body with a head: a model that can be trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._network import Array
from ._composite import Composite
from ._module import Module
from ._registry import register
from .data import Batch
from .heads import RegressionHead, SoftmaxHead


@dataclass(frozen=True)
class Step:
    """What one step of training needs."""

    loss: float  # the mean over the targets that count
    count: float  # the sum of their weights
    state: Any  # after the last time step
    gradients: dict[str, Array]  # by the parameters' names


@dataclass(frozen=True)
class Evaluation:
    """A `Step` without gradients."""

    loss: float
    count: float
    state: Any


@register
class SequenceModel(Composite):
    """A body that makes hidden states of inputs, and a head that makes predictions of them.

    Many to many, aligned: the body's y is (T, B, H), and there is a target for each step. Many to
    one: the body ends in `Last` or `Mean`, its y is (B, H), and there is a target for each
    sequence.

    Parameters
    ----------
    body : Module
        A layer, a `Sequential`, or anything with the same calls.
    head : SoftmaxHead or RegressionHead

    Attributes
    ----------
    parameters : mapping of str to read-only array
        ``body.`` and ``head.`` with the parameters of these.

    Raises
    ------
    ValueError
        If the dtypes differ.
    TypeError
        If one of the two isn't a module, or the head has no loss.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedrnn
    >>> from fusedrnn.models import Batch, Embedding, Sequential, SequenceModel, SoftmaxHead
    >>> body = Sequential(Embedding(10, 8, seed=0), fusedrnn.LSTM(8, 16, seed=0))
    >>> model = SequenceModel(body, SoftmaxHead(16, 10, seed=0))
    >>> symbols = np.arange(12).reshape(6, 2) % 10  # T + 1, B
    >>> step = model.step(Batch(symbols[:-1], symbols[1:]))
    >>> step.count, sorted(step.gradients) == sorted(model.parameters)
    (10.0, True)
    >>> log_p, state = model.predict(symbols)
    >>> log_p.shape
    (6, 2, 10)
    """

    def __init__(self, body: Module, head: SoftmaxHead | RegressionHead) -> None:
        self._parts = {"body": body, "head": head}
        self._check_parts()
        if not hasattr(head, "loss"):
            raise TypeError(f"head: expected a head with a loss, got {type(head).__name__}")

    @property
    def body(self) -> Any:
        """What makes hidden states of inputs."""
        return self._parts["body"]

    @property
    def head(self) -> Any:
        """What makes predictions of hidden states."""
        return self._parts["head"]

    def predict(self, x: Any, state: Any = None, *, lengths: Any = None) -> tuple[Array, Any]:
        """Return the head's predictions, and the last state.

        Parameters
        ----------
        x
            What the body takes: (T, B, ...).
        state, lengths
            As the body takes them.

        Returns
        -------
        prediction : array
            log p (..., K) of a `SoftmaxHead`, o (..., K) of a `RegressionHead`; 0 past the end of
            a sequence.
        state
            Of the body, to go on with.

        Raises
        ------
        ValueError, TypeError, MemoryError
            As from the body.
        """
        y, state = self.body(x, state, lengths=lengths)
        return self.head(y, lengths=_of_steps(y, lengths))[0], state

    def evaluate(self, batch: Batch, state: Any = None) -> Evaluation:
        """Return the mean loss of a batch, without dropout.

        Parameters
        ----------
        batch : Batch
        state
            Of the body, where the batch goes on.

        Returns
        -------
        Evaluation

        Raises
        ------
        ValueError, TypeError, MemoryError
            As from body and head.
        """
        y, state = self.body(batch.inputs, state, lengths=batch.lengths)
        loss = self.head.loss(
            y,
            batch.targets,
            weights=batch.weights,
            lengths=self._target_lengths(batch, y),
            gradients=False,
        )
        return Evaluation(loss.value, loss.count, state)

    def step(self, batch: Batch, state: Any = None) -> Step:
        """Return the mean loss of a batch and its gradients.

        Parameters
        ----------
        batch : Batch
        state
            Of the body, where the batch goes on; no gradient flows into it.

        Returns
        -------
        Step

        Raises
        ------
        ValueError, TypeError, MemoryError
            As from body and head.
        """
        y, state, tape = self.body.forward(batch.inputs, state, lengths=batch.lengths)
        loss = self.head.loss(
            y, batch.targets, weights=batch.weights, lengths=self._target_lengths(batch, y)
        )
        gradients = self.body.backward(tape, loss.gradients.y)
        named = {f"body.{name}": g for name, g in gradients.parameters.items()}
        named["head.weight"], named["head.bias"] = loss.gradients.weight, loss.gradients.bias
        return Step(loss.value, loss.count, state, named)

    @staticmethod
    def _target_lengths(batch: Batch, y: Array) -> Any:
        """Return the lengths of the targets; None where y has no time."""
        if batch.target_lengths is None:
            return _of_steps(y, batch.lengths)
        if y.ndim == np.ndim(batch.target_lengths) + 1:
            raise ValueError(
                f"target_lengths: expected None, since the body's y has no time, {y.shape}"
            )
        return batch.target_lengths


def _of_steps(y: Array, lengths: Any) -> Any:
    """Return the lengths where y is (T, B, H), (T, H); None where it has no time."""
    axes = 0 if lengths is None else np.ndim(lengths)
    return lengths if y.ndim == axes + 2 else None

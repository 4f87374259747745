"""The language model: embedding -> LSTM, GRU or RNN -> softmax, of the parts in `fusedrnn.models`.

::

    x_t = E[symbol_t]
    y, state = layer(x, state)
    p(symbol_{t+1} | symbol_1 .. symbol_t) = softmax(V y_t + c)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import models
from ..layers import GRU, LSTM, RNN
from ..models.losses import IGNORE_INDEX
from .corpus import Symbols

LAYERS = {"lstm": LSTM, "gru": GRU, "rnn": RNN}

EVALUATION_STEPS = 1024  # symbols per batch of `Reading`; bounds its memory only


@dataclass(frozen=True)
class Config:
    """What the model is made of."""

    cell: str = "lstm"
    hidden: int = 256
    layers: int = 1
    embedding: int = 64
    dropout: float = 0.0  # of what goes into the layers and out of each

    @classmethod
    def of(cls, model: models.SequenceModel) -> Config:
        """Return the configuration of a model that `build` made."""
        parts = model.body.modules
        layer = parts["layer"]
        return cls(
            cell=type(layer).__name__.lower(),
            hidden=layer.hidden_size,
            layers=layer.num_layers,
            embedding=parts["embedding"].size,
            dropout=parts["dropout_in"].p if "dropout_in" in parts else 0.0,
        )


def build(
    config: Config, symbols: int, seed: int = 0, dtype: str = "float32"
) -> models.SequenceModel:
    """Return a model of so many symbols, untrained.

    Parameters
    ----------
    config : Config
    symbols : int
        The size of the vocabulary.
    seed : int
        Of the initial weights, and of dropout.
    dtype : "float32" or "float64"
    """
    kind, units, p = LAYERS[config.cell], config.hidden, config.dropout
    seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(5, np.uint64)]
    parts: dict[str, Any] = {
        "embedding": models.Embedding(symbols, config.embedding, dtype=dtype, seed=seeds[0]),
        "dropout_in": models.Dropout(p, dtype=dtype, seed=seeds[1]),
        "layer": kind(
            config.embedding,
            units,
            config.layers,
            dropout=p if config.layers > 1 else 0.0,
            dtype=dtype,
            seed=seeds[2],
        ),
        "dropout_out": models.Dropout(p, dtype=dtype, seed=seeds[3]),
    }
    if p == 0.0:
        del parts["dropout_in"], parts["dropout_out"]
    if config.cell == "lstm":
        _open_forget_gates(parts["layer"])
    head = models.SoftmaxHead(units, symbols, dtype=dtype, seed=seeds[4])
    return models.SequenceModel(models.Sequential(**parts), head)


def _open_forget_gates(layer: LSTM) -> None:
    """Let an LSTM remember at first: 1 on the forget gates' biases.

    Source: Jozefowicz, Zaremba and Sutskever, An Empirical Exploration of Recurrent Network
    Architectures, ICML 2015.
    """
    units = layer.hidden_size
    with layer.edit_parameters() as parameters:
        for k in range(layer.num_layers):
            parameters[f"bias_ih_l{k}"][units : 2 * units] += 1.0  # gates: i f g o


class Reading:
    """A whole text as data to evaluate on: one sequence, piece by piece.

    Parameters
    ----------
    symbols : array (N,)
    context : int, at least 1
        So many symbols at the start are only read.
    """

    def __init__(self, symbols: Symbols, context: int) -> None:
        self._inputs = symbols[:-1, np.newaxis]
        self._targets = symbols[1:, np.newaxis].copy()
        self._targets[: context - 1] = IGNORE_INDEX

    def __len__(self) -> int:
        """Return the number of pieces."""
        return math.ceil(len(self._inputs) / EVALUATION_STEPS)

    def batch(self, epoch: int, index: int) -> models.Batch:
        """Return a piece; epochs are all the same."""
        part = slice(index * EVALUATION_STEPS, (index + 1) * EVALUATION_STEPS)
        return models.Batch(self._inputs[part], self._targets[part], carry=index > 0)


def bits_per_symbol(model: models.SequenceModel, symbols: Symbols, context: int) -> float:
    """Return the mean of -log2 p of each symbol given all before it, of those after the context."""
    return models.evaluate(model, Reading(symbols, context)) / math.log(2.0)


def log2_probability(model: models.SequenceModel, context: Symbols, continuation: Symbols) -> float:
    """Return log2 P(continuation | context): the sum over its symbols."""
    text = np.concatenate((context, continuation))
    log_p, _ = model.predict(text[:-1, np.newaxis])
    of_each = log_p[np.arange(len(text) - 1), 0, text[1:]]
    return float(of_each[len(context) - 1 :].sum(dtype=np.float64)) / math.log(2.0)


def sample(
    model: models.SequenceModel, prompt: Symbols, length: int, temperature: float, seed: int
) -> Symbols:
    """Return `length` symbols that go on after a prompt."""
    start, state = models.read_prompt(model, prompt)
    step = models.language_step(model)
    drawn = models.sample(
        step, state, start=start, max_length=length, temperature=temperature, seed=seed
    )
    symbols: Symbols = drawn.symbols[:, 0]
    return symbols

"""The model: embedding -> LSTM, GRU or RNN -> softmax.

::

    x_t = E[symbol_t]                    a row of the embedding E [symbols, I]
    y, state = layer(x, state)           the fused kernels
    p(symbol_{t+1}) = softmax(V y_t + c)

The layer is `fusedrnn`'s; embedding and head are NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import fusedrnn

from . import head
from .corpus import Symbols
from .head import Array
from .stopwatch import Stopwatch

LAYERS = {"lstm": fusedrnn.LSTM, "gru": fusedrnn.GRU, "rnn": fusedrnn.RNN}

EVALUATION_STEPS = 1024  # characters per call in `bits_per_character`; bounds its memory only


@dataclass(frozen=True)
class Config:
    """What the model is made of."""

    cell: str = "lstm"
    hidden: int = 256
    layers: int = 1
    embedding: int = 64


class Step(NamedTuple):
    """What one step of training needs."""

    loss: float  # nats per character
    state: Any  # after the last character
    gradients: dict[str, Array]


class Model:
    """A language model of symbols.

    Parameters
    ----------
    config : Config
    symbols : int
        The size of the vocabulary.
    seed : int
        Of the initial weights.
    dtype : "float32" or "float64"

    Attributes
    ----------
    parameters : dict name -> array
        ``embedding``, ``rnn.weight_ih_l0`` and so on, ``head.weight``, ``head.bias``. Change them
        in place, then call `reload`.
    stopwatch : Stopwatch
        Where the time went.
    """

    def __init__(self, config: Config, symbols: int, seed: int = 0, dtype: str = "float32") -> None:
        self.config = config
        self.symbols = symbols
        self.dtype = np.dtype(dtype)
        self.stopwatch = Stopwatch()
        self.layer = LAYERS[config.cell](
            config.embedding, config.hidden, config.layers, dtype=dtype, seed=seed
        )
        random = np.random.default_rng(seed)
        bound = config.hidden**-0.5  # as torch.nn.Linear
        weight = random.uniform(-bound, bound, (symbols, config.hidden))
        self.parameters: dict[str, Array] = {
            "embedding": random.standard_normal((symbols, config.embedding)).astype(dtype),
            **{f"rnn.{name}": np.array(a) for name, a in self.layer.parameters.items()},
            "head.weight": weight.astype(dtype),
            "head.bias": np.zeros(symbols, dtype),
        }
        if config.cell == "lstm":
            self._open_forget_gates()
        self.reload()

    def _open_forget_gates(self) -> None:
        """Let the LSTM remember at first: 1 on the forget gate's bias.

        Source: Jozefowicz, Zaremba and Sutskever, An Empirical Exploration of Recurrent Network
        Architectures, ICML 2015.
        """
        units = self.config.hidden
        for k in range(self.config.layers):
            self.parameters[f"rnn.bias_ih_l{k}"][units : 2 * units] += 1.0  # gates: i f g o

    def reload(self) -> None:
        """Let the layer use the parameters as they are now."""
        prefix = "rnn."
        self.layer.load_parameters(
            {n.removeprefix(prefix): p for n, p in self.parameters.items() if n.startswith(prefix)}
        )

    def load(self, parameters: Mapping[str, Array]) -> None:
        """Replace all parameters."""
        for name, parameter in self.parameters.items():
            parameter[...] = parameters[name]
        self.reload()

    def step(self, inputs: Symbols, targets: Symbols, state: Any) -> Step:
        """Return the mean loss and its gradients: forward, then back through time.

        Parameters
        ----------
        inputs, targets : arrays (T, B)
            The symbols, and the symbol that follows each.
        state : as a layer's, or None
            After the character before `inputs`; no gradient flows into it.
        """
        embedding, weight = self.parameters["embedding"], self.parameters["head.weight"]
        watch = self.stopwatch
        with watch("embedding and head"):
            x = embedding[inputs]
        with watch("kernels"):
            y, state, tape = self.layer.forward(x, state)
        with watch("embedding and head"):
            rows = y.reshape(-1, y.shape[-1])
            loss = head.loss(rows, targets.ravel(), weight, self.parameters["head.bias"])
        with watch("kernels"):
            rnn = self.layer.backward(tape, loss.d_y.reshape(y.shape))
        with watch("embedding and head"):
            gradients = {
                "embedding": self._d_embedding(inputs, rnn.x),
                **{f"rnn.{name}": gradient for name, gradient in rnn.parameters.items()},
                "head.weight": loss.d_weight,
                "head.bias": loss.d_bias,
            }
        return Step(loss.value, state, gradients)

    def _d_embedding(self, inputs: Symbols, d_x: Array) -> Array:
        """Return d_E = onehot(inputs)^T d_x: row k is the sum of d_x where symbol k stood."""
        onehot = np.eye(self.symbols, dtype=self.dtype)[inputs.ravel()]
        d_e: Array = onehot.T @ d_x.reshape(-1, d_x.shape[-1])
        return d_e

    def bits_per_character(self, symbols: Symbols, context: int) -> float:
        """Return the mean of -log2 p of each symbol given all before it.

        Parameters
        ----------
        symbols : array (N,)
        context : int, at least 1
            So many symbols at the start are only read.
        """
        inputs, targets = symbols[:-1, np.newaxis], symbols[1:]  # one sequence: B = 1
        total, state = 0.0, None
        for start in range(0, len(targets), EVALUATION_STEPS):
            part = slice(start, start + EVALUATION_STEPS)
            y, state = self.layer(self.parameters["embedding"][inputs[part]], state)
            log_p = self._log_softmax(y)[np.arange(len(y)), targets[part]]
            total -= float(log_p[max(context - 1 - start, 0) :].sum(dtype=np.float64))
        return total / (len(symbols) - context) / float(np.log(2.0))

    def sample(self, prompt: Symbols, length: int, temperature: float, seed: int) -> Symbols:
        """Return `length` symbols that go on after a prompt.

        Each is drawn from softmax(o / temperature) and becomes the next input.
        """
        random = np.random.default_rng(seed)
        inputs, state = prompt, None
        drawn = np.empty(length, np.intp)
        for k in range(length):
            y, state = self.layer(self.parameters["embedding"][inputs][:, np.newaxis], state)
            log_p = self._log_softmax(y[-1:])[0].astype(np.float64) / temperature
            p = np.exp(log_p - log_p.max())
            drawn[k] = random.choice(self.symbols, p=p / p.sum())
            inputs = drawn[k : k + 1]
        return drawn

    def _log_softmax(self, y: Array) -> Array:
        rows = y.reshape(-1, y.shape[-1])
        return head.log_softmax(rows, self.parameters["head.weight"], self.parameters["head.bias"])

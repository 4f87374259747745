"""LSTM, GRU and RNN: layers that own their parameters."""

from __future__ import annotations

import contextlib
import operator
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
import numpy.typing as npt

from . import functional
from ._core import Tape
from ._network import Array, Network
from .functional import Gradients, State, Weights

__all__ = ["GRU", "LSTM", "RNN"]


class Parameters(MutableMapping[str, Array]):
    """The parameters of a layer by torch's names: a dict whose arrays are read-only.

    Setting an item replaces that parameter, checked and copied. Writing into an array is an error,
    so that no change escapes the layer; for updates in place see `Layer.edit_parameters`.
    """

    def __init__(self, layer: Layer) -> None:
        self._layer = layer

    def __getitem__(self, name: str) -> Array:
        return self._layer._weights.parameters[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._layer.load_parameters({**self, name: value})

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"a layer's parameters can't be deleted: {name}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._layer._weights.parameters)

    def __len__(self) -> int:
        return len(self._layer._weights.parameters)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self)!r})"


class Layer:
    """What LSTM, GRU and RNN have in common; not to be made itself."""

    # A call works on one version of the weights: self._weights is replaced as a whole, never
    # changed, so threads may call and load at once, and a tape keeps the version it came from.
    _weights: Weights

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        *,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        dtype: npt.DTypeLike,
        seed: int | None,
    ) -> None:
        self.batch_first = functional._flag(batch_first, "batch_first")
        self.dropout = functional.probability(dropout, "dropout")
        self.dtype = _float_dtype(dtype)
        self._network = Network(
            cell,
            _size(input_size, "input_size"),
            _size(hidden_size, "hidden_size"),
            _size(num_layers, "num_layers"),
            functional._flag(bidirectional, "bidirectional"),
            functional._flag(bias, "bias"),
        )
        if self.dropout > 0 and num_layers == 1:
            warnings.warn(
                f"dropout={dropout} has no effect: it acts between layers, and num_layers is 1",
                stacklevel=3,
            )
        if seed is not None:
            seed = functional._word(seed, "seed")
        self._seed_sequence = np.random.SeedSequence(seed)
        self._dropout_seed = int(self._seed_sequence.generate_state(1, np.uint64)[0])
        self._calls = 0
        self._lock = threading.Lock()
        self._identity = object()  # tapes carry it, so that a layer knows its own
        self._initialize()

    def _initialize(self) -> None:
        """Draw all parameters from U(-1/sqrt(H), 1/sqrt(H)), torch's default."""
        elements = sum(
            shape[0] * (shape[1] if len(shape) > 1 else 1) for _, shape in self._network.shapes()
        )
        if elements * self.dtype.itemsize > sys.maxsize:
            raise MemoryError(
                f"input_size={self.input_size}, hidden_size={self.hidden_size}: "
                f"{elements} parameters don't fit in memory"
            )
        rng = np.random.default_rng(self._seed_sequence)
        bound = self.hidden_size**-0.5
        self.load_parameters(
            {
                name: rng.uniform(-bound, bound, shape).astype(self.dtype)
                for name, shape in self._network.shapes()
            }
        )

    @property
    def input_size(self) -> int:
        """I, the number of inputs."""
        return self._network.input_size

    @property
    def hidden_size(self) -> int:
        """H, the number of hidden units of a layer and direction."""
        return self._network.hidden_size

    @property
    def num_layers(self) -> int:
        """L, the number of stacked layers."""
        return self._network.num_layers

    @property
    def bidirectional(self) -> bool:
        """Whether a second direction runs from the last step to the first."""
        return self._network.bidirectional

    @property
    def bias(self) -> bool:
        """Whether there are biases."""
        return self._network.bias

    @property
    def parameters(self) -> MutableMapping[str, Array]:
        """The parameters by torch's names: read-only arrays, replaced by setting an item."""
        return Parameters(self)

    def load_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Replace all parameters by copies of these.

        Parameters
        ----------
        parameters : mapping of str to array
            torch's names, shapes and gate order; the layer's dtype.

        Raises
        ------
        ValueError
            If a name is missing or unexpected, or a shape is wrong.
        TypeError
            If a dtype is wrong.
        """
        self._network.check_names(parameters)
        weights = Weights.__new__(Weights)
        weights._assign(self._network, parameters, self.dtype.name, self._identity)
        self._weights = weights

    @contextlib.contextmanager
    def edit_parameters(self) -> Iterator[dict[str, Array]]:
        """Give writable copies of the parameters, and load them at the end of the block.

        If the block raises, the layer stays as it was.

        Examples
        --------
        >>> import fusedrnn
        >>> layer = fusedrnn.GRU(3, 4, seed=0)
        >>> with layer.edit_parameters() as parameters:
        ...     parameters["bias_hh_l0"][:] = 0
        >>> float(layer.parameters["bias_hh_l0"].max())
        0.0
        """
        copies = {name: np.array(value) for name, value in self.parameters.items()}
        yield copies
        self.load_parameters(copies)

    def __call__(self, x: Any, state: Any = None) -> tuple[Array, Any]:
        """Run the layer over a sequence: inference, no dropout, nothing is saved.

        Parameters
        ----------
        x : array
            (T, B, I); (B, T, I) with batch_first; (T, I) for one sequence.
        state : array or tuple of arrays, optional
            The initial state; zero if not given. GRU and RNN: h (L*D, B, H), or (L*D, H) for one
            sequence. LSTM: a tuple (h, c) of two such arrays.

        Returns
        -------
        y : array
            The last layer's hidden state at each step: (T, B, D*H), (B, T, D*H), (T, D*H).
        state : array or tuple of arrays
            The state after the last step, to go on with.

        Raises
        ------
        ValueError
            For a wrong shape, rank or number of states, and for T = 0.
        TypeError
            For a wrong dtype or kind of argument.
        MemoryError
            Where memory runs out.
        """
        return self._weights.packed.infer(x, state, self.batch_first, None)

    def forward(self, x: Any, state: Any = None) -> tuple[Array, Any, Tape]:
        """Run the layer over a sequence in training: dropout acts, and a tape is kept.

        Parameters
        ----------
        x, state
            As in a call of the layer. x must not be changed until `backward` is done.

        Returns
        -------
        y, state
            As from a call of the layer. y is read-only, since the tape reads it again.
        tape : Tape
            For one call of `backward`.
        """
        call = 0
        if self.dropout > 0:
            with self._lock:
                call, self._calls = self._calls, self._calls + 1
        return self._weights.packed.forward(
            x, state, self.batch_first, self.dropout, self._dropout_seed, call, None
        )

    def backward(self, tape: Tape, dy: Any, dstate: Any = None) -> Gradients:
        """Return the gradients of x, the initial state and every parameter (BPTT).

        Parameters
        ----------
        tape : Tape
            From this layer's `forward`. Each tape serves one call.
        dy : array or None
            The gradient of the loss with respect to y; None is zero.
        dstate : array or tuple of arrays, optional
            The gradient with respect to the last state; None, or None for a part of it, is zero.

        Returns
        -------
        Gradients
            With `x`, `state` and `parameters` (a dict).

        Raises
        ------
        RuntimeError
            If the tape is spent.
        ValueError
            If the tape is another layer's, or a shape is wrong.
        TypeError
            For a wrong dtype or kind of argument.
        """
        if isinstance(tape, Tape) and tape.weights.owner is not self._identity:
            raise ValueError("tape: expected a tape of this layer, got another layer's")
        return functional.backward(tape, dy, dstate)

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles hold: everything but packed weights and locks."""
        state = self.__dict__.copy()
        for name in ("_lock", "_identity", "_weights"):
            del state[name]
        return {**state, "parameters": dict(self.parameters)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the layer; its tapes stay with the original."""
        parameters = state.pop("parameters")
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self._identity = object()
        self.load_parameters(parameters)

    def __repr__(self) -> str:
        arguments = [str(self.input_size), str(self.hidden_size)]
        defaults = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
        }
        for name, default in defaults.items():
            if getattr(self, name) != default:
                arguments.append(f"{name}={getattr(self, name)}")
        if self.dtype != np.float32:
            arguments.append(f"dtype={self.dtype.name!r}")
        return f"{type(self).__name__}({', '.join(arguments)})"


class LSTM(Layer):
    r"""Long short-term memory (Hochreiter & Schmidhuber 1997), with torch's conventions.

    .. math::
        i, f, o &= \sigma(W_k x + b_{ih,k} + R_k h + b_{hh,k}) \\
        g &= \tanh(W_g x + b_{ih,g} + R_g h + b_{hh,g}) \\
        c' &= f c + i g, \qquad h' = o \tanh(c')

    Parameters
    ----------
    input_size, hidden_size : int
        I and H, at least 1.
    num_layers : int
        L; each layer's output is the next one's input.
    bias : bool
        Whether there are biases b_ih and b_hh.
    batch_first : bool
        Whether x and y have the batch as first axis. States never do.
    dropout : float
        The probability that `forward` zeroes an element between layers.
    bidirectional : bool
        Whether a second direction runs from the last step to the first (D = 2).
    dtype : "float32" or "float64"
        Of everything: inputs must have it.
    seed : int, optional
        For the initial parameters and dropout; fresh entropy if not given.

    Attributes
    ----------
    parameters : mapping of str to read-only array
        ``weight_ih_l{k}`` (4*H, I_k), ``weight_hh_l{k}`` (4*H, H), ``bias_ih_l{k}`` and
        ``bias_hh_l{k}`` (4*H), the same with ``_reverse`` for the second direction; gates in the
        order i f g o; I_k = D*H for k > 0. Initially U(-1/sqrt(H), 1/sqrt(H)).

    Raises
    ------
    ValueError
        For a size below 1, a dropout outside [0, 1], another dtype.
    TypeError
        For a size that isn't an integer or a flag that isn't a bool.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedrnn
    >>> lstm = fusedrnn.LSTM(3, 4, seed=0)
    >>> x = np.ones((5, 2, 3), dtype=np.float32)  # T, B, I
    >>> y, (h, c) = lstm(x)
    >>> y.shape, h.shape
    ((5, 2, 4), (1, 2, 4))
    >>> y, state, tape = lstm.forward(x)
    >>> gradients = lstm.backward(tape, np.ones_like(y))
    >>> gradients.parameters["weight_hh_l0"].shape
    (16, 4)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: npt.DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        super().__init__(
            "lstm",
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            dtype=dtype,
            seed=seed,
        )


class GRU(Layer):
    r"""Gated recurrent unit (Cho et al. 2014), reset after the product as in torch and cuDNN.

    .. math::
        r, z &= \sigma(W_k x + b_{ih,k} + R_k h + b_{hh,k}) \\
        n &= \tanh(W_n x + b_{ih,n} + r (R_n h + b_{hh,n})) \\
        h' &= (1 - z) n + z h

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, seed
        As in `LSTM`.

    Attributes
    ----------
    parameters : mapping of str to read-only array
        As in `LSTM`, with 3*H rows in the order r z n.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedrnn
    >>> gru = fusedrnn.GRU(3, 4, num_layers=2, bidirectional=True, seed=0)
    >>> y, h = gru(np.ones((5, 2, 3), dtype=np.float32))
    >>> y.shape, h.shape
    ((5, 2, 8), (4, 2, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: npt.DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        super().__init__(
            "gru",
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            dtype=dtype,
            seed=seed,
        )


class RNN(Layer):
    r"""Vanilla recurrent network (Elman 1990).

    .. math::
        h' = f(W x + b_{ih} + R h + b_{hh}), \qquad f = \tanh \text{ or } \mathrm{relu}

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, seed
        As in `LSTM`.
    nonlinearity : "tanh" or "relu"

    Attributes
    ----------
    parameters : mapping of str to read-only array
        As in `LSTM`, with H rows.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedrnn
    >>> rnn = fusedrnn.RNN(3, 4, nonlinearity="relu", seed=0)
    >>> y, h = rnn(np.ones((5, 3), dtype=np.float32))  # one sequence
    >>> y.shape, h.shape
    ((5, 4), (1, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: npt.DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity: expected 'tanh' or 'relu', got {nonlinearity!r}")
        self.nonlinearity = nonlinearity
        super().__init__(
            f"rnn_{nonlinearity}",
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            dtype=dtype,
            seed=seed,
        )


def _size(value: int, name: str) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got bool")
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None
    if size < 1:
        raise ValueError(f"{name}: expected at least 1, got {size}")
    return size


def _float_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    try:
        result = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype: expected 'float32' or 'float64', got {dtype!r}") from None
    if result not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"dtype: expected 'float32' or 'float64', got {dtype!r}")
    return result

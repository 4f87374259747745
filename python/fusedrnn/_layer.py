"""What LSTM, GRU and RNN have in common: parameters, calls, copies."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import functional
from ._arguments import (
    flag,
    float_dtype,
    interval,
    probability,
    projection,
    random_state,
    size,
    word,
)
from ._core import Tape
from ._network import Array, Network
from .functional import Gradients, Weights

if TYPE_CHECKING:
    from ._stream import Stream

# Held for a moment, by all layers alike: so a fork in that moment leaves one lock to be renewed.
_lock = threading.Lock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


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
        self._layer._replace({name: value})

    def update(self, other: Any = (), /, **named: Any) -> None:
        """Replace several parameters at once: all of them, or none if one is wrong."""
        self._layer._replace({**dict(other), **named})

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
        proj_size: int = 0,
    ) -> None:
        self.batch_first = batch_first
        self.dropout = dropout
        self._dtype = float_dtype(dtype, "dtype")
        self._network = Network(
            cell,
            size(input_size, "input_size"),
            size(hidden_size, "hidden_size"),
            size(num_layers, "num_layers"),
            flag(bidirectional, "bidirectional"),
            flag(bias, "bias"),
            projection(proj_size, hidden_size, "proj_size"),
        )
        self._seed_sequence = np.random.SeedSequence(None if seed is None else word(seed, "seed"))
        if self.dropout > 0 and self.num_layers == 1:
            warnings.warn(
                f"dropout={dropout} has no effect: it acts between layers, and num_layers is 1",
                stacklevel=3,
            )
        self._dropout_seed = int(self._seed_sequence.generate_state(1, np.uint64)[0])
        self._calls = 0
        self._identity = object()  # tapes carry it, so that a layer knows its own
        self._initialize()

    def _initialize(self) -> None:
        """Draw all parameters from U(-1/sqrt(H), 1/sqrt(H)), torch's default."""
        arrays, elements = self._network.counts()
        # Drawn, kept and packed: three copies at once. An array object is about 1 KiB of each.
        if 3 * (elements * self.dtype.itemsize + arrays * 1024) > physical_memory():
            raise MemoryError(
                f"input_size={self.input_size}, hidden_size={self.hidden_size}, "
                f"num_layers={self.num_layers}: {elements} parameters don't fit in memory"
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
    def batch_first(self) -> bool:
        """Whether x and y have the batch as first axis. May be set."""
        return self._batch_first

    @batch_first.setter
    def batch_first(self, value: bool) -> None:
        self._batch_first = flag(value, "batch_first")

    @property
    def dropout(self) -> float:
        """The probability that `forward` zeroes an element between layers. May be set."""
        return self._dropout

    @dropout.setter
    def dropout(self, value: float) -> None:
        self._dropout = probability(value, "dropout")

    @property
    def random_state(self) -> dict[str, tuple[int, int]]:
        """What dropout draws next: {"": (seed, calls)}, or {} where it can't act. May be set.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedrnn
        >>> layer = fusedrnn.GRU(3, 4, 2, dropout=0.5, seed=0)
        >>> x, before = np.ones((5, 2, 3), np.float32), layer.random_state
        >>> y, _, _ = layer.forward(x)
        >>> layer.random_state = before  # so that the same draws follow
        >>> bool((layer.forward(x)[0] == y).all())
        True
        """
        with _lock:
            state = self._dropout_seed, self._calls
        return {"": state} if self._draws() else {}

    @random_state.setter
    def random_state(self, value: Mapping[str, tuple[int, int]]) -> None:
        state = random_state(value, [""] if self._draws() else [])
        if state:
            with _lock:
                self._dropout_seed, self._calls = state[""]

    def _draws(self) -> bool:
        return self.dropout > 0 and self.num_layers > 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of everything, float32 or float64."""
        return self._dtype

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
            If `parameters` isn't a mapping, or a dtype is wrong.
        MemoryError
            Where memory runs out.
        """
        weights = self._pack(parameters)
        with _lock:
            self._weights = weights

    def _replace(self, some: Mapping[str, Any]) -> None:
        """Replace some of the parameters, again where another thread was faster."""
        replaced = False
        while not replaced:
            old = self._weights
            new = self._pack({**old.parameters, **some})
            with _lock:
                replaced = self._weights is old
                if replaced:
                    self._weights = new

    def _pack(self, parameters: Mapping[str, Any]) -> Weights:
        return Weights.of(self._network, parameters, self.dtype.name, self._identity)

    @contextlib.contextmanager
    def edit_parameters(self) -> Iterator[dict[str, Array]]:
        """Give writable copies of the parameters, and load them at the end of the block.

        If the block raises, the layer stays as it was.

        Yields
        ------
        dict of str to array

        Raises
        ------
        ValueError, TypeError
            At the end of the block, as from `load_parameters`.

        Examples
        --------
        >>> import fusedrnn
        >>> layer = fusedrnn.GRU(3, 4, seed=0)
        >>> with layer.edit_parameters() as parameters:
        ...     parameters["bias_hh_l0"][:] = 0
        >>> float(layer.parameters["bias_hh_l0"].max())
        0.0
        """
        copies = {name: np.array(value) for name, value in self._weights.parameters.items()}
        yield copies
        self.load_parameters(copies)

    def __call__(self, x: Any, state: Any = None, *, lengths: Any = None) -> tuple[Array, Any]:
        """Run the layer over a sequence: inference, no dropout, nothing is saved.

        Parameters
        ----------
        x : array
            (T, B, I); (B, T, I) with batch_first; (T, I) for one sequence.
        state : array or tuple of arrays, optional
            The initial state; zero if not given. GRU and RNN: h (L*D, B, H), or (L*D, H) for one
            sequence. LSTM: a tuple (h, c) of two such arrays. With a projection h has P elements
            in place of H.
        lengths : array of integers (B,), optional
            How many steps each sequence has, from 0 to T, in any order; one integer for one
            sequence. T if not given.

        Returns
        -------
        y : array
            The last layer's hidden state at each step: (T, B, D*H), (B, T, D*H), (T, D*H); with a
            projection P in place of H. 0 past the end of a sequence.
        state : array or tuple of arrays
            The state after the last step of each sequence, to go on with; the initial state where
            there is no step.

        Raises
        ------
        ValueError
            For a wrong shape, rank, length or number of states.
        TypeError
            For a wrong dtype or kind of argument.
        MemoryError
            Where memory runs out.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedrnn
        >>> gru = fusedrnn.GRU(3, 4, bidirectional=True, seed=0)
        >>> x = np.ones((5, 2, 3), dtype=np.float32)
        >>> y, h = gru(x, lengths=[5, 2])
        >>> bool((y[:2, 1] == gru(x[:2, 1])[0]).all()), float(y[2:, 1].max())
        (True, 0.0)
        """
        return self._weights._packed.infer(x, state, self._batch_first, None, lengths)

    def stream(self, batch_size: int | None = None) -> Stream:
        """Return a stream: the layer one time step at a time, for loops.

        It keeps the state and all memory between steps, so a step costs little more than its
        kernels. Its results are those of calls of the layer with one time step each, to the bit.

        Parameters
        ----------
        batch_size : int, optional
            B, for steps from (B, I) to (B, H). None: from (I,) to (H,).

        Returns
        -------
        Stream
            With the state zero.

        Raises
        ------
        ValueError
            If the layer is bidirectional, or `batch_size` is below 1.
        TypeError
            If `batch_size` isn't an integer.
        MemoryError
            Where memory runs out.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedrnn
        >>> layer = fusedrnn.GRU(3, 4, seed=0)
        >>> stream = layer.stream()
        >>> x = np.ones((5, 3), dtype=np.float32)
        >>> y = [stream.step(row) for row in x]
        >>> bool((np.stack(y) == layer(x)[0]).all())
        True
        """
        from ._stream import Stream  # which needs this module first

        return Stream(self, batch_size)

    def forward(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        checkpoint_every: int | None = None,
    ) -> tuple[Array, Any, Tape]:
        """Run the layer over a sequence in training: dropout acts, and a tape is kept.

        Parameters
        ----------
        x, state, lengths
            As in a call of the layer. x must not be changed until `backward` is done.
        checkpoint_every : int, optional
            For long sequences: keep the states of every k-th step only, and let `backward` compute
            the rest again. Memory for activations is then O(T/k + k), not O(T); the results are the
            same bits. `fusedrnn.functional.forward` has the details.

        Returns
        -------
        y, state
            As from a call of the layer. y is read-only, since the tape reads it again.
        tape : Tape
            For one call of `backward`.

        Raises
        ------
        ValueError, TypeError, MemoryError
            As in a call of the layer; ValueError also for a `checkpoint_every` below 1, TypeError
            if it isn't an integer.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedrnn
        >>> layer = fusedrnn.LSTM(4, 16, num_layers=2, seed=0)
        >>> x = np.ones((20_000, 1, 4), np.float32)
        >>> y, state, tape = layer.forward(x, checkpoint_every=1000)
        >>> want, _, large = layer.forward(x)
        >>> tape.nbytes < large.nbytes / 10
        True
        >>> gradients = layer.backward(tape, y)
        >>> bool((gradients.x == layer.backward(large, want).x).all())
        True
        """
        every = interval(checkpoint_every, "checkpoint_every")
        seed = call = 0
        if self.dropout > 0:
            with _lock:
                seed, call = self._dropout_seed, self._calls
                self._calls += 1
        return self._weights.packed.forward(
            x, state, self.batch_first, self.dropout, seed, call, every, None, lengths
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
        """Return what copies and pickles hold: everything but packed weights."""
        state = self.__dict__.copy()
        del state["_identity"], state["_weights"]
        return {**state, "parameters": dict(self._weights.parameters)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the layer; its tapes stay with the original."""
        self.__dict__.update(state)
        del self.__dict__["parameters"]
        self._identity = object()
        self.load_parameters(state["parameters"])

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
        if self._network.proj_size > 0:
            arguments.append(f"proj_size={self._network.proj_size}")
        if self.dtype != np.float32:
            arguments.append(f"dtype={self.dtype.name!r}")
        if self._network.cell == "rnn_relu":
            arguments.append("nonlinearity='relu'")
        return f"{type(self).__name__}({', '.join(arguments)})"


def physical_memory() -> int:
    """Return the machine's memory in bytes, or more than any machine's where that is unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize

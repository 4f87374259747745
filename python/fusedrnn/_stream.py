"""A layer that is fed one time step, or a block of steps, at a time."""

from __future__ import annotations

from typing import Any

from . import _core
from ._arguments import size
from ._layer import Layer, physical_memory
from ._network import Array


class Stream:
    """A layer that is fed one time step at a time, for loops: it keeps the state between steps.

    `step` takes one time step, `run` a block of them, as audio comes. `Layer.stream` makes it. Each
    call works with the layer's parameters of that moment: new ones act from the next call on, and
    the state stays. No dropout acts. Any number of streams of a layer may run in any threads, but
    each stream serves one thread at a time.

    Copies and pickles hold the layer and the state; `copy.copy` shares the layer with the original.

    Parameters
    ----------
    layer : LSTM, GRU or RNN
        Of one direction.
    batch_size : int, optional
        B, for steps from (B, I) to (B, H). None: from (I,) to (H,).

    Attributes
    ----------
    layer : LSTM, GRU or RNN
    batch_size : int or None
    state : array or tuple of arrays
        The state before the next step; may be set.

    Raises
    ------
    ValueError
        If the layer is bidirectional, or `batch_size` is below 1.
    TypeError
        If `layer` isn't one, or `batch_size` isn't an integer.
    MemoryError
        Where memory runs out.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedrnn
    >>> stream = fusedrnn.LSTM(3, 4, seed=0).stream(batch_size=2)
    >>> x = np.ones((2, 3), dtype=np.float32)
    >>> stream.step(x).shape
    (2, 4)
    >>> h, c = stream.state
    >>> h.shape
    (1, 2, 4)
    >>> once, twice = stream.step(x), stream.step(x)
    >>> stream.state = h, c
    >>> bool((stream.step(x) == once).all())
    True
    >>> stream.reset()
    """

    def __init__(self, layer: Layer, batch_size: int | None = None) -> None:
        if not isinstance(layer, Layer):
            raise TypeError(f"layer: expected an LSTM, GRU or RNN, got {type(layer).__name__}")
        self._layer = layer
        self._batch_size = None if batch_size is None else size(batch_size, "batch_size")
        self._stream = self._make()

    def _make(self) -> _core.Stream:
        layer, batch = self._layer, self._batch_size or 1
        gates, states = _core.cells()[layer._network.cell]
        # Of each layer and sequence, the state before and after a step, and the gates.
        elements = layer.num_layers * batch * (2 * states + gates) * layer.hidden_size
        if elements * layer.dtype.itemsize > physical_memory():
            raise MemoryError(f"batch_size={batch}: {elements} elements don't fit in memory")
        return _core.Stream(layer._weights._packed, self._batch_size)

    @property
    def layer(self) -> Layer:
        """The layer, whose parameters the steps use."""
        return self._layer

    @property
    def batch_size(self) -> int | None:
        """B, or None for steps from (I,) to (H,)."""
        return self._batch_size

    def step(self, x: Any, out: Array | None = None) -> Array:
        """Go one time step further; after an error the state is as it was.

        Parameters
        ----------
        x : array
            (B, I), or (I,) without a batch size; the layer's dtype.
        out : array, optional
            Where y goes; it must not share memory with x.

        Returns
        -------
        y : array
            The last layer's hidden state: (B, H), or (H,). `out`, or else a fresh array.

        Raises
        ------
        ValueError
            For a wrong shape, or a read-only or overlapping `out`.
        TypeError
            For a wrong dtype or kind of argument.
        RuntimeError
            If another thread is in a step of this stream.
        MemoryError
            Where memory runs out.
        """
        return self._stream.step(self._layer._weights._packed, x, out)

    def run(self, block: Any, out: Array | None = None) -> Array:
        """Go a block of time steps further, at the price of one call of the layer.

        The results are those of as many calls of `step`, to the bit. Blocks may differ in length;
        one that is longer than all before it takes memory, which is kept. With `out`, and where
        both are C-contiguous with the time first, no other block does, and none calls the system,
        but to wake other threads, where the block is worth them, and to get the interpreter's lock
        back where other Python threads run: blocks of more than some microseconds give it up. After
        an error the state is as it was.

        Parameters
        ----------
        block : array
            (T, B, I), or (T, I) without a batch size; (B, T, I) for a layer with ``batch_first``.
            T may be 0. The layer's dtype.
        out : array, optional
            Where y goes; it must not share memory with `block`.

        Returns
        -------
        y : array
            The last layer's hidden states: (T, B, H), (T, H), or (B, T, H). `out`, or else a fresh
            array.

        Raises
        ------
        ValueError
            For a wrong shape, or a read-only or overlapping `out`.
        TypeError
            For a wrong dtype or kind of argument.
        RuntimeError
            If another thread is in a step or run of this stream.
        MemoryError
            Where memory runs out.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedrnn
        >>> stream = fusedrnn.LSTM(1, 16, seed=0).stream()
        >>> audio = np.zeros((480, 1), dtype=np.float32)
        >>> y = np.empty((64, 16), dtype=np.float32)
        >>> for begin in range(0, 448, 64):
        ...     _ = stream.run(audio[begin : begin + 64], out=y)
        """
        layer = self._layer
        return self._stream.run(layer._weights._packed, block, layer._batch_first, out)

    @property
    def state(self) -> Any:
        """The state before the next step, as a copy; may be set, which copies it; None is zero.

        GRU and RNN: h (L, B, H), or (L, H) without a batch size. LSTM: a tuple (h, c) of two such
        arrays. So it is what a call of the layer takes and returns.
        """
        return self._stream.state

    @state.setter
    def state(self, value: Any) -> None:
        self._stream.state = value

    def reset(self) -> None:
        """Make the state zero.

        Raises
        ------
        RuntimeError
            If another thread is in a step of this stream.
        """
        self.state = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles hold: layer, batch size, state."""
        state = self.__dict__.copy()
        del state["_stream"]
        return {**state, "state": self.state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the stream; it goes on from the state."""
        self.__dict__.update(state)
        value = self.__dict__.pop("state")
        self._stream = self._make()
        self.state = value

    def __repr__(self) -> str:
        batch = "" if self.batch_size is None else f"batch_size={self.batch_size}"
        return f"{self.layer!r}.stream({batch})"

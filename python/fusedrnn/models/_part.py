"""What the parts that work on sequences have in common: the calls of a module, and the lengths.

The calls stand here, once for all parts, so that no part can read padding or leave some: it gets
arrays that are checked and have 0 past the lengths, and what it gives gets 0 there as well.
"""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

from .. import _core
from .._network import Array
from ..functional import Gradients
from ._module import Stateless, no_state
from ._padding import Padding
from ._positions import Integers, check_shape

Shape = tuple[int, ...]


class _Tape(NamedTuple):
    kept: Any  # what the part needs again
    shapes: tuple[Shape, Shape]  # of x and y
    padding: Padding  # of x
    padding_of_y: Padding


class Part(Stateless):
    """A module on sequences. A subclass gives `_forward` and `_backward`, on whole arrays."""

    #: Whether y has no axis of time, so that lengths say nothing of it: see `Sequential`.
    ends_time = False

    #: How many axes of x stand behind those of time and batch: the features'.
    _feature_axes = 1

    def _read(self, x: Any) -> Array:
        """Return x as an array, if its dtype and shape are right."""
        array: Array = _core.as_array(x, "x", self._dtype_name)
        return array

    def _read_state(self, state: Any, shape: Shape, name: str) -> Any:
        """Return the state, or its gradient, for an x of this shape, if it is right."""
        no_state(state, name)
        return None

    @abc.abstractmethod
    def _forward(self, x: Array, state: Any, lengths: Integers | None) -> tuple[Array, Any, Any]:
        """Return y, a new array, the last state, and what `_backward` needs."""

    def _infer(self, x: Array, state: Any, lengths: Integers | None) -> tuple[Array, Any]:
        """Return y and the last state, without dropout."""
        y, last, _ = self._forward(x, state, lengths)
        return y, last

    @abc.abstractmethod
    def _backward(self, kept: Any, dy: Array, dstate: Any) -> Gradients:
        """Return the gradients, of x in a new array, or None."""

    def __call__(self, x: Any, state: Any = None, *, lengths: Any = None) -> tuple[Array, Any]:
        """Return y and the last state: inference. The arguments are those of `forward`."""
        x, state, padding = self._opened(x, state, lengths)
        y, last = self._infer(x, state, padding.ends)
        self._padding_of_y(padding).clear(y)
        return y, last

    def forward(self, x: Any, state: Any = None, *, lengths: Any = None) -> tuple[Array, Any, Any]:
        """Return y, the last state and a tape for `backward`: training.

        Parameters
        ----------
        x : array
            With lengths (T, B, ...), or (T, ...) for one sequence. Not read past them.
        state : array, optional
            None, but for a causal `Conv1d`.
        lengths : array of integers (B,), optional
            How many steps each sequence has, from 0 to T; an integer for one sequence.

        Returns
        -------
        y : array
            0 past the end of a sequence.
        state : array or None
        tape

        Raises
        ------
        ValueError, TypeError
            For a wrong shape, dtype or length, or a state where there is none.
        """
        x, state, padding = self._opened(x, state, lengths)
        y, last, kept = self._forward(x, state, padding.ends)
        padding_of_y = self._padding_of_y(padding)
        padding_of_y.clear(y)
        return y, last, _Tape(kept, (x.shape, y.shape), padding, padding_of_y)

    def backward(self, tape: Any, dy: Any, dstate: Any = None) -> Gradients:
        """Return the gradients of x, of the initial state and of the parameters.

        Parameters
        ----------
        tape
            From `forward`.
        dy : array
            Like y. Not read past the lengths.
        dstate : array, optional
            The gradient of the last state; None is zero, and all that a part without one takes.

        Returns
        -------
        Gradients
            That of x is None where x are symbols, and 0 past the end of a sequence.

        Raises
        ------
        ValueError, TypeError
            For a wrong shape or dtype.
        """
        shape, shape_of_y = tape.shapes
        dstate = self._read_state(dstate, shape, "dstate")
        dy = _core.as_array(dy, "dy", self._dtype_name)
        check_shape(dy, "dy", shape_of_y)
        gradients = self._backward(tape.kept, tape.padding_of_y.without(dy), dstate)
        if gradients.x is not None:
            tape.padding.clear(gradients.x)
        return gradients

    def _opened(self, x: Any, state: Any, lengths: Any) -> tuple[Array, Any, Padding]:
        """Return x with 0 past the lengths, the state, and where that is, all checked."""
        x = self._read(x)
        state = self._read_state(state, x.shape, "state")
        padding = Padding.of(lengths, x.shape[: max(x.ndim - self._feature_axes, 0)])
        return padding.without(x), state, padding

    def _padding_of_y(self, padding: Padding) -> Padding:
        return Padding() if self.ends_time else padding

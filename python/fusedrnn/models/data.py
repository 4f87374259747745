"""Data for training: batches of sequences with random access.

A source of data has ``len(data)`` batches in each epoch, and ``data.batch(epoch, index)`` returns
one of them. Which one depends on the source's seed, the epoch and the index only, so training can
go on from any position after a break as if there had been none.

`Minibatches` takes some of many sequences at a time; `Streams` reads few long ones piece by piece,
for truncated back-propagation through time. Any object with these two methods will do as well: a
source that generates its batches draws from ``np.random.default_rng([seed, epoch, index])``.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .._arguments import any_array, flag, integer, size, word
from ._positions import integers

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Batch:
    """What a model sees in one step.

    Parameters
    ----------
    inputs : array
        (T, B, ...) for sequences.
    targets : array
        (T, B, ...) for sequences that are aligned with the inputs, (S, B, ...) for others,
        (B, ...) for one target per sequence.
    lengths : array of integers (B,), optional
        How many steps each input has; T if not given. Aligned targets have as many.
    target_lengths : array of integers (B,), optional
        How many steps each target has, where it isn't aligned with the inputs.
    weights : array, optional
        The weight of each target in the loss: (T, B) or (B,); 1 if not given.
    carry : bool
        Whether these sequences go on where those of the batch before have ended, so that the
        model's state does, too.
    """

    inputs: Array
    targets: Array
    lengths: Array | None = None
    target_lengths: Array | None = None
    weights: Array | None = None
    carry: bool = False


class Source(Protocol):
    """Batches with random access; see the head of this file.

    One of your own may have an attribute `configuration`, of what JSON can hold: a training goes on
    from a checkpoint only where it is the same.
    """

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        ...

    def batch(self, epoch: int, index: int) -> Batch:
        """Return a batch; epochs and batches count from 0."""
        ...


class Minibatches:
    """Some of many sequences at a time, in an order that is drawn anew for each epoch.

    The last batch of an epoch may be smaller.

    Parameters
    ----------
    inputs : array
        (T, N, ...): N sequences, time first; with ``batch_axis=0`` (N, ...), without a time.
    targets : array
        (T, N, ...) or (S, N, ...); (N,) for one integer or number per sequence; with
        ``target_axis=0`` (N, ...).
    batch_size : int
        B, how many sequences a batch has.
    lengths, target_lengths : arrays of integers (N,), optional
        As in `Batch`.
    weights : array, optional
        (T, N), (S, N) or (N,), as in `Batch`.
    batch_axis : 0 or 1
        Which axis of the inputs is N. Where the inputs have one axis only, it is that.
    target_axis : 0 or 1, optional
        The same of the targets; `batch_axis` if not given.
    shuffle : bool
        Whether an epoch has an order of its own. If not, each takes the sequences as they stand.
    seed : int
        Of the orders.
    trim : bool
        Whether steps past the end of all sequences of a batch are cut off: those of the inputs,
        and with them those of the targets that have as many steps, or by `target_lengths`. The
        first step always stays.

    Raises
    ------
    ValueError
        If there is no sequence, step or target, or shapes and lengths don't fit together.
    TypeError
        If an array doesn't hold numbers.

    Examples
    --------
    >>> import numpy as np
    >>> data = Minibatches(np.zeros((7, 10, 3)), np.arange(10), 4, seed=0)
    >>> len(data), data.batch(0, 0).inputs.shape
    (3, (7, 4, 3))
    >>> [data.batch(5, index).targets for index in range(3)]
    [array([7, 1, 6, 4]), array([5, 8, 0, 3]), array([9, 2])]
    """

    def __init__(
        self,
        inputs: Any,
        targets: Any,
        batch_size: int,
        *,
        lengths: Any = None,
        target_lengths: Any = None,
        weights: Any = None,
        batch_axis: int = 1,
        target_axis: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        trim: bool = True,
    ) -> None:
        self.batch_size = size(batch_size, "batch_size")
        self.shuffle = flag(shuffle, "shuffle")
        self.seed = word(seed, "seed")
        self.trim = flag(trim, "trim")
        axis = _axis(batch_axis, "batch_axis")
        self._inputs = _Batched(_numbers(inputs, "inputs"), axis)
        axis = axis if target_axis is None else _axis(target_axis, "target_axis")
        self._targets = _Batched(_numbers(targets, "targets"), axis)
        self._count = self._inputs.count
        self._targets.check_count(self._count, "targets")
        self._lengths = self._check_lengths(lengths, "lengths", self._inputs)
        self._target_lengths = self._check_lengths(target_lengths, "target_lengths", self._targets)
        self._weights = None
        if weights is not None:
            self._weights = _Batched(_numbers(weights, "weights"), axis)
            self._check_weights(self._weights.array)
        #: Whether the targets' steps are those of the inputs.
        self._aligned = (
            target_lengths is None and self._targets.steps == self._inputs.steps is not None
        )
        self._order: tuple[int, Array] | None = None  # an epoch, and its order

    def _check_lengths(self, lengths: Any, name: str, of: _Batched) -> Array | None:
        """Return the lengths as an array, if they fit to an array of sequences."""
        if lengths is None:
            return None
        if of.steps is None:
            raise ValueError(f"{name}: expected None without an axis of time, got lengths")
        array = integers(lengths, name)
        if array.shape != (self._count,):
            raise ValueError(f"{name}: expected ({self._count},) [N], got {array.shape}")
        if array.min() < 0 or array.max() > of.steps:
            wrong = array[(array < 0) | (array > of.steps)][0]
            raise ValueError(f"{name}: expected 0 to {of.steps}, got {wrong}")
        if array.max() == 0:
            raise ValueError(f"{name}: expected at least one above 0, got none")
        return array

    def _check_weights(self, weights: Array) -> None:
        """Raise ValueError unless the weights fit the targets, and count something."""
        targets = self._targets
        shape = targets.array.shape[: targets.axis + 1]
        if weights.shape != shape:
            raise ValueError(f"weights: expected {shape}, got {weights.shape}")
        if not np.isfinite(weights).all() or weights.min() < 0 or weights.max() == 0:
            raise ValueError("weights: expected finite numbers of at least 0, some of them above 0")

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-self._count // self.batch_size)

    def batch(self, epoch: int, index: int) -> Batch:
        """Return a batch; epochs and batches count from 0.

        Raises
        ------
        IndexError
            If there is no such batch.
        """
        _check_position(epoch, index, len(self))
        start = index * self.batch_size
        rows = self._order_of(epoch)[start : start + self.batch_size]
        lengths = None if self._lengths is None else self._lengths[rows]
        target_lengths = None if self._target_lengths is None else self._target_lengths[rows]
        steps = self._steps(lengths)
        target_steps = steps if self._aligned else self._steps(target_lengths)
        return Batch(
            self._inputs.take(rows, steps),
            self._targets.take(rows, target_steps),
            lengths,
            target_lengths,
            None if self._weights is None else self._weights.take(rows, target_steps),
        )

    def _steps(self, lengths: Array | None) -> int | None:
        """Return how many steps a batch of these lengths needs; None for all that there are."""
        return max(int(lengths.max()), 1) if self.trim and lengths is not None else None

    def _order_of(self, epoch: int) -> Array:
        """Return which sequences follow each other in an epoch."""
        if not self.shuffle:
            return np.arange(self._count)
        order = self._order
        if order is None or order[0] != epoch:
            random = np.random.default_rng([self.seed, epoch])
            order = self._order = (epoch, random.permutation(self._count))
        return order[1]

    @property
    def configuration(self) -> dict[str, Any]:
        """The settings, and a checksum of the data."""
        arrays = (self._inputs, self._targets, self._weights)
        return {
            "source": type(self).__name__,
            "batch_size": self.batch_size,
            "batch_axis": self._inputs.axis,
            "target_axis": self._targets.axis,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "trim": self.trim,
            "checksum": checksum(
                *(None if a is None else a.array for a in arrays),
                self._lengths,
                self._target_lengths,
            ),
        }


class Streams:
    """A long sequence as parallel streams, read piece by piece: truncated BPTT.

    The sequence is cut into B streams of equal length. Each batch has the next T elements of every
    stream, and carries the state on from the batch before (`Batch.carry`): so the model sees all
    that came before, while gradients go back T steps. Each epoch starts at an offset below T of its
    own, so that the borders of the pieces move.

    Source: Williams and Peng, An Efficient Gradient-Based Algorithm for On-Line Training of
    Recurrent Network Trajectories, Neural Computation 2, 1990.

    Parameters
    ----------
    symbols : array
        (N,) integers, or (N, ...) of numbers.
    streams : int
        B.
    steps : int
        T.
    targets : array, optional
        (N, ...), one for each element; if not given the element that follows.
    seed : int
        Of the offsets.
    random_offset : bool
        Whether there are offsets; if not, every epoch is the same.

    Raises
    ------
    ValueError
        If there is not one batch in the sequence, or the targets' number is another.
    TypeError
        If an array doesn't hold numbers.

    Examples
    --------
    >>> import numpy as np
    >>> data = Streams(np.arange(25), streams=2, steps=4, random_offset=False)
    >>> len(data)
    3
    >>> batch = data.batch(0, 1)
    >>> batch.inputs.T, batch.carry
    (array([[ 4,  5,  6,  7],
           [16, 17, 18, 19]]), True)
    >>> batch.targets.T
    array([[ 5,  6,  7,  8],
           [17, 18, 19, 20]])
    """

    def __init__(
        self,
        symbols: Any,
        streams: int,
        steps: int,
        *,
        targets: Any = None,
        seed: int = 0,
        random_offset: bool = True,
    ) -> None:
        self.streams, self.steps = size(streams, "streams"), size(steps, "steps")
        self.seed = word(seed, "seed")
        self.random_offset = flag(random_offset, "random_offset")
        inputs = _numbers(symbols, "symbols")
        if targets is None:
            self._inputs, self._targets = inputs[:-1], inputs[1:]
        else:
            self._inputs, self._targets = inputs, _numbers(targets, "targets")
            if len(self._targets) != len(inputs):
                raise ValueError(f"targets: expected {len(inputs)}, got {len(self._targets)}")
        largest = self.steps - 1 if self.random_offset else 0
        needed = self.streams * self.steps + largest
        if len(self._inputs) < needed:
            more = 1 if targets is None else 0
            raise ValueError(
                f"symbols: expected at least {needed + more} for {self.streams} streams of "
                f"{self.steps} steps, got {len(inputs)}"
            )
        self._length = (len(self._inputs) - largest) // self.streams
        self._offset: tuple[int, int] | None = None  # an epoch, and its offset

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._length // self.steps

    def batch(self, epoch: int, index: int) -> Batch:
        """Return a batch; epochs and batches count from 0.

        Raises
        ------
        IndexError
            If there is no such batch.
        """
        _check_position(epoch, index, len(self))
        start = self._offset_of(epoch) + index * self.steps
        inputs, targets = (self._piece(a, start) for a in (self._inputs, self._targets))
        return Batch(inputs, targets, carry=index > 0)

    def _offset_of(self, epoch: int) -> int:
        """Return where an epoch starts."""
        if not self.random_offset:
            return 0
        offset = self._offset
        if offset is None or offset[0] != epoch:
            random = np.random.default_rng([self.seed, epoch])
            offset = self._offset = (epoch, int(random.integers(self.steps)))
        return offset[1]

    def _piece(self, array: Array, start: int) -> Array:
        """Return T elements of each stream (T, B, ...), from `start` in the first."""
        firsts = start + self._length * np.arange(self.streams)
        piece: Array = array[np.arange(self.steps)[:, np.newaxis] + firsts]
        return piece

    @property
    def configuration(self) -> dict[str, Any]:
        """The settings, and a checksum of the data."""
        return {
            "source": type(self).__name__,
            "streams": self.streams,
            "steps": self.steps,
            "seed": self.seed,
            "random_offset": self.random_offset,
            "checksum": checksum(self._inputs, self._targets),
        }


@dataclass(frozen=True)
class _Batched:
    """An array of sequences, and which axis counts them."""

    array: Array
    axis: int

    def __post_init__(self) -> None:
        if self.array.ndim == 1:
            object.__setattr__(self, "axis", 0)

    @property
    def count(self) -> int:
        """N."""
        return int(self.array.shape[self.axis])

    @property
    def steps(self) -> int | None:
        """T, or None where there is no time."""
        return int(self.array.shape[0]) if self.axis == 1 else None

    def check_count(self, count: int, name: str) -> None:
        """Raise ValueError unless N is this."""
        if self.count != count:
            raise ValueError(
                f"{name}: expected {count} on axis {self.axis}, as the inputs, "
                f"got shape {self.array.shape}"
            )

    def take(self, rows: Array, steps: int | None) -> Array:
        """Return these sequences, the first steps of them."""
        array = self.array if steps is None or self.axis == 0 else self.array[:steps]
        return array.take(rows, axis=self.axis)


def _axis(value: int, name: str) -> int:
    """Return `value` as an int, if it is 0 or 1."""
    axis = integer(value, name)
    if axis not in (0, 1):
        raise ValueError(f"{name}: expected 0 or 1, got {axis}")
    return axis


def _numbers(value: Any, name: str) -> Array:
    """Return `value` as an array, if it has elements and they are numbers."""
    array = any_array(value, name)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected numbers, got {array.dtype}")
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"{name}: expected at least one element, got shape {array.shape}")
    return array


def _check_position(epoch: int, index: int, batches: int) -> None:
    """Raise IndexError unless there is such a batch."""
    if epoch < 0 or not 0 <= index < batches:
        raise IndexError(
            f"batch: expected an epoch of at least 0 and an index below {batches}, "
            f"got {epoch} and {index}"
        )


def checksum(*arrays: Array | None) -> int:
    """Return the CRC-32 of arrays: their shapes, dtypes and elements; a None is left out.

    Examples
    --------
    >>> import numpy as np
    >>> checksum(np.arange(3)) == checksum(np.arange(4)[:3]) != checksum(np.arange(4))
    True
    """
    value = 0
    for k, array in enumerate(arrays):
        if array is not None:
            value = zlib.crc32(f"{k} {array.shape} {array.dtype.str}".encode(), value)
            value = zlib.crc32(np.ascontiguousarray(array).data.cast("B"), value)
    return value

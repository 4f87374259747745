"""What all decoders have in common: their arguments, the state's rows, the call of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from .._arguments import integer, size
from .._network import Array
from ._positions import Integers, integers

#: ``log_p (N, K), state = step(symbols (N,), state)``; see `fusedrnn.models.decoding`.
StepFunction = Callable[[Integers, Any], tuple[Array, Any]]
Floats = npt.NDArray[np.float64]

TOO_PROBABLE = 1e-3  # log p above this is no rounding error: something unnormalised came


def select_state(state: Any, index: Any) -> Any:
    """Return some rows of a state, in a given order.

    Parameters
    ----------
    state : None, array with the rows on axis 1, or tuple of states
    index : array of integers (n,)
        The rows, which may repeat.

    Returns
    -------
    None, array or tuple
        A copy, like `state`.

    Raises
    ------
    TypeError
        If the state is or holds anything else.
    ValueError
        If an array has no axis 1.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.models import select_state
    >>> select_state((None, np.array([[[1.0], [2.0], [3.0]]])), [2, 0, 2])
    (None, array([[[3.],
            [1.],
            [3.]]]))
    """
    if state is None:
        return None
    if isinstance(state, tuple):
        parts = (select_state(part, index) for part in state)
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    rows: npt.NDArray[Any] = _array(state)[:, index]
    return rows


class Arguments(NamedTuple):
    """What every decoder is given, checked."""

    start: Integers  # [N]
    end: int | None
    max_length: int

    @property
    def pad(self) -> int:
        """What stands past the end of a row."""
        return 0 if self.end is None else self.end


def arguments(start: Any, state: Any, end: int | None, max_length: int) -> Arguments:
    """Return the arguments of every decoder, checked."""
    counts = sorted(set(_row_counts(state)))
    if len(counts) > 1:
        raise ValueError(f"state: expected as many rows in all arrays, got {counts}")
    symbols = integers(start, "start")
    if symbols.ndim == 0:
        symbols = np.full(counts[0] if counts else 1, symbols)
    if symbols.ndim != 1 or (counts and len(symbols) != counts[0]):
        rows = counts[0] if counts else "N"
        raise ValueError(f"start: expected an integer or ({rows},) [N], got {symbols.shape}")
    if end is not None and integer(end, "end") < 0:
        raise ValueError(f"end: expected at least 0, got {end}")
    return Arguments(symbols.astype(np.int64), end, size(max_length, "max_length"))


def _array(state: Any) -> npt.NDArray[Any]:
    """Return a part of a state that isn't None or a tuple."""
    if not isinstance(state, np.ndarray):
        raise TypeError(
            f"state: expected None, arrays and tuples of these, got {type(state).__name__}"
        )
    if state.ndim < 2:
        raise ValueError(f"state: expected arrays with the rows on axis 1, got {state.shape}")
    return state


def _row_counts(state: Any) -> Iterator[int]:
    """Yield the number of rows of each array."""
    if isinstance(state, tuple):
        for part in state:
            yield from _row_counts(part)
    elif state is not None:
        yield _array(state).shape[1]


def call_step(
    step: StepFunction, symbols: Integers, state: Any, end: int | None
) -> tuple[Array, Any]:
    """Return what the step function does, checked. A row may be -inf alone: nothing can follow."""
    result = step(symbols, state)
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"step: expected a function that returns (log_p, state), got {type(result).__name__}"
        )
    log_p = _core.as_array(result[0], "log_p")
    rows = len(symbols)
    if log_p.ndim != 2 or len(log_p) != rows or log_p.shape[1] < 1:
        raise ValueError(f"log_p: expected ({rows}, K) [N, K], got {log_p.shape}")
    if end is not None and end >= log_p.shape[1]:
        raise ValueError(f"end: expected a symbol below K = {log_p.shape[1]}, got {end}")
    best = log_p.max(axis=1)
    wrong = best[~(best <= TOO_PROBABLE)]  # or NaN
    if wrong.size:
        raise ValueError(
            f"log_p: expected log probabilities, got {wrong[0]} as the largest of a row"
        )
    return log_p, result[1]


def largest(values: Array, count: int) -> Integers:
    """Return where the `count` largest values of each row are, in order; of equals the first."""
    rows, columns = values.shape
    least = np.partition(values, columns - count, axis=1)[:, columns - count, np.newaxis]
    above, equal = values > least, values == least
    missing = count - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (equal.cumsum(axis=1) <= missing))
    found = np.nonzero(chosen)[1].reshape(rows, count)
    order = np.argsort(-np.take_along_axis(values, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)

"""Decoding: the sequences that a model generates, each prediction fed back as the next input.

A model is a function that goes one step further, for N rows of a batch at once::

    log_p (N, K), state = step(symbols (N,), state)      log p(k | all symbols so far), K symbols

and a sequence y_1..y_T has the probability of its steps::

    log p(y) = sum_t log p(y_t | y_0, y_1, ..., y_{t-1})     y_0 the start symbol

It ends with an end symbol, which is its last one, or is cut at a greatest length. Where log p is
-inf for all symbols nothing can follow: that row has no sequence, and the others go on. Ways to
choose::

    greedy    y_t = argmax_k log p(k | ...)
    sample    y_t ~ softmax_k(log p(k | ...) / temperature), of all k or of the most probable few
    beam      the y of the highest log p(y) among many: `fusedrnn.models.beam_search`

The state belongs to the rows: it is None, an array with the rows on axis 1 (the state of a layer
(L, N, H), a memory (S, N, M)), or a tuple of such states. Decoders pick and reorder its rows with
`select_state`, so what the step function needs to know of each row must be in it.

A language model, a `SequenceModel` of symbols with a `SoftmaxHead`, goes on with a prompt by
`language_step` and `read_prompt`.

Source of sampling from the best few: Fan, Lewis and Dauphin, Hierarchical Neural Story Generation,
ACL 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .._arguments import number, size, word
from .._network import Array
from ._generation import (
    Arguments,
    Floats,
    StepFunction,
    arguments,
    call_step,
    largest,
    select_state,
)
from ._positions import Integers, integers

if TYPE_CHECKING:
    from .sequence_model import SequenceModel


@dataclass(frozen=True)
class Decoded:
    """One sequence for each row, as `greedy` and `sample` return them.

    Attributes
    ----------
    symbols : array of integers (T, N)
        T is the longest length. Past the end of a row stands the end symbol.
    lengths : array of integers (N,)
        With the end symbol, where there is one. 0 of a row that came to where nothing can follow.
    log_p : array (N,)
        log p of each sequence, by the model. -inf where nothing can follow.
    ended : array of bool (N,)
        Whether the row has its end symbol, or was cut at the greatest length.
    """

    symbols: Integers
    lengths: Integers
    log_p: Floats
    ended: npt.NDArray[np.bool_]

    def sequences(self) -> list[Integers]:
        """Return the sequence of each row, without the end symbol.

        Examples
        --------
        >>> import numpy as np
        >>> from fusedrnn.models import Decoded
        >>> decoded = Decoded(
        ...     np.array([[4, 5], [6, 0]]), np.array([2, 2]), np.zeros(2), np.array([False, True]))
        >>> decoded.sequences()
        [array([4, 6]), array([5])]
        """
        stops = self.lengths - self.ended
        return [self.symbols[:stop, n] for n, stop in enumerate(stops)]


def greedy(
    step: StepFunction, state: Any = None, *, start: Any, end: int | None = None, max_length: int
) -> Decoded:
    """Let each row go on with its most probable symbol; of equals with the first.

    Parameters
    ----------
    step : function
        ``log_p (N, K), state = step(symbols (N,), state)``; see the head of this file. It is called
        for the rows that haven't ended.
    state : None, array or tuple of states
        Before the first step.
    start : int or array of integers (N,)
        The first input. An integer is that of all rows of the state, or of one row where the state
        holds no array.
    end : int, optional
        The symbol that ends a sequence; without it all have `max_length` symbols.
    max_length : int
        Where sequences are cut.

    Returns
    -------
    Decoded

    Raises
    ------
    ValueError
        For a wrong shape or number, and where log_p holds NaN or numbers above 0.
    TypeError
        For a wrong dtype or kind of argument.

    Examples
    --------
    A model that counts to 3, 0 ending the sequence:

    >>> import numpy as np
    >>> from fusedrnn.models import greedy
    >>> def step(symbols, state):
    ...     follower = np.eye(4)[(symbols + 1) % 4]
    ...     return np.log(0.9 * follower + 0.1 / 4), state
    >>> greedy(step, start=np.array([0, 2]), end=0, max_length=9).symbols.T
    array([[1, 2, 3, 0],
           [3, 0, 0, 0]])
    """

    def choose(log_p: Array) -> Integers:
        best: Integers = np.argmax(log_p, axis=1)
        return best

    return _generate(step, state, arguments(start, state, end, max_length), choose)


def sample(
    step: StepFunction,
    state: Any = None,
    *,
    start: Any,
    end: int | None = None,
    max_length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int | np.random.Generator | None = None,
) -> Decoded:
    """Draw each symbol with its probability.

    Parameters
    ----------
    step, state, start, end, max_length
        As in `greedy`.
    temperature : float
        Above 0. Probabilities are those of softmax(log_p / temperature): below 1 the probable
        becomes more probable, towards `greedy` at 0; above 1 all become more alike.
    top_k : int, optional
        Draw from the k most probable symbols only; of equals from the first.
    seed : int or numpy.random.Generator, optional
        An integer gives the same sequences at every call; a generator goes on from call to call,
        by one number for each symbol. Fresh entropy if not given.

    Returns
    -------
    Decoded
        `log_p` is the model's, for temperature 1 and all symbols.

    Raises
    ------
    ValueError, TypeError
        As from `greedy`; ValueError also for a temperature outside (0, inf).

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.models import sample
    >>> def coin(symbols, state):
    ...     return np.log(np.tile([0.75, 0.25], (len(symbols), 1))), state
    >>> tosses = sample(coin, start=np.zeros(1000, int), max_length=1, seed=0)
    >>> int(tosses.symbols.sum())
    267
    """
    heat = number(temperature, "temperature", positive=True)
    best = None if top_k is None else size(top_k, "top_k")
    rng = seed if isinstance(seed, np.random.Generator) else _generator(seed)

    def choose(log_p: Array) -> Integers:
        return _draw(log_p, rng.random(len(log_p)), heat, best)

    return _generate(step, state, arguments(start, state, end, max_length), choose)


def language_step(model: SequenceModel) -> StepFunction:
    """Return the step function of a language model.

    Parameters
    ----------
    model : SequenceModel
        From symbols (T, N) to log p (T, N, K) of the symbol that follows each.

    Returns
    -------
    function
        For `greedy`, `sample` and `beam`. Its state is the model's, None at first.

    Raises
    ------
    ValueError, TypeError
        From the function, as from `model.predict`.

    Examples
    --------
    >>> import fusedrnn
    >>> from fusedrnn.models import (
    ...     Embedding, Sequential, SequenceModel, SoftmaxHead, language_step, read_prompt, sample)
    >>> body = Sequential(Embedding(5, 3, seed=0), fusedrnn.LSTM(3, 8, seed=0))
    >>> model = SequenceModel(body, SoftmaxHead(8, 5, seed=0))
    >>> start, state = read_prompt(model, [1, 4, 2])
    >>> sample(language_step(model), state, start=start, max_length=6, seed=0).symbols.shape
    (6, 1)
    """

    def step(symbols: Integers, state: Any) -> tuple[Array, Any]:
        log_p, state = model.predict(symbols[np.newaxis], state)
        return log_p[0], state

    return step


def read_prompt(model: SequenceModel, prompt: Any) -> tuple[Integers, Any]:
    """Let a language model read a prompt, and return what its generation begins with.

    Parameters
    ----------
    model : SequenceModel
        As in `language_step`.
    prompt : array of integers (T, N), or (T,) for one row
        At least one symbol.

    Returns
    -------
    start : array of integers (N,)
        The last symbol, which is the first input.
    state
        After all others; None if there are none.

    Raises
    ------
    ValueError, TypeError
        For a prompt of another shape or dtype, or with symbols that the model doesn't know.

    Examples
    --------
    See `language_step`.
    """
    symbols = integers(prompt, "prompt")
    if symbols.ndim not in (1, 2) or len(symbols) < 1:
        raise ValueError(f"prompt: expected (T, N) or (T,), T at least 1, got {symbols.shape}")
    symbols = symbols.reshape(len(symbols), -1)
    state = model.body(symbols[:-1])[1] if len(symbols) > 1 else None
    return symbols[-1], state


def _generate(
    step: StepFunction, state: Any, given: Arguments, choose: Callable[[Array], Integers]
) -> Decoded:
    """Go on with the symbols that `choose` picks from log p (n, K) until all rows have ended."""
    count, current = len(given.start), given.start
    rows = np.arange(count)  # those that go on
    lengths, log_p = np.zeros(count, np.int64), np.zeros(count)
    ended = np.zeros(count, np.bool_)
    lines: list[Integers] = []
    while rows.size and len(lines) < given.max_length:
        step_log_p, state = call_step(step, current, state, given.end)
        possible = step_log_p.max(axis=1) > -np.inf
        log_p[rows[~possible]] = -np.inf
        rows, step_log_p, state = _keep(possible, rows, step_log_p, state)
        current = choose(step_log_p)
        line = np.full(count, given.pad)
        line[rows] = current
        lines.append(line)
        lengths[rows] += 1
        log_p[rows] += step_log_p[np.arange(len(rows)), current]
        if given.end is not None:
            ended[rows] = current == given.end
            rows, current, state = _keep(current != given.end, rows, current, state)
    symbols = np.array(lines, np.int64).reshape(len(lines), count)
    impossible = log_p == -np.inf
    symbols[:, impossible], lengths[impossible] = given.pad, 0
    return Decoded(symbols[: lengths.max(initial=0)], lengths, log_p, ended)


def _keep(which: npt.NDArray[np.bool_], rows: Integers, array: Any, state: Any) -> Any:
    """Return some of the rows, of an array with as many, and of the state."""
    if which.all():
        return rows, array, state
    return rows[which], array[which], select_state(state, np.flatnonzero(which))


def _generator(seed: int | None) -> np.random.Generator:
    return np.random.default_rng(None if seed is None else word(seed, "seed"))


def _draw(log_p: Array, uniform: Floats, temperature: float, top_k: int | None) -> Integers:
    """Return where each row's uniform number in [0, 1) falls in its cumulated probabilities."""
    best = None if top_k is None else largest(log_p, min(top_k, log_p.shape[1]))
    logits = log_p if best is None else np.take_along_axis(log_p, best, axis=1)
    logits = (logits - logits.max(axis=1, keepdims=True)).astype(np.float64)
    with np.errstate(over="ignore"):  # to -inf, at a temperature near 0
        cumulated = np.exp(logits / temperature).cumsum(axis=1)
    # The largest uniform number, 1 - 2**-53, times the sum is below the sum: one is always found.
    drawn: Integers = np.argmax(cumulated > uniform[:, np.newaxis] * cumulated[:, -1:], axis=1)
    return drawn if best is None else best[np.arange(len(best)), drawn]

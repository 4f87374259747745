"""The training loop: truncated back-propagation through time over parallel streams.

The text is cut into B streams of equal length. Every step reads T characters of each and carries
the state on to the next step, so the model sees all that came before while gradients go back T
characters.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import numpy as np

from . import blas
from .adam import Adam, clip_by_norm
from .corpus import Symbols
from .model import Model

WARM_UP = 0.02  # part of the training in which the learning rate rises
SMOOTHING = 0.95  # of the loss that is shown: a mean over some 1 / (1 - 0.95) = 20 steps


@dataclass(frozen=True)
class Recipe:
    """How to train; the defaults are the best of a few that were tried with 256 units.

    Few streams and short segments make many steps: twice as many streams and characters per step
    were a third of a bit behind after the same time.
    """

    streams: int = 16  # B
    steps: int = 32  # T
    learning_rate: float = 5e-3  # at its highest; 4e-3 to 9e-3 are within 0.06 bits
    clip: float = 1.0  # the largest norm of the gradients


@dataclass(frozen=True)
class Report:
    """How far the training is; what it did, at its end."""

    fraction: float  # 0 to 1
    steps: int
    characters: int
    bits_per_character: float  # of the training, smoothed
    seconds: float
    interrupted: bool


Budget = Callable[[int], float]  # number of steps done -> part of the training done, 0 to 1


def for_seconds(seconds: float) -> Budget:
    """Return a budget of time, which runs from now on."""
    start = time.perf_counter()
    return lambda _: min((time.perf_counter() - start) / seconds, 1.0) if seconds > 0 else 1.0


def for_steps(steps: int) -> Budget:
    """Return a budget of steps."""
    return lambda done: min(done / steps, 1.0)


def learning_rate(peak: float, fraction: float) -> float:
    """Return the learning rate: a short linear rise to the peak, then half a cosine down to 0."""
    if fraction < WARM_UP:
        return peak * (0.1 + 0.9 * fraction / WARM_UP)
    return peak * 0.5 * (1.0 + math.cos(math.pi * (fraction - WARM_UP) / (1.0 - WARM_UP)))


def segments(
    symbols: Symbols, recipe: Recipe, random: np.random.Generator
) -> Iterator[tuple[Symbols, Symbols, bool]]:
    """Yield inputs (T, B), the symbols that follow them, and whether the streams start anew.

    Goes over the text again and again, each time from another offset below T, so that the
    segments' borders move. A text that is too short for that gives shorter segments.
    """
    streams = max(1, min(recipe.streams, (len(symbols) - 1) // 2))
    steps = max(1, min(recipe.steps, (len(symbols) - 1) // streams // 2))
    while True:
        offset = int(random.integers(steps))
        length = (len(symbols) - 1 - offset) // streams
        whole = slice(offset, offset + length * streams)
        inputs = symbols[whole].reshape(streams, length).T
        targets = symbols[1:][whole].reshape(streams, length).T
        for start in range(0, length - steps + 1, steps):
            part = slice(start, start + steps)
            yield inputs[part], targets[part], start == 0


def train(
    model: Model,
    adam: Adam,
    symbols: Symbols,
    budget: Budget,
    *,
    recipe: Recipe,
    seed: int,
    show: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Train until the budget is spent, at least one step; Ctrl-C ends it after the current step.

    Parameters
    ----------
    model, adam : what changes
    symbols : array (N,)
        The text.
    budget : Budget
        `for_seconds` or `for_steps`.
    recipe : Recipe
    seed : int
        Of the offsets in `segments`.
    show : callable
        Gets a report after every step.

    Returns
    -------
    Report : the last one
    """
    start = time.perf_counter()
    state: Any = None
    fraction, steps, characters, smoothed, weight = 0.0, 0, 0, 0.0, 0.0
    with blas.one_thread(), _interruptible() as interrupted:
        for inputs, targets, anew in segments(symbols, recipe, np.random.default_rng(seed)):
            step = model.step(inputs, targets, None if anew else state)
            state = step.state
            with model.stopwatch("Adam"):
                clip_by_norm(step.gradients, recipe.clip)
                rate = learning_rate(recipe.learning_rate, fraction)
                adam.step(model.parameters, step.gradients, rate)
                model.reload()
            steps, characters = steps + 1, characters + inputs.size
            weight = SMOOTHING * weight + (1.0 - SMOOTHING)
            smoothed += (1.0 - SMOOTHING) / weight * (step.loss / math.log(2.0) - smoothed)
            fraction = budget(steps)
            seconds = time.perf_counter() - start
            report = Report(fraction, steps, characters, smoothed, seconds, interrupted.is_set())
            show(report)
            if fraction >= 1.0 or interrupted.is_set():
                return replace(report, interrupted=interrupted.is_set())
    raise AssertionError("segments() never ends")


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C within the block into an event; the second one acts as always."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # signals are the main thread's
        return

    before = signal.getsignal(signal.SIGINT)

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)

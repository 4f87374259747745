"""Learning-rate schedules: the part of the training that is done -> a factor of the learning rate.

A schedule is any function of a fraction, 0 at the start and 1 at the end. So one schedule serves
every budget: epochs, steps or seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .._arguments import number, probability

#: The part of the training that is done, 0 to 1 -> a factor of the learning rate.
Schedule = Callable[[float], float]

# Where functions of one's own are compared, which can't say what they are.
POINTS = 32


@dataclass(frozen=True)
class _Named:
    """A schedule that shows the call that has made it."""

    call: str
    factor: Schedule

    def __call__(self, fraction: float) -> float:
        return self.factor(fraction)

    def __repr__(self) -> str:
        return self.call


def description(schedule: Schedule) -> Any:
    """Return what tells one schedule from another, as JSON can hold it.

    Examples
    --------
    >>> description(linear(0.5))
    'linear(end=0.5)'
    >>> description(lambda fraction: 1 - fraction)[:3]
    [1.0, 0.96875, 0.9375]
    """
    return repr(schedule) if isinstance(schedule, _Named) else _factors(schedule)


def is_constant(schedule: Schedule) -> bool:
    """Return whether the factor doesn't depend on how much of the training is done."""
    return len(set(_factors(schedule))) == 1


def _factors(schedule: Schedule) -> list[float]:
    return [float(schedule(k / POINTS)) for k in range(POINTS + 1)]


def constant() -> Schedule:
    """Return the schedule 1.

    Examples
    --------
    >>> constant()(0.5)
    1.0
    """
    return _Named("constant()", lambda fraction: 1.0)


def linear(end: float = 0.0) -> Schedule:
    """Return a straight line from 1 to `end`.

    Examples
    --------
    >>> linear()(0.25)
    0.75
    """
    end = number(end, "end")
    return _Named(f"linear(end={end})", lambda fraction: 1.0 + fraction * (end - 1.0))


def cosine(end: float = 0.0) -> Schedule:
    """Return half a cosine from 1 to `end`.

    Source: Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, ICLR 2017,
    equation 5, without restarts.

    Examples
    --------
    >>> [round(cosine()(k / 4), 3) for k in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    end = number(end, "end")

    def factor(fraction: float) -> float:
        return end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * fraction))

    return _Named(f"cosine(end={end})", factor)


def exponential(end: float = 0.01) -> Schedule:
    """Return an exponential from 1 to `end`.

    Examples
    --------
    >>> round(exponential(0.01)(0.5), 3)
    0.1
    """
    end = number(end, "end", positive=True)
    return _Named(f"exponential(end={end})", lambda fraction: end**fraction)


def step_decay(at: Sequence[float] = (0.5, 0.75), factor: float = 0.1) -> Schedule:
    """Return steps: times `factor` at each of the fractions `at`.

    Examples
    --------
    >>> [step_decay(at=(0.5, 0.75), factor=0.5)(fraction) for fraction in (0.49, 0.5, 0.8)]
    [1.0, 0.5, 0.25]
    """
    drops = [probability(fraction, f"at[{k}]") for k, fraction in enumerate(at)]
    factor = number(factor, "factor")
    return _Named(
        f"step_decay(at={drops}, factor={factor})",
        lambda fraction: math.prod((factor for drop in drops if fraction >= drop), start=1.0),
    )


def warmup(part: float, then: Schedule, start: float = 0.0) -> Schedule:
    """Return a straight rise from `start` to 1 in the first part, then another schedule.

    Parameters
    ----------
    part : float
        The part of the training in which the rate rises, in [0, 1).
    then : Schedule
        For the rest, which is its 0 to 1.
    start : float
        Of the rise.

    Examples
    --------
    >>> schedule = warmup(0.2, cosine())
    >>> [round(schedule(k / 10), 3) for k in (0, 1, 2, 6, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    part, start = number(part, "part", below=1), number(start, "start")

    def schedule(fraction: float) -> float:
        if fraction < part:
            return start + (1.0 - start) * fraction / part
        return then((fraction - part) / (1.0 - part))

    if not isinstance(then, _Named):
        return schedule
    return _Named(f"warmup(part={part}, then={then}, start={start})", schedule)


def warmup_cosine(part: float = 0.02, start: float = 0.1, end: float = 0.0) -> Schedule:
    """Return a straight rise from `start` to 1, then half a cosine down to `end`.

    Examples
    --------
    >>> [round(warmup_cosine()(k / 100), 3) for k in (0, 1, 2, 51, 100)]
    [0.1, 0.55, 1.0, 0.5, 0.0]
    """
    return warmup(part, cosine(end), start)

"""A run that may take so many seconds: ``--seconds``.

Each case is then measured for its share of the time, if that is less than it would get anyhow.
Where even the least that a case needs is too much, the run ends when the time is up; cases come in
an order whose every beginning is a sample of all kinds and sizes. Only the few that are much of the
whole work come last, since one of them may take all the time.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Iterable, Mapping
from typing import TypeVar

from .cases import Case
from .measure import Effort
from .results import Result

V = TypeVar("V")
GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, without the whole part, fill [0, 1) evenly
HEAVY = 0.05  # of all operations


class Budget:
    """The seconds of a run from now on; None: as many as it takes."""

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds, self._begin = seconds, time.monotonic()

    def left(self, sharers: int = 1) -> float | None:
        """Return the seconds that are left to each of so many; below zero once they are over."""
        if self._seconds is None:
            return None
        return (self._begin + self._seconds - time.monotonic()) / sharers

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        left = self.left()
        return left is not None and left <= 0

    def effort(self, effort: Effort, measurements: int) -> Effort:
        """Return how long to measure each of so many cases."""
        share = self.left(measurements)
        return (
            effort
            if share is None
            else dataclasses.replace(effort, budget=max(0.0, min(effort.budget, share)))
        )

    def spread(self, planned: Mapping[Case, V]) -> dict[Case, V]:
        """Return the cases in their order, or spread where time may end them."""
        cases = list(planned)
        if self._seconds is not None:
            bound = HEAVY * sum(case.flops for case in cases)
            heavy = sorted((c for c in cases if c.flops > bound), key=lambda c: c.flops)
            places = sorted(range(len(cases)), key=lambda i: i * GOLDEN % 1)
            cases = [cases[i] for i in places if cases[i].flops <= bound] + heavy
        return {case: planned[case] for case in cases}


def in_order(found: Iterable[Result], planned: Iterable[Case]) -> list[Result]:
    """Return results by numbers of threads as they come, and by cases as planned."""
    places = {case: place for place, case in enumerate(planned)}
    by_threads: dict[int, list[Result]] = {}
    for result in found:
        by_threads.setdefault(result.threads, []).append(result)
    return [r for some in by_threads.values() for r in sorted(some, key=lambda r: places[r.case])]


def option(parser: argparse.ArgumentParser) -> None:
    """Add ``--seconds``."""
    parser.add_argument(
        "--seconds",
        type=seconds,
        metavar="S",
        help="end after about so long: measure each case for less time, then fewer cases",
    )


def seconds(text: str) -> float:
    """Return a time from the command line."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text}")
    return number

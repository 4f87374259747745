"""How long calls take: by the wall clock, or by a GPU's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Clock:
    """A stopwatch: `since(start())` are the seconds that what lies between took."""

    start: Callable[[], Any]
    since: Callable[[Any], float]


WALL = Clock(time.perf_counter, lambda begin: time.perf_counter() - begin)


def synchronized(wait: Callable[[], Any]) -> Clock:
    """Return the wall clock of work that goes on by itself until `wait` has returned."""

    def start() -> float:
        wait()
        return time.perf_counter()

    def since(begin: float) -> float:
        wait()
        return time.perf_counter() - begin

    return Clock(start, since)


def events(torch: Any) -> Clock:
    """Return the clock of CUDA's events, on the stream that is torch's current one.

    What is measured goes from the GPU reaching the first event to its reaching the last: a launch
    that comes late is seen, as it is in use.
    """

    def event() -> Any:
        made = torch.cuda.Event(enable_timing=True)
        made.record()
        return made

    def since(begin: Any) -> float:
        end = event()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3  # from milliseconds

    return Clock(event, since)

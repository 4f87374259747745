"""Where the time goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up seconds by name.

    Examples
    --------
    >>> watch = Stopwatch()
    >>> with watch("sleep"):
    ...     time.sleep(0.01)
    >>> watch.seconds["sleep"] >= 0.01
    True
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a with-block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def shares(self) -> str:
        """Return the names with their part of the whole, the largest first.

        Examples
        --------
        >>> watch = Stopwatch()
        >>> watch.seconds.update({"a": 1.0, "b": 3.0})
        >>> watch.shares()
        'b 75%, a 25%'
        """
        total = sum(self.seconds.values())
        ordered = sorted(self.seconds.items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {100 * seconds / total:.0f}%" for name, seconds in ordered)

"""How training is shown: a tqdm bar on a terminal, plain lines elsewhere or without tqdm."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
from typing import Any, Protocol, TextIO

from .training import Report

SECONDS_PER_LINE = 5.0
SECONDS_PER_REFRESH = 0.1


class Progress(Protocol):
    """Shows reports; is told when training has ended."""

    def show(self, report: Report) -> None:
        """Show a report, if it is time."""

    def close(self) -> None:
        """End the display."""


def tqdm_installed() -> bool:
    """Return whether there can be a bar."""
    return importlib.util.find_spec("tqdm") is not None


def open_progress(stream: TextIO | None = None) -> Progress:
    """Return the best display that there is, on standard error by default."""
    stream = sys.stderr if stream is None else stream
    if tqdm_installed() and stream.isatty():
        return Bar(stream)
    return Lines(stream)


def describe(report: Report) -> str:
    """Return the numbers of a report."""
    speed = report.characters / max(report.seconds, 1e-9)
    return f"loss {report.bits_per_character:.3f} bits/char, {speed:,.0f} chars/s"


class Bar:
    """A tqdm bar, full when the budget is spent."""

    def __init__(self, stream: TextIO) -> None:
        tqdm: Any = importlib.import_module("tqdm")  # its types are a package of their own
        layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        self._bar = tqdm.tqdm(
            total=1.0, desc="training", file=stream, bar_format=layout, dynamic_ncols=True
        )
        self._next = 0.0

    def show(self, report: Report) -> None:
        """Move the bar."""
        if report.seconds >= self._next or report.fraction >= 1.0:
            self._next = report.seconds + SECONDS_PER_REFRESH
            self._bar.n = report.fraction
            self._bar.set_postfix_str(describe(report), refresh=False)
            self._bar.refresh()

    def close(self) -> None:
        """End the bar's line."""
        self._bar.close()


class Lines:
    """A line every few seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._next = time.perf_counter()

    def show(self, report: Report) -> None:
        """Print a line."""
        now = time.perf_counter()
        if now >= self._next or report.fraction >= 1.0:
            self._next = now + SECONDS_PER_LINE
            print(
                f"training {100 * report.fraction:3.0f}%  {describe(report)}",
                file=self._stream,
                flush=True,
            )

    def close(self) -> None:
        """Do nothing: every line is complete."""

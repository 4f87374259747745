"""How training is shown: a tqdm bar on a terminal, plain lines elsewhere or without tqdm."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

SECONDS_PER_LINE = 5.0
SECONDS_PER_REFRESH = 0.1


@dataclass(frozen=True)
class Report:
    """Where a training is after a step."""

    fraction: float  # of the budget, 0 to 1
    step: int  # the number of this step, from 1
    epoch: int  # how many epochs are complete
    loss: float  # of this step
    smoothed_loss: float  # over some 20 steps
    validation_loss: float | None  # of the last validation, if there was one
    learning_rate: float  # of this step
    gradient_norm: float  # of this step, before clipping
    targets: float  # how many were counted in all
    seconds: float  # of training in all


class Progress(Protocol):
    """Shows reports; is told when training has ended."""

    def show(self, report: Report) -> None:
        """Show a report, if it is time; called after every step."""
        ...

    def close(self) -> None:
        """End the display."""
        ...


#: What a display says of a report.
Describe = Callable[[Report], str]


def describe(report: Report) -> str:
    """Return the losses and the speed of a report.

    Examples
    --------
    >>> describe(Report(0.5, 10, 0, 1.5, 1.25, None, 0.01, 1.0, 3000, 2.0))
    'loss 1.2500, 1,500 targets/s'
    """
    losses = f"loss {report.smoothed_loss:.4f}"
    if report.validation_loss is not None:
        losses += f", validation {report.validation_loss:.4f}"
    return f"{losses}, {report.targets / max(report.seconds, 1e-9):,.0f} targets/s"


def tqdm_installed() -> bool:
    """Return whether there can be a bar."""
    return importlib.util.find_spec("tqdm") is not None


def open_progress(stream: TextIO | None = None, describe: Describe = describe) -> Progress:
    """Return the best display that there is.

    Parameters
    ----------
    stream : text file, optional
        Standard error if not given.
    describe : function from Report to str
        What the display says.
    """
    stream = sys.stderr if stream is None else stream
    if tqdm_installed() and stream.isatty():
        return Bar(stream, describe)
    return Lines(stream, describe)


class Bar:
    """A tqdm bar, full when the budget is spent."""

    def __init__(self, stream: TextIO, describe: Describe = describe) -> None:
        tqdm: Any = importlib.import_module("tqdm")  # its types are a package of their own
        layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        self._bar = tqdm.tqdm(
            total=1.0, desc="training", file=stream, bar_format=layout, dynamic_ncols=True
        )
        self._describe = describe
        self._next = time.perf_counter()

    def show(self, report: Report) -> None:
        """Move the bar."""
        now = time.perf_counter()
        if now >= self._next or report.fraction >= 1.0:
            self._next = now + SECONDS_PER_REFRESH
            self._bar.n = report.fraction
            self._bar.set_postfix_str(self._describe(report), refresh=False)
            self._bar.refresh()

    def close(self) -> None:
        """End the bar's line."""
        self._bar.close()


class Lines:
    """A line every few seconds."""

    def __init__(self, stream: TextIO, describe: Describe = describe) -> None:
        self._stream = stream
        self._describe = describe
        self._next = time.perf_counter()

    def show(self, report: Report) -> None:
        """Print a line."""
        now = time.perf_counter()
        if now >= self._next or report.fraction >= 1.0:
            self._next = now + SECONDS_PER_LINE
            print(
                f"training {100 * report.fraction:3.0f}%  {self._describe(report)}",
                file=self._stream,
                flush=True,
            )

    def close(self) -> None:
        """Do nothing: every line is complete."""


class Silent:
    """No display."""

    def show(self, report: Report) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

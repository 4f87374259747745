"""What a run of the harness leaves: results as data, and as a JSON file.

The file is what `dataclasses.asdict` makes of a `Run`; every time is in seconds. Its ``schema`` is
raised whenever a field changes its meaning or goes away.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .baselines import OURS, RIVALS, STACK, STACKED, ours
from .cases import Case

SCHEMA = 1


@dataclass(frozen=True)
class Timing:
    """How long one contestant's call takes."""

    median: float  # of the blocks' mean seconds a call
    least: float  # of the same
    spread: float  # the quartiles' distance over the median
    blocks: int
    calls: int  # in a block
    error: float  # the largest relative error against the reference


@dataclass(frozen=True)
class Memory:
    """What one contestant's calls take beyond what was there before the first of them."""

    peak: int  # bytes of resident memory, results included
    tape: int | None = None  # ours in training: bytes of the tape,
    tape_twice: int | None = None  # and of one of twice the steps


@dataclass(frozen=True)
class Result:
    """One case on one number of threads."""

    case: Case
    threads: int
    peak: float  # FLOP/s of all threads, or of the GPU, measured between the calls; 0: unknown
    peak_one: float  # the same of one thread
    bandwidth: dict[int, float]  # B/s of all threads by KiB a thread, measured between the calls
    limit: float  # what `limits` says from these
    timings: dict[str, Timing]  # by contestant
    skipped: dict[str, str]  # why, by peer
    wrong: dict[str, str]  # what differs from the reference, by contestant; these aren't timed
    others: float | None  # CPUs that other processes kept busy meanwhile
    memory: dict[str, Memory] = field(default_factory=dict)  # by peer
    # The largest relative error of who is right but isn't timed, by contestant: on the emulation.
    untimed: dict[str, float] = field(default_factory=dict)

    @property
    def ours(self) -> Timing | None:
        """The time of ours, by the plain call."""
        return self.timings.get(OURS)

    @property
    def best_peer(self) -> str | None:
        """The fastest of the peers that make recurrent layers for others to use."""
        there = [name for name in RIVALS if name in self.timings]
        return min(there, key=lambda name: self.timings[name].median, default=None)

    @property
    def ratio(self) -> float | None:
        """The best peer's time over ours."""
        return self.against(self.best_peer) if self.best_peer else None

    def against(self, other: str, ours: str = OURS) -> float | None:
        """Return another contestant's time over ours."""
        if other not in self.timings or ours not in self.timings:
            return None
        return self.timings[other].median / self.timings[ours].median

    def beyond(self, other: str) -> float | None:
        """Return the seconds that ours takes more than another contestant."""
        there = self.timings.get(other)
        return self.ours.median - there.median if self.ours and there else None

    def kernel(self, variant: str = "") -> float | None:
        """Return the seconds of the kernels alone in a step: those of one more layer."""
        one = self.timings.get(ours(variant))
        stack = self.timings.get(ours(variant, STACKED))
        return (stack.median - one.median) / (STACK - 1) if one and stack else None

    @property
    def gflops(self) -> float | None:
        """Our rate, in GFLOP/s."""
        return 1e-9 * self.case.flops / self.ours.median if self.ours else None

    @property
    def fraction(self) -> float | None:
        """The machine's limit over our time; None where that isn't known."""
        return self.limit / self.ours.median if self.ours and self.limit else None


@dataclass(frozen=True)
class Run:
    """All that one run of the harness measured."""

    date: str
    command: str
    machine: dict[str, Any]
    versions: dict[str, str]
    info: dict[str, Any]  # fusedrnn.info()
    roofs: dict[int, dict[str, Any]]  # by threads: peak, and read: B/s by KiB
    results: list[Result]
    schema: int = SCHEMA

    def save(self, path: Path) -> None:
        """Write the file."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")


def load(path: Path) -> Run:
    """Read a file that `Run.save` wrote."""
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["schema"] != SCHEMA:
            raise ValueError(f"expected schema {SCHEMA}, got {data['schema']}")
        data["results"] = [result_of(result) for result in data["results"]]
        data["roofs"] = {
            int(n): {**roof, "read": by_size(roof["read"])} for n, roof in data["roofs"].items()
        }
        return Run(**data)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SystemExit(f"{path}: not a result of bench: {error!r}") from error


def result_of(data: dict[str, Any]) -> Result:
    """Return a result from its form in JSON."""
    return Result(
        **{
            **data,
            "case": Case(**data["case"]),
            "bandwidth": by_size(data["bandwidth"]),
            "timings": {name: Timing(**timing) for name, timing in data["timings"].items()},
            "memory": {name: Memory(**memory) for name, memory in data["memory"].items()},
        }
    )


def by_size(data: dict[str, float]) -> dict[int, float]:
    """Return figures by size; JSON's keys are text."""
    return {int(size): figure for size, figure in data.items()}

"""On what and with what a run was made."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import baselines


def describe() -> dict[str, Any]:
    """Return the machine."""
    return {
        "cpu": cpu_model(),
        "cpus": available_cpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def cpu_model() -> str:
    """Return the processor's name; families and models tell apart what share one."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    parts = [line.partition(":") for line in lines]
    found = {name.strip(): value.strip() for name, _, value in parts}
    name = found.get("model name", platform.machine())
    if {"cpu family", "model"} <= set(found):
        name += f" (family {found['cpu family']}, model {found['model']})"
    return name


def available_cpus() -> int:
    """Return how many CPUs this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions(peers: Sequence[str]) -> dict[str, str]:
    """Return the versions of the peers that are there."""
    names = ["numpy", *(p for p in peers if p in baselines.RIVALS)]
    return {name: version for name in names if (version := baselines.version(name))}


class Others:
    """Counts the CPU time that others take from now on: other processes, and other machines."""

    def __init__(self) -> None:
        self._start = self._now()

    def cpus(self) -> float | None:
        """Return how many CPUs they kept busy since then; None where the system doesn't say."""
        (wall, busy, own), now = self._start, self._now()
        if busy is None or now[1] is None or now[0] == wall:
            return None
        return max(0.0, (now[1] - busy - (now[2] - own)) / (now[0] - wall))

    @staticmethod
    def _now() -> tuple[float, float | None, float]:
        """Return the time, the CPU time of all but the idle, and that of this process."""
        busy = None
        with contextlib.suppress(OSError, ValueError):
            fields = Path("/proc/stat").read_text("utf-8").splitlines()[0].split()[1:9]
            user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields)
            ticks = user + nice + system + irq + softirq + steal
            busy = ticks / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), busy, time.process_time()

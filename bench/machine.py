"""On what and with what a run was made."""

from __future__ import annotations

import os
import platform
import sys
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
    found = dict(
        tuple(part.strip() for part in line.split(":", 1)) for line in lines if ":" in line
    )
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

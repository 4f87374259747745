"""What calls take in memory: one case of one peer, in a process of its own.

The peak of the resident memory during three calls, less what was resident before the first, after
a tiny case of the same kind has loaded whatever the peer loads at its first call.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import resource
import sys
from pathlib import Path

from .baselines import OURS, Contestant, Unsupported, load
from .cases import Case
from .problem import Problem
from .results import Memory

CALLS = 3
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_of_calls(case: Case, peer: str, threads: int) -> Memory | None:
    """Return what a peer's calls take, or None where it can't do the case."""
    baseline = load(peer)
    if isinstance(baseline, str):
        return None
    hidden = 8 if case.hidden > 8 else 4
    tiny = dataclasses.replace(case, batch=1, steps=min(2, case.steps), input=hidden, hidden=hidden)
    try:
        for _ in range(CALLS):
            call(baseline.prepare(Problem(tiny), threads)[0])
        problem = Problem(case)
        contestant = baseline.prepare(problem, threads)[0]
    except Unsupported:
        return None
    release()
    before = reset_peak()
    for _ in range(CALLS):
        call(contestant)
    peak = max(0, high_water() - before)
    if peer != OURS or case.mode != "train":
        return Memory(peak)
    twice = Problem(dataclasses.replace(case, steps=2 * case.steps))
    return Memory(peak, baseline.tape_bytes(problem), baseline.tape_bytes(twice))


def call(contestant: Contestant) -> None:
    with contestant.around():
        contestant.run(0)


def release() -> None:
    """Give free memory back, so that calls can't hide in it."""
    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak() -> int:
    """Return the resident memory, from which the peak starts anew where the system permits."""
    try:
        CLEAR.write_text("5")
        return in_status("VmRSS")
    except OSError:
        return high_water()


def high_water() -> int:
    """Return the peak of the resident memory."""
    try:
        return in_status("VmHWM")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_status(name: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} has no {name}")


def main() -> None:
    """Measure what standard input asks for; print the answer as JSON."""
    job = json.loads(sys.stdin.read())
    found = peak_of_calls(Case(**job["case"]), job["peer"], job["threads"])
    print(json.dumps(found and dataclasses.asdict(found)))


if __name__ == "__main__":
    main()

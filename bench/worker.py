"""The process that measures: one for each number of threads.

Thread pools take their size from the environment when they are loaded, so each number needs a
process of its own. `run_cases` starts one; it reads the job from standard input and writes a line
of JSON for each case.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .cases import Case
from .measure import Effort, measure
from .results import Memory, Result, result_of

ROOT = Path(__file__).resolve().parent.parent
POOLS = ("FUSEDRNN_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def environment(threads: int) -> dict[str, str]:
    """Return the variables of a process that measures on so many threads."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
        **dict.fromkeys(POOLS, str(threads)),
        # NumPy's products in the reference are small: more threads make it many times slower.
        "OPENBLAS_NUM_THREADS": "1",
    }


def run_cases(
    cases: Mapping[Case, Sequence[str]],
    threads: int,
    effort: Effort,
    seconds: float | None = None,
) -> Iterator[Result]:
    """Yield the result of each case, by its peers, as far as that takes so many seconds."""
    job = {
        "cases": [(dataclasses.asdict(case), list(peers)) for case, peers in cases.items()],
        "threads": threads,
        "effort": dataclasses.asdict(effort),
    }
    command = [sys.executable, "-m", f"{__package__}.worker"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(threads),
    ) as process:
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(job))
        process.stdin.close()
        late = threading.Event()
        with ended_after(seconds, process, late):
            for line in process.stdout:
                if line.endswith("\n"):  # else it is cut short
                    yield result_of(json.loads(line))
    if process.returncode != 0 and not late.is_set():
        raise SystemExit(
            f"bench: the process for {threads} threads ended with {process.returncode}"
        )


@contextlib.contextmanager
def ended_after(
    seconds: float | None, process: subprocess.Popen[str], late: threading.Event
) -> Iterator[None]:
    """End a process after so many seconds, and say so; or where the block fails."""

    def end() -> None:
        if process.poll() is None:  # it hasn't ended by itself
            late.set()
            process.kill()

    timer = threading.Timer(max(0, seconds or 0), end)
    timer.daemon = True
    if seconds is not None:
        timer.start()
    try:
        yield
    except BaseException:
        process.kill()
        raise
    finally:
        timer.cancel()


def run_memory(case: Case, peer: str, threads: int) -> Memory | None:
    """Return what a peer's calls take, measured in a new process; None where it can't say."""
    job = {"case": dataclasses.asdict(case), "peer": peer, "threads": threads}
    done = subprocess.run(
        [sys.executable, "-m", f"{__package__}.memory"],
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        text=True,
        env=environment(threads),
        check=False,
    )
    if done.returncode != 0:
        print(f"{case}: the memory of {peer} is unknown: its process failed", file=sys.stderr)
        return None
    found = json.loads(done.stdout.splitlines()[-1])
    return Memory(**found) if found else None


def main() -> None:
    """Do the job that standard input describes."""
    # Results go out by a descriptor of their own: what a library prints must not mix with them.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.read())
    threads, effort = job["threads"], Effort(**job["effort"])
    for case, peers in job["cases"]:
        result = measure(Case(**case), peers, threads, effort)
        print(json.dumps(dataclasses.asdict(result)), file=out, flush=True)


if __name__ == "__main__":
    main()

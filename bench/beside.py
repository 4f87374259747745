"""Layers in a program that also calls other libraries: ``python -m bench --beside NAME ...``.

Between two timed calls a neighbour runs one product of 512 x 512 on all threads. Its threads then
spin for a while, in case there is more, on the CPUs that the next call needs:

    numpy          for 0.1 s, where NumPy has OpenBLAS
    numpy-lent     not at all: after `fusedrnn.lend_threads()` OpenBLAS's jobs run on our threads
    onnxruntime    for 40 ms
    torch          for 9 ms, as OpenMP's threads do
    alone          no neighbour

Ours on all threads and ours on one take turns, then each peer has its own, every call after a
product, which isn't timed. The gain is that of our threads over one; beside it stands the machine's
own, in multiply-adds, since two virtual CPUs may share a core. Each neighbour has a process of its
own, as threads that spin don't end with what they spin for.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import fusedrnn

from . import baselines, limits, machine
from .baselines import ONE_THREAD, OURS, ours
from .cases import Case
from .measure import settle, verified
from .problem import INPUTS, Problem
from .worker import environment

NEIGHBOURS = ("alone", "numpy", "numpy-lent", "onnxruntime", "torch")
PEERS = ("torch", "onnxruntime")
SIZES = (  # cell, B, T, H = I: inference takes from half a millisecond to some fifty
    ("lstm", 64, 20, 512),
    ("lstm", 32, 100, 256),
    ("gru", 8, 100, 128),
    ("gru", 1, 100, 256),
    ("rnn_tanh", 32, 100, 64),
)
CASES = tuple(Case(c, mode, b, t, h, h) for mode in ("infer", "train") for c, b, t, h in SIZES)
ROUNDS = 21  # of which the median counts

LONG_MS = 90  # from here on threads that spin leave something to gain
ANY = 0.97  # no call may lose by having threads, but for the noise of a measurement


@dataclass(frozen=True)
class Row:
    """What a case took beside a neighbour: medians in milliseconds, by contestant."""

    beside: str
    case: Case
    times: dict[str, float]
    machine: float  # what the machine gains, without a neighbour
    skipped: dict[str, str]
    wrong: dict[str, str]

    @property
    def alone(self) -> float:
        """Ours on one thread."""
        return self.times[ours(ONE_THREAD)]

    @property
    def gain(self) -> float:
        """What all threads gain."""
        return self.alone / self.times[OURS]

    @property
    def target(self) -> float:
        """What they should gain."""
        if self.beside in ("alone", "numpy-lent"):
            return 1.8 if self.alone >= 1 else ANY
        if self.alone < LONG_MS:
            return ANY
        return 1.6 if self.beside == "torch" else 1.25

    @property
    def ratio(self) -> float | None:
        """The best peer's time over ours."""
        peers = [ms for name, ms in self.times.items() if name.split(":")[0] != OURS]
        return min(peers) / self.times[OURS] if peers else None


def product(neighbour: str, threads: int) -> Callable[[], Any]:
    """Return what a neighbour does between our calls."""
    a = np.random.default_rng(0).standard_normal((512, 512), np.float32)
    if neighbour == "alone":
        return lambda: None
    if neighbour == "numpy-lent":
        lent = fusedrnn.lend_threads()
        if not lent.libraries:
            raise SystemExit(f"bench: numpy-lent: {lent.reason}")
    if neighbour.startswith("numpy"):
        return lambda: a @ a
    if neighbour == "torch":
        torch = importlib.import_module("torch")
        torch.set_num_threads(threads)
        tensor = torch.from_numpy(a)
        return lambda: tensor @ tensor
    runtime: Any = baselines.load("onnxruntime")
    run: Callable[[], Any] = runtime.product(a, threads)
    return run


def row(neighbour: str, before: Callable[[], Any], case: Case, threads: int, rounds: int) -> Row:
    """Verify and time a case."""
    field = verified(Problem(case), (OURS, *PEERS), threads)
    times: dict[str, list[float]] = {c.name: [] for c in field.contestants}
    gains = [machine_gain(case.dtype, threads)]
    for peer in (OURS, *PEERS):  # not in turn, since a peer's own threads spin, too
        turns = [c for c in field.contestants if c.name.partition(":")[0] == peer]
        for i, contestant in itertools.product(range(-1, rounds), turns):  # the first: to warm up
            with contestant.around():
                before()
                begin = time.perf_counter()
                contestant.run(i % INPUTS)
                seconds = time.perf_counter() - begin
            if i >= 0:
                times[contestant.name].append(seconds)
        gains.append(machine_gain(case.dtype, threads))
    medians = {name: 1e3 * statistics.median(taken) for name, taken in times.items()}
    gain = statistics.median(gains)
    return Row(neighbour, case, medians, gain, field.skipped, field.wrong)


def machine_gain(dtype: str, threads: int) -> float:
    """Return the peak of all threads over that of one, while nobody else spins."""
    settle()
    one, together = (limits.peak_probe(dtype, n, 0.02)() for n in (1, threads))
    return together / one


def measure(neighbour: str, threads: int, rounds: int, cases: Sequence[Case]) -> list[Row]:
    """Measure the cases beside a neighbour, in a process of their own."""
    job = [neighbour, threads, rounds, [dataclasses.asdict(case) for case in cases]]
    done = subprocess.run(
        [sys.executable, "-m", "bench.beside"],
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        text=True,
        env=environment(threads) | {"OPENBLAS_NUM_THREADS": str(threads)},
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"bench: beside {neighbour}: the process that measures has failed")
    found = json.loads(done.stdout.splitlines()[-1])
    return [Row(**{**fields, "case": Case(**fields["case"])}) for fields in found]


def table(rows: Sequence[Row]) -> str:
    """Return the rows in Markdown, each with its target."""
    lines = [
        "| beside | case | 1 thread, ms | all, ms | gain | machine | target | best peer / ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        met = "met" if r.gain >= r.target else "NOT met"
        ratio = "" if r.ratio is None else f"{r.ratio:.2f}"
        lines.append(
            f"| {r.beside} | {r.case} | {r.alone:.2f} | {r.times[OURS]:.2f} | {r.gain:.2f} "
            f"| {r.machine:.2f} | {r.target:.2f}, {met} | {ratio} |"
        )
    return "\n".join(lines)


def main(neighbours: Sequence[str], *, quick: bool = False) -> int:
    """Measure beside these neighbours and print a table; return 1 if a result is wrong."""
    threads = machine.available_cpus()
    print(f"{machine.cpu_model()}, {fusedrnn.info()['isa']}, {threads} threads", end="")
    versions = machine.versions(PEERS)
    print("".join(f", {name} {version}" for name, version in versions.items()), "\n")
    rows: list[Row] = []
    for neighbour in neighbours:
        if neighbour in baselines.PEERS and isinstance(why := baselines.load(neighbour), str):
            print(f"{neighbour}: skipped, {why}", file=sys.stderr)
            continue
        cases = [Case("gru", "train", 8, 10, 16, 16)] if quick else CASES
        rows += measure(neighbour, threads, 3 if quick else ROUNDS, cases)
    print(table(rows))
    met = sum(r.gain >= r.target for r in rows)
    print(f"\ntargets: {met} of {len(rows)} met")
    wrong = [(r, name, mistake) for r in rows for name, mistake in r.wrong.items()]
    for r, name, mistake in wrong:
        print(f"WRONG: {r.case} beside {r.beside}: {name}: {mistake}", file=sys.stderr)
    return int(not rows or bool(wrong))


def work() -> None:
    """Do the job that standard input describes."""
    out = os.fdopen(os.dup(1), "w")  # what a library prints must not mix with the result
    os.dup2(2, 1)
    neighbour, threads, rounds, cases = json.loads(sys.stdin.read())
    before = product(neighbour, threads)
    rows = [row(neighbour, before, Case(**case), threads, rounds) for case in cases]
    print(json.dumps([dataclasses.asdict(r) for r in rows]), file=out, flush=True)


if __name__ == "__main__":
    work()

"""Verify, then time: one case, all contestants in turn."""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from . import cuda, limits
from .baselines import OURS, Contestant, Unsupported, load
from .cases import Case
from .clock import WALL, Clock
from .machine import Others
from .problem import INPUTS, Array, Problem
from .results import Result, Timing

# Of each result's norm. A result in float32 has passed through some hundred steps and sums over up
# to 2048 products, each rounded to 6e-8, in another order in every peer; gradients of weights are
# sums over T and B besides. The largest errors found were 6.4e-6 at T = 100,000 and 2.8e-6 else.
# One wrong element of 10 million, by as much as it is large, is an error of 3e-4.
# The half types round h in every step, and on the way back the gradients of the gates, by up to
# eps / 2 (eps is 2**-10 and 2**-7); through layers some such roundings add up: 4 eps.
TOLERANCE = {"float32": 2e-5, "float64": 1e-11, "float16": 4 * 2**-10, "bfloat16": 4 * 2**-7}
# A peer may also keep c and sums over the steps in a half type, so that their roundings add up like
# a random walk: torch's, on a CPU, were wrong by 2.6 eps at T = 256.
PEERS_IN_HALF = 4
WARM_SECONDS = 0.02  # for a longer call, what it finds in the caches is a small part
PATIENCE_SECONDS = 0.5  # with threads that don't come to rest
IDLE_SECONDS = 0.01  # without work in the process: several ticks of the clock of CPU time


@dataclass(frozen=True)
class Effort:
    """How long to measure a case."""

    block: float  # seconds of a block of calls, at least one call
    budget: float  # seconds of all blocks
    least: int  # blocks of each contestant, whatever they take
    most: int


FULL = Effort(block=2e-3, budget=1.5, least=5, most=25)
QUICK = Effort(block=2e-4, budget=0.01, least=3, most=5)
GPU = Effort(block=2e-2, budget=1.0, least=5, most=15)  # many calls between two events


@dataclass
class Field:
    """Who takes part in a case, and who doesn't."""

    contestants: list[Contestant] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)  # by contestant
    skipped: dict[str, str] = field(default_factory=dict)  # why, by peer
    wrong: dict[str, str] = field(default_factory=dict)  # what, by contestant or peer


def measure(case: Case, peers: Sequence[str], threads: int, effort: Effort = FULL) -> Result:
    """Verify and time the peers on a case, with the machine's limits between the calls."""
    taking_part = verified(Problem(case), peers, threads)
    if case.device == "cuda":
        return timed_on_gpu(case, taking_part, effort)
    sizes = sorted(limits.sizes(case, threads))
    probes: dict[str, Callable[[], float]] = {
        "one": limits.peak_probe(case.dtype, 1, effort.block),
        "all": limits.peak_probe(case.dtype, threads, effort.block),
        **{str(size): limits.read_probe(size, threads) for size in sizes},
    }
    others = Others()
    timings, figures = time_in_turn(taking_part, probes, effort, threads)
    bandwidth = {size: figures[str(size)] for size in sizes}
    return Result(
        case,
        threads,
        figures["all"],
        figures["one"],
        bandwidth,
        limits.seconds(case, threads, figures["all"], bandwidth),
        timings,
        taking_part.skipped,
        taking_part.wrong,
        others.cpus(),
    )


def timed_on_gpu(case: Case, taking_part: Field, effort: Effort) -> Result:
    """Time who takes part, beside the peak; on the emulation say only who is right."""
    others = Others()
    timings: dict[str, Timing] = {}
    figures: dict[str, float] = {}
    emulated = cuda.emulated()
    if not emulated:
        watch = cuda.clock_of_calls()
        timings, figures = time_in_turn(taking_part, cuda.probes(case.dtype), effort, 1, watch)
    peak = figures.get("all", 0.0)
    return Result(
        case,
        1,
        peak,
        peak,
        {},
        case.flops / peak if peak else 0.0,
        timings,
        taking_part.skipped,
        taking_part.wrong,
        others.cpus(),
        untimed=taking_part.errors if emulated else {},
    )


def verified(problem: Problem, peers: Sequence[str], threads: int) -> Field:
    """Return the contestants of these peers, those that are right apart from the others."""
    found = Field()
    for peer in peers:
        baseline = load(peer)
        if isinstance(baseline, str):
            found.skipped[peer] = baseline
            continue
        # A peer that fails in whatever way must not end the run.
        try:
            contestants = baseline.prepare(problem, threads)
        except Unsupported as reason:
            found.skipped[peer] = str(reason)
            continue
        except Exception as error:
            found.wrong[peer] = repr(error)
            continue
        for contestant in contestants:
            try:
                found.errors[contestant.name] = verify(contestant, problem)
                found.contestants.append(contestant)
            except Wrong as mistake:
                found.wrong[contestant.name] = str(mistake)
            except Exception as error:
                found.wrong[contestant.name] = repr(error)
    return found


class Wrong(Exception):
    """A contestant's results differ from the reference; the message says by how much."""


def verify(contestant: Contestant, problem: Problem) -> float:
    """Return the largest relative error of a contestant's results on every input.

    Raises
    ------
    Wrong
        If one is above the tolerance, or a result is missing or has another shape.
    """
    worst = 0.0
    expected = contestant.expected or problem.expected
    calls = [contestant.run] + ([contestant.poisoned] if contestant.poisoned else [])
    for call, i in itertools.product(calls, range(INPUTS)):
        with contestant.around():
            contestant.reset()
            got = contestant.arrays(call(i))
        worst = max(worst, difference(got, expected(i), tolerance(contestant, problem.case)))
    return worst


def tolerance(contestant: Contestant, case: Case) -> float:
    """Return how far each result may be from the reference, of its norm."""
    theirs = case.itemsize == 2 and contestant.name.split(":")[0] != OURS
    return TOLERANCE[case.dtype] * (PEERS_IN_HALF if theirs else 1)


def difference(got: dict[str, Array], want: dict[str, Array], tolerance: float) -> float:
    """Return the largest error of the results, each relative to the norm of what is wanted.

    A contestant may leave results out (`y` it may not): the same work may come in other parts.
    """
    if "y" not in got or set(got) - set(want):
        raise Wrong(f"expected {', '.join(want)}, got {', '.join(got)}")
    worst = 0.0
    for name, a in got.items():
        b = want[name]
        if a.shape != b.shape:
            raise Wrong(f"{name}: expected {b.shape}, got {a.shape}")
        error = norm(a.astype(np.float64) - b) / max(norm(b), 1e-300)
        if not error <= tolerance:  # so that NaN is wrong
            raise Wrong(f"{name}: relative error {error:.1e}, tolerance {tolerance:.0e}")
        worst = max(worst, error)
    return worst


def norm(a: Array) -> float:
    return float(np.linalg.norm(a))


def time_in_turn(
    taking_part: Field,
    probes: dict[str, Callable[[], float]],
    effort: Effort,
    threads: int,
    clock: Clock = WALL,
) -> tuple[dict[str, Timing], dict[str, float]]:
    """Time blocks of each contestant's calls and the probes, all in turn; return the medians."""
    contestants, errors = taking_part.contestants, taking_part.errors
    plans = {c.name: calibrate(c, effort, clock) for c in contestants}
    blocks: dict[str, list[float]] = {c.name: [] for c in contestants}
    figures: dict[str, list[float]] = {name: [] for name in probes}
    begin = time.perf_counter()
    with no_garbage_collection():
        for turn in range(effort.most):
            if turn >= effort.least and time.perf_counter() - begin > effort.budget:
                break
            for k in range(len(contestants)):
                contestant = contestants[(turn + k) % len(contestants)]  # nobody is always first
                if threads > 1:
                    settle()
                blocks[contestant.name].append(block(contestant, *plans[contestant.name], clock))
            if threads > 1:
                settle()
            for name, probe in probes.items():
                figures[name].append(probe())
    timings = {
        name: timing(seconds, plans[name][0], errors[name]) for name, seconds in blocks.items()
    }
    return timings, {name: float(np.median(values)) for name, values in figures.items()}


def calibrate(contestant: Contestant, effort: Effort, clock: Clock = WALL) -> tuple[int, bool]:
    """Return how many calls make a block, and whether it begins with one that isn't timed."""
    calls, seconds = 1, block(contestant, 1, False, clock)
    while seconds * calls < effort.block / 4:
        calls *= 4
        seconds = block(contestant, calls, True, clock)
    return max(1, math.ceil(effort.block / seconds)), seconds < WARM_SECONDS


def block(contestant: Contestant, calls: int, warm: bool, clock: Clock = WALL) -> float:
    """Return the mean seconds of some calls, after one that brings everything into the caches."""
    run, before, result, seconds = contestant.run, contestant.before, None, 0.0
    with contestant.around():
        if warm:
            result = run(0)
        if before is None:
            begin = clock.start()
            for i in range(calls):
                result = run(i % INPUTS)
            seconds = clock.since(begin)
        else:
            for i in range(calls):
                before()
                begin = clock.start()
                result = run(i % INPUTS)
                seconds += clock.since(begin)
    del result
    return seconds / calls


def timing(seconds: list[float], calls: int, error: float) -> Timing:
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    return Timing(
        float(median), min(seconds), float((high - low) / median), len(seconds), calls, error
    )


def settle() -> None:
    """Wait until no peer's threads spin: ONNX Runtime's do for 50 ms after a call, OpenMP's for 8.

    Those of the contestant whose turn it is may spin between its calls, as they do in a loop.
    """
    for _ in range(round(PATIENCE_SECONDS / IDLE_SECONDS)):
        before = time.process_time()
        time.sleep(IDLE_SECONDS)
        if time.process_time() - before < IDLE_SECONDS / 10:
            return


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep the collector from running in one contestant's block for another's objects."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

"""Made-up results of the benchmark: rates and factors are given, times follow from them."""

from __future__ import annotations

from bench import cases, limits
from bench.baselines import (
    ALONE,
    ARRAYS,
    DENSE,
    ONE_THREAD,
    OURS,
    STACK,
    STACKED,
    STREAM,
    ours,
)
from bench.results import Memory, Result, Run, Timing
from bench.targets import TARGETS

PEAK, BANDWIDTH = 100e9, 100e9  # of one thread
RATE = 95e9  # ours, in FLOP/s of one thread
CALL, STREAM_CALL = 1.0e-6, 0.5e-6  # what a step costs beyond its kernels
MODULE_CALL = 4e-6  # what a module's call costs beyond the same by arrays
# A variant's time over ours.
VARIANTS = {"packed": (DENSE, 1 / 1.15), "pools": (ALONE, 1 / 1.05)}


def timing(seconds, spread=0.01):
    return Timing(seconds, seconds, spread, 10, 1, 1e-7)


def made_up(case, threads=1, *, rate=RATE, peers=None, gain=1.9, spread=0.01, **changes):
    """A result where each peer's time is this factor of ours, and threads gain so much."""
    machine_gain = 1.95 if threads > 1 else 1.0
    seconds = case.flops / rate / (gain if threads > 1 else 1)
    timings = {OURS: timing(seconds, spread)}
    if threads > 1:
        timings[ours(ONE_THREAD)] = timing(case.flops / rate)
    if case.mode == "step":
        kernel = case.flops / rate
        timings = {
            ours(variant, stacked): timing(call + kernel * layers)
            for variant, call in (("", CALL), (STREAM, STREAM_CALL))
            for stacked, layers in (("", 1), (STACKED, STACK))
        }
    best = timings[OURS].median
    if case.call == "eager":
        timings[ours(ARRAYS)] = timing(best - MODULE_CALL)
    if case.call in VARIANTS:
        variant, factor = VARIANTS[case.call]
        timings[ours(variant)] = timing(best * factor)
    peers = {"torch": 4.0, "onnxruntime": 2.0} if peers is None else peers
    timings |= {peer: timing(best * factor) for peer, factor in peers.items()}
    bandwidth = dict.fromkeys(limits.sizes(case, threads), BANDWIDTH * machine_gain)
    peak = PEAK * machine_gain
    memory = {}
    if case.mode == "train":
        floats = {"lstm": 5, "gru": 4}.get(case.cell, 0)
        tape = floats * case.steps * case.batch * case.hidden * case.itemsize
        memory = {OURS: Memory(tape, tape, 2 * tape)}
    limit = limits.seconds(case, threads, peak, bandwidth)
    fields = dict(
        case=case,
        threads=threads,
        peak=peak,
        peak_one=PEAK,
        bandwidth=bandwidth,
        limit=limit,
        timings=timings,
        skipped={},
        wrong={},
        others=0.0,
        memory=memory,
    )
    return Result(**{**fields, **changes})


def everything(threads=(1, 2), **options):
    """A result for each case of the grid, of its growth and of torch's modules."""
    growth = (c for line in cases.scaling().values() for c in line)
    planned = dict.fromkeys([*cases.grid(), *growth, *cases.modules()])
    return [made_up(case, n, **options) for n in threads for case in planned]


def judge(name, found):
    """The outcome of the target whose name begins so."""
    (target,) = (t for t in TARGETS if t.name.startswith(name))
    return target.judge(found)


def run_of(results):
    threads = sorted({r.threads for r in results})
    roof = {"peak": PEAK, "read": {16: 2e11, 32: 2e11, 256: 1.1e11, 4096: 9e10, 65536: 2e10}}
    return Run(
        "2026-01-01T00:00",
        "python -m bench",
        {"cpu": "made up", "cpus": 2, "system": "Linux", "python": "3.11"},
        {"torch": "2"},
        {"version": "0", "isa": "avx2", "compiler": "c"},
        {n: roof for n in threads},
        results,
    )

"""The machine's own limit for a case: its products at the measured peak and bandwidths.

    t_limit = sum over the parts of  times * max(FLOP / peak, bytes / bandwidth)

A part is a product that streams one matrix; `bandwidth` is measured at the size of what a part
goes round in, so it is that of the cache level in which its matrix lives. Activations, inputs and
outputs cost nothing here, so the limit can't be reached where they are much of the work.

On n threads, a product that divides the rows streams the whole matrix in every thread; one that
divides the units streams an n-th of it. The better of both counts, without the price of a barrier.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fusedrnn import _core

from .cases import Case

FMA_SECONDS = 2e-3
READ_BYTES = 16 << 20  # of a probe: a fraction of a millisecond from a cache
FEWEST_PASSES = 4  # the first brings the data into the cache
SMALLEST_KIB = 16  # below, the probe would measure how a loop ends
LADDER_KIB = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 16384, 65536)


@dataclass(frozen=True)
class Part:
    """A product done `times` times: `rows` rows by a matrix of `size` bytes.

    `around` is what the part goes round in, in bytes: the matrix itself if it is read again and
    again, else all matrices of the call.
    """

    name: str
    times: int
    rows: int
    flops: float
    size: int
    around: int


def parts(case: Case) -> list[Part]:
    """Return the products of a case.

    W x of all steps is one product, R h one in each step. Training adds R^T d_a in each step, and
    one product each for W^T d_a, dW and dR.
    """
    gate_rows, steps, batch = case.gates * case.hidden, case.steps, case.batch
    w, r = gate_rows * case.input, gate_rows * case.hidden
    training = case.mode == "train"
    everything = (w + r) * case.itemsize * (2 if training else 1)  # with the gradients

    def whole(name: str, elements: int) -> Part:
        flops = 2.0 * steps * batch * elements
        return Part(name, 1, steps * batch, flops, elements * case.itemsize, everything)

    def step(name: str, elements: int) -> Part:
        size = elements * case.itemsize
        around = size if steps > 1 else everything
        return Part(name, steps, batch, 2.0 * batch * elements, size, around)

    forward = [whole("W x", w), step("R h", r)]
    backward = [step("R^T d_a", r), whole("W^T d_a", w), whole("dW", w), whole("dR", r)]
    return forward + (backward if training else [])


def divisions(part: Part, threads: int) -> list[int]:
    """Return by how much the matrix is divided: 1 (rows are divided), or by all threads (units)."""
    if threads == 1:
        return [1]
    return [1, threads] if part.rows >= threads else [threads]


def kib(size: float) -> int:
    """Return a size in the unit of the probe."""
    return max(SMALLEST_KIB, math.ceil(size / 1024))


def sizes(case: Case, threads: int) -> set[int]:
    """Return the sizes, in KiB a thread, at which the case needs the bandwidth."""
    return {kib(part.around / n) for part in parts(case) for n in divisions(part, threads)}


def part_seconds(part: Part, threads: int, peak: float, bandwidth: Mapping[int, float]) -> float:
    """Return a part's limit; `peak` in FLOP/s and `bandwidth` in B/s by KiB, of all threads."""
    streaming = min(
        part.size / n / (bandwidth[kib(part.around / n)] / threads)
        for n in divisions(part, threads)
    )
    return part.times * max(part.flops / peak, streaming)


def seconds(case: Case, threads: int, peak: float, bandwidth: Mapping[int, float]) -> float:
    """Return the limit of a case."""
    return sum(part_seconds(part, threads, peak, bandwidth) for part in parts(case))


def intensity(case: Case) -> float:
    """Return FLOPs per byte of matrices streamed: where the case stands on the roofline."""
    found = parts(case)
    return sum(p.times * p.flops for p in found) / sum(p.times * p.size for p in found)


@functools.cache
def rounds_of(dtype: str, seconds: float) -> int:
    """Return how many rounds of the peak's probe take about so long."""
    rounds, took = 1000, 0.0
    while took < seconds / 4:
        rounds *= 4
        begin = time.perf_counter()
        _core.probe_fma(dtype, rounds, 1)
        took = time.perf_counter() - begin
    return math.ceil(rounds * seconds / took)


def peak_probe(dtype: str, threads: int, seconds: float = FMA_SECONDS) -> Callable[[], float]:
    """Return what measures the peak, FLOP/s of all threads."""
    rounds = rounds_of(dtype, seconds)
    return lambda: _core.probe_fma(dtype, rounds, threads)


def read_probe(size_kib: int, threads: int) -> Callable[[], float]:
    """Return what measures the bandwidth, B/s of all threads, each reading its own."""
    repeats = max(FEWEST_PASSES, READ_BYTES // (size_kib * 1024))
    return lambda: _core.probe_read(size_kib, repeats, threads)


def roofs(dtype: str, threads: int) -> dict[str, Any]:
    """Return the peak and the ladder of bandwidths by KiB: for the report and the roofline."""
    return {
        "peak": best_of(peak_probe(dtype, threads)),
        "read": {size: best_of(read_probe(size, threads)) for size in LADDER_KIB},
    }


def best_of(probe: Callable[[], float], times: int = 5) -> float:
    return max(probe() for _ in range(times))

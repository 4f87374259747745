"""A linear head with its cross entropy, beside nothing but its three matrix products.

``python -m bench.head`` compares `fusedrnn.models.linear_cross_entropy`, forward and backward, with

    o = y W^T      d_y = d_o W      d_W = d_o^T y

by NumPy's BLAS, which gets all logits in memory and computes no loss of them. The two take turns,
and the median of their ratios counts. The exit status is 1 if that is above the bound, for a
vocabulary of 10,000, H = 256 and 3,200 positions; the other cases are there to be looked at.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import fusedrnn
from fusedrnn import _core, reference
from fusedrnn.models import linear_cross_entropy

from . import machine

BOUND = 1.3
ROUNDS = 9  # of which the median counts


@dataclass(frozen=True)
class Case:
    """N positions, H hidden units, K classes."""

    rows: int
    units: int
    classes: int

    @property
    def flops(self) -> float:
        """The operations of the three products."""
        return 3 * 2 * float(self.rows) * self.units * self.classes

    def __str__(self) -> str:
        return f"N={self.rows} H={self.units} K={self.classes}"


JUDGED = Case(3200, 256, 10_000)
OTHERS = (Case(3200, 256, 1_000), Case(3200, 256, 100), Case(3200, 64, 10), Case(256, 512, 30_000))


class Contest:
    """Both sides on the same arrays."""

    def __init__(self, case: Case) -> None:
        rng = np.random.default_rng(0)

        def normal(*shape: int) -> npt.NDArray[np.float32]:
            return rng.standard_normal(shape, np.float32)

        self.y, self.weight = normal(case.rows, case.units), normal(case.classes, case.units)
        self.weight /= case.units**0.5
        self.bias = normal(case.classes)
        self.d_o = normal(case.rows, case.classes)
        self.targets = rng.integers(0, case.classes, case.rows)

    def head(self) -> Any:
        """Return the loss and its gradients."""
        return linear_cross_entropy(self.y, self.weight, self.bias, self.targets)

    def products(self) -> Any:
        """Return the three products."""
        return self.y @ self.weight.T, self.d_o @ self.weight, self.d_o.T @ self.y

    def error(self) -> float:
        """Return how far a few rows' loss and gradients are from the reference."""
        rows = slice(0, 20)
        arrays = self.y[rows], self.weight, self.bias, self.targets[rows]
        got = linear_cross_entropy(*arrays)
        value, _, gradients = reference.linear_cross_entropy(*arrays)
        errors = [abs(got.value - value) / max(value, 1)]
        for gradient, wanted in zip(got.gradients or (), gradients, strict=True):
            errors.append(float(np.abs(np.asarray(gradient) - wanted).max()))
        return max(errors)


def seconds(call: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def row(case: Case, peak: float) -> tuple[float, str]:
    """Measure a case; return the ratio, and a row of the table."""
    contest = Contest(case)
    if (error := contest.error()) > 1e-4:
        raise RuntimeError(f"{case}: wrong by {error:.1e}")
    contest.head(), contest.products()
    times = np.array([(seconds(contest.head), seconds(contest.products)) for _ in range(ROUNDS)])
    ratio = float(np.median(times[:, 0] / times[:, 1]))
    ours, theirs = np.median(times, axis=0)
    rate = case.flops / ours
    cells = f"{1e3 * ours:.1f} | {1e3 * theirs:.1f} | {ratio:.2f} | {rate / 1e9:.0f}"
    return ratio, f"| {case} | {cells} | {rate / peak:.2f} |"


def main() -> int:
    """Print a table; return 1 if the judged case is above the bound."""
    parser = argparse.ArgumentParser(prog="python -m bench.head", description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="of both sides (default: 1)")
    parser.add_argument("--quick", action="store_true", help="the judged case only")
    arguments = parser.parse_args()
    fusedrnn.set_num_threads(arguments.threads)
    others = machine.Others()
    threadpoolctl: Any = importlib.import_module("threadpoolctl")
    with threadpoolctl.threadpool_limits(arguments.threads, user_api="blas"):
        peak = _core.probe_fma("float32", 2_000_000, arguments.threads)
        print(f"{machine.cpu_model()}, {_core.info()['isa']}, numpy {np.__version__}, ", end="")
        print(f"{arguments.threads} thread(s), peak {peak / 1e9:.0f} GFLOP/s\n")
        print("| head and loss | ms | products by BLAS, ms | ratio | GFLOP/s | of the peak |")
        print("|---|---|---|---|---|---|")
        judged, text = row(JUDGED, peak)
        print(text, flush=True)
        for case in () if arguments.quick else OTHERS:
            print(row(case, peak)[1], flush=True)
    print(f"\nmeanwhile other processes kept {others.cpus() or 0:.2f} CPUs busy")
    print(f"{JUDGED}: {judged:.2f} times its products, at most {BOUND}: ", end="")
    print("met" if judged <= BOUND else "NOT met")
    return int(judged > BOUND)


if __name__ == "__main__":
    sys.exit(main())

"""The NumPy reference: float64, one Python loop over the steps."""

from __future__ import annotations

from fusedrnn import reference

from ..problem import Problem, solve
from . import Contestant, Unsupported

LIMIT = 0.2  # seconds a call: more would only be waited for


def prepare(problem: Problem, threads: int) -> list[Contestant]:
    """Return the reference, unless it is slow. Its BLAS has one thread, see worker.py."""
    if problem.reference_seconds > LIMIT:
        raise Unsupported(f"takes more than {LIMIT} s a call")
    return [Contestant("reference", lambda i: solve(reference, problem, i), lambda result: result)]

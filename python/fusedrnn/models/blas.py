"""How many threads NumPy's BLAS uses.

One is best beside the kernels: the products that are left to NumPy are small, and a BLAS's threads
go on spinning after each product, on the cores that the kernels need.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from .._threads import get_num_threads

# Where the BLAS libraries look when they are loaded; those built on OpenMP at the last.
ENVIRONMENT = (
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "OMP_NUM_THREADS",
)


def can_limit() -> bool:
    """Return whether `one_thread` can do something."""
    return importlib.util.find_spec("threadpoolctl") is not None


def one_thread() -> AbstractContextManager[Any]:
    """Keep BLAS on one thread within a with-block, where threadpoolctl is installed."""
    if not can_limit():
        return nullcontext()
    threadpoolctl: Any = importlib.import_module("threadpoolctl")
    limits: AbstractContextManager[Any] = threadpoolctl.threadpool_limits(1, user_api="blas")
    return limits


def restart_with_one_thread() -> None:
    """Start ``python -m fusedrnn`` anew with BLAS on one thread, if that is the only way.

    Without threadpoolctl only the environment can say it, and only before NumPy is loaded; with
    two BLAS threads on two busy cores, training was measured six times slower. Does nothing if
    the environment says how many threads, or if another program runs.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    ours = spec is not None and spec.name == "fusedrnn.__main__"
    if not ours or can_limit() or os.name != "posix" or ENVIRONMENT[0] in os.environ:
        return
    threads = {"FUSEDRNN_NUM_THREADS": str(get_num_threads())}
    environment = {**os.environ, **dict.fromkeys(ENVIRONMENT, "1"), **threads}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)

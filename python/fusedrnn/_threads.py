"""How many threads the kernels use, also through threadpoolctl where that is installed."""

from __future__ import annotations

import importlib

from . import _core
from ._arguments import integer


def get_num_threads() -> int:
    """Return how many threads a call may use.

    At first this is the environment variable ``FUSEDRNN_NUM_THREADS``, else ``OMP_NUM_THREADS``,
    else as many as can all compute at once: the physical cores of the CPUs that this process may
    run on, and no more than the CPU quota of its control groups pays for in full (a container with
    1.5 CPUs gets one thread). ``fusedrnn.info()["cpus"]`` has these numbers. With `fusedrnn.torch`
    it is the number of `torch.set_num_threads`, until `set_num_threads` says another, and again
    torch's once a call finds that changed.

    Returns
    -------
    int

    Examples
    --------
    >>> import fusedrnn
    >>> fusedrnn.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def set_num_threads(n: int) -> None:
    """Set how many threads a call may use; results don't depend on it.

    Parameters
    ----------
    n : int
        From 1 to 1024. A small problem uses fewer.

    Raises
    ------
    ValueError
        If n is out of range.
    TypeError
        If n isn't an integer.

    Examples
    --------
    >>> import fusedrnn
    >>> before = fusedrnn.get_num_threads()
    >>> fusedrnn.set_num_threads(1)
    >>> fusedrnn.get_num_threads()
    1
    >>> fusedrnn.set_num_threads(before)
    """
    number = integer(n, "n")
    if not 1 <= number <= 1024:
        raise ValueError(f"n: expected a number of threads from 1 to 1024, got {number}")
    _core.set_num_threads(number)


def _register_with_threadpoolctl() -> None:
    """Let ``threadpoolctl.threadpool_limits`` set our number of threads as it does BLAS's."""
    try:
        threadpoolctl = importlib.import_module("threadpoolctl")
    except ImportError:
        return

    class FusedRNNController(threadpoolctl.LibController):  # type: ignore[misc, name-defined]
        user_api = "fusedrnn"
        internal_api = "fusedrnn"
        filename_prefixes = ("_core",)
        check_symbols = ("fusedrnn_get_num_threads", "fusedrnn_set_num_threads")

        def get_num_threads(self) -> int:
            return int(self.dynlib.fusedrnn_get_num_threads())

        def set_num_threads(self, num_threads: int) -> None:
            self.dynlib.fusedrnn_set_num_threads(num_threads)

        def get_version(self) -> str:
            return str(_core.info()["version"])

    threadpoolctl.register(FusedRNNController)


_register_with_threadpoolctl()

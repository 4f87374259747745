"""NumPy's and SciPy's matrix products on our threads."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from . import _core


class LentThreads:
    """What `lend_threads` returns: which libraries run on our threads, until they are given back.

    As a context manager it gives them back at the end of the with-block.

    Attributes
    ----------
    libraries : tuple of str
        The file names of the libraries that ran on our threads from then on.
    reason : str or None
        Why there is none, or one less than there could be.
    """

    def __init__(self) -> None:
        found = _core.lend_threads()
        self._lent = True
        self.libraries = tuple(Path(path).name for path, why_not in found if why_not is None)
        refused = [f"{Path(path).name}: {why_not}" for path, why_not in found if why_not]
        self.reason = "; ".join(refused) or (None if self.libraries else _why_none())

    def give_back(self) -> None:
        """Let the libraries run on their own threads again, unless somebody else still lends.

        Does nothing the second time. Not while another thread computes with these libraries.
        """
        if self._lent:
            self._lent = False
            _core.take_threads_back()

    def __enter__(self) -> LentThreads:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.give_back()

    def __repr__(self) -> str:
        to = ", ".join(self.libraries) or "nobody"
        to += f" ({self.reason})" if self.reason else ""
        return f"<LentThreads to {to}{'' if self._lent else ', given back'}>"


def lend_threads() -> LentThreads:
    """Run NumPy's and SciPy's matrix products on our threads instead of their own.

    After each product OpenBLAS, which the wheels of NumPy and SciPy carry, keeps its threads
    spinning for some 100 ms, on the CPUs that the next call of a layer needs: two threads then
    bring nothing. OpenBLAS 0.3.27 and later can hand its work to other threads. With ours, the
    program has one pool, which sleeps when there is nothing to do.

    The products' results are the same, bit for bit. An LU decomposition (`numpy.linalg.solve`,
    ``inv``, ``det``) still starts OpenBLAS's own threads. SciPy's OpenBLAS is another one than
    NumPy's: import SciPy first, or call this again. A forked process has OpenBLAS's own threads
    again, and may lend anew. While our threads are torch's (see `fusedrnn.torch`), products run on
    these, which spin for some milliseconds.

    Returns
    -------
    LentThreads
        Which libraries these are, or why there is none; gives the threads back at the end of a
        with-block, or by ``give_back()``. Calls may be nested.

    Notes
    -----
    Call it, and give the threads back, while no other thread computes with NumPy: OpenBLAS reads
    the setting twice at the start of a product.

    Examples
    --------
    >>> import fusedrnn
    >>> with fusedrnn.lend_threads() as lent:
    ...     names = lent.libraries  # such as ("libscipy_openblas64_-fdde5778.so",)
    >>> isinstance(names, tuple)
    True
    """
    return LentThreads()


def _why_none() -> str:
    """Return why NumPy's BLAS can't run on our threads."""
    name = _numpy_blas()
    if name is None:
        return "no OpenBLAS is loaded that hands its work to other threads (0.3.27 and later do)"
    if "openblas" in name.lower():
        return f"NumPy's BLAS, {name}, is older than OpenBLAS 0.3.27 or has one thread only"
    return f"NumPy's BLAS, {name}, doesn't hand its work to other threads; OpenBLAS does"


def _numpy_blas() -> str | None:
    """Return the name under which NumPy was built with its BLAS, such as "scipy-openblas"."""
    try:
        config: Any = np.show_config(mode="dicts")
        return str(config["Build Dependencies"]["blas"]["name"])
    except (KeyError, TypeError):
        return None

"""What holds for every test: set before NumPy is imported for the first time."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile

# One thread for the products of the NumPy reference. They are small, and two threads of OpenBLAS
# that wait for each other make them 4 to 20 times slower, most of all on a busy machine. It doesn't
# concern the threads of the kernels.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

# A shell starts what it runs in the background with interrupts ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure() -> None:
    """Let Hypothesis keep what it stores out of the tree, and only while the process runs.

    (The workers of pytest-xdist are interrupted before they come to pytest's own cleaning.)
    """
    storage = tempfile.mkdtemp(prefix="fusedrnn-hypothesis-")
    atexit.register(shutil.rmtree, storage, ignore_errors=True)
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = storage

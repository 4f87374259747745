"""What holds for every test: set before NumPy is imported for the first time."""

from __future__ import annotations

import os
import signal
import tempfile

import pytest

# One thread for the products of the NumPy reference. They are small, and two threads of OpenBLAS
# that wait for each other make them 4 to 20 times slower, most of all on a busy machine. It doesn't
# concern the threads of the kernels.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

# A shell starts what it runs in the background with interrupts ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Let Hypothesis keep what it stores out of the tree, and only while the tests run."""
    storage = tempfile.TemporaryDirectory(prefix="fusedrnn-hypothesis-")
    config.add_cleanup(storage.cleanup)
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = storage.name

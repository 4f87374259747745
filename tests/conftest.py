"""What holds for every test: set before NumPy is imported for the first time."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

try:
    import fcntl
except ImportError:  # not POSIX
    fcntl = None

# One thread for the products of the NumPy reference. They are small, and two threads of OpenBLAS
# that wait for each other make them 4 to 20 times slower, most of all on a busy machine. It doesn't
# concern the threads of the kernels.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

# Threads of OpenMP, which torch has, sleep while they wait: they would keep the CPUs from the other
# processes that test, and each product then takes milliseconds.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

# A shell starts what it runs in the background with interrupts ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: Fixtures that train an example, which takes long.
DEEP_FIXTURES = {"done"}
#: Fixtures that import what ``pip install '.[test]'`` doesn't bring.
EXTRA_FIXTURES = {"torch", "run_node"}


def pytest_configure(config: pytest.Config) -> None:
    """Keep what a run stores out of the tree, and only while it lasts."""
    if hasattr(config, "workerinput"):
        return  # one of pytest-xdist's processes, which has the environment of the first
    storage = tempfile.TemporaryDirectory(prefix="fusedrnn-tests-")
    config.add_cleanup(storage.cleanup)
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = os.environ["FUSEDRNN_TEST_LOCKS"] = storage.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what trains or needs more than is installed, and let what must run alone come last."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if DEEP_FIXTURES.intersection(fixtures):
            item.add_marker(pytest.mark.deep)
        if EXTRA_FIXTURES.intersection(fixtures):
            item.add_marker(pytest.mark.extras)
    items.sort(key=lambda item: item.get_closest_marker("serial") is not None)


@contextlib.contextmanager
def locked(name: str, exclusive: bool) -> Iterator[None]:
    """Hold a lock that the processes of this run share."""
    with (Path(os.environ["FUSEDRNN_TEST_LOCKS"]) / name).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a child that a test forked may hold the file too


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Let a test marked ``serial`` have the machine for itself, however many processes test."""
    if fcntl is None:
        return (yield)
    serial = item.get_closest_marker("serial") is not None
    with contextlib.ExitStack() as stack:
        # Whoever waits for the second lock holds the first, so that no test overtakes a serial one.
        with locked("turnstile", exclusive=True):
            stack.enter_context(locked("machine", exclusive=serial))
        return (yield)


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    """The module torch; without it, the test is skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own making
        return pytest.importorskip("torch")

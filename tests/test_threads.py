"""The number of threads, threadpoolctl, several Python threads at once, floating point."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

import fusedrnn
from fusedrnn import _core, functional
from kernel_problems import make, threads

pytestmark = pytest.mark.serial


def test_set_and_get():
    with threads(3):
        assert fusedrnn.get_num_threads() == fusedrnn.info()["threads"] == 3
        fusedrnn.set_num_threads(np.int64(1024))
        assert fusedrnn.get_num_threads() == 1024
        fusedrnn.set_num_threads(1)
        assert fusedrnn.get_num_threads() == 1


def test_info_says_how_many_cpus_there_are():
    cpus = fusedrnn.info()["cpus"]
    assert 1 <= cpus["cores"] <= cpus["allowed"]
    assert cpus["quota"] is None or cpus["quota"] > 0
    if sys.platform == "linux":
        assert cpus["allowed"] == len(os.sched_getaffinity(0))


@pytest.fixture
def own_threads() -> Iterator[None]:
    """Threads that aren't torch's, whose number threadpoolctl changes too."""
    borrowed = fusedrnn.info()["thread_pool"] == "OpenMP"
    _core.borrow_threads(None)
    yield
    if borrowed:
        _core.borrow_threads(sys.modules["torch"]._C.__file__)


@pytest.mark.usefixtures("own_threads")
def test_threadpoolctl_sees_and_limits_us():
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def ours():
        return [d for d in threadpoolctl.threadpool_info() if d["user_api"] == "fusedrnn"]

    with threads(4):
        (info,) = ours()
        assert info["num_threads"] == 4
        assert info["internal_api"] == "fusedrnn"
        assert info["version"] == fusedrnn.__version__
        with threadpoolctl.threadpool_limits(limits=2):
            assert fusedrnn.get_num_threads() == 2
            with threadpoolctl.threadpool_limits(limits={"fusedrnn": 1}):
                assert fusedrnn.get_num_threads() == ours()[0]["num_threads"] == 1
            assert fusedrnn.get_num_threads() == 2
        with threadpoolctl.threadpool_limits(limits=1, user_api="blas"):
            assert fusedrnn.get_num_threads() == 4
        assert fusedrnn.get_num_threads() == 4


# Several Python threads


def parallel(n: int, work) -> None:
    """Run work(i) in n threads that begin together; raise what any of them raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(n)

    def guarded(i: int) -> None:
        try:
            start.wait()
            work(i)
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=guarded, args=(i,)) for i in range(n)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]


def all_bytes(y, state, gradients) -> bytes:
    arrays = [y, *state, gradients.x, *gradients.state, *gradients.parameters.values()]
    return b"".join(a.tobytes() for a in arrays)


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_many_threads_call_one_layer(n_threads):
    layer = fusedrnn.LSTM(24, 40, 2, bidirectional=True, seed=0)
    xs = [
        np.random.default_rng(i).normal(size=(12 + i, 3 + i, 24)).astype(np.float32)
        for i in range(4)
    ]

    def result(i):
        y, state, tape = layer.forward(xs[i])
        return all_bytes(y, state, layer.backward(tape, y))

    with threads(1):
        want = [result(i) for i in range(4)]

    def work(i):
        for n in range(15):
            assert result((i + n) % 4) == want[(i + n) % 4]

    with threads(n_threads):
        parallel(4, work)


def test_calls_while_weights_are_replaced():
    """Every result is that of one version of the weights, in training too."""
    layer = fusedrnn.LSTM(24, 40, 2, seed=0)
    versions = [dict(fusedrnn.LSTM(24, 40, 2, seed=n).parameters) for n in (1, 2)]
    x = np.random.default_rng(0).normal(size=(10, 4, 24)).astype(np.float32)

    def result():
        y, state, tape = layer.forward(x)
        return all_bytes(y, state, layer.backward(tape, np.ones_like(y)))

    allowed = set()
    for version in versions:
        layer.load_parameters(version)
        allowed.add(result())
    seen = set()
    stop = threading.Event()

    def work(i):
        if i > 0:
            calls, deadline = 0, time.monotonic() + 30
            while calls < 60 or (len(seen) < 2 and time.monotonic() < deadline):
                found = result()
                assert found in allowed
                seen.add(found)
                calls += 1
            stop.set()
        n = 0
        while not stop.is_set():
            layer.load_parameters(versions[n := 1 - n])

    with threads(2):
        parallel(3, work)
    assert len(seen) == 2


def test_items_that_are_set_at_once_are_all_there():
    layer = fusedrnn.LSTM(3, 4, 4, seed=0)
    names = list(layer.parameters)

    def work(i):
        for name in names[i::4]:
            layer.parameters[name] = np.full_like(layer.parameters[name], names.index(name))

    parallel(4, work)
    for n, name in enumerate(names):
        assert (layer.parameters[name] == n).all()


def test_dropout_counts_the_calls_of_all_threads():
    layer = fusedrnn.GRU(3, 8, 2, dropout=0.5, seed=0)
    x = np.ones((4, 3, 3), np.float32)
    found = []
    parallel(4, lambda i: found.extend(layer.forward(x)[0].tobytes() for _ in range(20)))
    serial = fusedrnn.GRU(3, 8, 2, dropout=0.5, seed=0)
    assert sorted(found) == sorted(serial.forward(x)[0].tobytes() for _ in range(80))


def test_one_tape_serves_one_of_many_threads():
    p = make("lstm", "float32", steps=40, batch=8, inputs=16, units=32)
    for _ in range(10):
        _, _, tape = p.forward()
        outcomes = []

        def work(i, tape=tape, outcomes=outcomes):
            try:
                outcomes.append(functional.backward(tape, p.dy).x.tobytes())
            except RuntimeError as error:
                outcomes.append(str(error)[-50:])

        parallel(4, work)
        spent = "its memory is given back; call forward again)"
        refused = [o for o in outcomes if isinstance(o, str) and o.endswith(spent)]
        assert len(refused) == 3
        (served,) = set(outcomes) - set(refused)
        assert served == functional.backward(p.forward()[2], p.dy).x.tobytes()


def span(call) -> tuple[float, float]:
    begin = time.perf_counter()
    call()
    return begin, time.perf_counter()


@pytest.mark.parametrize("n_threads", [1, 2])
def test_other_python_threads_run_during_a_kernel(n_threads):
    layer = fusedrnn.LSTM(64, 128, seed=0)
    x = np.zeros((30_000, 1, 64), np.float32)
    ticks, done = [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    with threads(n_threads):
        layer(x)
        worker = threading.Thread(target=tick)
        worker.start()
        y, _, tape = layer.forward(x)
        spans = [span(lambda: layer(x)), span(lambda: layer.backward(tape, y))]
        done.set()
        worker.join()
    for begin, end in spans:
        assert end - begin > 0.02  # else the problem is too small to tell
        # Not only at its ends: within the middle half.
        quarter = (end - begin) / 4
        assert any(begin + quarter < t < end - quarter for t in ticks)


def test_a_thread_that_ends_leaves_a_working_pool():
    layer = fusedrnn.LSTM(64, 64, seed=0)
    x = np.ones((20, 8, 64), np.float32)
    want = layer(x)[0].tobytes()
    with threads(2):
        for _ in range(5):
            found = []
            worker = threading.Thread(target=lambda found=found: found.append(layer(x)[0]))
            worker.start()
            worker.join()
            assert found[0].tobytes() == layer(x)[0].tobytes() == want


# Floating point


def test_denormals_of_the_caller_are_kept():
    tiny = np.float32(1e-40)
    layer = fusedrnn.LSTM(64, 64, seed=0)
    x = np.full((20, 8, 64), 1e-40, np.float32)
    for n in (1, 2):
        with threads(n):
            y, _, tape = layer.forward(x)
            layer.backward(tape, y)
        assert tiny != 0
        assert np.full(100, tiny).sum() > tiny
        assert np.float64(5e-324) * 3 == np.float64(1.5e-323)
        assert (np.full(64, np.finfo(np.float32).tiny) / np.float32(4) != 0).all()
    seen = []
    worker = threading.Thread(target=lambda: seen.append(float(tiny * np.float32(0.5))))
    worker.start()
    worker.join()
    assert seen[0] > 0


def test_floating_point_errors_stay_inside():
    """Overflows and NaN in a kernel raise no flag that NumPy would report later."""
    layer = fusedrnn.RNN(3, 4, nonlinearity="relu", seed=0)
    x = np.full((5, 2, 3), np.finfo(np.float32).max)
    with np.errstate(all="raise"):
        layer(x)
        layer(np.full_like(x, np.nan))
        assert np.float32(1) + np.float32(1) == 2
        np.ones(3, np.float32) + np.ones(3, np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [1, 2])
def test_probes_measure_a_rate(dtype, threads):
    """Between what no machine is too slow for and what none reaches."""
    assert 1e6 < _core.probe_fma(dtype, 10_000, threads) < 1e14
    assert 1e6 < _core.probe_read(16, 100, threads) < 1e14

"""Streams among threads and processes."""

from __future__ import annotations

import copy
import textwrap
import threading
import time

import pytest

import fusedrnn
from kernel_problems import threads
from scripts import PRELUDE, output
from stream_problems import assert_same_state, inputs

pytestmark = pytest.mark.serial

BUSY = "stream: another thread is in a step"


def large_stream():
    """One whose steps take milliseconds, and give the interpreter's lock up."""
    layer = fusedrnn.LSTM(256, 256, seed=0)
    return layer.stream(64), inputs(layer, 64, steps=1)[0]


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_second_thread_is_turned_away(n_threads):
    stream, x = large_stream()
    done, stop, refused = [0], threading.Event(), []

    def work():
        while not stop.is_set():
            try:
                stream.step(x)
                done[0] += 1
            except RuntimeError as error:
                refused.append(str(error))

    with threads(n_threads):
        worker = threading.Thread(target=work)
        worker.start()
        end = time.monotonic() + 60
        seen: dict[str, str] = {}
        attempts = {
            "step": lambda: stream.step(x),
            "state": lambda: stream.state,
            "set": lambda: setattr(stream, "state", stream.state),
            "copy": lambda: copy.copy(stream),
        }
        own = 0
        while len(seen) < len(attempts) and time.monotonic() < end:
            for name in attempts.keys() - seen.keys():
                try:
                    attempts[name]()
                    own += name == "step"
                except RuntimeError as error:
                    seen[name] = str(error)
        stop.set()
        worker.join()
    assert seen == dict.fromkeys(attempts, BUSY)
    assert set(refused) <= {BUSY}
    again, _ = large_stream()
    for _ in range(done[0] + own):
        again.step(x)
    assert_same_state(stream.state, again.state)


def test_many_threads_with_a_stream_each():
    layer = fusedrnn.LSTM(64, 96, 2, seed=0)
    x = inputs(layer, 2, steps=40)
    want = layer(x)[0]
    errors = []

    def work():
        stream = layer.stream(2)
        for row, y in zip(x, want, strict=True):
            if stream.step(row).tobytes() != y.tobytes():
                errors.append("another result")

    workers = [threading.Thread(target=work) for _ in range(4)]
    with threads(2):
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not errors


def test_steps_while_weights_are_replaced():
    layer = fusedrnn.GRU(64, 64, seed=0)
    versions = [dict(fusedrnn.GRU(64, 64, seed=n).parameters) for n in (1, 2)]
    x = inputs(layer, None, steps=1)[0]
    allowed = set()
    for version in versions:
        layer.load_parameters(version)
        allowed.add(layer(x[None])[0].tobytes())
    stop, seen = threading.Event(), set()

    def work():
        stream = layer.stream()
        while not stop.is_set():
            stream.reset()
            seen.add(stream.step(x).tobytes())

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    end = time.monotonic() + 60
    while time.monotonic() < end and seen != allowed:
        for version in versions:
            layer.load_parameters(version)
            time.sleep(0.01)
    stop.set()
    for worker in workers:
        worker.join()
    assert seen == allowed


def test_fork():
    """Also in the midst of a step: the child has the state before it, and goes on from there."""
    script = PRELUDE + textwrap.dedent("""
        layer = fusedrnn.LSTM(256, 256, seed=0)
        x = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)

        def content(stream):
            return b"".join(part.tobytes() for part in stream.state)

        stream, states = layer.stream(64), []
        for _ in range(120):
            states.append(content(stream))
            stream.step(x)
        following = dict(zip(states, states[1:]))

        def goes_on(stream):
            before = content(stream)
            stream.step(x)
            return content(stream) == following[before]

        stream.reset()
        pid = os.fork()  # while nobody is in a step
        if pid == 0:
            os._exit(7 if goes_on(stream) else 1)
        assert wait(pid) == 7 and goes_on(stream)

        stream.reset()
        worker = threading.Thread(target=lambda: [stream.step(x) for _ in range(100)])
        worker.start()
        forks = 0
        while worker.is_alive() and forks < 8:
            pid = os.fork()
            if pid == 0:
                os._exit(7 if goes_on(stream) else 1)
            assert wait(pid) == 7
            forks += 1
        worker.join()
        print(forks > 0, content(stream) == states[100])
    """)
    assert output(script) == "True True"


def test_exit_with_a_daemon_thread_in_steps():
    script = PRELUDE + textwrap.dedent("""
        stream, x = fusedrnn.LSTM(256, 256, seed=0).stream(64), np.ones((64, 256), np.float32)
        begun = threading.Event()
        def work():
            while True:
                stream.step(x)
                begun.set()
        threading.Thread(target=work, daemon=True).start()
        begun.wait()
        print("end", flush=True)
    """)
    assert output(script) == "end"

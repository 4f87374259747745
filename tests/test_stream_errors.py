"""Streams: bad arguments have clear errors, and the stream goes on as if nothing had been."""

from __future__ import annotations

import re
import textwrap

import numpy as np
import pytest

import fusedrnn
from error_problems import F4, OffersArray, read_only
from scripts import PRELUDE, output
from stream_problems import assert_same_state, inputs
from test_determinism import assert_bits


class OneStream:
    """A stream of 3 inputs, 4 units and 2 sequences that must go on as if nothing had been."""

    def __init__(self) -> None:
        self.layer = fusedrnn.LSTM(3, 4, seed=0)
        self.stream = self.layer.stream(2)
        self.x = inputs(self.layer, 2)[0]
        self.stream.step(self.x)
        self.state = self.stream.state

    def rejects(self, error, message, call) -> None:
        with pytest.raises(error) as caught:
            call(self.stream)
        assert type(caught.value) is error
        assert str(caught.value) == message
        assert_same_state(self.stream.state, self.state)
        want = self.layer(self.x[None], self.state)[0][0]
        assert_bits(self.stream.step(self.x), want)
        self.stream.state = self.state


def test_x_is_checked():
    one = OneStream()
    for shape, got in (
        ((), "()"), ((3,), "(3,)"), ((2,), "(2,)"), ((2, 4), "(2, 4)"), ((3, 3), "(3, 3)"),
        ((0, 3), "(0, 3)"), ((1, 2, 3), "(1, 2, 3)"),
    ):  # fmt: skip
        message = f"x: expected (2, 3) [B, I], got {got}"
        one.rejects(ValueError, message, lambda s, shape=shape: s.step(np.ones(shape, F4)))
    single = fusedrnn.GRU(3, 4).stream()
    for shape in ((4,), (1, 3), (3, 1)):
        message = re.escape(f"x: expected (3,) [I], got {shape}")
        with pytest.raises(ValueError, match=f"^{message}$"):
            single.step(np.ones(shape, F4))
    for x, got in (
        (np.ones((2, 3)), "float64"),
        (np.ones((2, 3), ">f4"), ">f4"),
        (np.ones((2, 3), np.int32), "int32"),
        ([[1.0] * 3] * 2, "list"),
        (None, "NoneType"),
        (1.0, "float"),
        (OffersArray(np.ones((2, 3))), "float64"),
    ):
        message = f"x: expected an array of float32, got {got}"
        one.rejects(TypeError, message, lambda s, x=x: s.step(x))


def test_out_is_checked():
    one, x = OneStream(), np.ones((2, 3), F4)
    for out, error, message in (
        (np.ones((2, 3), F4), ValueError, "out: expected (2, 4) [B, H], got (2, 3)"),
        (np.ones((1, 2, 4), F4), ValueError, "out: expected (2, 4) [B, H], got (1, 2, 4)"),
        (np.ones((2, 4)), TypeError, "out: expected an array of float32, got float64"),
        ([1.0], TypeError, "out: expected an array of float32, got list"),
        (
            read_only(np.ones((2, 4), F4)), ValueError,
            "out: expected a writable array, got a read-only one",
        ),
    ):  # fmt: skip
        one.rejects(error, message, lambda s, out=out: s.step(x, out))
    both = np.ones(14, F4)
    share = "out: must not share memory with x"
    for a, b in (
        (both[:6].reshape(2, 3), both[5:13].reshape(2, 4)),
        (both[6:12].reshape(2, 3), both[:8].reshape(2, 4)),
        (both[:12:2].reshape(2, 3), both[:8].reshape(2, 4)),
    ):
        one.rejects(ValueError, share, lambda s, a=a, b=b: s.step(a, b))
    stream, z = fusedrnn.RNN(3, 3).stream(), np.ones(3, F4)
    with pytest.raises(ValueError, match=share):
        stream.step(z, out=z)
    assert (z == 1).all()


def test_a_state_is_checked():
    one, good = OneStream(), np.ones((1, 2, 4), F4)
    for state, error, message in (
        (good, TypeError, "state: expected a tuple (h, c), got ndarray"),
        ((good,), ValueError, "state: expected a tuple (h, c), got 1 items"),
        ((good,) * 3, ValueError, "state: expected a tuple (h, c), got 3 items"),
        (
            (good, good[0]), ValueError,
            "state[1]: expected (1, 2, 4) [L, B, H], got (2, 4)",
        ),
        (
            (good[:, :1], good), ValueError,
            "state[0]: expected (1, 2, 4) [L, B, H], got (1, 1, 4)",
        ),
        (
            (good, good.astype("f8")), TypeError,
            "state[1]: expected an array of float32, got float64",
        ),
        ((good, None), TypeError, "state[1]: expected an array of float32, got NoneType"),
    ):  # fmt: skip
        one.rejects(error, message, lambda s, state=state: setattr(s, "state", state))
    single = fusedrnn.GRU(3, 4, 2).stream()
    for state, error, message in (
        (np.ones(4, F4), ValueError, "state: expected (2, 4) [L, H], got (4,)"),
        ((good, good), TypeError, "state: expected an array of float32, got tuple"),
    ):
        with pytest.raises(error) as caught:
            single.state = state
        assert str(caught.value) == message


def test_streams_that_can_not_be():
    layer = fusedrnn.GRU(3, 4, 2)
    both = fusedrnn.GRU(3, 4, bidirectional=True)
    for make, error, message in (
        (
            lambda: both.stream(), ValueError,
            "stream: expected a layer of one direction, got a bidirectional one (its reverse "
            "direction begins with the last step)",
        ),
        (lambda: layer.stream(0), ValueError, "batch_size: expected at least 1, got 0"),
        (lambda: layer.stream(-1), ValueError, "batch_size: expected at least 1, got -1"),
        (lambda: layer.stream(2.0), TypeError, "batch_size: expected an integer, got float"),
        (lambda: layer.stream(True), TypeError, "batch_size: expected an integer, got bool"),
        (lambda: layer.stream("2"), TypeError, "batch_size: expected an integer, got str"),
        (
            lambda: fusedrnn.Stream(3), TypeError,
            "layer: expected an LSTM, GRU or RNN, got int",
        ),
        (
            lambda: fusedrnn.Stream(fusedrnn.GRU), TypeError,
            "layer: expected an LSTM, GRU or RNN, got type",
        ),
        (
            lambda: layer.stream(2**40), MemoryError,
            f"batch_size={2**40}: {2 * 2**40 * 5 * 4} elements don't fit in memory",
        ),
        (
            lambda: layer.stream(2**80), MemoryError,
            f"batch_size={2**80}: {2 * 2**80 * 5 * 4} elements don't fit in memory",
        ),
    ):  # fmt: skip
        with pytest.raises(error) as caught:
            make()
        assert type(caught.value) is error
        assert str(caught.value) == message


@pytest.mark.parametrize("name", ["layer", "batch_size"])
def test_what_a_stream_is_can_not_be_changed(name):
    stream = fusedrnn.GRU(3, 4).stream()
    with pytest.raises(AttributeError):
        setattr(stream, name, None)


def test_memory_that_runs_out_is_a_memory_error():
    """A limit that grows in small steps: each allocation fails once, then works."""
    script = PRELUDE + textwrap.dedent("""
        import resource
        layer = fusedrnn.GRU(64, 64, 2, seed=0)
        x = np.ones((2000, 64), np.float32)

        def limit(bytes):
            resource.setrlimit(resource.RLIMIT_AS, (bytes, resource.RLIM_INFINITY))

        def used():  # anew each time: between two calls other threads take address space too
            return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

        def failures(call):
            messages = set()
            for extra in range(0, 64 << 20, 128 << 10):
                limit(used() + extra)
                try:
                    return messages, call()
                except MemoryError as error:
                    messages.add(str(error))
                finally:
                    limit(resource.RLIM_INFINITY)

        made, stream = failures(lambda: layer.stream(2000))
        stepped, y = failures(lambda: stream.step(x))
        read, h = failures(lambda: stream.state)
        assert (y == layer(x[None])[0][0]).all() and (h[-1] == y).all()
        for messages in made, stepped, read:
            print(*messages, sep="|")
    """)
    made, stepped, read = output(script, MALLOC_MMAP_THRESHOLD_="16384").splitlines()
    assert made == "stream: not enough memory for B = 2000"
    unable = "Unable to allocate {} for an array with shape {} and data type float32"
    assert stepped == "y: " + unable.format("500. KiB", "(2000, 64)")
    assert read == "state: " + unable.format("1000. KiB", "(2, 2000, 64)")

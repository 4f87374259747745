"""Streams: the bits of the layer one step at a time, and everything around a step."""

from __future__ import annotations

import copy
import itertools
import pickle
import re
import textwrap
import threading
import time

import numpy as np
import pytest

import fusedrnn
from error_problems import F4, OffersArray, read_only
from fusedrnn import _core
from kernel_problems import threads
from layer_problems import LAYERS, as_tuple, assert_equal, normal
from scripts import PRELUDE, output
from test_determinism import assert_bits
from test_unusual_arrays import UNUSUAL

BUSY = "stream: another thread is in a step"
CELLS = {
    "lstm": fusedrnn.LSTM,
    "gru": fusedrnn.GRU,
    "rnn_tanh": fusedrnn.RNN,
    "rnn_relu": lambda *args, **options: fusedrnn.RNN(*args, nonlinearity="relu", **options),
}


def inputs(layer, batch_size, steps=6, seed=0) -> np.ndarray:
    """Steps of a stream: (T, I) or (T, B, I), which is a sequence for the layer as well."""
    batch = () if batch_size is None else (batch_size,)
    return normal(steps, *batch, layer.input_size, seed=seed, dtype=layer.dtype)


def some_state(layer, batch_size, seed=1):
    batch = () if batch_size is None else (batch_size,)
    shape = (layer.num_layers, *batch, layer.hidden_size)
    parts = [normal(*shape, seed=seed + n, dtype=layer.dtype) for n in range(2)]
    return tuple(parts) if isinstance(layer, fusedrnn.LSTM) else parts[0]


def assert_same_state(got, want) -> None:
    assert type(got) is type(want)
    for a, b in zip(as_tuple(got), as_tuple(want), strict=True):
        assert_bits(a, b)


# The same bits as calls of the layer


def check_steps(layer, batch_size) -> None:
    x = inputs(layer, batch_size)
    for state in (None, some_state(layer, batch_size)):
        stream = layer.stream(batch_size)
        stream.state = state
        y_all, last_all = layer(x, state)  # many steps in one call
        for t, row in enumerate(x):
            y, state = layer(row[None], state)
            got = stream.step(row)
            assert_bits(got, y[0])
            assert_bits(got, y_all[t])
            assert_same_state(stream.state, state)
        assert_same_state(stream.state, last_all)


@pytest.mark.parametrize("batch_size", [None, 1, 3])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_step_is_a_call_with_one_time_step(cell, dtype, num_layers, batch_size):
    for i, h in ((1, 1), (3, 5), (17, 33)):
        check_steps(CELLS[cell](i, h, num_layers, dtype=dtype, seed=0), batch_size)


def check_every_cell() -> None:
    for make, layers, batch in itertools.product(CELLS.values(), (1, 2), (None, 3)):
        for bias, dtype in ((True, "float32"), (False, "float64")):
            check_steps(make(9, 21, layers, bias=bias, dtype=dtype, seed=0), batch)


@pytest.mark.parametrize("isa", fusedrnn.info()["isa_available"])
def test_every_isa(isa):
    script = f"""
        import fusedrnn
        from test_stream import check_every_cell
        assert fusedrnn.info()["isa"] == "{isa}"
        check_every_cell()
        print("done")
    """
    assert output(script, FUSEDRNN_ISA=isa) == "done"


@pytest.mark.parametrize(("units", "batch_size"), [(300, None), (64, 33)], ids=["units", "rows"])
@pytest.mark.parametrize("make", LAYERS)
def test_every_number_of_threads(make, units, batch_size):
    """The number is set between steps; both problems are large enough to be divided."""
    layer = make(units, units, 2, seed=0)
    x = inputs(layer, batch_size, steps=8)
    with threads(1):
        stream = layer.stream(batch_size)
        want = [stream.step(row) for row in x]
        last = stream.state
    with threads(2):
        stream = layer.stream(batch_size)
    got = []
    for n, row in zip((2, 3, 1, 4, 4, 1, 2, 3), x, strict=True):
        with threads(n):
            got.append(stream.step(row))
    for a, b in zip(got, want, strict=True):
        assert_bits(a, b)
    assert_same_state(stream.state, last)


def test_dropout_and_batch_first_do_not_matter():
    layer = fusedrnn.GRU(3, 4, 2, dropout=0.9, batch_first=True, seed=0)
    plain = fusedrnn.GRU(3, 4, 2, seed=0)
    x = inputs(plain, 2)
    ours, theirs = layer.stream(2), plain.stream(2)
    for row in x:
        assert_bits(ours.step(row), theirs.step(row))


def test_denormals_are_flushed_as_in_a_call():
    layer = fusedrnn.RNN(1, 3, bias=False, dtype="float32", seed=0)
    with layer.edit_parameters() as p:
        p["weight_hh_l0"][:] = np.eye(3) / 2
    stream, state = layer.stream(), np.full((1, 3), 1e-37, F4)
    stream.state = state
    x = np.zeros(1, F4)
    for _ in range(6):
        y, state = layer(x[None], state)
        assert_bits(stream.step(x), y[0])
    assert not state.any()
    assert F4(1e-38) / F4(4) > 0  # and the caller's are not


def test_streams_of_a_layer_are_independent():
    layer = fusedrnn.LSTM(3, 4, seed=0)
    x = inputs(layer, None)
    alone = layer.stream()
    want = [alone.step(row) for row in x]
    streams = [layer.stream() for _ in range(3)]
    for t, row in enumerate(x):
        for stream in streams:
            assert_bits(stream.step(row), want[t])


# Weights


def test_new_weights_act_from_the_next_step_on():
    layer = fusedrnn.LSTM(3, 4, 2, seed=0)
    stream, state = layer.stream(2), None
    changes = [
        lambda: layer.load_parameters(fusedrnn.LSTM(3, 4, 2, seed=1).parameters),
        lambda: layer.parameters.update(bias_ih_l1=np.ones(16, F4)),
        lambda: layer.parameters.__setitem__("weight_ih_l0", np.ones((16, 3), F4)),
        lambda: None,
    ]
    for n, row in enumerate(inputs(layer, 2, steps=8)):
        y, state = layer(row[None], state)
        assert_bits(stream.step(row), y[0])
        before = y
        changes[n % 4]()
        if n % 4 < 3:
            assert (layer(row[None], state)[0] != before).any()


def test_a_stream_keeps_its_layer_and_old_weights_go():
    stream = fusedrnn.GRU(3, 4, seed=0).stream()
    x = np.ones(3, F4)
    first = stream.step(x)
    for seed in range(20):
        stream.layer.load_parameters(fusedrnn.GRU(3, 4, seed=seed).parameters)
        stream.reset()
        y = stream.step(x)
        np.testing.assert_array_equal(y, fusedrnn.GRU(3, 4, seed=seed)(x[None])[0][0])
    assert (first != y).any()


def test_weights_of_another_network_are_refused():
    """Not to be reached but by the module's own functions."""
    core = fusedrnn.GRU(3, 4, seed=0).stream()._stream
    x = np.ones(3, F4)
    for other in (
        fusedrnn.GRU(3, 5), fusedrnn.GRU(3, 4, 2), fusedrnn.LSTM(3, 4), fusedrnn.RNN(3, 4),
        fusedrnn.GRU(3, 4, dtype="float64"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"weights: expected a version of those"):
            core.step(other._weights.packed, x, None)
    with pytest.raises(RuntimeError, match="Unable to cast"):
        core.step(3, x, None)
    for call in (lambda: core.step(None, x, None), lambda: _core.Stream(None, 2)):
        with pytest.raises(TypeError, match="incompatible"):
            call()
    with pytest.raises(RuntimeError, match="Unable to cast"):
        _core.Stream.__new__(_core.Stream).step(fusedrnn.GRU(3, 4)._weights.packed, x, None)


# State


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_state_is_copied_in_and_out(make, batch_size):
    layer = make(3, 4, 2, seed=0)
    stream, state = layer.stream(batch_size), some_state(layer, batch_size)
    zeros = copy.deepcopy(state)
    for part in as_tuple(zeros):
        part[:] = 0
    assert_same_state(stream.state, zeros)
    kept = copy.deepcopy(state)
    stream.state = state
    for part in as_tuple(state):
        part[:] = np.nan
    for part in as_tuple(stream.state):
        assert part.flags.writeable
        part[:] = np.nan
    assert_same_state(stream.state, kept)
    x = inputs(layer, batch_size)[0]
    y = stream.step(x)
    assert_bits(y, layer(x[None], kept)[0][0])
    stream.state = list(kept) if isinstance(kept, tuple) else kept
    assert_bits(stream.step(x), y)
    for clear in (stream.reset, lambda: setattr(stream, "state", None)):
        stream.state = kept
        clear()
        assert_same_state(stream.state, zeros)
        assert_bits(stream.step(x), layer(x[None])[0][0])


def test_a_state_goes_from_a_sequence_to_a_stream_and_back():
    layer = fusedrnn.LSTM(3, 4, 2, seed=0)
    x = inputs(layer, 2, steps=9)
    y, last = layer(x)
    stream = layer.stream(2)
    stream.state = layer(x[:4])[1]
    assert_bits(stream.step(x[4]), y[4])
    rest, state = layer(x[5:], stream.state)
    assert_bits(rest, y[5:])
    assert_same_state(state, last)


def test_nan_stays_in_its_row():
    layer = fusedrnn.LSTM(3, 4, seed=0)
    clean, stream = layer.stream(3), layer.stream(3)
    for n, row in enumerate(inputs(layer, 3)):
        dirty = row.copy()
        dirty[1] = np.nan if n == 2 else row[1]
        y, want = stream.step(dirty), clean.step(row)
        assert_bits(y[[0, 2]], want[[0, 2]])
        assert np.isnan(y[1]).all() == (n >= 2)


# Arrays


@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_arrays(kind):
    make = UNUSUAL[kind]
    layer = fusedrnn.LSTM(3, 4, seed=0)
    stream, state = layer.stream(2), some_state(layer, 2)
    stream.state = tuple(make(part) for part in state)
    for row in inputs(layer, 2, steps=3):
        y, state = layer(row[None], state)
        got = stream.step(make(row))
        assert type(got) is np.ndarray
        assert_bits(got, y[0])
    assert_same_state(stream.state, state)


def test_x_is_not_written_and_y_is_the_callers():
    layer = fusedrnn.LSTM(4, 4, seed=0)
    stream, x = layer.stream(), normal(4)
    kept = x.copy()
    y = stream.step(read_only(x))
    assert_bits(x, kept)
    assert y.flags.writeable
    assert y.flags.c_contiguous
    assert y.flags.owndata
    value, state = y.copy(), stream.state
    for _ in range(3):
        stream.step(y)  # its own y as x
    assert_bits(y, value)
    y[:] = np.nan
    stream.state = state
    assert np.isfinite(stream.step(x)).all()


@pytest.mark.parametrize("batch_size", [None, 2])
def test_out(batch_size):
    layer = fusedrnn.GRU(3, 4, 2, seed=0)
    ours, theirs = layer.stream(batch_size), layer.stream(batch_size)
    shape = (4,) if batch_size is None else (batch_size, 4)
    wide = np.zeros((*shape, 3), F4)
    for row, out in zip(
        inputs(layer, batch_size),
        (
            np.zeros(shape, F4),
            wide[..., 1],
            wide[::-1, ..., 2],
            np.zeros(shape, F4, order="F"),
            np.frombuffer(bytearray(33), F4, np.prod(shape), offset=1).reshape(shape),
            np.ma.masked_array(np.zeros(shape, F4), mask=True, hard_mask=True),
        ),
        strict=True,
    ):
        y = ours.step(row, out=out)
        assert y is out
        assert_bits(np.asarray(out), theirs.step(row))
    assert not wide[..., 0].any()


def test_out_beside_x_in_one_array():
    layer = fusedrnn.GRU(3, 4, seed=0)
    both, x = np.zeros(7, F4), np.ones(3, F4)
    both[:3] = x
    want = layer.stream().step(x)
    assert_bits(layer.stream().step(both[:3], both[3:]), want)
    assert_bits(both[:3], x)
    mixed = np.zeros(8, F4)
    mixed[1:7:2] = x
    assert_bits(layer.stream().step(mixed[1:7:2], mixed[::2]), want)


# Errors


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

        def failures(call):
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            messages = set()
            for extra in range(0, 64 << 20, 128 << 10):
                limit(used + extra)
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


# Threads and processes


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


# Copies

COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {n}": (lambda o, n=n: pickle.loads(pickle.dumps(o, n))) for n in range(2, 6)},
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("make", LAYERS)
def test_a_copy_goes_on_by_itself(make, how):
    layer = make(3, 4, 2, seed=0)
    stream, x = layer.stream(2), inputs(layer, 2)
    stream.note = ["mine"]
    stream.step(x[0])
    twin = COPIES[how](stream)
    assert type(twin) is fusedrnn.Stream
    assert twin.batch_size == 2
    assert twin.note == ["mine"]
    assert (twin.layer is layer) == (how == "copy")
    assert_same_state(twin.state, stream.state)
    want = [stream.step(row) for row in x[1:]]
    assert_equal([twin.step(row) for row in x[1:]], want)
    # The copy of a copied layer has its own weights; the shallow one shares them.
    twin.layer.parameters["weight_ih_l0"] = np.zeros_like(layer.parameters["weight_ih_l0"])
    twin.state = stream.state
    assert (twin.step(x[0]) == stream.step(x[0])).all() == (how == "copy")


def test_a_layer_and_its_stream_are_copied_together():
    layer = fusedrnn.GRU(3, 4, seed=0)
    other, stream = copy.deepcopy((layer, layer.stream()))
    assert stream.layer is other


class Counted(fusedrnn.Stream):
    def __init__(self, layer):
        super().__init__(layer)
        self.steps = 0

    def step(self, x, out=None):
        self.steps += 1
        return super().step(x, out)


def test_subclasses_are_copied():
    stream = Counted(fusedrnn.GRU(3, 4, seed=0))
    stream.step(np.ones(3, F4))
    twin = pickle.loads(pickle.dumps(stream))
    assert type(twin) is Counted
    assert twin.steps == 1
    assert_same_state(twin.state, stream.state)


def test_repr():
    layer = fusedrnn.LSTM(3, 4, 2)
    assert repr(layer.stream()) == "LSTM(3, 4, num_layers=2).stream()"
    assert repr(layer.stream(5)) == "LSTM(3, 4, num_layers=2).stream(batch_size=5)"
    assert eval(repr(layer.stream(5)), vars(fusedrnn)).batch_size == 5

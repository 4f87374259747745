"""Streams: the bits of the layer one step at a time, weights, states, arrays, copies."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest

import fusedrnn
from error_problems import F4, read_only
from fusedrnn import _core
from kernel_problems import threads
from layer_problems import LAYERS, as_tuple, assert_equal, normal
from scripts import output
from stream_problems import assert_same_state, inputs, some_state
from test_determinism import assert_bits
from test_unusual_arrays import UNUSUAL

pytestmark = pytest.mark.isa

CELLS = {
    "lstm": fusedrnn.LSTM,
    "gru": fusedrnn.GRU,
    "rnn_tanh": fusedrnn.RNN,
    "rnn_relu": lambda *args, **options: fusedrnn.RNN(*args, nonlinearity="relu", **options),
}


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
            np.zeros((*shape, 2), F4)[..., 1],
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

"""Layers: names, shapes, initial values, calls, copies."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fusedrnn
from fusedrnn import reference
from layer_problems import F4, GATES, LAYERS, arrays, as_tuple, assert_equal, normal, ones

# Names, shapes, initial values


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_names_shapes_and_order_are_torchs(make, bidirectional, bias):
    layer = make(3, 4, 3, bias=bias, bidirectional=bidirectional)
    rows, width = GATES[make] * 4, 8 if bidirectional else 4
    expected = {}
    for k in range(3):
        for direction in ("", "_reverse")[: 1 + bidirectional]:
            expected[f"weight_ih_l{k}{direction}"] = (rows, 3 if k == 0 else width)
            expected[f"weight_hh_l{k}{direction}"] = (rows, 4)
            if bias:
                expected[f"bias_ih_l{k}{direction}"] = expected[f"bias_hh_l{k}{direction}"] = (
                    rows,
                )
    assert {name: p.shape for name, p in layer.parameters.items()} == expected
    assert list(layer.parameters) == list(expected)
    assert len(layer.parameters) == len(expected)
    count, elements = layer._network.counts()
    assert (count, elements) == (len(expected), sum(p.size for p in layer.parameters.values()))


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_initial_values_are_uniform(make, dtype):
    layer = make(20, 64, 2, dtype=dtype, seed=0)
    bound = 1 / np.sqrt(64)
    for name, p in layer.parameters.items():
        assert p.dtype == layer.dtype == np.dtype(dtype)
        # Rounding to float32 can end half a unit beyond the bound.
        assert np.abs(p).max() <= bound * (1 + np.finfo(dtype).eps), name
        # n draws come within 2 / n of the bound but for e**-2 or so, and in a mean of n draws the
        # standard deviation is bound / sqrt(3 n): 6 of them are beyond chance.
        assert np.abs(p).max() > bound * (1 - 20 / p.size), name
        assert abs(p.mean()) < 6 * bound / np.sqrt(3 * p.size), name
        assert abs((p**2).mean() / (bound**2 / 3) - 1) < 6 / np.sqrt(p.size), name


@pytest.mark.parametrize("make", LAYERS)
def test_a_seed_reproduces_everything(make):
    x = normal(6, 2, 3)

    def run(seed):
        layer = make(3, 4, 2, dropout=0.5, seed=seed)
        return [*layer.parameters.values(), layer.forward(x)[0], layer.forward(x)[0]]

    for seed in (0, np.uint64(2**64 - 1)):
        assert_equal(run(seed), run(seed))
    assert all((a != b).any() for a, b in zip(run(0), run(1), strict=True))
    assert all((a != b).any() for a, b in zip(run(None), run(None), strict=True))


def test_a_seed_draws_the_same_values_in_both_dtypes():
    single, double = (fusedrnn.GRU(3, 4, dtype=d, seed=5).parameters for d in ("f4", "f8"))
    assert_equal(single.values(), [p.astype(F4) for p in double.values()])


def test_each_parameter_is_drawn_for_itself():
    drawn = [p.ravel()[:4].tobytes() for p in fusedrnn.LSTM(3, 4, 2, seed=0).parameters.values()]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(
    ("make", "gates"), [(fusedrnn.LSTM, "ifgo"), (fusedrnn.GRU, "rzn"), (fusedrnn.RNN, "h")]
)
def test_gate_order(make, gates):
    """A bias of one gate alone, where nothing else is, gives what that gate is known to do."""

    def last(**bias: float) -> np.ndarray:
        layer = make(1, 1, dtype="float64", seed=0)
        with layer.edit_parameters() as p:
            for array in p.values():
                array[:] = 0
            for gate, value in bias.items():
                p["bias_ih_l0"][gates.index(gate)] = value
        h0 = np.full((1, 1), 0.5)
        _, state = layer(np.zeros((1, 1)), (h0, h0) if make is fusedrnn.LSTM else h0)
        return np.ravel(state)

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    s, one, two = 0.5, 1.0, 2.0
    if make is fusedrnn.LSTM:  # c' = f c + i g, h' = o tanh(c')
        for bias, c, o in [
            ({"g": one}, s * 0.5 + s * np.tanh(one), s),
            ({"g": one, "i": two}, s * 0.5 + sigmoid(two) * np.tanh(one), s),
            ({"f": two}, sigmoid(two) * 0.5, s),
            ({"o": two}, s * 0.5, sigmoid(two)),
        ]:
            np.testing.assert_allclose(last(**bias), [o * np.tanh(c), c], rtol=1e-14)
    elif make is fusedrnn.GRU:  # h' = (1 - z) n + z h
        np.testing.assert_allclose(last(z=two), [sigmoid(two) * 0.5], rtol=1e-14)
        np.testing.assert_allclose(last(n=one), [s * np.tanh(one) + s * 0.5], rtol=1e-14)
        np.testing.assert_allclose(last(r=two), [s * 0.5], rtol=1e-14)
    else:
        np.testing.assert_allclose(last(h=one), [np.tanh(one)], rtol=1e-14)


def test_biases_of_a_layer_without_them_count_as_zero():
    bare = fusedrnn.GRU(3, 4, bias=False, seed=0)
    full = fusedrnn.GRU(3, 4, seed=0)
    zeros = {name: np.zeros(12, F4) for name in ("bias_ih_l0", "bias_hh_l0")}
    full.load_parameters({**bare.parameters, **zeros})
    x = normal(5, 2, 3)
    assert_equal(bare(x), full(x))
    (y, _, tape), (_, _, other) = bare.forward(x), full.forward(x)
    gradients = bare.backward(tape, y), full.backward(other, y)
    for name in bare.parameters:
        np.testing.assert_array_equal(*(g.parameters[name] for g in gradients))


# Calls


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_given_zeros_are_what_no_state_means(make, dtype):
    layer, x = make(3, 4, 2, bidirectional=True, dtype=dtype, seed=0), normal(5, 2, 3, dtype=dtype)
    zeros = np.zeros((4, 2, 4), dtype)
    state = (zeros, zeros) if make is fusedrnn.LSTM else zeros
    (y, last), (y2, last2) = layer(x), layer(x, state)
    assert_equal((y, *as_tuple(last)), (y2, *as_tuple(last2)))
    (_, _, tape), (_, _, tape2) = layer.forward(x), layer.forward(x, state)
    assert_equal(arrays(layer.backward(tape, y)), arrays(layer.backward(tape2, y)))


@pytest.mark.parametrize("make", LAYERS)
def test_a_sequence_in_two_parts(make):
    layer, x = make(3, 4, 2, seed=0), normal(9, 2, 3)
    y, last = layer(x)
    first, state = layer(x[:4])
    second, state = layer(x[4:], state)
    assert_equal((np.concatenate([first, second]), *as_tuple(state)), (y, *as_tuple(last)))


@pytest.mark.parametrize("make", LAYERS)
def test_training_without_dropout_computes_what_inference_does(make):
    layer, x = make(3, 4, 2, bidirectional=True, seed=0), normal(9, 2, 3)
    (y, last), (y2, last2, tape) = layer(x), layer.forward(x)
    assert_equal((y, *as_tuple(last)), (y2, *as_tuple(last2)))
    assert not tape.spent


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("layout", ["batch first", "one sequence"])
def test_layouts(make, layout):
    plain = make(3, 4, 2, bidirectional=True, seed=0)
    other = make(3, 4, 2, bidirectional=True, seed=0, batch_first=layout == "batch first")
    x, dy, h = normal(5, 2, 3), normal(5, 2, 8, seed=1), normal(4, 2, 4, seed=2)
    if layout == "one sequence":
        x, dy, h = x[:, :1], dy[:, :1], h[:, :1]

    def turn(a):
        return np.swapaxes(a, 0, 1) if layout == "batch first" else a[:, 0]

    def states(s):
        return s if layout == "batch first" else s[:, 0]

    lstm = make is fusedrnn.LSTM
    y, last, tape = plain.forward(x, (h, h) if lstm else h)
    given = (states(h), states(h)) if lstm else states(h)
    y2, last2, tape2 = other.forward(turn(x), given)
    assert_equal((y2, *as_tuple(last2)), (turn(y), *map(states, as_tuple(last))))
    assert_equal([other(turn(x), given)[0]], [y2])
    g, g2 = plain.backward(tape, dy), other.backward(tape2, turn(dy))
    assert_equal(arrays(g2), [turn(g.x), *map(states, as_tuple(g.state)), *g.parameters.values()])


def test_batch_first_and_dropout_may_be_set():
    layer, x = fusedrnn.GRU(3, 4, 2, seed=0), normal(5, 2, 3)
    y, _ = layer(x)
    layer.batch_first = True
    assert_equal([layer(np.swapaxes(x, 0, 1))[0]], [np.swapaxes(y, 0, 1)])
    layer.batch_first, layer.dropout = False, 1
    bias_only = layer(x * 0)[0]
    assert (layer.forward(x)[0] != y).any()
    assert layer.forward(x)[0].shape == bias_only.shape


def test_dropout_is_the_references():
    layer, x = fusedrnn.LSTM(3, 4, 3, dropout=0.4, dtype="f8", seed=7), normal(6, 2, 3, dtype="f8")
    parameters = dict(layer.parameters)
    for call in range(3):
        y, _, tape = layer.forward(x)
        key = (layer._dropout_seed, call)
        want, _, tape2 = reference.forward("lstm", x, parameters, dropout=0.4, dropout_key=key)
        np.testing.assert_allclose(y, want, rtol=1e-12)
        got, other = layer.backward(tape, y), reference.backward(tape2, want)
        np.testing.assert_allclose(got.x, other.x, rtol=1e-9, atol=1e-15)
        layer(x)  # inference does not count


def test_results_belong_to_the_caller():
    layer, x = fusedrnn.LSTM(3, 4, seed=0), normal(5, 2, 3)
    y, (h, c) = layer(x)
    for a in (y, h, c):
        assert a.flags.writeable
        assert a.flags.c_contiguous
        a[:] = np.nan
    again = layer(x)
    assert np.isfinite(again[0]).all()
    gradients = layer.backward(layer.forward(x)[2], ones(5, 2, 4))
    assert all(a.flags.writeable for a in arrays(gradients))


def test_a_trained_y_can_not_be_written():
    for batch_first in (False, True):
        layer = fusedrnn.LSTM(3, 4, seed=0, batch_first=batch_first)
        y, (h, c), _ = layer.forward(normal(5, 2, 3))
        with pytest.raises(ValueError, match="read-only"):
            y += 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            y.setflags(write=True)
        assert h.flags.writeable
        assert c.flags.writeable


@pytest.mark.parametrize("make", LAYERS)
def test_missing_gradients_are_zero(make):
    layer, x = make(3, 4, 2, bidirectional=True, seed=0), normal(5, 2, 3)
    dy, part = normal(5, 2, 8, seed=1), normal(4, 2, 4, seed=2)
    zero, no_dy = np.zeros_like(part), np.zeros_like(dy)
    lstm = make is fusedrnn.LSTM

    def gradients(dy, dstate=None):
        return arrays(layer.backward(layer.forward(x)[2], dy, dstate))

    zeros = (zero, zero) if lstm else zero
    assert_equal(gradients(dy), gradients(dy, zeros))
    given = (part, part) if lstm else part
    assert_equal(gradients(None, given), gradients(no_dy, given))
    assert not any(a.any() for a in gradients(None))
    if lstm:
        assert_equal(gradients(dy, (part, None)), gradients(dy, (part, zero)))
        assert_equal(gradients(dy, (None, part)), gradients(dy, (zero, part)))
        assert_equal(gradients(None, [None, None]), gradients(no_dy))


# Copies


def full_layer(**options):
    return fusedrnn.RNN(
        3, 4, 2, nonlinearity="relu", batch_first=True, dropout=0.5, bidirectional=True, **options
    )


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {n}": (lambda o, n=n: pickle.loads(pickle.dumps(o, n))) for n in range(2, 6)},
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_goes_on_like_the_original(how):
    layer, x = full_layer(seed=3), normal(2, 5, 3)
    layer.forward(x)  # the dropout of the next call is not that of the first
    twin = COPIES[how](layer)
    assert type(twin) is fusedrnn.RNN
    assert repr(twin) == repr(layer)
    assert twin.nonlinearity == "relu"
    assert_equal(twin.parameters.values(), layer.parameters.values())
    assert_equal(twin(x), layer(x))
    for _ in range(2):
        (y, h, tape), (y2, h2, tape2) = layer.forward(x), twin.forward(x)
        assert_equal((y, h), (y2, h2))
        assert_equal(arrays(layer.backward(tape, y)), arrays(twin.backward(tape2, y2)))


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_independent(how):
    layer, x = full_layer(seed=3), normal(2, 5, 3)
    y, _, tape = layer.forward(x)
    twin = COPIES[how](layer)
    before = layer(x)
    with twin.edit_parameters() as p:
        p["weight_ih_l0"][:] = 0
    twin.dropout = 0.0
    assert_equal(layer(x), before)
    assert layer.dropout == 0.5
    with pytest.raises(ValueError, match="got another layer's"):
        twin.backward(tape, y)
    layer.backward(tape, y)


def test_subclasses_and_their_attributes_are_copied():
    twin = copy.deepcopy(Named(3, 4, seed=0))
    assert (type(twin), twin.name) == (Named, "encoder")


class Named(fusedrnn.GRU):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.name = "encoder"


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (fusedrnn.LSTM(3, 4), "LSTM(3, 4)"),
        (
            fusedrnn.GRU(3, 4, 2, bias=False, dropout=0.25),
            "GRU(3, 4, num_layers=2, bias=False, dropout=0.25)",
        ),
        (
            fusedrnn.RNN(1, 2, batch_first=True, bidirectional=True, dtype="f8"),
            "RNN(1, 2, batch_first=True, bidirectional=True, dtype='float64')",
        ),
        (fusedrnn.RNN(1, 2, nonlinearity="relu"), "RNN(1, 2, nonlinearity='relu')"),
        (Named(3, 4), "Named(3, 4)"),
    ],
)
def test_repr_is_the_constructor(layer, text):
    assert repr(layer) == text
    assert repr(eval(text, {**vars(fusedrnn), "Named": Named})) == text

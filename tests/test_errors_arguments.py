"""Every bad parameter, size, flag and number has its exception and message, and does no harm."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import fusedrnn
from error_problems import F4, World, rejects
from fusedrnn import functional

CELLS = "lstm, gru, rnn_tanh, rnn_relu"


# Parameters


def test_parameters_of_a_layer_are_checked():
    with rejects(ValueError, "weight_ih_l0: expected (16, 3) [4*H, I], got (16, 4)") as w:
        w.load("weight_ih_l0", np.ones((16, 4), F4))
    with rejects(ValueError, "weight_ih_l0: expected (16, 3) [4*H, I], got (3, 16)") as w:
        w.load("weight_ih_l0", w.parameters["weight_ih_l0"].T)
    with rejects(ValueError, "weight_hh_l0: expected (16, 4) [4*H, H], got (16, 5)") as w:
        w.load("weight_hh_l0", np.ones((16, 5), F4))
    with rejects(ValueError, "bias_hh_l0: expected (16,) [4*H], got (4, 4)") as w:
        w.load("bias_hh_l0", np.ones((4, 4), F4))
    with rejects(ValueError, "bias_hh_l0: expected (16,) [4*H], got (1152921504606846976,)") as w:
        w.load("bias_hh_l0", np.broadcast_to(F4(0), (2**60,)))
    with rejects(ValueError, "weight_ih_l0: expected (12, 3) [3*H, I], got (16, 3)") as w:
        w.gru.load_parameters(w.parameters)
    with rejects(ValueError, "weight_ih_l0: expected (4, 3) [H, I], got (16, 3)") as w:
        functional.infer("rnn_tanh", w.x, w.parameters)
    with rejects(ValueError, "weight_ih_l1_reverse: expected (4, 8) [H, 2*H], got (4, 4)") as w:
        fusedrnn.RNN(3, 4, 2, bidirectional=True).parameters.update(
            weight_ih_l1_reverse=np.ones((4, 4), F4)
        )
    with rejects(ValueError, "weight_ih_l1: expected (4, 4) [H, H], got (4, 3)") as w:
        fusedrnn.RNN(3, 4, 2).parameters.update(weight_ih_l1=np.ones((4, 3), F4))
    with rejects(ValueError, "parameters: missing bias_hh_l0, bias_ih_l0, weight_hh_l0") as w:
        w.lstm.load_parameters({"weight_ih_l0": w.parameters["weight_ih_l0"]})
    with rejects(ValueError, "parameters: unexpected weight_ih_l1") as w:
        w.load("weight_ih_l1", np.ones((16, 4), F4))
    with rejects(ValueError, "parameters: missing bias_hh_l0; unexpected 7") as w:
        w.lstm.load_parameters(
            {7 if name == "bias_hh_l0" else name: p for name, p in w.parameters.items()}
        )
    with rejects(
        ValueError, "parameters: missing bias_hh_l0, bias_ih_l0, weight_hh_l0, weight_ih_l0"
    ) as w:
        w.lstm.load_parameters({})
    with rejects(TypeError, "parameters: expected a mapping of names to arrays, got list") as w:
        w.lstm.load_parameters(list(w.parameters.items()))
    with rejects(TypeError, "parameters: expected a mapping of names to arrays, got NoneType") as w:
        w.lstm.load_parameters(None)
    with rejects(ValueError, "parameters: unexpected weights") as w:
        w.lstm.parameters.__setitem__("weights", w.x)
    with rejects(TypeError, "a layer's parameters can't be deleted: bias_ih_l0") as w:
        w.lstm.parameters.pop("bias_ih_l0")
    with rejects(KeyError, "'weights'") as w:
        w.lstm.parameters["weights"]
    with rejects(ValueError, "assignment destination is read-only") as w:
        w.lstm.parameters["bias_ih_l0"].fill(0)
    with rejects(ValueError, "cannot set WRITEABLE flag to True of this array") as w:
        w.lstm.parameters["bias_ih_l0"].setflags(write=True)
    with rejects(ValueError, "cannot set WRITEABLE flag to True of this array") as w:
        w.weights.parameters["bias_ih_l0"].setflags(write=True)
    with rejects(ValueError, "bias_hh_l0: expected (16,) [4*H], got (15,)") as w:
        w.lstm.parameters.update(bias_ih_l0=np.ones(16, F4), bias_hh_l0=np.ones(15, F4))
    with rejects(TypeError, "'int' object is not iterable") as w:  # as dict.update says
        w.lstm.parameters.update(3)


def test_parameters_of_functions_are_checked():
    with rejects(ValueError, f"cell: expected one of {CELLS}, got 'peephole'") as w:
        functional.infer("peephole", w.x, w.parameters)
    with rejects(ValueError, f"cell: expected one of {CELLS}, got 'LSTM'") as w:
        functional.forward("LSTM", w.x, w.weights)
    with rejects(ValueError, f"cell: expected one of {CELLS}, got ['lstm']") as w:
        functional.Weights(["lstm"], w.parameters)
    with rejects(ValueError, "parameters: expected Weights of the cell 'gru', got 'lstm'") as w:
        functional.infer("gru", w.x, w.weights)
    with rejects(TypeError, "parameters: expected a mapping of names to arrays, got LSTM") as w:
        w.infer(parameters=w.lstm)
    with rejects(ValueError, "parameters: missing weight_ih_l0") as w:
        w.infer(parameters={"bias_ih_l0": w.parameters["bias_ih_l0"]})
    with rejects(ValueError, "parameters: missing weight_hh_l0") as w:
        w.infer(parameters={"weight_ih_l0": w.parameters["weight_ih_l0"]})
    with rejects(ValueError, "parameters: missing bias_hh_l0") as w:
        w.infer(parameters={name: p for name, p in w.parameters.items() if name != "bias_hh_l0"})
    with rejects(
        ValueError, "parameters: unexpected bias_hh_l2, bias_ih_l2, weight_hh_l2, weight_ih_l2"
    ) as w:
        w.infer(
            parameters=w.parameters
            | {name.replace("l0", "l2"): p for name, p in w.parameters.items()}
        )
    with rejects(
        ValueError,
        "parameters: missing bias_hh_l0_reverse, bias_ih_l0_reverse, weight_hh_l0_reverse",
    ) as w:
        w.infer(parameters={**w.parameters, "weight_ih_l0_reverse": w.parameters["weight_ih_l0"]})
    with rejects(
        ValueError, "weight_ih_l0: expected a matrix of at least one column, got (16,)"
    ) as w:
        w.infer(parameters={**w.parameters, "weight_ih_l0": np.ones(16, F4)})
    with rejects(
        ValueError, "weight_ih_l0: expected a matrix of at least one column, got (16, 0)"
    ) as w:
        w.infer(parameters={**w.parameters, "weight_ih_l0": np.ones((16, 0), F4)})
    with rejects(
        ValueError, "weight_hh_l0: expected a matrix of at least one column, got (0, 0)"
    ) as w:
        w.infer(parameters={**w.parameters, "weight_hh_l0": np.ones((0, 0), F4)})
    with rejects(ValueError, "weight_ih_l0: expected (12, 3) [3*H, I], got (16, 3)") as w:
        functional.Weights("gru", w.parameters)
    with rejects(
        ValueError, "weight_ih_l0: expected (1152921504606846976, 3) [4*H, I], got (16, 3)"
    ) as w:
        functional.Weights(
            "lstm", {**w.parameters, "weight_hh_l0": np.broadcast_to(F4(0), (4, 2**58))}
        )
    with rejects(
        MemoryError, "weight_ih_l0: an array of (16, 72057594037927936) doesn't fit in memory"
    ) as w:
        functional.Weights(
            "lstm", {**w.parameters, "weight_ih_l0": np.broadcast_to(F4(0), (16, 2**56))}
        )


def test_attributes_of_weights_can_not_be_replaced():
    weights = World().weights
    for name in ("network", "parameters", "packed"):
        with pytest.raises(AttributeError):
            setattr(weights, name, None)
    with pytest.raises(TypeError):
        weights.parameters["bias_ih_l0"] = np.ones(16, F4)


# Flags and numbers

NO_INTEGERS = {True: "bool", 3.0: "float", "3": "str", None: "NoneType", 3j: "complex"}


@pytest.mark.parametrize("name", ["input_size", "hidden_size", "num_layers"])
@pytest.mark.parametrize("make", [fusedrnn.LSTM, fusedrnn.GRU, fusedrnn.RNN])
def test_sizes_are_positive_integers(name, make):
    sizes = {"input_size": 3, "hidden_size": 4, "num_layers": 1}
    for value, got in [
        *NO_INTEGERS.items(),
        (np.float32(3), "float32"),
        (np.array([3, 4]), "ndarray"),
    ]:
        with pytest.raises(TypeError) as caught:
            make(**sizes | {name: value})
        assert str(caught.value) == f"{name}: expected an integer, got {got}"
    for value in (0, -1, -(2**70)):
        with pytest.raises(ValueError, match=": expected") as caught_value:
            make(**sizes | {name: value})
        assert str(caught_value.value) == f"{name}: expected at least 1, got {value}"
    for value in (2**40, 2**62, 2**63, 2**70):
        with pytest.raises(MemoryError) as caught_memory:
            make(**sizes | {name: value})
        start = ", ".join(f"{n}={v}" for n, v in (sizes | {name: value}).items())
        assert str(caught_memory.value).startswith(f"{start}: ")
        assert str(caught_memory.value).endswith(" parameters don't fit in memory")


def test_the_message_about_memory_counts_the_parameters():
    with pytest.raises(MemoryError) as caught:
        fusedrnn.LSTM(2**40, 2, bidirectional=True, num_layers=2)
    # Two directions of 8 rows, each of I + 2 columns and 2 biases, then of 4 + 2 and 2 biases.
    count = 2 * 8 * (2**40 + 2 + 2) + 2 * 8 * (4 + 2 + 2)
    assert str(caught.value) == (
        f"input_size={2**40}, hidden_size=2, num_layers=2: {count} parameters don't fit in memory"
    )


@pytest.mark.parametrize("name", ["bias", "batch_first", "bidirectional"])
def test_flags_are_bools(name):
    for value, got in [
        (1, "int"),
        (None, "NoneType"),
        ("yes", "str"),
        (np.ones(1, bool), "ndarray"),
    ]:
        with pytest.raises(TypeError) as caught:
            fusedrnn.GRU(3, 4, **{name: value})
        assert str(caught.value) == f"{name}: expected a bool, got {got}"
    assert getattr(fusedrnn.GRU(3, 4, **{name: np.True_}), name) is True


def test_batch_first_is_a_bool():
    with rejects(TypeError, "batch_first: expected a bool, got int") as w:
        w.infer(batch_first=0)
    with rejects(TypeError, "batch_first: expected a bool, got NoneType") as w:
        functional.forward("lstm", w.x, w.weights, batch_first=None)
    with rejects(TypeError, "batch_first: expected a bool, got str") as w:
        w.lstm.batch_first = "no"


NO_PROBABILITIES = {
    "negative": (-0.1, ValueError, "-0.1"),
    "large": (1.5, ValueError, "1.5"),
    "NaN": (float("nan"), ValueError, "nan"),
    "inf": (float("inf"), ValueError, "inf"),
    "huge": (2**70, ValueError, str(2**70)),
    "NumPy": (np.float32(-1), ValueError, "-1.0"),
    "bool": (True, TypeError, "bool"),
    "NumPy bool": (np.True_, TypeError, type(np.True_).__name__),
    "str": ("0.5", TypeError, "str"),
    "None": (None, TypeError, "NoneType"),
    "complex": (0.5j, TypeError, "complex"),
    "NumPy complex": (np.complex64(0.5), TypeError, "complex64"),
    "array": (np.array([0.5]), TypeError, "ndarray"),
}


@pytest.mark.parametrize("kind", NO_PROBABILITIES)
def test_dropout_is_a_probability(kind):
    value, error, got = NO_PROBABILITIES[kind]
    message = f"dropout: expected a number in [0, 1], got {got}"
    with rejects(error, message):
        fusedrnn.GRU(3, 4, 2, dropout=value)
    with rejects(error, message) as w:
        w.lstm.dropout = value
    with rejects(error, message) as w:
        functional.forward("lstm", w.x, w.weights, dropout=value)


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float64(0.5), np.int64(1)])
def test_good_probabilities(value):
    assert fusedrnn.GRU(3, 4, 2, dropout=value).dropout == value


def test_seeds_and_keys_are_words():
    with rejects(ValueError, "seed: expected an integer in [0, 2**64), got -1") as w:
        fusedrnn.GRU(3, 4, seed=-1)
    with rejects(
        ValueError, "seed: expected an integer in [0, 2**64), got 18446744073709551616"
    ) as w:
        fusedrnn.GRU(3, 4, seed=2**64)
    with rejects(TypeError, "seed: expected an integer, got float") as w:
        fusedrnn.GRU(3, 4, seed=1.0)
    with rejects(TypeError, "seed: expected an integer, got bool") as w:
        fusedrnn.GRU(3, 4, seed=True)
    with rejects(TypeError, "seed: expected an integer, got Generator") as w:
        fusedrnn.GRU(3, 4, seed=np.random.default_rng(0))
    with rejects(TypeError, "dropout_key: expected a tuple (seed, call), got int") as w:
        functional.forward("lstm", w.x, w.weights, dropout_key=3)
    with rejects(ValueError, "dropout_key: expected a tuple (seed, call), got 3 items") as w:
        functional.forward("lstm", w.x, w.weights, dropout_key=(1, 2, 3))
    with rejects(TypeError, "dropout_key[0]: expected an integer, got float") as w:
        functional.forward("lstm", w.x, w.weights, dropout_key=(1.0, 2))
    with rejects(
        ValueError, "dropout_key[1]: expected an integer in [0, 2**64), got 18446744073709551616"
    ) as w:
        functional.forward("lstm", w.x, w.weights, dropout_key=(1, 2**64))


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("float16", ValueError),
        ("int32", ValueError),
        (">f4", ValueError),
        (np.complex64, ValueError),
        (object, ValueError),
        ([("a", "f4")], ValueError),
        ("fp32", TypeError),
        ("f4,,(", TypeError),
        (None, TypeError),
        (32, TypeError),
    ],
)
def test_dtype_is_float32_or_float64(value, error):
    with pytest.raises(error) as caught:
        fusedrnn.RNN(3, 4, dtype=value)
    assert type(caught.value) is error
    assert str(caught.value) == f"dtype: expected 'float32' or 'float64', got {value!r}"


@pytest.mark.parametrize("value", ["sigmoid", "TANH", None, ["tanh"], b"tanh"])
def test_nonlinearity_is_tanh_or_relu(value):
    with pytest.raises(ValueError, match=": expected") as caught:
        fusedrnn.RNN(3, 4, nonlinearity=value)
    assert str(caught.value) == f"nonlinearity: expected 'tanh' or 'relu', got {value!r}"


@pytest.mark.parametrize("make", [fusedrnn.LSTM, fusedrnn.GRU, fusedrnn.RNN])
def test_options_are_keywords(make):
    with pytest.raises(TypeError, match="positional argument"):
        make(3, 4, 1, True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'device'"):
        make(3, 4, device="cpu")


def test_what_a_layer_is_can_not_be_changed():
    layer = fusedrnn.RNN(3, 4)
    fixed = ("input_size", "hidden_size", "num_layers", "bidirectional", "bias", "dtype")
    for name in (*fixed, "parameters", "nonlinearity"):
        with pytest.raises(AttributeError, match="no setter"):
            setattr(layer, name, getattr(layer, name))


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0, ValueError, "n: expected a number of threads from 1 to 1024, got 0"),
        (-1, ValueError, "n: expected a number of threads from 1 to 1024, got -1"),
        (1025, ValueError, "n: expected a number of threads from 1 to 1024, got 1025"),
        (2**70, ValueError, f"n: expected a number of threads from 1 to 1024, got {2**70}"),
        (1.0, TypeError, "n: expected an integer, got float"),
        (True, TypeError, "n: expected an integer, got bool"),
        ("2", TypeError, "n: expected an integer, got str"),
        (None, TypeError, "n: expected an integer, got NoneType"),
    ],
)
def test_numbers_of_threads(value, error, message):
    before = fusedrnn.get_num_threads()
    with pytest.raises(error) as caught:
        fusedrnn.set_num_threads(value)
    assert str(caught.value) == message
    assert fusedrnn.get_num_threads() == before


# Sizes that no memory holds


def absurd(*shape: int) -> np.ndarray:
    return np.broadcast_to(F4(1), shape)


def test_absurd_sizes_are_memory_errors():
    with rejects(MemoryError, f"x: an array of ({2**40}, 1, 3) doesn't fit in memory") as w:
        w.lstm(absurd(2**40, 1, 3))
    with rejects(MemoryError, f"x: an array of ({2**59}, 1, 3) doesn't fit in memory") as w:
        w.lstm.forward(absurd(2**59, 1, 3))
    with rejects(MemoryError, f"x: an array of ({2**59}, 3) doesn't fit in memory") as w:
        w.gru(absurd(2**59, 3))
    with rejects(MemoryError, f"x: an array of (1, {2**50}, 3) doesn't fit in memory") as w:
        w.infer(absurd(1, 2**50, 3))
    with rejects(MemoryError, f"x: an array of (1, {2**50}, 3) doesn't fit in memory") as w:
        w.infer(absurd(2**50, 1, 3), batch_first=True)
    with rejects(MemoryError, f"y: an array of ({2**59}, 0, 64) doesn't fit in memory") as w:
        fusedrnn.RNN(1, 64)(np.zeros((2**59, 0, 1), F4))


@pytest.mark.parametrize("batch_first", [False, True])
def test_an_empty_batch_of_many_steps_takes_no_time(batch_first):
    layer = fusedrnn.LSTM(3, 4, 2, bidirectional=True, batch_first=batch_first, dropout=0.5)
    x = np.zeros((0, 2**50, 3) if batch_first else (2**50, 0, 3), F4)
    y, (h, c) = layer(x)
    assert y.shape == (*x.shape[:2], 8)
    assert h.shape == c.shape == (4, 0, 4)
    y, _, tape = layer.forward(x)
    gradients = layer.backward(tape, y)
    assert gradients.x.shape == x.shape
    assert all(not g.any() for g in gradients.parameters.values())


# A warning


def test_dropout_of_one_layer_warns_where_it_is_written():
    for make in (fusedrnn.LSTM, fusedrnn.GRU, fusedrnn.RNN):
        with pytest.warns(UserWarning, match=".") as caught:
            layer = make(3, 4, dropout=0.5)
        assert [str(w.message) for w in caught] == [
            "dropout=0.5 has no effect: it acts between layers, and num_layers is 1"
        ]
        assert caught[0].filename == __file__
        x = np.ones((2, 1, 3), F4)
        np.testing.assert_array_equal(layer.forward(x)[0], layer(x)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fusedrnn.LSTM(3, 4, 2, dropout=0.5)
        fusedrnn.LSTM(3, 4, dropout=0.0)

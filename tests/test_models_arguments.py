"""What modules do with arguments that are wrong, unusual or not to be read."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import fusedrnn
from fusedrnn import weights
from fusedrnn.models import (
    Conv1d,
    Dropout,
    Embedding,
    Last,
    Linear,
    Mean,
    RegressionHead,
    Relu,
    Sequential,
    SoftmaxHead,
    Tanh,
    build,
)

UNSIGNED = ("uint8", "uint16", "uint32", "uint64")


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape)


# ---- Lengths ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", UNSIGNED)
@pytest.mark.parametrize(
    "module", [Last(dtype="float64"), Mean(dtype="float64"), Conv1d(2, 3, 4, dtype="float64")]
)
def test_lengths_of_unsigned_integers(module, dtype):
    """An empty sequence has no last step: not step 255 either, which is 0 - 1 in uint8."""
    x, lengths = normal(300, 3, 2), np.array([0, 7, 200])
    for got, want in zip(
        module(x, lengths=lengths.astype(dtype)), module(x, lengths=lengths), strict=True
    ):
        np.testing.assert_array_equal(got, want)


def test_the_convolution_reads_nothing_past_the_end():
    conv, lengths = Conv1d(2, 3, 3, dtype="float64", seed=0), [5, 0, 2]
    x, dy = normal(5, 3, 2), normal(5, 3, 3)
    y, state, tape = conv.forward(x, lengths=lengths)
    gradients = conv.backward(tape, dy, np.ones_like(state))
    past = np.arange(5)[:, np.newaxis] >= lengths
    x[past] = dy[past] = np.nan
    x[1, 2] = np.nan  # of the last sequence's last step, which windows past the end still see
    y_nan, _, tape = conv.forward(x, lengths=lengths)
    assert not y_nan[past].any()
    np.testing.assert_array_equal(y_nan[:, 0], y[:, 0])
    x[1, 2] = 0
    _, _, tape = conv.forward(x, lengths=lengths)
    got = conv.backward(tape, dy, np.ones_like(state))
    assert not got.x[past].any()
    for array, other in ((got.x, gradients.x), (got.state, gradients.state)):
        np.testing.assert_array_equal(array, other)
    assert np.isfinite(got.parameters["weight"]).all()


@pytest.mark.parametrize("module", [Last(dtype="float64"), Mean(dtype="float64")])
def test_pooling_leaves_no_gradient_past_the_end(module):
    _, _, tape = module.forward(normal(3, 2, 2), lengths=[3, 1])
    dx = module.backward(tape, np.full((2, 2), np.inf)).x
    assert not dx[1:, 1].any()


@pytest.mark.parametrize("past", [np.nan, np.inf])
def test_a_sequential_reads_nothing_past_the_end(past):
    """NaN times a gradient of 0 would be a NaN in every weight."""
    model = Sequential(
        Linear(2, 3, dtype="float64", seed=0),
        Tanh(dtype="float64"),
        fusedrnn.GRU(3, 4, dtype="float64", seed=0),
        Mean(dtype="float64"),
    )
    x, lengths = normal(5, 3, 2), [5, 0, 2]
    y, _, tape = model.forward(x, lengths=lengths)
    want = model.backward(tape, y)
    x[np.arange(5)[:, np.newaxis] >= lengths] = past
    got_y, _, tape = model.forward(x, lengths=lengths)
    np.testing.assert_array_equal(got_y, y)
    np.testing.assert_array_equal(model(x, lengths=lengths)[0], y)
    got = model.backward(tape, y)
    for name, gradient in want.parameters.items():
        np.testing.assert_array_equal(got.parameters[name], gradient)


def test_symbols_past_the_end_need_not_be_symbols():
    model = Sequential(Embedding(4, 3, seed=0), Last())
    y, _ = model(np.array([[1, 2], [-1, 3], [99, -100]]), lengths=[1, 2])
    np.testing.assert_array_equal(y, model["0"].parameters["weight"][[1, 3]])
    with pytest.raises(ValueError, match="x: expected symbols from 0 to 3, got -1"):
        model(np.array([[1, 2], [-1, 3], [99, -100]]), lengths=[3, 2])
    with pytest.raises(ValueError, match=r"lengths: expected \(2,\), got \(3,\)"):
        model(np.zeros((3, 2), int), lengths=[1, 2, 3])


# ---- Shapes and dtypes --------------------------------------------------------------------------


@pytest.mark.parametrize("module", [Last(), Mean(), Dropout(0.0), Dropout(0.5), Tanh(), Relu()])
def test_backward_takes_only_gradients_of_y(module):
    y, _, tape = module.forward(np.ones((3, 2, 4), np.float32))
    for shape in (y.shape[:-1], (*y.shape[:-1], 5), (1, *y.shape)):
        with pytest.raises(ValueError, match="dy: expected"):
            module.backward(tape, np.ones(shape, np.float32))


@pytest.mark.parametrize("head", [SoftmaxHead(4, 3), RegressionHead(4, 3)])
def test_a_heads_loss_names_what_is_wrong_with_y(head):
    targets = np.zeros(2, int) if isinstance(head, SoftmaxHead) else np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"^y: expected \(\.\.\., 4\) \[\.\.\., H\], got \(2, 5\)"):
        head.loss(np.ones((2, 5), np.float32), targets)
    with pytest.raises(TypeError, match=r"^y: expected an array of float32, got float64"):
        head.loss(np.ones((2, 4)), targets)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Linear(2**70, 1),
        lambda: Linear(10**6, 10**7),
        lambda: Embedding(2**62, 4),
        lambda: Conv1d(2**31, 2**31, 2**31),
        lambda: SoftmaxHead(2**40, 2**40),
    ],
)
def test_parameters_that_do_not_fit_in_memory(make):
    with pytest.raises(MemoryError, match=r"^weight: an array of \(.*\) doesn't fit in memory"):
        make()


# ---- Modules of modules -------------------------------------------------------------------------


def test_a_sequential_takes_modules_only():
    linear = Linear(2, 2)
    for modules, error, message in (
        ((linear, Tanh), TypeError, "1: expected a module, got the class Tanh"),
        ((Tanh, linear), TypeError, "0: expected a module, got the class Tanh"),
        ((linear, 5), TypeError, "1: expected a module, got int"),
        ((linear, SoftmaxHead(2, 2)), TypeError, "1: expected a module, got SoftmaxHead"),
        ((linear, Tanh(), linear), ValueError, "2: expected a module of its own, got 0's"),
    ):
        with pytest.raises(error) as caught:
            Sequential(*modules)
        assert str(caught.value) == message


def test_modules_without_parameters_may_stand_twice():
    tanh = Tanh()
    Sequential(Linear(2, 2), tanh, Linear(2, 2), tanh)


@pytest.mark.parametrize("name", ["0", "a.b"])
def test_names_that_would_hide_others(name):
    with pytest.raises(ValueError, match=f"modules: expected a name of its own.*got {name}"):
        Sequential(Linear(2, 2), **{name: Linear(2, 2)})


def test_the_message_about_states_is_short():
    with pytest.raises(ValueError, match=r"^state: expected 1 states, .* got ndarray$"):
        Sequential(Tanh())(np.ones((1, 2), np.float32), np.zeros((1000, 1000)))


def test_configurations_that_fit_no_class():
    tanh = {"kind": "Tanh", "dtype": "float32"}
    for config, error in (
        ({"kind": "Linear", "modules": {"0": tanh}}, ValueError),
        ({"kind": "Sequential", "modules": {"0": tanh}, "width": 1}, TypeError),
        ({"kind": "Sequential", "modules": {5: tanh}}, ValueError),
        ({"kind": "Sequential", "modules": {}}, ValueError),
    ):
        with pytest.raises(error):
            build(config)


# ---- What belongs to whom -----------------------------------------------------------------------


@pytest.mark.parametrize("module", [Tanh(), Relu()])
def test_the_tape_is_safe_from_its_y(module):
    x = np.ones((2, 1, 3), np.float32)
    y, _, _ = module.forward(x)
    with pytest.raises(ValueError, match="read-only"):
        y *= 2
    y, _ = module(x)
    y *= 2


def test_a_call_works_on_one_version_of_the_parameters():
    """While another thread loads: never the weight of one version with the bias of another."""
    x = np.zeros((1, 1, 4), np.float32)
    for module in (Linear(4, 4), Conv1d(4, 4, 1), RegressionHead(4, 4)):
        versions = [
            {name: np.full_like(array, value) for name, array in module.parameters.items()}
            for value in (1, -1)
        ]
        module.load_parameters(versions[0])
        stop = threading.Event()

        def load(module=module, versions=versions, stop=stop):
            while not stop.is_set():
                for version in versions:
                    module.load_parameters(version)

        thread = threading.Thread(target=load)
        thread.start()
        try:
            for _ in range(300):
                # W x + b, x = 1, with the weight and bias all 1 or all -1: +-5, not +-3.
                assert set(module(x + 1)[0].ravel()) <= {5.0, -5.0}
        finally:
            stop.set()
            thread.join()


def test_threads_draw_different_masks():
    dropout, x = Dropout(0.5, seed=0), np.ones((50, 20), np.float32)
    masks: list[bytes] = []
    threads = [
        threading.Thread(
            target=lambda: masks.extend(dropout.forward(x)[0].tobytes() for _ in range(50))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(masks)) == 200
    assert dropout.random_state == {"": (0, 200)}


# ---- Weights of other frameworks ----------------------------------------------------------------


def test_conversions_name_what_is_wrong():
    lstm = [np.ones((3, 8)), np.ones((2, 8)), np.ones(8)]
    W, R = np.ones((1, 8, 3)), np.ones((1, 8, 2))
    order = {"gates": "ifgo", "parts": "hx"}
    for call, error, message in (
        (lambda: weights.from_keras("lstm", None), TypeError, "weights: expected a list"),
        (lambda: weights.from_keras("lstm", lstm, config=5), TypeError, "config: expected a map"),
        (
            lambda: weights.from_keras("lstm", lstm, config={"layer": {}}),
            ValueError,
            "config: expected that of LSTM, since there are weights of 1 direction",
        ),
        (
            lambda: weights.reorder_gates("lstm", W[0], "ifgo", "iofc", axis=-1),
            ValueError,
            "axis: expected 0 to 1, got -1",
        ),
        (
            lambda: weights.reorder_gates("lstm", W[0], "ifgo", "iofc", axis=0.0),
            TypeError,
            "axis: expected an integer, got float",
        ),
        (
            lambda: weights.from_onnx("lstm", W, R, clip=np.array([1.0])),
            ValueError,
            "clip: expected None",
        ),
        (
            lambda: weights.from_concatenated(
                "lstm", np.ones((8, 5)), axis=0, forget_bias=np.nan, **order
            ),
            ValueError,
            "forget_bias: expected a finite number, got nan",
        ),
    ):
        with pytest.raises(error, match=f"^{message}"):
            call()
    functions = np.array(["Sigmoid", "Tanh", "Tanh"])
    assert weights.from_onnx("lstm", W, R, activations=functions).keys() == {
        "weight_ih_l0",
        "weight_hh_l0",
    }

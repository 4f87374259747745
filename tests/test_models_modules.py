"""What holds for every module: gradients, lengths, copies, configurations, errors."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

import fusedrnn
from fusedrnn import models
from fusedrnn.models import Module
from kernel_problems import DTYPES
from module_problems import CALLS, LENGTHS, B, I, T, normal, stack, state_arrays

NAMES = list(CALLS)


def run(call, module=None):
    """Everything that a training call and its backward give, by name."""
    module = call.module if module is None else module
    y, state, tape = module.forward(call.x, call.state, lengths=call.lengths)
    dy, d_last = weights(y, state)
    gradients = module.backward(tape, dy, d_last)
    found = {f"d_{name}": g for name, g in gradients.parameters.items()}
    if gradients.x is not None:
        found["d_x"] = gradients.x
    found |= {f"d_state {i}": s for i, s in enumerate(state_arrays(gradients.state))}
    found |= {"y": y} | {f"state {i}": s for i, s in enumerate(state_arrays(state))}
    return found


def weights(y, state):
    """Gradients of y and the last state, drawn for their shapes: those of the loss below."""

    def draw(array):
        rng = np.random.default_rng(array.size)
        return rng.normal(size=array.shape).astype(array.dtype)

    def each(part):
        if isinstance(part, tuple):
            return tuple(each(p) for p in part)
        return None if part is None else draw(part)

    return draw(y), each(state)


def loss(call, module):
    y, state, _ = module.forward(call.x, call.state, lengths=call.lengths)
    dy, d_last = weights(y, state)
    pairs = [(y, dy), *zip(state_arrays(state), state_arrays(d_last), strict=True)]
    return sum(float((a * w).sum()) for a, w in pairs)


def differences(call, module, array):
    """The gradient of the loss with respect to an array that is changed in place."""
    before, found = module.random_state, np.zeros_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        both = []
        for step in (1e-6, -1e-6):
            array[index] = value + step
            module.random_state = before  # the same mask
            both.append(loss(call, module))
        array[index] = value
        found[index] = (both[0] - both[1]) / 2e-6
    return found


# Of central differences with a step of 1e-6: eps / step, times sums of some ten numbers.
DIFFERENCES = 1e-7


@pytest.mark.parametrize("name", NAMES)
def test_central_differences_of_inputs_and_states(name):
    call = CALLS[name]
    got, module = run(call), call.module
    if call.x.dtype.kind == "f":
        x = call.x.copy()
        want = differences(replace(call, x=x), module, x)
        np.testing.assert_allclose(got["d_x"], want, atol=DIFFERENCES)
    else:
        assert "d_x" not in got
    for i, state in enumerate(state_arrays(call.state)):
        copied = state.copy()
        parts = [copied if s is state else s for s in state_arrays(call.state)]
        changed = replace(call, state=rebuilt(call.state, iter(parts)))
        want = differences(changed, call.module, copied)
        shown = [k for k in got if k.startswith("d_state")]
        np.testing.assert_allclose(got[shown[i]], want, atol=DIFFERENCES)


def rebuilt(state, parts):
    """The same tree with other arrays."""
    if isinstance(state, tuple):
        return tuple(rebuilt(part, parts) for part in state)
    return None if state is None else next(parts)


@pytest.mark.parametrize("name", NAMES)
def test_central_differences_of_parameters(name):
    call = CALLS[name]
    got, module = run(call), call.module
    assert list(module.parameters) == [k[2:] for k in got if k[2:] in module.parameters]
    for parameter in module.parameters:
        editable = {k: np.array(v) for k, v in module.parameters.items()}
        array, found = editable[parameter], np.empty(editable[parameter].shape)
        before = module.random_state
        for index in np.ndindex(array.shape):
            value, both = array[index], []
            for step in (1e-6, -1e-6):
                array[index] = value + step
                module.load_parameters(editable)
                module.random_state = before
                both.append(loss(call, module))
            array[index] = value
            found[index] = (both[0] - both[1]) / 2e-6
        module.load_parameters(editable)
        np.testing.assert_allclose(got[f"d_{parameter}"], found, atol=DIFFERENCES)


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_float64_rounded(name):
    call = CALLS[name]
    narrow = call.cast("float32")
    module = narrow.module
    module.load_parameters({k: v.astype(np.float32) for k, v in call.module.parameters.items()})
    wide, got = run(call), run(narrow, module)
    assert list(got) == list(wide)
    for key, array in got.items():
        assert array.dtype == np.float32, key
        np.testing.assert_allclose(array, wide[key], atol=2e-5)  # sums of tens, at 6e-8 each


@pytest.mark.parametrize("name", NAMES)
def test_inference_is_training_without_dropout(name):
    call = CALLS[name]
    module = call.module
    y, state = module(call.x, call.state, lengths=call.lengths)
    if name == "dropout":
        np.testing.assert_array_equal(y, call.x)
        return
    trained, last, _ = module.forward(call.x, call.state, lengths=call.lengths)
    np.testing.assert_array_equal(y, trained)
    for got, want in zip(state_arrays(state), state_arrays(last), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", [n for n in NAMES if CALLS[n].lengths is not None])
def test_what_stands_past_the_lengths_changes_nothing(name):
    call = CALLS[name]
    want = run(call)
    x = call.x.copy()
    past = np.arange(T).reshape(-1, *(1,) * np.ndim(call.lengths)) >= call.lengths
    x[past] = 5 if x.dtype.kind == "i" else np.nan
    got = run(replace(call, x=x))
    for key in want:
        np.testing.assert_array_equal(got[key], want[key], err_msg=key)
    if "d_x" in got:
        assert not got["d_x"][past].any()


@pytest.mark.parametrize("name", NAMES)
def test_every_module_has_the_protocol_and_leaves_its_inputs(name):
    call = CALLS[name]
    module = call.module
    assert isinstance(module, Module)
    assert module.dtype == np.float64
    call.x.flags.writeable = False
    try:
        run(call)
    finally:
        call.x.flags.writeable = True
    for array in module.parameters.values():
        assert not array.flags.writeable


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_independent(name, how):
    call = CALLS[name]
    module = call.module
    other = how(module)
    assert repr(other) == repr(module)
    want, got = run(call, module), run(call, other)
    for key in want:
        np.testing.assert_array_equal(got[key], want[key], err_msg=key)
    with other.edit_parameters() as parameters:
        for array in parameters.values():
            array += 1
    again = run(call, call.module)
    for key in want:
        np.testing.assert_array_equal(again[key], want[key], err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_makes_the_module_again(name):
    call = CALLS[name]
    module = call.module
    configuration = json.loads(json.dumps(models.config(module)))
    other = models.build(configuration)
    assert repr(other) == repr(module)
    assert models.config(other) == configuration
    other.load_parameters(module.parameters)
    other.random_state = module.random_state
    want, got = run(call, module), run(call, other)
    for key in want:
        np.testing.assert_array_equal(got[key], want[key], err_msg=key)


@pytest.mark.parametrize("dtype", DTYPES)
def test_seeds_and_initial_parameters(dtype):
    makers = (
        lambda seed: models.Linear(100, 50, dtype=dtype, seed=seed),
        lambda seed: models.Conv1d(10, 50, 10, dtype=dtype, seed=seed),
        lambda seed: models.AdditiveAttention(100, 100, 50, dtype=dtype, seed=seed),
        lambda seed: models.SoftmaxHead(100, 50, dtype=dtype, seed=seed),
    )
    for make in makers:
        one, same, other = make(1).parameters, make(1).parameters, make(2).parameters
        for name, array in one.items():
            assert array.dtype == dtype
            np.testing.assert_array_equal(array, same[name])
            assert not np.array_equal(array, other[name])
            bound = 50**-0.5 if name == "v" else 0.1
            if name != "bias":
                assert 0.9 * bound < np.abs(array).max() <= bound
    embedding = models.Embedding(500, 40, seed=0).parameters["weight"]
    assert embedding.std() == pytest.approx(1, abs=0.02)


def test_a_convolution_in_pieces_is_the_whole():
    conv = models.Conv1d(I, 3, 4, dtype="float64", seed=0)
    x = normal(20, B, I)
    whole, last = conv(x)
    state, pieces = None, []
    for first, end in ((0, 1), (1, 3), (3, 4), (4, 15), (15, 20)):
        y, state = conv(x[first:end], state)
        pieces.append(y)
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-14)
    np.testing.assert_array_equal(state, last)


def test_the_state_of_a_convolution_stands_at_the_end_of_each_sequence():
    conv = models.Conv1d(I, 3, 3, dtype="float64", seed=0)
    x = normal(T, B, I)
    _, state = conv(x, lengths=LENGTHS)
    for b, length in enumerate(LENGTHS):
        alone = np.zeros((2, I)) if length == 0 else conv(x[:length, b])[1]
        np.testing.assert_array_equal(state[:, b], alone)


def test_dropout_draws_a_new_mask_in_each_call():
    dropout = models.Dropout(0.25, dtype="float64", seed=7)
    x = np.ones((50, 40, 5))
    before = dropout.random_state
    first, _, _ = dropout.forward(x)
    second, _, tape = dropout.forward(x)
    assert not np.array_equal(first, second)
    assert set(first.ravel()) == {0, 4 / 3}
    assert first.mean() == pytest.approx(1, abs=0.02)
    np.testing.assert_array_equal(dropout.backward(tape, x).x, second)
    dropout.random_state = before
    np.testing.assert_array_equal(dropout.forward(x)[0], first)


def test_random_states_of_parts_have_their_names():
    body = models.Sequential(
        fusedrnn.LSTM(3, 4, 2, dropout=0.5, seed=1),
        models.Dropout(0.5, seed=2),
        inner=models.Sequential(models.Dropout(0.1, seed=3), models.Last()),
    )
    state = body.random_state
    assert list(state) == ["0", "1", "inner.0"]
    assert state["1"] == (2, 0)
    want = body.forward(np.ones((4, 2, 3), np.float32))[0]
    assert body.random_state["inner.0"] == (3, 1)
    body.random_state = state
    np.testing.assert_array_equal(body.forward(np.ones((4, 2, 3), np.float32))[0], want)
    with pytest.raises(ValueError, match="random_state: expected the names"):
        body.random_state = {"0": (1, 1)}


def test_loading_is_all_or_nothing():
    module = stack("float64")
    before = {k: np.array(v) for k, v in module.parameters.items()}
    wrong = {k: np.zeros_like(v) for k, v in before.items()}
    wrong["inner.0.bias"] = np.zeros(99)
    with pytest.raises(ValueError, match=r"bias: expected \(3,\), got \(99,\)"):
        module.load_parameters(wrong)
    for name, array in module.parameters.items():
        np.testing.assert_array_equal(array, before[name])


def test_parameters_belong_to_the_module():
    linear = models.Linear(2, 2, dtype="float64")
    given = {"weight": np.eye(2), "bias": np.zeros(2)}
    linear.load_parameters(given)
    given["weight"][:] = 7
    np.testing.assert_array_equal(linear.parameters["weight"], np.eye(2))
    with pytest.raises(ValueError, match="read-only"):
        linear.parameters["weight"][0, 0] = 1


@pytest.mark.parametrize("symbols", [1, 2, 50])
def test_the_gradient_of_an_embedding_is_a_sum_in_order(symbols):
    rng = np.random.default_rng(0)
    x = rng.integers(0, symbols, (30, 7))
    embedding = models.Embedding(symbols, 3, seed=0)
    y, _, tape = embedding.forward(x)
    dy = rng.normal(size=y.shape).astype(np.float32)
    got = embedding.backward(tape, dy).parameters["weight"]
    want = np.zeros((symbols, 3))
    for symbol, row in zip(x.ravel(), dy.reshape(-1, 3), strict=True):
        want[symbol] += row
    np.testing.assert_allclose(got, want, atol=1e-5)


X32 = np.ones((T, B, I), np.float32)
ERRORS = {
    "x: expected (..., 4) [..., I], got (5, 3)": (lambda: models.Linear(I, 2), X32[..., 0], {}),
    "x: expected an array of float32, got float64": (
        lambda: models.Linear(I, 2), X32.astype(float), {},
    ),
    "x: expected an array of float32, got list": (lambda: models.Linear(I, 2), [1.0], {}),
    "state: expected None, got ndarray": (lambda: models.Linear(I, 2), X32, {"state": X32}),
    "x: expected symbols from 0 to 5, got 6": (
        lambda: models.Embedding(6, 2), np.array([0, 6]), {},
    ),
    "x: expected symbols from 0 to 5, got -1": (
        lambda: models.Embedding(6, 2), np.array([[-1]]), {},
    ),
    "x: expected integers, got float32": (lambda: models.Embedding(6, 2), X32, {}),
    "x: expected (T, B, 5) or (T, 5), got (5, 3, 4)": (
        lambda: models.Conv1d(5, 2, 3), X32, {},
    ),
    "state: expected (2, 3, 4), got (3, 3, 4)": (
        lambda: models.Conv1d(I, 2, 3), X32, {"state": X32[:3]},
    ),
    "state: expected None, got ndarray ": (
        lambda: models.Conv1d(I, 2, 3, padding="same"), X32, {"state": X32[:2]},
    ),
    "lengths: expected 0 to T = 5, got 6": (
        lambda: models.Conv1d(I, 2, 3), X32, {"lengths": [6, 1, 1]},
    ),
    "lengths: expected (3,), got (2,)": (lambda: models.Last(), X32, {"lengths": [1, 1]}),
    "lengths: expected integers, got float64": (
        lambda: models.Mean(), X32, {"lengths": [1.0, 1.0, 1.0]},
    ),
    "x: expected (T, B, H) or (T, H), got (4,)": (lambda: models.Last(), X32[0, 0], {}),
    "state: expected 1 states, one for each module, got 0": (
        lambda: models.Sequential(models.Last()), X32, {"state": ()},
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", ERRORS)
def test_errors_of_calls(message):
    make, x, options = ERRORS[message]
    for call in (make(), make().forward):
        with pytest.raises((ValueError, TypeError)) as error:
            call(x, options.get("state"), lengths=options.get("lengths"))
        assert str(error.value) == message.strip()


@pytest.mark.parametrize("name", [n for n in NAMES if CALLS[n].module.parameters or "re" in n])
def test_errors_of_backward(name):
    call = CALLS[name]
    module = call.module
    y, _, tape = module.forward(call.x, call.state, lengths=call.lengths)
    with pytest.raises((ValueError, TypeError)):
        module.backward(tape, np.zeros((*y.shape[:-1], y.shape[-1] + 1)))
    with pytest.raises((ValueError, TypeError)):
        module.backward(tape, y.astype(np.float32))


CONSTRUCTORS = {
    "inputs: expected at least 1, got 0": lambda: models.Linear(0, 1),
    "outputs: expected an integer, got float": lambda: models.Linear(1, 1.0),
    "bias: expected a bool, got int": lambda: models.Linear(1, 1, bias=1),
    "width: expected at least 1, got 0": lambda: models.Conv1d(1, 1, 0),
    "padding: expected 'causal' or 'same', got 'valid'": lambda: models.Conv1d(
        1, 1, 1, padding="valid"
    ),
    "p: expected a number in [0, 1], got 1.5": lambda: models.Dropout(1.5),
    "symbols: expected at least 1, got 0": lambda: models.Embedding(0, 1),
    "size: expected at least 1, got 0": lambda: models.Embedding(1, 0),
    "classes: expected at least 1, got 0": lambda: models.SoftmaxHead(1, 0),
    "dtype: expected 'float32' or 'float64', got 'float16'": lambda: models.Last(dtype="float16"),
    "modules: expected at least one, got none": lambda: models.Sequential(),
    "1: expected a module, got int": lambda: models.Sequential(models.Last(), 3),
    "1: expected the dtype float32, got float64": lambda: models.Sequential(
        models.Last(), models.Last(dtype="float64")
    ),
    "head: expected a head with a loss, got Linear": lambda: models.SequenceModel(
        models.Last(), models.Linear(1, 1)
    ),
}


@pytest.mark.parametrize("message", CONSTRUCTORS)
def test_errors_of_constructors(message):
    with pytest.raises((ValueError, TypeError)) as error:
        CONSTRUCTORS[message]()
    assert str(error.value) == message


CONFIGURATIONS = {
    "config: expected a mapping, got list": [],
    "config: expected a kind, one of": {"kind": "Nonsense"},
    "config: Linear: got an unexpected keyword argument 'width'": {
        "kind": "Linear", "inputs": 1, "outputs": 1, "width": 3
    },
    "config: Linear: missing a required argument: 'outputs'": {"kind": "Linear", "inputs": 1},
    "inputs: expected at least 1, got 0": {"kind": "Linear", "inputs": 0, "outputs": 1},
    "modules: expected at least one, got none": {"kind": "Sequential", "modules": {}},
}  # fmt: skip


@pytest.mark.parametrize("message", CONFIGURATIONS)
def test_errors_of_configurations(message):
    with pytest.raises((ValueError, TypeError)) as error:
        models.build(CONFIGURATIONS[message])
    assert str(error.value).startswith(message)


def test_modules_of_other_classes_must_be_registered():
    class Foreign(models.Linear):
        pass

    with pytest.raises(TypeError, match="expected one of a registered class, got Foreign"):
        models.config(models.Sequential(Foreign(1, 1)))

    class Linear(models.Linear):
        pass

    with pytest.raises(ValueError, match="kind: Linear is another class already"):
        models.register(Linear)

"""Every bad argument of a call on a GPU has its exact message, and does no harm."""

from __future__ import annotations

import contextlib
import copy
import pickle

import numpy as np
import pytest

import fusedrnn
import kernel_problems
from device_problems import on_device
from fusedrnn import _device, cuda, functional
from test_cuda_exchange import Interface

F4 = np.float32


def zeros(*shape, dtype="float32"):
    return cuda.asarray(np.zeros(shape, F4), dtype)


@pytest.fixture
def p():
    """An LSTM of 3 inputs and 4 units; T = 5, B = 2."""
    return on_device(kernel_problems.make("lstm", steps=5, batch=2, inputs=3, units=4), "float32")


@contextlib.contextmanager
def rejects(error: type[Exception], message: str):
    with pytest.raises(error) as caught:
        yield
    assert type(caught.value) is error
    assert str(caught.value) == message


def infer(p, x=None, state=None, parameters=None, **options):
    return functional.infer(
        "lstm", p.x if x is None else x, parameters or p.parameters, state, **options
    )


# x


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3,), "x: expected (T, B, 3) [T, B, I] or (T, 3) [T, I], got (3,)"),
        ((1, 5, 2, 3), "x: expected (T, B, 3) [T, B, I] or (T, 3) [T, I], got (1, 5, 2, 3)"),
        ((5, 2, 4), "x: expected (T, B, 3) [T, B, I], got (5, 2, 4)"),
        ((5, 4), "x: expected (T, 3) [T, I], got (5, 4)"),
    ],
)
def test_the_shape_of_x(p, shape, message):
    with rejects(ValueError, message):
        infer(p, zeros(*shape))


def test_the_shape_of_x_with_the_batch_first(p):
    with rejects(ValueError, "x: expected (B, T, 3) [B, T, I], got (2, 5, 4)"):
        infer(p, zeros(2, 5, 4), batch_first=True)


def test_the_dtype_of_x(p):
    with rejects(TypeError, "x: expected an array of float32, got float16"):
        infer(p, zeros(5, 2, 3, dtype="float16"))
    x = p.x
    for typestr, name in (("<f8", "float64"), ("<i4", "int32"), (">f4", ">f4"), ("|b1", "bool")):
        message = f"x: expected an array of float32, float16 or bfloat16, got {name}"
        with rejects(TypeError, message):
            infer(p, Interface(x, typestr=typestr))


@pytest.mark.parametrize(
    ("strides", "text"), [((4, 20, 40), "(1, 5, 10)"), ((24, 12, 8), "(6, 3, 2)")]
)
def test_the_layout_of_x(p, strides, text):
    message = f"x: expected a contiguous array in C order, got strides {text}"
    with rejects(ValueError, message):
        infer(p, Interface(p.x, strides=strides))


def test_strides_of_single_elements_are_free(p):
    x = zeros(5, 1, 3)
    infer(p, Interface(x, strides=(12, 4, 4)))


def test_a_mask(p):
    with rejects(ValueError, "x: expected an array without a mask, got one with"):
        infer(p, Interface(p.x, mask=p.x))


# Where arrays are


def test_arrays_on_the_cpu(p):
    host = {name: array.numpy() for name, array in p.parameters.items()}
    with rejects(TypeError, "weight_ih_l0: expected an array on a GPU, got one on the CPU"):
        infer(p, parameters=host)
    mixed = p.parameters | {"bias_hh_l0": host["bias_hh_l0"]}
    with rejects(TypeError, "bias_hh_l0: expected an array on a GPU, got one on the CPU"):
        infer(p, parameters=mixed)
    h, c = p.states
    with rejects(TypeError, "state[1]: expected an array on cuda:0, got one on the CPU"):
        infer(p, state=(h, c.numpy()))
    tape = p.forward()[2]
    with rejects(TypeError, "dy: expected an array on cuda:0, got one on the CPU"):
        functional.backward(tape, p.dy.numpy())
    with rejects(TypeError, "dstate[0]: expected an array on cuda:0, got one on the CPU"):
        functional.backward(tape, p.dy, (h.numpy(), None))
    functional.backward(tape, p.dy)


def test_device_arrays_for_the_cpu(p):
    x = p.x.numpy()
    with rejects(TypeError, "weight_ih_l0: expected an array on the CPU, got one on cuda:0"):
        infer(p, x)
    lstm = fusedrnn.LSTM(3, 4, seed=0)
    with rejects(TypeError, "x: expected an array on the CPU, got one on cuda:0"):
        lstm(p.x)
    with rejects(TypeError, "state[0]: expected an array on the CPU, got one on cuda:0"):
        lstm(x, p.states)


def test_what_is_no_array(p):
    with rejects(TypeError, "state[0]: expected an array of float32, got list"):
        infer(p, state=([[[0.0]]], p.states[1]))
    parameters = p.parameters | {"weight_hh_l0": 3.0}
    message = "weight_hh_l0: expected an array of float32, float16 or bfloat16, got float"
    with rejects(TypeError, message):
        infer(p, parameters=parameters)


# Parameters


def test_names_of_parameters(p):
    rest = {name: a for name, a in p.parameters.items() if name != "bias_hh_l0"}
    with rejects(ValueError, "parameters: missing bias_hh_l0"):
        infer(p, parameters=rest)
    with rejects(ValueError, "parameters: unexpected weight_ih_l2"):
        infer(p, parameters=p.parameters | {"weight_ih_l2": zeros(16, 3)})
    with rejects(ValueError, "parameters: missing weight_ih_l0"):
        infer(p, parameters={"weight_hh_l0": zeros(16, 4)})
    with rejects(ValueError, "cell: expected one of lstm, gru, rnn_tanh, rnn_relu, got 'mlp'"):
        functional.infer("mlp", p.x, p.parameters)
    message = "parameters: expected a mapping of names to arrays on a GPU, got list"
    with rejects(TypeError, message):
        functional.infer("lstm", p.x, list(p.parameters.values()))
    weights = functional.Weights("lstm", {n: a.numpy() for n, a in p.parameters.items()})
    message = "parameters: expected a mapping of names to arrays on a GPU, got Weights"
    with rejects(TypeError, message):
        functional.infer("lstm", p.x, weights)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("weight_ih_l0", (12, 3), "expected (16, 3) [4*H, I], got (12, 3)"),
        ("weight_hh_l0", (16, 4, 1), "expected a matrix of at least one column, got (16, 4, 1)"),
        ("weight_hh_l0", (4, 4), "expected (16, 4) [4*H, H], got (4, 4)"),
        ("bias_ih_l0", (4,), "expected (16,) [4*H], got (4,)"),
        ("bias_hh_l0", (16, 1), "expected (16,) [4*H], got (16, 1)"),
    ],
)
def test_shapes_of_parameters(p, name, shape, message):
    with rejects(ValueError, f"{name}: {message}"):
        infer(p, parameters=p.parameters | {name: zeros(*shape)})


def test_shapes_of_further_layers():
    p = on_device(
        kernel_problems.make("gru", inputs=3, units=4, layers=2, bidirectional=True), "float32"
    )
    for name, expected in (
        ("weight_ih_l1", "(12, 8) [3*H, 2*H]"),
        ("weight_hh_l1", "(12, 4) [3*H, H]"),
    ):
        with rejects(ValueError, f"{name}: expected {expected}, got (12, 3)"):
            functional.infer("gru", p.x, p.parameters | {name: zeros(12, 3)})


def test_dtypes_of_parameters(p):
    parameters = p.parameters | {"bias_hh_l0": zeros(16, dtype="bfloat16")}
    with rejects(TypeError, "bias_hh_l0: expected an array of float32, got bfloat16"):
        infer(p, parameters=parameters)


def test_projections(p):
    shapes = {"weight_ih_l0": (16, 3), "weight_hh_l0": (16, 2), "weight_hr_l0": (2, 4)}
    message = "weight_hr_l0: expected no projection for x on a GPU, got one"
    with rejects(ValueError, message):
        infer(p, parameters={name: zeros(*shape) for name, shape in shapes.items()})


# States and gradients


def test_states(p):
    h, c = p.states
    with rejects(TypeError, "state: expected a tuple (h, c), got DeviceArray"):
        infer(p, state=h)
    with rejects(ValueError, "state: expected a tuple (h, c), got 1 items"):
        infer(p, state=(h,))
    with rejects(ValueError, "state[1]: expected (1, 2, 4) [L, B, H], got (1, 2, 3)"):
        infer(p, state=(h, zeros(1, 2, 3)))
    with rejects(TypeError, "state[0]: expected an array of float32, got NoneType"):
        infer(p, state=(None, c))
    with rejects(TypeError, "state[0]: expected an array of float32, got float16"):
        infer(p, state=(zeros(1, 2, 4, dtype="float16"), c))
    with rejects(ValueError, "state[0]: expected (1, 4) [L, H], got (1, 2, 4)"):
        infer(p, zeros(5, 3), state=(h, c))


def test_gradients(p):
    tape = p.forward()[2]
    with rejects(ValueError, "dy: expected (5, 2, 4) [T, B, H], got (5, 2, 3)"):
        functional.backward(tape, zeros(5, 2, 3))
    with rejects(TypeError, "dy: expected an array of float32, got bfloat16"):
        functional.backward(tape, zeros(5, 2, 4, dtype="bfloat16"))
    with rejects(TypeError, "dstate: expected a tuple (h, c), got DeviceArray"):
        functional.backward(tape, p.dy, p.dstates[0])
    with rejects(ValueError, "dstate[0]: expected (1, 2, 4) [L, B, H], got (2, 2, 4)"):
        functional.backward(tape, p.dy, (zeros(2, 2, 4), None))
    assert not tape.spent
    first = functional.backward(tape, p.dy, p.dstates)
    assert tape.spent
    message = (
        "tape: expected a tape whose gradients were not taken yet, got a spent one "
        "(its memory is given back; call forward again)"
    )
    with rejects(RuntimeError, message):
        functional.backward(tape, p.dy)
    again = functional.backward(p.forward()[2], p.dy, p.dstates)
    np.testing.assert_array_equal(first.x.numpy(), again.x.numpy())


# Options


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([6, 1], ValueError, "lengths: expected 0 to T = 5, got 6"),
        ([-1, 1], ValueError, "lengths: expected 0 to T = 5, got -1"),
        ([1, 2, 3], ValueError, "lengths: expected shape (2,), got (3,)"),
        ([1.0, 2.0], TypeError, "lengths: expected integers, got float64"),
    ],
)
def test_lengths(p, lengths, error, message):
    with rejects(error, message):
        infer(p, lengths=lengths)
    with rejects(error, message):
        infer(p, lengths=np.array(lengths))


def test_options(p):
    with rejects(TypeError, "batch_first: expected a bool, got int"):
        infer(p, batch_first=1)
    with rejects(ValueError, "dropout: expected a number in [0, 1], got 2"):
        functional.forward("lstm", p.x, p.parameters, dropout=2)
    with rejects(ValueError, "out: expected None for x on a GPU, got DeviceArray"):
        infer(p, out=p.dy)
    with rejects(ValueError, "checkpoint_every: expected None for x on a GPU, got int"):
        functional.forward("lstm", p.x, p.parameters, checkpoint_every=2)
    tape = p.forward()[2]
    with rejects(ValueError, "out: expected None for x on a GPU, got list"):
        functional.backward(tape, p.dy, out=[])


def test_tapes(p):
    tape = p.forward()[2]
    assert tape.nbytes > 0
    assert tape.weights.names == list(p.parameters)
    module = _device.required()
    with rejects(TypeError, "fusedrnn._cuda.Tape: No constructor defined!"):
        type(tape)()
    for duplicate in (copy.copy, pickle.dumps):
        with rejects(TypeError, "cannot pickle 'fusedrnn._cuda.Tape' object"):
            duplicate(tape)
    with pytest.raises(RuntimeError, match="non-held"):
        module.Tape.backward(module.Tape.__new__(module.Tape), None, None)


def test_asarray(p):
    message = "array: expected float16, which it isn't converted to on a GPU, got float32"
    with rejects(ValueError, message):
        cuda.asarray(p.x, "float16")
    assert cuda.asarray(p.x, "float32").numpy().tolist() == p.x.numpy().tolist()
    message = "array: expected an array, got MaskedArray, whose mask has no meaning here"
    with rejects(TypeError, message):
        cuda.asarray(np.ma.array([1.0, 2.0], mask=[False, True]), "float32")


def test_too_large_for_the_memory(p):
    x = zeros(1, 1, 1)
    huge = Interface(x, shape=(2**40, 2**10, 3))
    with pytest.raises(MemoryError) as caught:
        infer(p, huge)
    assert str(caught.value) == (
        f"y: an array of ({2**40}, {2**10}, 4) doesn't fit in the memory of cuda:0"
    )

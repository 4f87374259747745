"""Every bad array and tape has its exception and its whole message, and does no harm.

After each rejected call every array of the world has the bytes that it had, the layers compute what
they computed before, and the tape still gives its gradients: see `rejects`.
"""

from __future__ import annotations

import array
import copy
import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import fusedrnn
from error_problems import F4, OffersArray, World, read_only, rejects
from fusedrnn import functional

WANTED = "expected an array of float32, got "


# Every array argument: kinds and dtypes

# What isn't an array of the right dtype, and what messages call it. {} is the right shape.
KINDS: dict[str, tuple[Callable[[tuple[int, ...]], object], str]] = {
    "float64": (lambda s: np.ones(s), "float64"),
    "float16": (lambda s: np.ones(s, np.float16), "float16"),
    "long double": (lambda s: np.ones(s, np.longdouble), str(np.dtype(np.longdouble))),
    "int32": (lambda s: np.ones(s, np.int32), "int32"),
    "int64": (lambda s: np.ones(s, np.int64), "int64"),
    "uint8": (lambda s: np.ones(s, np.uint8), "uint8"),
    "bool": (lambda s: np.ones(s, bool), "bool"),
    "complex64": (lambda s: np.ones(s, np.complex64), "complex64"),
    "object": (lambda s: np.ones(s, object), "object"),
    "big-endian": (lambda s: np.ones(s, ">f4"), ">f4"),
    "big-endian double": (lambda s: np.ones(s, ">f8"), ">f8"),
    "structured": (lambda s: np.ones(s, [("a", "f4")]), "[('a', '<f4')]"),
    "strings": (lambda s: np.full(s, "1"), "<U1"),
    "bytes array": (lambda s: np.full(s, b"1"), "|S1"),
    "dates": (lambda s: np.zeros(s, "M8[s]"), "datetime64[s]"),
    "list": (lambda s: np.ones(s, F4).tolist(), "list"),
    "tuple of arrays": (lambda s: tuple(np.ones(s, F4)), "tuple"),
    "str": (lambda s: "1.0", "str"),
    "int": (lambda s: 1, "int"),
    "float": (lambda s: 1.0, "float"),
    "dict": (lambda s: {}, "dict"),
    "type": (lambda s: np.ndarray, "object"),
    "buffer of bytes": (lambda s: bytearray(4), "uint8"),
    "array.array": (lambda s: array.array("d", [1.0]), "float64"),
    "masked": (lambda s: np.ma.ones(s, "float32"), "MaskedArray, whose mask has no meaning here"),
}

# How each array argument is given.
ARRAYS: dict[str, tuple[tuple[int, ...], Callable[[World, object], object]]] = {
    "x": ((5, 2, 3), lambda w, a: w.lstm(a)),
    "state[0]": ((1, 2, 4), lambda w, a: w.lstm(w.x, (a, w.c))),
    "state[1]": ((1, 2, 4), lambda w, a: w.lstm(w.x, (w.h, a))),
    "dy": ((5, 2, 4), lambda w, a: functional.backward(w.tape, a)),
    "dstate[0]": ((1, 2, 4), lambda w, a: functional.backward(w.tape, w.dy, (a, w.dc))),
    "dstate[1]": ((1, 2, 4), lambda w, a: functional.backward(w.tape, w.dy, (w.dh, a))),
    "weight_ih_l0": ((16, 3), lambda w, a: w.load("weight_ih_l0", a)),
    "weight_hh_l0": ((16, 4), lambda w, a: w.lstm.parameters.update(weight_hh_l0=a)),
    "bias_ih_l0": ((16,), lambda w, a: w.lstm.parameters.__setitem__("bias_ih_l0", a)),
    "bias_hh_l0": ((16,), lambda w, a: w.infer(parameters={**w.parameters, "bias_hh_l0": a})),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ARRAYS)
def test_every_array_has_its_dtype(name, kind):
    shape, call = ARRAYS[name]
    make, got = KINDS[kind]
    with rejects(TypeError, f"{name}: {WANTED}{got}") as w:
        call(w, make(shape))


@pytest.mark.parametrize("name", ["x", "state[0]", "state[1]", "weight_ih_l0", "bias_hh_l0"])
def test_none_is_no_array(name):
    call = ARRAYS[name][1]
    with rejects(TypeError, f"{name}: {WANTED}NoneType") as w:
        call(w, None)


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("float64", "array.array")])
def test_weights_say_both_dtypes(kind):
    make, got = KINDS[kind]
    with rejects(
        TypeError, f"weight_ih_l0: expected an array of float32 or float64, got {got}"
    ) as w:
        functional.Weights("lstm", {**w.parameters, "weight_ih_l0": make((16, 3))})


@pytest.mark.parametrize("kind", KINDS)
def test_out_has_its_dtype_and_is_an_array(kind):
    make, got = KINDS[kind]
    got = {"type": "type", "buffer of bytes": "bytearray", "array.array": "array"}.get(kind, got)
    with rejects(TypeError, f"out: {WANTED}{got}") as w:
        w.infer(out=make((5, 2, 4)))
    with rejects(TypeError, f"out.x: {WANTED}{got}") as w:
        w.replace(x=make((5, 2, 3)))


def test_dtypes_are_never_mixed():
    with rejects(TypeError, "x: expected an array of float64, got float32") as w:
        fusedrnn.GRU(3, 4, dtype="float64")(w.x)
    with rejects(TypeError, f"bias_ih_l0: {WANTED}float64") as w:
        w.infer(parameters={**w.parameters, "bias_ih_l0": np.ones(16)})
    with rejects(TypeError, "state[0]: expected an array of float64, got float32") as w:
        functional.infer(
            "lstm",
            w.x.astype(float),
            {n: p.astype(float) for n, p in w.parameters.items()},
            (w.h, w.c),
        )
    with rejects(TypeError, f"x: {WANTED}float64") as w:
        w.lstm(OffersArray(np.ones(3)))
    with rejects(
        TypeError, f"x: {WANTED}OffersArray: object __array__ method not producing an array"
    ) as w:
        w.lstm(OffersArray(None))


# Shapes


def test_x_has_its_shape():
    with rejects(ValueError, "x: expected (T, B, 3) [T, B, I] or (T, 3) [T, I], got ()") as w:
        w.lstm(F4(1))
    with rejects(ValueError, "x: expected (T, B, 3) [T, B, I] or (T, 3) [T, I], got (3,)") as w:
        w.lstm(w.x[0, 0])
    with rejects(
        ValueError, "x: expected (T, B, 3) [T, B, I] or (T, 3) [T, I], got (1, 5, 2, 3)"
    ) as w:
        w.lstm(w.x[None])
    with rejects(
        ValueError, "x: expected (B, T, 3) [B, T, I] or (T, 3) [T, I], got (1, 5, 2, 3)"
    ) as w:
        fusedrnn.LSTM(3, 4, batch_first=True)(w.x[None])
    with rejects(ValueError, "x: expected (T, B, 3) [T, B, I], got (5, 2, 4)") as w:
        w.lstm(w.dy)
    with rejects(ValueError, "x: expected (T, B, 3) [T, B, I], got (5, 2, 0)") as w:
        w.lstm(w.x[:, :, :0])
    with rejects(ValueError, "x: expected (B, T, 3) [B, T, I], got (5, 2, 4)") as w:
        w.infer(w.dy, batch_first=True)
    with rejects(ValueError, "x: expected (T, 3) [T, I], got (2, 4)") as w:
        w.lstm.forward(w.dy[0])


def test_states_and_their_gradients_have_their_shapes():
    with rejects(TypeError, "state: expected a tuple (h, c), got ndarray") as w:
        w.lstm(w.x, w.h)
    with rejects(TypeError, "state: expected a tuple (h, c), got dict") as w:
        w.lstm(w.x, {"h": w.h, "c": w.c})
    with rejects(ValueError, "state: expected a tuple (h, c), got 0 items") as w:
        w.lstm(w.x, ())
    with rejects(ValueError, "state: expected a tuple (h, c), got 1 items") as w:
        w.lstm(w.x, (w.h,))
    with rejects(ValueError, "state: expected a tuple (h, c), got 3 items") as w:
        w.lstm.forward(w.x, [w.h, w.c, w.c])
    with rejects(TypeError, f"state: {WANTED}tuple") as w:
        w.gru(w.x, (w.h, w.c))
    with rejects(ValueError, "state: expected (1, 2, 4) [L, B, H], got (2, 4)") as w:
        w.gru(w.x, w.h[0])
    with rejects(ValueError, "state: expected (1, 4) [L, H], got (1, 2, 4)") as w:
        w.gru(w.x[:, 0], w.h)
    with rejects(ValueError, "state[0]: expected (1, 2, 4) [L, B, H], got (2, 2, 4)") as w:
        w.lstm(w.x, (np.ones((2, 2, 4), F4), w.c))
    with rejects(ValueError, "state[1]: expected (1, 2, 4) [L, B, H], got (1, 1, 4)") as w:
        w.lstm(w.x, (w.h, w.c[:, :1]))
    with rejects(ValueError, "state: expected (1, 2, 4) [L, B, H], got (1, 2, 3)") as w:
        w.gru(w.x, w.h[:, :, :3])
    with rejects(ValueError, "state: expected (1, 5, 4) [L, B, H], got (5, 1, 4)") as w:
        fusedrnn.GRU(3, 4, batch_first=True)(w.x, np.ones((5, 1, 4), F4))
    with rejects(ValueError, "state: expected (4, 2, 4) [L*2, B, H], got (1, 2, 4)") as w:
        fusedrnn.GRU(3, 4, 2, bidirectional=True)(w.x, w.h)
    with rejects(ValueError, "state[1]: expected (1, 2, 4) [L, B, H], got (4, 2, 1)") as w:
        w.infer(state=(w.h, w.c.T))
    with rejects(TypeError, "dstate: expected a tuple (h, c), got ndarray") as w:
        functional.backward(w.tape, w.dy, w.dh)
    with rejects(ValueError, "dstate: expected a tuple (h, c), got 3 items") as w:
        functional.backward(w.tape, w.dy, (None, None, None))
    with rejects(ValueError, "dstate[1]: expected (1, 2, 4) [L, B, H], got (2, 4)") as w:
        functional.backward(w.tape, w.dy, (w.dh, w.dc[0]))
    with rejects(ValueError, "dy: expected (5, 2, 4) [T, B, H], got (4, 2, 4)") as w:
        functional.backward(w.tape, w.dy[:4])
    with rejects(ValueError, "dy: expected (5, 2, 4) [T, B, H], got (5, 4)") as w:
        functional.backward(w.tape, w.dy[:, 0])


def test_h_and_c_of_an_unbatched_call_are_not_swapped_with_batched_ones():
    with rejects(ValueError, "state[1]: expected (1, 4) [L, H], got (1, 2, 4)") as w:
        w.lstm(w.x[:, 0], (w.h[:, 0], w.c))


def test_dy_of_both_directions_and_batch_first():
    layer = fusedrnn.GRU(3, 4, bidirectional=True, batch_first=True)
    y, _, tape = layer.forward(np.ones((2, 5, 3), F4))
    with pytest.raises(ValueError, match=": expected") as caught:
        layer.backward(tape, y[:, :, :4])
    assert str(caught.value) == "dy: expected (2, 5, 8) [B, T, 2*H], got (2, 5, 4)"
    assert layer.backward(tape, y).x.shape == (2, 5, 3)


# out


def test_out_is_checked():
    with rejects(ValueError, "out: expected (5, 2, 4) [T, B, H], got (5, 2, 3)") as w:
        w.infer(out=w.x)
    with rejects(ValueError, "out: expected (5, 2, 4) [T, B, H], got (2, 4)") as w:
        w.infer(out=w.out[0])
    with rejects(ValueError, "out: expected (2, 5, 4) [B, T, H], got (5, 2, 4)") as w:
        w.infer(np.swapaxes(w.x, 0, 1), out=w.out, batch_first=True)
    with rejects(ValueError, "out: expected a writable array, got a read-only one") as w:
        w.infer(out=read_only(w.out))
    with rejects(ValueError, "out: expected a writable array, got a read-only one") as w:
        w.infer(out=np.broadcast_to(w.out[0], (5, 2, 4)))
    with rejects(ValueError, "out: expected a writable array, got a read-only one") as w:
        functional.forward("lstm", w.x, w.weights, out=read_only(w.out))
    with rejects(ValueError, "out: must not share memory with x") as w:
        functional.infer("gru", w.dy, square(w), out=w.dy)
    with rejects(ValueError, "out: must not share memory with x") as w:
        functional.forward("gru", w.dy, square(w), out=w.dy[::-1])
    with rejects(ValueError, "out: must not share memory with x") as w:
        functional.infer("gru", w.dy[:, ::-1], square(w), out=w.dy)
    with rejects(ValueError, "out: must not share memory with state[0]") as w:
        w.infer(state=(w.out[:1], w.c), out=w.out)
    with rejects(ValueError, "out: must not share memory with state[1]") as w:
        w.infer(state=(w.h, w.out[None, 3, ::-1]), out=w.out)
    with rejects(ValueError, "out: must not share memory with bias_ih_l0") as w:
        w.infer(parameters={**w.parameters, "bias_ih_l0": w.out.reshape(-1)[3:19]}, out=w.out)
    with rejects(TypeError, "out: expected Gradients, got ndarray") as w:
        w.backward(out=w.targets.x)
    with rejects(ValueError, "out.x: expected (5, 2, 3) [T, B, I], got (5, 2, 4)") as w:
        w.replace(x=w.dy)
    with rejects(ValueError, "out.x: expected a writable array, got a read-only one") as w:
        w.replace(x=read_only(w.targets.x))
    with rejects(TypeError, "out.state: expected a tuple (h, c), got ndarray") as w:
        w.replace(state=w.targets.state[0])
    with rejects(ValueError, "out.state: expected a tuple (h, c), got 3 items") as w:
        w.replace(state=(*w.targets.state, None))
    with rejects(ValueError, "out.state[1]: expected (1, 2, 4) [L, B, H], got (5, 2, 4)") as w:
        w.replace(state=(w.targets.state[0], w.out))
    with rejects(TypeError, "out.parameters: expected a mapping of names to arrays, got list") as w:
        w.replace(parameters=list(w.targets.parameters.values()))
    with rejects(
        ValueError,
        "out.parameters: expected the names weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, "
        "got weight_ih_l0, 7",
    ) as w:
        w.replace(parameters={"weight_ih_l0": w.targets.parameters["weight_ih_l0"], 7: None})
    with rejects(ValueError, "out.parameters['bias_ih_l0']: expected (16,) [16], got (15,)") as w:
        w.replace(parameters={**w.targets.parameters, "bias_ih_l0": np.ones(15, F4)})
    with rejects(
        ValueError, "out.parameters['weight_ih_l0']: must not share memory with weight_ih_l0"
    ) as w:
        w.replace(parameters=w.parameters)
    with rejects(ValueError, "out.x: must not share memory with x") as w:
        w.replace(x=w.x)
    with rejects(ValueError, "out.state[1]: must not share memory with dstate[0]") as w:
        w.replace(state=(w.targets.state[0], w.dh))
    with rejects(ValueError, "out.state[1]: must not share memory with dy") as w:
        functional.backward(
            w.tape, w.out, out=replace(w.targets, state=(w.targets.state[0], w.out[2:3]))
        )
    with rejects(ValueError, "out.state[1]: must not share memory with out.state[0]") as w:
        w.replace(state=(w.targets.state[0],) * 2)


def square(w: World) -> dict[str, np.ndarray]:
    """Parameters of a GRU with as many inputs as units."""
    return {name: np.ones((12, 4), F4) for name in ("weight_ih_l0", "weight_hh_l0")}


# Tapes


def test_tapes_are_checked():
    with rejects(
        RuntimeError,
        "tape: expected a tape whose gradients were not taken yet, got a spent one "
        "(its memory is given back; call forward again)",
    ) as w:
        functional.backward(w.spent_tape, w.dy)
    with rejects(ValueError, "tape: expected a tape of this layer, got another layer's") as w:
        w.lstm.backward(fusedrnn.LSTM(3, 4).forward(w.x)[2], w.dy)
    with rejects(ValueError, "tape: expected a tape of this layer, got another layer's") as w:
        w.lstm.backward(copy.deepcopy(w.lstm).forward(w.x)[2], w.dy)
    with rejects(ValueError, "tape: expected a tape of this layer, got another layer's") as w:
        w.lstm.backward(w.tape, w.dy)
    with rejects(TypeError, "tape: expected a Tape from forward, got ndarray") as w:
        w.lstm.backward(w.y, w.dy)
    with rejects(TypeError, "tape: expected a Tape from forward, got NoneType") as w:
        functional.backward(None, w.dy)
    with rejects(TypeError, "tape: expected a Tape from forward, got Tape") as w:
        functional.backward(fusedrnn.reference.forward("lstm", w.x, w.parameters)[2], w.dy)
    with rejects(TypeError, "fusedrnn._core.Tape: No constructor defined!") as w:
        fusedrnn.Tape()
    with rejects(TypeError, "cannot pickle 'fusedrnn._core.Tape' object") as w:
        copy.copy(w.tape)
    with rejects(TypeError, "cannot pickle 'fusedrnn._core.Tape' object") as w:
        pickle.dumps(w.tape)


def test_an_empty_tape_is_an_error_and_no_crash():
    tape = fusedrnn.Tape.__new__(fusedrnn.Tape)
    for use in (
        lambda: functional.backward(tape, None),
        lambda: fusedrnn.LSTM(3, 4).backward(tape, None),
        lambda: tape.spent,
        lambda: tape.nbytes,
        lambda: tape.weights,
    ):
        with pytest.raises(RuntimeError, match="Unable to cast from non-held to held instance"):
            use()


def test_the_second_backward_on_a_tape_says_so():
    w = World()
    w.backward()
    assert w.tape.spent
    for _ in range(2):
        with pytest.raises(RuntimeError, match="got a spent one"):
            w.backward()

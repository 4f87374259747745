"""The weights of a layer: never stale, packed once, replaced as a whole."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import fusedrnn
from fusedrnn import functional
from layer_problems import F4, arrays, assert_equal, normal, ones, packed

# A weight is never stale


def change_by_load(layer, name, value):
    layer.load_parameters({**layer.parameters, name: value})


def change_by_item(layer, name, value):
    layer.parameters[name] = value


def change_by_update(layer, name, value):
    layer.parameters.update({name: value})


def change_by_keyword(layer, name, value):
    layer.parameters.update(**{name: value})


def change_by_edit(layer, name, value):
    with layer.edit_parameters() as p:
        p[name][:] = value


def change_by_replacing_in_edit(layer, name, value):
    with layer.edit_parameters() as p:
        p[name] = value


def change_by_setstate(layer, name, value):
    layer.__setstate__({**layer.__getstate__(), "parameters": {**layer.parameters, name: value}})


@pytest.mark.parametrize(
    "change", [f for name, f in sorted(globals().items()) if name.startswith("change_by_")]
)
def test_the_next_call_sees_a_changed_weight(change):
    layer, x = fusedrnn.LSTM(3, 4, 2, bidirectional=True, seed=0), normal(5, 2, 3)
    view = layer.parameters
    for n, name in enumerate(list(layer.parameters)):
        before = layer(x)[0]
        value = normal(*layer.parameters[name].shape, seed=n)
        change(layer, name, value)
        value[:] = np.nan  # the layer has its own copy
        now = {key: np.array(p) for key, p in layer.parameters.items()}
        assert np.array_equal(view[name], now[name])
        y, state = layer(x)
        assert (y != before).any()
        want, last = functional.infer("lstm", x, now)
        assert_equal((y, *state), (want, *last))
        trained, _, tape = layer.forward(x)
        want, _, other = functional.forward("lstm", x, now)
        assert_equal([trained], [want])
        assert_equal(
            arrays(layer.backward(tape, y)), arrays(functional.backward(other, np.array(y)))
        )


def test_a_loop_of_steps_does_not_pack_again():
    layer = fusedrnn.GRU(3, 4, 2, dropout=0.5, seed=0)
    x, state, first = normal(1, 2, 3), None, packed(layer)
    for _ in range(3):
        y, state = layer(x, state)
        y, state, tape = layer.forward(x, state)
        layer.backward(tape, y)
        layer.parameters["bias_hh_l0"].sum()
        assert packed(layer) is first
    layer.parameters["bias_hh_l0"] = np.zeros(12, F4)
    assert packed(layer) is not first


def test_old_weights_are_given_back():
    layer = fusedrnn.GRU(3, 4)
    tape = layer.forward(ones(5, 2, 3))[2]
    old = weakref.ref(layer.parameters["bias_ih_l0"].base)
    layer.load_parameters(dict(layer.parameters))
    gc.collect()
    assert old() is not None  # the tape has them
    del tape
    gc.collect()
    assert old() is None


def test_a_tape_keeps_the_weights_that_it_came_from():
    layer, x = fusedrnn.LSTM(3, 4, 2, seed=0), normal(5, 2, 3)
    y, _, tape = layer.forward(x)
    want = arrays(layer.backward(tape, y))
    y, _, tape = layer.forward(x)
    with layer.edit_parameters() as p:
        for array in p.values():
            array[:] = np.nan
    assert_equal(arrays(layer.backward(tape, y)), want)
    assert np.isnan(layer(x)[0]).all()


def test_two_tapes_at_once():
    layer, xs = fusedrnn.GRU(3, 4, seed=0), [normal(5, 2, 3, seed=n) for n in range(2)]
    want = []
    for x in xs:
        y, _, tape = layer.forward(x)
        want.append(arrays(layer.backward(tape, y)))
    tapes = [layer.forward(x) for x in xs]
    for n in (1, 0):
        y, _, tape = tapes[n]
        assert_equal(arrays(layer.backward(tape, y)), want[n])


def test_the_state_may_be_written_before_backward():
    """As a loop does that keeps its state in one array; only x is promised to stay."""
    layer, x = fusedrnn.LSTM(3, 4, seed=0), normal(5, 2, 3)
    state = normal(1, 2, 4, seed=1), normal(1, 2, 4, seed=2)
    y, last, tape = layer.forward(x, state)
    want = arrays(layer.backward(tape, y))
    y, last, tape = layer.forward(x, state)
    for array in (*state, *last):
        array[:] = np.nan
    assert_equal(arrays(layer.backward(tape, y)), want)


# The mapping of parameters


def test_parameters_behave_like_a_dict():
    layer = fusedrnn.RNN(3, 4, seed=0)
    names = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
    assert list(layer.parameters) == list(layer.parameters.keys()) == names
    assert "bias_ih_l0" in layer.parameters
    assert layer.parameters.get("bias_ih_l1") is None
    assert layer.parameters.pop("bias_ih_l1", 7) == 7
    assert repr(layer.parameters) == f"Parameters({dict(layer.parameters)!r})"
    for array in layer.parameters.values():
        assert not array.flags.writeable
        assert array.flags.c_contiguous
        with pytest.raises(ValueError, match="read-only"):
            array += 1
    for remove in (layer.parameters.clear, layer.parameters.popitem):
        with pytest.raises(TypeError, match="can't be deleted"):
            remove()
    layer.parameters.update(zip(names, map(np.zeros_like, layer.parameters.values()), strict=True))
    assert not layer(ones(2, 1, 3))[0].any()


def test_several_updates_pack_once(monkeypatch):
    layer, count = fusedrnn.RNN(3, 4), []
    pack = type(layer._network).pack
    monkeypatch.setattr(
        type(layer._network), "pack", lambda *a, **k: count.append(0) or pack(*a, **k)
    )
    layer.parameters.update({name: np.array(p) for name, p in layer.parameters.items()})
    with layer.edit_parameters() as p:
        for array in p.values():
            array += 1
    assert len(count) == 2


def test_edits_are_dropped_where_the_block_fails():
    layer = fusedrnn.LSTM(3, 4, seed=0)
    before, first = {name: p.copy() for name, p in layer.parameters.items()}, packed(layer)

    class Stop(Exception):
        pass

    def fail_inside():
        with layer.edit_parameters() as p:
            p["bias_ih_l0"][:] = 7
            raise Stop

    def spoil(edit):
        with layer.edit_parameters() as p:
            p["bias_ih_l0"][:] = 7
            edit(p)

    with pytest.raises(Stop):
        fail_inside()
    for edit, error, message in [
        (lambda p: p.pop("bias_hh_l0"), ValueError, "parameters: missing bias_hh_l0"),
        (lambda p: p.update(more=1), ValueError, "parameters: unexpected more"),
        (
            lambda p: p.update(bias_hh_l0=np.ones(16)),
            TypeError,
            "bias_hh_l0: expected an array of float32, got float64",
        ),
        (
            lambda p: p.update(bias_hh_l0=ones(4, 4)),
            ValueError,
            "bias_hh_l0: expected (16,) [4*H], got (4, 4)",
        ),
    ]:
        with pytest.raises(error) as caught:
            spoil(edit)
        assert str(caught.value) == message
    assert_equal(layer.parameters.values(), before.values())
    assert packed(layer) is first


def test_copies_of_an_edit_are_independent():
    layer = fusedrnn.LSTM(3, 4, seed=0)
    with layer.edit_parameters() as p:
        assert list(p) == list(layer.parameters)
        for name, array in p.items():
            assert array.flags.writeable
            assert not np.shares_memory(array, layer.parameters[name])
        kept = p["bias_ih_l0"]
    kept[:] = np.nan
    assert np.isfinite(layer.parameters["bias_ih_l0"]).all()

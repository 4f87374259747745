"""The float64 NumPy reference: hand-computed cases, plumbing, errors, docstring examples."""

from __future__ import annotations

import doctest
import importlib
import math
import pkgutil
from dataclasses import replace

import numpy as np
import pytest

from fusedrnn import reference
from reference_problems import CELLS, make, pack, unpack

# Cases computed by hand


def sigma(a: float) -> float:
    return 1 / (1 + math.exp(-a))


def test_registry():
    gates = {name: cell.gates for name, cell in reference.CELLS.items()}
    assert gates == {
        "lstm": ("i", "f", "g", "o"),
        "gru": ("r", "z", "n"),
        "rnn_tanh": ("a",),
        "rnn_relu": ("a",),
    }
    for name, cell in reference.CELLS.items():
        assert cell.name == name
        assert cell.states == (("h", "c") if name == "lstm" else ("h",))


def scalar_parameters(weight_ih, weight_hh, bias_ih, bias_hh):
    return {
        "weight_ih_l0": np.array(weight_ih)[:, None],
        "weight_hh_l0": np.array(weight_hh)[:, None],
        "bias_ih_l0": np.array(bias_ih),
        "bias_hh_l0": np.array(bias_hh),
    }


def test_lstm_of_one_unit():
    x, h, c = 0.5, -0.3, 0.8
    w, r = [0.1, -0.2, 0.3, 0.4], [0.5, 0.6, -0.7, 0.8]
    b, s = [0.01, 0.02, 0.03, 0.04], [-0.1, 0.2, -0.3, 0.4]
    a = [w[k] * x + b[k] + r[k] * h + s[k] for k in range(4)]
    i, f, g, o = sigma(a[0]), sigma(a[1]), math.tanh(a[2]), sigma(a[3])
    c_next = f * c + i * g
    h_next = o * math.tanh(c_next)
    y, (h_n, c_n) = reference.infer(
        "lstm", [[[x]]], scalar_parameters(w, r, b, s), ([[[h]]], [[[c]]])
    )
    assert y.item() == pytest.approx(h_next, rel=1e-15)
    assert (h_n.item(), c_n.item()) == pytest.approx((h_next, c_next), rel=1e-15)


def test_gru_of_one_unit_resets_after_the_product():
    x, h = 0.5, -0.3
    w, s_n = [0.1, -0.2, 0.3], 0.9
    u, b, s = [0.5, 0.6, -0.7], [0.01, 0.02, 0.03], [-0.1, 0.2, s_n]
    r = sigma(w[0] * x + b[0] + u[0] * h + s[0])
    z = sigma(w[1] * x + b[1] + u[1] * h + s[1])
    n = math.tanh(w[2] * x + b[2] + r * (u[2] * h + s_n))  # s_n is inside r (...)
    y, h_n = reference.infer("gru", [[[x]]], scalar_parameters(w, u, b, s), [[[h]]])
    assert y.item() == pytest.approx((1 - z) * n + z * h, rel=1e-15)
    assert h_n.item() == y.item()


def test_relu_network_in_integers():
    """y_t = max(2 x_t - y_{t-1} + 1, 0), exact, in both directions."""
    weights = {"weight_ih_l0": [[2]], "weight_hh_l0": [[-1]], "bias_ih_l0": [3], "bias_hh_l0": [-2]}
    weights |= {f"{name}_reverse": value for name, value in weights.items()}
    y, h = reference.infer("rnn_relu", [[1], [4], [-5], [2]], weights, [[1], [10]])
    assert y.tolist() == [[2, 0], [7, 9], [0, 0], [5, 0]]
    assert h.tolist() == [[5], [0]]


def test_sigmoid_far_out():
    got = reference.sigmoid(np.array([-np.inf, -745.0, -40.0, 0.0, 40.0, 800.0, np.inf]))
    want = [0, math.exp(-745), math.exp(-40), 0.5, 1 - math.exp(-40), 1, 1]
    np.testing.assert_allclose(got, want, rtol=1e-15)
    assert np.isnan(reference.sigmoid(np.array(np.nan)))


@pytest.mark.parametrize("cell", CELLS)
def test_nan_reaches_everything_after_it(cell):
    p = make(cell, steps=4, batch=2)
    p.x[2, 1] = np.nan
    y, state, tape = p.forward()
    assert np.isnan(y[2:, 1]).all() and np.isfinite(y[:2]).all() and np.isfinite(y[:, 0]).all()
    gradients = reference.backward(tape, p.dy, pack(p.dstates))
    assert np.isnan(gradients.x[:3, 1]).all() and np.isfinite(gradients.x[:, 0]).all()
    assert all(np.isnan(g).all() for g in gradients.parameters.values())
    assert all(np.isnan(s[:, 1]).all() for s in unpack(state))


# Plumbing


@pytest.mark.parametrize("cell", CELLS)
def test_layers_and_directions_are_single_layers_put_together(cell):
    p = make(cell, steps=4, layers=2, bidirectional=True)
    y, state, _ = p.forward()
    x = p.x
    for k in range(2):
        outputs = []
        for d, suffix in enumerate(("", "_reverse")):
            own = {
                f"{kind}_l0": p.parameters[f"{kind}_l{k}{suffix}"]
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            }
            rows = slice(2 * k + d, 2 * k + d + 1)
            flip = slice(None, None, -1 if d else 1)
            out, final = reference.infer(cell, x[flip], own, pack([s[rows] for s in p.states]))
            outputs.append(out[flip])
            for part, whole in zip(unpack(final), unpack(state), strict=True):
                np.testing.assert_allclose(part, whole[rows], rtol=1e-13)
        x = np.concatenate(outputs, axis=2)
    np.testing.assert_allclose(y, x, rtol=1e-13)


@pytest.mark.parametrize("cell", CELLS)
def test_batch_first_and_unbatched_are_views_of_the_same(cell):
    p = make(cell, layers=2, bidirectional=True)
    y, state, _ = p.forward()
    first = replace(p, x=p.x.swapaxes(0, 1), dy=p.dy.swapaxes(0, 1), options={"batch_first": True})
    one = replace(
        p,
        x=p.x[:, 1],
        dy=p.dy[:, 1],
        states=tuple(s[:, 1] for s in p.states),
        dstates=tuple(s[:, 1] for s in p.dstates),
    )
    y_first, state_first, _ = first.forward()
    y_one, state_one, _ = one.forward()
    np.testing.assert_allclose(y_first, y.swapaxes(0, 1), rtol=1e-13)
    np.testing.assert_allclose(y_one, y[:, 1], rtol=1e-13)
    for whole, same, part in zip(*map(unpack, (state, state_first, state_one)), strict=True):
        np.testing.assert_allclose(same, whole, rtol=1e-13)
        np.testing.assert_allclose(part, whole[:, 1], rtol=1e-13)
    want = p.gradients()
    for name, gradient in first.gradients().items():
        expected = want[name].swapaxes(0, 1) if name == "x" else want[name]
        np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(one.gradients()["x"], want["x"][:, 1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("cell", CELLS)
def test_none_is_zero(cell):
    p = make(cell, layers=2, bias=False)
    zeros = tuple(np.zeros_like(s) for s in p.states)
    biases = reference.parameter_shapes(cell, 2, 3, 2)
    full = {name: p.parameters.get(name, np.zeros(shape)) for name, shape in biases.items()}
    y, state, tape = reference.forward(cell, p.x, p.parameters)
    y_0, state_0, tape_0 = reference.forward(cell, p.x, full, pack(zeros))
    np.testing.assert_array_equal(y, y_0)
    np.testing.assert_array_equal(state, state_0)
    for dy, dstates in [(p.dy, zeros), (np.zeros_like(p.dy), p.dstates)]:
        arguments = (dy if dy.any() else None, pack(dstates) if dstates[0].any() else None)
        got = reference.backward(tape, *arguments)
        want = reference.backward(tape_0, dy, pack(dstates))
        np.testing.assert_array_equal(got.x, want.x)
        np.testing.assert_array_equal(got.state, want.state)
        assert list(got.parameters) == list(p.parameters)
        for name, gradient in got.parameters.items():
            np.testing.assert_array_equal(gradient, want.parameters[name])


def test_a_part_of_an_lstm_state_gradient_may_be_none():
    p = make("lstm")
    tape = p.forward()[2]
    d_h, d_c = p.dstates
    for given_part, full in [((d_h, None), (d_h, 0 * d_c)), ([None, d_c], (0 * d_h, d_c))]:
        got = reference.backward(tape, None, given_part)
        np.testing.assert_array_equal(got.x, reference.backward(tape, None, full).x)


@pytest.mark.parametrize("cell", CELLS)
def test_a_tape_replays_whatever_happens_to_the_arrays(cell):
    p = make(cell, layers=2, bidirectional=True, dropout=0.5)
    want = p.gradients()
    y, state, tape = p.forward()
    first = reference.backward(tape, p.dy, pack(p.dstates))
    copies = {name: array.copy() for name, array in p.parameters.items()}
    for array in (p.x, *p.states, *p.parameters.values(), y, *unpack(state), first.x):
        array[...] = np.nan
    for gradient in first.parameters.values():
        gradient[...] = np.nan
    for _ in range(2):
        again = reference.backward(tape, p.dy, pack(p.dstates))
        np.testing.assert_array_equal(again.x, want["x"])
        assert list(again.parameters) == list(copies)
        for name, gradient in again.parameters.items():
            np.testing.assert_array_equal(gradient, want[name])


@pytest.mark.parametrize("cell", CELLS)
def test_everything_is_float64_and_inputs_are_not_written(cell):
    p = make(cell)
    narrow = {name: array.astype(np.float32) for name, array in p.arrays.items()}
    for array in narrow.values():
        array.flags.writeable = False
    parameters = {name: narrow[name] for name in p.parameters}
    states = pack(tuple(narrow[name] for name in reference.CELLS[cell].states))
    y, state, tape = reference.forward(cell, narrow["x"], parameters, states)
    gradients = reference.backward(tape, y.astype(np.float32))
    everything = [y, *unpack(state), gradients.x, *unpack(gradients.state)]
    for array in everything + list(gradients.parameters.values()):
        assert array.dtype == np.float64 and array.flags.writeable and array.flags.c_contiguous
    wide = {name: array.astype(np.float64) for name, array in narrow.items()}
    wide_states = pack(tuple(wide[name] for name in reference.CELLS[cell].states))
    wide_parameters = {name: wide[name] for name in p.parameters}
    np.testing.assert_array_equal(
        y, reference.infer(cell, wide["x"], wide_parameters, wide_states)[0]
    )


@pytest.mark.parametrize("cell", CELLS)
def test_empty_batch(cell):
    p = make(cell, batch=0, layers=2, bidirectional=True, dropout=0.5)
    y, state, _ = p.forward()
    assert y.shape == (3, 0, 6) and all(s.shape == (4, 0, 3) for s in unpack(state))
    for name, gradient in p.gradients().items():
        assert gradient.shape == p.arrays[name].shape and not gradient.any()


# Errors


def test_parameter_shapes_in_torch_order():
    shapes = reference.parameter_shapes("lstm", 5, 3, 2, bidirectional=True)
    assert list(shapes.items())[:5] == [
        ("weight_ih_l0", (12, 5)),
        ("weight_hh_l0", (12, 3)),
        ("bias_ih_l0", (12,)),
        ("bias_hh_l0", (12,)),
        ("weight_ih_l0_reverse", (12, 5)),
    ]
    assert shapes["weight_ih_l1"] == (12, 6) and len(shapes) == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": "lstmm"}, "cell: expected one of lstm, gru, rnn_tanh, rnn_relu, got 'lstmm'"),
        ({"x": np.zeros((3, 2, 5))}, r"x: expected 2 inputs \[last axis\], got \(3, 2, 5\)"),
        ({"x": np.zeros(3)}, "x: expected 2 or 3 dimensions, got 1"),
        ({"states": (np.zeros((1, 2, 3)),)}, r"state: expected a tuple \(h, c\)"),
        (
            {"states": (np.zeros((1, 2, 3)), np.zeros((1, 2, 4)))},
            r"state\[1\] \(c\): expected \(1, 2, 3\), got \(1, 2, 4\)",
        ),
        ({"options": {"dropout": 1.5}}, r"dropout: expected a probability in \[0, 1\], got 1.5"),
        ({"options": {"dropout": math.nan}}, r"dropout: expected a probability"),
        ({"options": {"dropout_key": (-1, 0)}}, "dropout_key: expected two integers"),
        ({"options": {"dropout_key": (0, 2**64)}}, "dropout_key: expected two integers"),
    ],
)
def test_wrong_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        replace(make("lstm"), **change).forward()


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("weight_ih_l0", None, "parameters: weight_ih_l0 is missing"),
        ("bias_hh_l0", None, r"parameters: missing \['bias_hh_l0'\], unexpected \[\]"),
        ("weight_ih_l2", np.zeros((3, 3)), r"unexpected \['weight_ih_l2'\]"),
        ("bias_ih_l1", np.zeros(3), r"missing \[\], unexpected \['bias_ih_l1'\]"),
        ("weight_hh_l0", np.zeros((12, 4)), r"weight_ih_l0: expected \(16, 2\), got \(12, 2\)"),
        ("weight_hh_l0", np.zeros(12), r"weight_hh_l0: expected a matrix, not empty, got \(12,\)"),
        ("bias_ih_l0", np.zeros((12, 1)), r"bias_ih_l0: expected \(12,\), got \(12, 1\)"),
    ],
)
def test_wrong_parameters(name, array, message):
    p = make("lstm")
    parameters = {**p.parameters, name: array}
    if array is None:
        del parameters[name]
    with pytest.raises(ValueError, match=message):
        reference.infer("lstm", p.x, parameters)


def test_wrong_gradients():
    p = make("gru")
    tape = p.forward()[2]
    with pytest.raises(ValueError, match=r"dy: expected \(3, 2, 3\), got \(3, 2, 4\)"):
        reference.backward(tape, np.zeros((3, 2, 4)))
    with pytest.raises(ValueError, match=r"dstate: expected \(1, 2, 3\), got \(2, 3\)"):
        reference.backward(tape, p.dy, np.zeros((2, 3)))


def test_every_docstring_example():
    modules = [reference] + [
        importlib.import_module(f"{reference.__name__}.{info.name}")
        for info in pkgutil.iter_modules(reference.__path__)
    ]
    results = [doctest.testmod(module) for module in modules]
    assert sum(result.failed for result in results) == 0
    assert sum(result.attempted for result in results) > 50

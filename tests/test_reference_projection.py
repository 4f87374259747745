"""The projection of an LSTM's h in the reference: by hand, by an LSTM without one, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusedrnn import reference
from reference_problems import CELLS, make, unpack


def sigma(a: float) -> float:
    return 1 / (1 + math.exp(-a))


def test_two_units_projected_to_one():
    x, h, c = 0.5, -0.3, [0.8, -0.4]
    w = [0.1, -0.2, 0.3, 0.4, -0.5, 0.6, 0.7, -0.8]  # i i f f g g o o
    r = [0.5, 0.6, -0.7, 0.8, 0.9, -0.1, 0.2, 0.3]
    v = [1.5, -0.7]
    a = [w[k] * x + r[k] * h for k in range(8)]
    c_next = [sigma(a[2 + j]) * c[j] + sigma(a[j]) * math.tanh(a[4 + j]) for j in range(2)]
    h_next = sum(v[j] * sigma(a[6 + j]) * math.tanh(c_next[j]) for j in range(2))
    parameters = {
        "weight_ih_l0": np.array(w)[:, None],
        "weight_hh_l0": np.array(r)[:, None],
        "weight_hr_l0": [v],
    }
    y, (h_n, c_n) = reference.infer("lstm", [[x]], parameters, ([[h]], [c]))
    assert y.item() == pytest.approx(h_next, rel=1e-14)
    assert h_n.item() == y.item()
    assert c_n[0].tolist() == pytest.approx(c_next, rel=1e-14)


@pytest.mark.parametrize("lengths", [None, [4, 0, 2]], ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_equals_an_lstm_without_projection(bidirectional, lengths):
    """R h = (R V) m: m is the output of an LSTM with weight_hh = R V, and y = V m.

    The initial h must be V m_0 for some m_0. With d_y and d_h_n carried over by V^T, the gradients
    of x, c, weight_ih and the biases are the same. R is in the other one through R V alone, so
    d_R = d_(R V) V^T; V is there and in y = V m, so d_V = R^T d_(R V) + what comes from y, h_n, h.
    """
    options = {"steps": 4, "batch": 3, "units": 5, "bidirectional": bidirectional}
    options["lengths"] = lengths
    p = make("lstm", proj_size=2, seed=1, **options)
    m = make("lstm", seed=2, **options)  # gives the initial m
    directions = ["", "_reverse"] if bidirectional else [""]
    V = [p.parameters[f"weight_hr_l0{d}"] for d in directions]
    R = [p.parameters[f"weight_hh_l0{d}"] for d in directions]
    m_0, d_h_n = m.states[0], p.dstates[0]
    h_0 = np.stack([m_0[d] @ V[d].T for d in range(len(V))])
    plain = {name: a for name, a in p.parameters.items() if not name.startswith("weight_hr")}
    for d, suffix in enumerate(directions):
        plain[f"weight_hh_l0{suffix}"] = R[d] @ V[d]

    y, (h_n, c_n), tape = reference.forward(
        "lstm", p.x, p.parameters, (h_0, p.states[1]), lengths=lengths
    )
    y_m, (m_n, c_n_m), tape_m = reference.forward(
        "lstm", p.x, plain, (m_0, p.states[1]), lengths=lengths
    )
    close = {"rtol": 1e-12, "atol": 1e-13}  # R (V m) and (R V) m round differently
    y_d, y_m_d = (np.split(a, len(V), axis=2) for a in (y, y_m))
    for d in range(len(V)):
        np.testing.assert_allclose(y_d[d], y_m_d[d] @ V[d].T, **close)
        np.testing.assert_allclose(h_n[d], m_n[d] @ V[d].T, **close)
    np.testing.assert_allclose(c_n, c_n_m, **close)

    d_y = np.split(p.dy, len(V), axis=2)
    d_y_m = np.concatenate([d_y[d] @ V[d] for d in range(len(V))], axis=2)
    d_m_n = np.stack([d_h_n[d] @ V[d] for d in range(len(V))])
    got = reference.backward(tape, p.dy, p.dstates)
    want = reference.backward(tape_m, d_y_m, (d_m_n, p.dstates[1]))
    np.testing.assert_allclose(got.x, want.x, **close)
    np.testing.assert_allclose(got.state[1], want.state[1], **close)
    # Where h passes through unchanged, so does its gradient, and V^T carries it over.
    for d, suffix in enumerate(directions):
        np.testing.assert_allclose(got.state[0][d] @ V[d], want.state[0][d], **close)
        for kind in ("weight_ih", "bias_ih", "bias_hh"):
            name = f"{kind}_l0{suffix}"
            np.testing.assert_allclose(got.parameters[name], want.parameters[name], **close)
        d_RV = want.parameters[f"weight_hh_l0{suffix}"]
        # The sums over steps of d_a h^T = d_a m^T V^T.
        np.testing.assert_allclose(got.parameters[f"weight_hh_l0{suffix}"], d_RV @ V[d].T, **close)
        # V stands in R V, where y and h_n are read, and in h_0 = V m_0, which is no function of V
        # in the projected call.
        rows = np.ones(3, bool) if lengths is None else np.array(lengths) > 0
        d_V = (
            R[d].T @ d_RV
            + np.einsum("tbp,tbh->ph", d_y[d], y_m_d[d])
            + d_h_n[d, rows].T @ m_n[d, rows]
            - got.state[0][d, rows].T @ m_0[d, rows]
        )
        np.testing.assert_allclose(got.parameters[f"weight_hr_l0{suffix}"], d_V, **close)


def test_shapes():
    p = make("lstm", steps=4, batch=2, inputs=3, units=5, layers=2, bidirectional=True, proj_size=2)
    assert list(p.parameters)[:6] == [
        "weight_ih_l0",
        "weight_hh_l0",
        "bias_ih_l0",
        "bias_hh_l0",
        "weight_hr_l0",
        "weight_ih_l0_reverse",
    ]
    shapes = {name: array.shape for name, array in p.parameters.items()}
    assert shapes["weight_ih_l0"] == (20, 3) and shapes["weight_ih_l1"] == (20, 4)
    assert shapes["weight_hh_l1"] == (20, 2) and shapes["weight_hr_l1_reverse"] == (2, 5)
    assert len(shapes) == 20
    y, (h, c), tape = p.forward()
    assert (y.shape, h.shape, c.shape) == ((4, 2, 4), (4, 2, 2), (4, 2, 5))
    gradients = reference.backward(tape, p.dy, p.dstates)
    assert [d.shape for d in gradients.state] == [(4, 2, 2), (4, 2, 5)]
    assert {name: g.shape for name, g in gradients.parameters.items()} == shapes
    assert list(gradients.parameters) == list(shapes)
    for array in (y, h, c, gradients.x, *gradients.state, *gradients.parameters.values()):
        assert array.dtype == np.float64 and array.flags.writeable and array.flags.c_contiguous


def test_empty_batch():
    p = make("lstm", batch=0, layers=2, bidirectional=True, proj_size=2)
    y, state, _ = p.forward()
    assert y.shape == (3, 0, 4) and [s.shape for s in state] == [(4, 0, 2), (4, 0, 3)]
    for name, gradient in p.gradients().items():
        assert gradient.shape == p.arrays[name].shape and not gradient.any()


def test_no_state_is_zeros_of_both_sizes():
    p = make("lstm", layers=2, proj_size=2)
    y, state, tape = reference.forward("lstm", p.x, p.parameters)
    zeros = tuple(np.zeros_like(s) for s in p.states)
    want, want_state, want_tape = reference.forward("lstm", p.x, p.parameters, zeros)
    np.testing.assert_array_equal(y, want)
    for got, part in zip(unpack(state), want_state, strict=True):
        np.testing.assert_array_equal(got, part)
    got = reference.backward(tape, p.dy)
    np.testing.assert_array_equal(got.x, reference.backward(want_tape, p.dy, zeros).x)


def test_only_an_lstm_projects():
    assert [name for name in CELLS if reference.CELLS[name].projects] == ["lstm"]
    for cell in set(CELLS) - {"lstm"}:
        with pytest.raises(ValueError, match=f"proj_size: expected 0 for {cell}, got 2"):
            reference.parameter_shapes(cell, 3, 4, proj_size=2)
        p = make(cell)
        parameters = {**p.parameters, "weight_hr_l0": np.zeros((2, 3))}
        message = r"parameters: missing \[\], unexpected \['weight_hr_l0'\]"
        with pytest.raises(ValueError, match=message):
            reference.infer(cell, p.x, parameters)


@pytest.mark.parametrize("proj_size", [-1, 4, 5])
def test_a_projection_makes_h_smaller(proj_size):
    with pytest.raises(ValueError, match=f"proj_size: expected 0 to 3, got {proj_size}"):
        reference.parameter_shapes("lstm", 3, 4, proj_size=proj_size)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("weight_hr_l0", np.zeros((3, 3)), r"weight_hr_l0: expected .* \[P < H\], got \(3, 3\)"),
        ("weight_hr_l0", np.zeros(3), r"weight_hr_l0: expected a matrix, not empty, got \(3,\)"),
        ("weight_hr_l0", np.zeros((0, 3)), "weight_hr_l0: expected a matrix, not empty"),
        ("weight_hr_l0", None, r"parameters: missing \[\], unexpected \['weight_hr_l1'\]"),
        ("weight_hr_l1", None, r"parameters: missing \['weight_hr_l1'\], unexpected \[\]"),
        ("weight_hr_l1", np.zeros((1, 3)), r"weight_hr_l1: expected \(2, 3\), got \(1, 3\)"),
        ("weight_hh_l0", np.zeros((12, 3)), r"weight_hh_l0: expected \(12, 2\), got \(12, 3\)"),
        ("weight_ih_l1", np.zeros((12, 3)), r"weight_ih_l1: expected \(12, 2\), got \(12, 3\)"),
    ],
)
def test_wrong_parameters(name, array, message):
    p = make("lstm", layers=2, proj_size=2)
    parameters = {**p.parameters, name: array}
    if array is None:
        del parameters[name]
    with pytest.raises(ValueError, match=message):
        reference.infer("lstm", p.x, parameters)


def test_wrong_states():
    p = make("lstm", proj_size=2)
    h, c = p.states
    with pytest.raises(
        ValueError, match=r"state\[0\] \(h\): expected \(1, 2, 2\), got \(1, 2, 3\)"
    ):
        reference.infer("lstm", p.x, p.parameters, (c, c))
    with pytest.raises(
        ValueError, match=r"state\[1\] \(c\): expected \(1, 2, 3\), got \(1, 2, 2\)"
    ):
        reference.infer("lstm", p.x, p.parameters, (h, h))
    tape = p.forward()[2]
    with pytest.raises(ValueError, match=r"dy: expected \(3, 2, 2\), got \(3, 2, 3\)"):
        reference.backward(tape, np.zeros((3, 2, 3)))
    message = r"dstate\[0\] \(h\): expected \(1, 2, 2\), got \(1, 2, 3\)"
    with pytest.raises(ValueError, match=message):
        reference.backward(tape, p.dy, (c, c))

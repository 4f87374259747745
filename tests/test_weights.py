"""Weights of other frameworks: orders of gates, matrices over [h, x], Keras."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fusedrnn
from fusedrnn import reference
from fusedrnn.weights import (
    CONVENTIONS,
    from_concatenated,
    from_keras,
    reorder_gates,
    to_keras,
)
from layer_problems import assert_equal
from weight_problems import (
    CELLS,
    GATES,
    LAYERS,
    ROUNDING,
    both_ways,
    concatenated,
    keras,
    loaded,
    normal,
    output,
)

# Orders


def test_torchs_order_is_the_layers():
    gates = {name: "".join(cell.gates) for name, cell in reference.CELLS.items()}
    assert CONVENTIONS["torch"].gates == gates


@pytest.mark.parametrize("framework", CONVENTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_an_order_there_and_back(framework, cell):
    theirs, ours = CONVENTIONS[framework].gates[cell], CONVENTIONS["torch"].gates[cell]
    for axis in (0, 1):
        shape = [5, 5]
        shape[axis] = GATES[cell] * 2
        array = normal(*shape)
        there = reorder_gates(cell, array, ours, theirs, axis)
        assert_equal([reorder_gates(cell, there, theirs, ours, axis)], [array])
        assert there.flags.owndata and there.flags.c_contiguous


def test_other_letters_for_the_same_gates():
    array = normal(8, 3)
    for order in ("ifgo", "ifco", "ifjo"):
        assert_equal([reorder_gates("lstm", array, order, "ifgo")], [array])
    for order in ("rzn", "ruc", "rzh"):
        assert_equal([reorder_gates("gru", array[:6], order, "rzn")], [array[:6]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blocks_move_as_a_whole(dtype):
    array = np.repeat(np.arange(4), 3).astype(dtype)  # three units of each of i o f c
    got = reorder_gates("lstm", array, "iofc", "ifgo")
    assert got.dtype == dtype
    assert got.tolist() == [0, 0, 0, 2, 2, 2, 3, 3, 3, 1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("lstm", normal(8), "ifg", "ifgo"), ValueError, "given: expected the gates 'ifgo' in any"),
        (("lstm", normal(8), "ifgo", "iffo"), ValueError, "wanted: expected .* got 'iffo'"),
        (("lstm", normal(8), "ifgc", "ifgo"), ValueError, "given: expected .* got 'ifgc'"),
        (
            ("gru", normal(8), "rzn", "zrh"),
            ValueError,
            r"array: expected a multiple of 3 .* \(8,\)",
        ),
        (("gru", normal(6), "rzn", "zrh", 1), ValueError, "axis: expected 0 to 0, got 1"),
        (("lstn", normal(8), "ifgo", "ifgo"), ValueError, "cell: expected one of lstm"),
        (("lstm", normal(8), 4, "ifgo"), TypeError, "given: expected a str, got int"),
        (("lstm", [1.0] * 8, "ifgo", "ifgo"), TypeError, "array: expected an array of float32"),
    ],
)
def test_wrong_orders(arguments, error, message):
    with pytest.raises(error, match=message):
        reorder_gates(*arguments)


# Matrices over [h, x]


@pytest.mark.parametrize("parts", ["hx", "xh"])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("forget_bias", [0.0, 1.0, -0.5])
def test_one_matrix_in_every_layout(parts, axis, bias, forget_bias):
    M, x = normal(16, 4 + 3), normal(5, 3)
    b = normal(16) if bias else None
    for gates in ("ifco", "fico", "ijfo", "ofig"):
        want = concatenated(M, b, x, gates=gates, parts=parts, forget_bias=forget_bias)
        parameters = from_concatenated(
            "lstm",
            M if axis == 0 else M.T,
            b,
            gates=gates,
            parts=parts,
            axis=axis,
            forget_bias=forget_bias,
        )
        assert ("bias_ih_l0" in parameters) == (bias or forget_bias != 0)
        np.testing.assert_allclose(output("lstm", parameters, x), want, **ROUNDING)


def test_every_order_of_the_gates():
    M, b, x = normal(8, 2 + 3), normal(8), normal(4, 3)
    for order in itertools.permutations("ifco"):
        gates = "".join(order)
        want = concatenated(M, b, x, gates=gates, parts="hx")
        parameters = from_concatenated("lstm", M, b, gates=gates, parts="hx", axis=0)
        np.testing.assert_allclose(output("lstm", parameters, x), want, **ROUNDING)


@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu"])
def test_one_matrix_of_an_rnn(cell):
    M, b, x = normal(4, 4 + 3) / 2, normal(4), normal(5, 3)
    h, want = np.zeros(4), []
    for x_t in x:
        h = M @ np.concatenate((h, x_t)) + b
        h = np.tanh(h) if cell == "rnn_tanh" else np.maximum(h, 0)
        want.append(h)
    parameters = from_concatenated(cell, M, b, gates="a", parts="hx", axis=0)
    np.testing.assert_allclose(output(cell, parameters, x), want, **ROUNDING)


def test_layers_and_directions_of_a_stack():
    """Four matrices become one bidirectional stack of two layers, by their suffixes."""
    layout = {"gates": "ijfo", "parts": "xh", "axis": 1, "forget_bias": 1.0}
    plain = {key: layout[key] for key in ("gates", "parts", "forget_bias")}
    x, parameters, below = normal(5, 3), {}, normal(5, 3)
    for k, width in enumerate((3, 4)):
        matrices = [normal(width + 2, 8, seed=d) for d in (0, 1)]
        for matrix, direction in zip(matrices, ("", "_reverse"), strict=True):
            parameters |= from_concatenated(
                "lstm", matrix, normal(8), **layout, suffix=f"_l{k}{direction}"
            )

        def run(matrix, values):
            return concatenated(matrix.T, normal(8), values, **plain)

        below = both_ways(run, *matrices, below)
    np.testing.assert_allclose(output("lstm", parameters, x), below, **ROUNDING)


def test_results_are_the_callers():
    M, b = normal(16, 7).astype(np.float32), normal(16).astype(np.float32)
    before = M.copy(), b.copy()
    parameters = from_concatenated("lstm", M, b, gates="ifgo", parts="hx", axis=0, forget_bias=1.0)
    assert [a.dtype for a in parameters.values()] == [np.float32] * 4
    for array in parameters.values():
        assert array.flags.c_contiguous and array.flags.writeable
        array[:] = 0
    assert_equal((M, b), before)


LAYOUT = {"gates": "ifgo", "parts": "hx", "axis": 0}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"cell": "gru"}, ValueError, "cell: expected 'lstm', .* got 'gru': a GRU here resets"),
        ({"cell": "cfc"}, ValueError, "cell: expected one of lstm, gru"),
        ({"gates": "ifg"}, ValueError, "gates: expected the gates 'ifgo' in any order, got 'ifg'"),
        ({"gates": None}, TypeError, "gates: expected a str, got NoneType"),
        ({"parts": "h"}, ValueError, "parts: expected 'hx' or 'xh', got 'h'"),
        ({"axis": 2}, ValueError, "axis: expected 0 or 1, got 2"),
        ({"axis": 1}, ValueError, r"matrix: expected \(H \+ I, 4\*H\), got \(16, 7\)"),
        (
            {"matrix": normal(15, 7)},
            ValueError,
            r"matrix: expected \(4\*H, H \+ I\), got \(15, 7\)",
        ),
        ({"matrix": normal(16, 4)}, ValueError, r"matrix: expected .* got \(16, 4\)"),
        ({"matrix": normal(0, 7)}, ValueError, r"matrix: expected .* got \(0, 7\)"),
        ({"matrix": normal(16)}, ValueError, r"matrix: expected .* got \(16,\)"),
        ({"matrix": [[1.0]]}, TypeError, "matrix: expected an array of float32 or float64"),
        ({"bias": normal(4)}, ValueError, r"bias: expected \(16,\), got \(4,\)"),
        ({"bias": np.zeros(16, np.float32)}, TypeError, "bias: expected an array of float64"),
        ({"forget_bias": "1"}, TypeError, "forget_bias: expected a number, got str"),
        (
            {"cell": "rnn_tanh", "gates": "a", "forget_bias": 1.0},
            ValueError,
            "forget_bias: expected 0 for rnn_tanh, got 1.0",
        ),
    ],
)
def test_wrong_matrices(change, error, message):
    arguments = {"cell": "lstm", "matrix": normal(16, 7), "bias": None, **LAYOUT, **change}
    with pytest.raises(error, match=message):
        from_concatenated(**arguments)


# Keras


def keras_weights(cell: str, inputs=3, units=4, *, bias=True, seed=0) -> list[np.ndarray]:
    rows = GATES[cell] * units
    weights = [normal(inputs, rows, seed=seed) / 2, normal(units, rows, seed=seed) / 2]
    if bias:
        weights.append(normal(*((2, rows) if cell == "gru" else (rows,)), seed=seed))
    return weights


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bias", [False, True])
def test_weights_from_keras(cell, bias):
    x, weights = normal(5, 3), keras_weights(cell, bias=bias)
    got = output(cell, from_keras(cell, weights), x)
    np.testing.assert_allclose(got, keras(cell, weights, x), **ROUNDING)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bias", [False, True])
def test_a_bidirectional_stack_from_keras(cell, bias):
    x = below = normal(5, 3)
    parameters = {}
    for k, width in enumerate((3, 8)):
        forward, backward = (keras_weights(cell, width, bias=bias, seed=s) for s in (1, 2))
        below = both_ways(
            lambda weights, values: keras(cell, weights, values), forward, backward, below
        )
        parameters |= from_keras(cell, forward + backward, layer=k)
    np.testing.assert_allclose(output(cell, parameters, x), below, **ROUNDING)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_weights_to_keras(cell, bidirectional, bias):
    layer = LAYERS[cell](3, 4, 2, bias=bias, bidirectional=bidirectional, dtype="f8", seed=0)
    x = below = normal(5, 3)
    for k in range(2):
        weights = to_keras(cell, layer.parameters, layer=k)
        each = 2 + bias
        assert len(weights) == each * (1 + bidirectional)

        def run(arrays, values):
            return keras(cell, arrays, values)

        if bidirectional:
            below = both_ways(run, weights[:each], weights[each:], below)
        else:
            below = run(weights, below)
    np.testing.assert_allclose(below, layer(x)[0], **ROUNDING)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
def test_keras_there_and_back(cell, bias, directions):
    """Theirs come back as they were; ours with both biases in the first, but for a GRU."""
    weights = [a for d in range(directions) for a in keras_weights(cell, bias=bias, seed=d)]
    again = to_keras(cell, from_keras(cell, weights))
    assert_equal(again, weights)
    assert all(array.flags.c_contiguous for array in again)

    layer = LAYERS[cell](3, 4, bias=bias, bidirectional=directions == 2, dtype="f8", seed=0)
    ours = dict(layer.parameters)
    want = dict(ours)
    for name in [name for name in ours if name.startswith("bias_ih") and cell != "gru"]:
        other = name.replace("ih", "hh")
        want |= {name: ours[name] + ours[other], other: np.zeros(len(ours[other]))}
    got = from_keras(cell, to_keras(cell, ours))
    assert list(got) == list(want)
    assert_equal(got.values(), want.values())


# The outputs of Keras 3.15.1 on torch, which multiplies in float32, in the test below this.
FROM_KERAS = {
    "lstm": [[-0.573381, 0.301336], [-0.484444, -0.310259], [-0.251664, 0.154822]],
    "gru": [[-0.336621, -0.057464], [0.447777, -0.464093], [-0.284697, -0.586286]],
    "rnn_tanh": [[0.869209, -0.043598], [-0.735183, -0.429431], [0.314004, -0.917421]],
    "lstm, Bidirectional": [
        [-0.573381, 0.301336, 0.084089, 0.031198],
        [-0.484444, -0.310259, 0.105879, 0.094182],
        [-0.251664, 0.154822, 0.046434, -0.030619],
    ],
    "gru, Bidirectional": [
        [-0.336621, -0.057464, 0.978719, -0.735462],
        [0.447777, -0.464093, 0.853623, 0.676115],
        [-0.284697, -0.586286, 0.734020, 0.437944],
    ],
}


def waves(shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    """Return arrays that hold sin(1), sin(2), ... one after the other."""
    ends = np.cumsum([np.prod(shape) for shape in shapes])
    parts = np.split(np.sin(1.0 + np.arange(ends[-1])), ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


@pytest.mark.parametrize("name", FROM_KERAS)
def test_keras_own_outputs(name):
    cell, _, directions = name.partition(", ")
    shapes = [array.shape for array in keras_weights(cell, 2, 2)] * (2 if directions else 1)
    layer = loaded(cell, from_keras(cell, waves(shapes)), batch_first=True)
    y, _ = layer(np.cos(np.arange(6.0)).reshape(1, 3, 2))
    np.testing.assert_allclose(y[0], FROM_KERAS[name], rtol=0, atol=1e-6)  # 6 digits are written


DEFAULTS = {
    "lstm": {"activation": "tanh", "recurrent_activation": "sigmoid", "go_backwards": False},
    "gru": {"activation": "tanh", "recurrent_activation": "sigmoid", "reset_after": True},
    "rnn_tanh": {"activation": "tanh", "units": 4},
    "rnn_relu": {"activation": "relu", "units": 4},
}


@pytest.mark.parametrize("cell", CELLS)
def test_a_configuration_that_can_be_represented(cell):
    weights = keras_weights(cell)
    plain = from_keras(cell, weights)
    assert_equal(from_keras(cell, weights, config=DEFAULTS[cell]).values(), plain.values())
    both = {
        "merge_mode": "concat",
        "layer": {"config": DEFAULTS[cell]},
        "backward_layer": {"config": {**DEFAULTS[cell], "go_backwards": True}},
    }
    assert len(from_keras(cell, weights + weights, config=both)) == 8


@pytest.mark.parametrize(
    ("cell", "config", "message"),
    [
        ("gru", {"reset_after": False}, "reset_after: expected True, got False: a GRU here resets"),
        (
            "lstm",
            {"activation": "relu"},
            "activation: expected 'tanh', got 'relu': the cell is lstm",
        ),
        ("rnn_relu", {"activation": "tanh"}, "activation: expected 'relu', got 'tanh'"),
        ("lstm", {"recurrent_activation": "hard_sigmoid"}, "recurrent_activation: expected 'sigm"),
        ("lstm", {"go_backwards": True}, "go_backwards: expected False, got True: reverse"),
        ("lstm", {"merge_mode": "sum"}, "merge_mode: expected 'concat', got 'sum'"),
        ("lstm", {"layer": {"config": {"activation": "elu"}}}, "activation: .* got 'elu'"),
        (
            "lstm",
            {"backward_layer": {"config": {"go_backwards": False}}},
            "go_backwards: expected True, got False",
        ),
    ],
)
def test_a_configuration_that_can_not(cell, config, message):
    with pytest.raises(ValueError, match=message):
        from_keras(cell, keras_weights(cell), config=config)


def test_a_grus_bias_tells_where_it_resets():
    weights = [*keras_weights("gru", bias=False), normal(12)]
    with pytest.raises(
        ValueError, match=r"weights\[2\] \(bias\): .* reset_after=False: a GRU here"
    ):
        from_keras("gru", weights)


W, R, B = keras_weights("lstm")


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([W], ValueError, "weights: expected 2 or 3 arrays .* got 1"),
        ([W, R, B, W, R], ValueError, "weights: expected .* got 5"),
        ([W, R.T], ValueError, r"weights\[1\] \(recurrent kernel\): expected \(16, 64\), got"),
        ([W, R[0]], ValueError, r"weights\[1\] .*: expected \(H, 4\*H\), got \(16,\)"),
        ([W.T, R], ValueError, r"weights\[0\] \(kernel\): expected \(I, 16\), got \(16, 3\)"),
        ([W, R, B[:4]], ValueError, r"weights\[2\] \(bias\): expected \(16,\), got \(4,\)"),
        ([W, R, B, W, R, B[:4]], ValueError, r"weights\[5\] \(bias\): expected \(16,\)"),
        ([W, R, W[:2], R], ValueError, "weights: expected directions of the same size"),
        ([W.astype("f4"), R], TypeError, r"weights\[1\] .*: expected an array of float32"),
        ([W.tolist(), R], TypeError, r"weights\[0\] \(kernel\): expected an array of float32 or"),
    ],
)
def test_wrong_weights_of_keras(weights, error, message):
    with pytest.raises(error, match=message):
        from_keras("lstm", weights)


def test_wrong_layers():
    weights = keras_weights("gru")
    with pytest.raises(ValueError, match="layer: expected at least 0, got -1"):
        from_keras("gru", weights, layer=-1)
    with pytest.raises(TypeError, match="layer: expected an integer, got float"):
        from_keras("gru", weights, layer=1.0)
    parameters = from_keras("gru", weights)
    with pytest.raises(ValueError, match="layer: expected 0 to 0, got 1"):
        to_keras("gru", parameters, layer=1)
    with pytest.raises(TypeError, match="layer: expected an integer, got NoneType"):
        to_keras("gru", parameters, layer=None)


def test_what_is_no_layer_has_no_weights_for_keras():
    parameters = dict(fusedrnn.GRU(3, 4, seed=0).parameters)
    with pytest.raises(ValueError, match=r"weight_ih_l0: expected \(16, 3\), got \(12, 3\)"):
        to_keras("lstm", parameters)
    with pytest.raises(ValueError, match="parameters: missing bias_hh_l0"):
        to_keras("gru", {k: a for k, a in parameters.items() if k != "bias_hh_l0"})
    with pytest.raises(TypeError, match="bias_hh_l0: expected an array of float32, got float64"):
        to_keras("gru", parameters | {"bias_hh_l0": np.zeros(12)})
    with pytest.raises(ValueError, match="weight_hr_l0: expected none, since an LSTM of Keras"):
        to_keras("lstm", fusedrnn.LSTM(3, 4, proj_size=2).parameters)

"""Weights of ONNX's operators: a plain loop, ONNX Runtime, there and back, errors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import fusedrnn
from fusedrnn.weights import from_onnx, to_onnx
from layer_problems import assert_equal
from weight_problems import CELLS, GATES, LAYERS, ROUNDING, both_ways, loaded, normal, onnx, output

# What a node must say that ONNX's defaults don't.
SAID = {
    "lstm": {},
    "gru": {"linear_before_reset": 1},
    "rnn_tanh": {},
    "rnn_relu": {"activations": ["Relu"]},
}


def node_weights(cell: str, *, inputs=3, units=4, directions=1, bias=True):
    rows = GATES[cell] * units
    B = normal(directions, 2 * rows) if bias else None
    return normal(directions, rows, inputs) / 2, normal(directions, rows, units) / 2, B


def attributes(cell: str, directions: int) -> dict:
    said = {name: value * directions for name, value in SAID[cell].items() if name == "activations"}
    return {**SAID[cell], **said} | ({"direction": "bidirectional"} if directions == 2 else {})


def direction(weights, d: int):
    W, R, B = weights
    return W[d], R[d], None if B is None else B[d]


# A plain loop


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_weights_from_onnx(cell, directions, bias):
    x, weights = normal(5, 3), node_weights(cell, directions=directions, bias=bias)
    parts = [direction(weights, d) for d in range(directions)]

    def run(arrays, values):
        return onnx(cell, arrays, values)

    want = run(parts[0], x) if directions == 1 else both_ways(run, *parts, x)
    got = output(cell, from_onnx(cell, *weights, **attributes(cell, directions)), x)
    np.testing.assert_allclose(got, want, **ROUNDING)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bias", [False, True])
def test_weights_to_onnx(cell, bias):
    """A stack of two layers, both directions: a node for each layer."""
    layer = LAYERS[cell](3, 4, 2, bias=bias, bidirectional=True, dtype="f8", seed=0)
    x = below = normal(5, 3)
    for k in range(2):
        node = to_onnx(cell, layer.parameters, layer=k)
        parts = [direction(node[:3], d) for d in range(2)]
        below = both_ways(lambda arrays, values: onnx(cell, arrays, values), *parts, below)
    np.testing.assert_allclose(below, layer(x)[0], **ROUNDING)


# There and back


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_onnx_there_and_back(cell, directions, bias):
    layer = LAYERS[cell](3, 4, 2, bias=bias, bidirectional=directions == 2, seed=0)
    again = {}
    for k in range(2):
        node = to_onnx(cell, layer.parameters, layer=k)
        arrays = [array for array in node[:3] if array is not None]
        assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in arrays)
        assert (node.B is not None) == bias
        again |= from_onnx(cell, node.W, node.R, node.B, layer=k, **node.attributes)
    assert list(again) == list(layer.parameters)
    assert_equal(again.values(), layer.parameters.values())

    W, R, B = node_weights(cell, directions=directions, bias=bias)
    node = to_onnx(cell, from_onnx(cell, W, R, B, **attributes(cell, directions)))
    assert_equal(node[:2] if B is None else node[:3], [W, R] if B is None else [W, R, B])


def test_attributes_of_the_nodes():
    def node(cell, **options):
        return to_onnx(cell, LAYERS[cell](3, 4, **options).parameters)

    assert node("lstm")[3:] == ("LSTM", {"hidden_size": 4, "direction": "forward"})
    assert node("gru")[3:] == (
        "GRU",
        {"hidden_size": 4, "direction": "forward", "linear_before_reset": 1},
    )
    assert node("rnn_relu", bidirectional=True)[3:] == (
        "RNN",
        {"hidden_size": 4, "direction": "bidirectional", "activations": ["Relu", "Relu"]},
    )


# ONNX Runtime


@pytest.fixture(scope="module")
def run_node():
    """A function that runs one node in ONNX Runtime: x (T, B, I) to y (T, B, D*H)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx_package = pytest.importorskip("onnx")
        runtime = pytest.importorskip("onnxruntime")
    helper, tensor = onnx_package.helper, onnx_package.TensorProto.FLOAT

    def run(operator: str, weights: dict, attributes: dict, x: np.ndarray) -> np.ndarray:
        node = helper.make_node(operator, ["X", *weights], ["Y"], **attributes)
        graph = helper.make_graph(
            [node],
            operator,
            [helper.make_tensor_value_info("X", tensor, x.shape)],
            [helper.make_tensor_value_info("Y", tensor, None)],
            [onnx_package.numpy_helper.from_array(a, name) for name, a in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        session = runtime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        (y,) = session.run(None, {"X": x})  # (T, D, B, H)
        return np.swapaxes(y, 1, 2).reshape(*x.shape[:2], -1)

    return run


# float32 in two implementations, each with its own sigmoid and tanh.
FLOAT32 = {"rtol": 1e-4, "atol": 1e-6}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_onnxruntime_runs_a_layers_weights(run_node, cell, bidirectional, bias):
    layer = LAYERS[cell](3, 4, bias=bias, bidirectional=bidirectional, seed=0)
    node = to_onnx(cell, layer.parameters)
    weights = {name: getattr(node, name) for name in "WRB" if getattr(node, name) is not None}
    x = normal(7, 2, 3).astype(np.float32)
    got = run_node(node.operator, weights, node.attributes, x)
    np.testing.assert_allclose(got, layer(x)[0], **FLOAT32)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("directions", [1, 2])
def test_a_layer_runs_onnxruntimes_weights(run_node, cell, directions):
    arrays = [a.astype(np.float32) for a in node_weights(cell, directions=directions)]
    said = {**attributes(cell, directions), "hidden_size": 4}
    operator = "RNN" if cell.startswith("rnn") else cell.upper()
    x = normal(7, 2, 3).astype(np.float32)
    want = run_node(operator, dict(zip("WRB", arrays, strict=True)), said, x)
    parameters = from_onnx(cell, *arrays, **said)
    layer = loaded(cell, {name: a.astype(np.float64) for name, a in parameters.items()})
    np.testing.assert_allclose(layer(x.astype(np.float64))[0], want, **FLOAT32)


def test_attributes_as_onnxs_package_reads_them():
    """Text comes as bytes there."""
    weights = node_weights("rnn_relu", directions=2)
    said = {"activations": [b"Relu", b"relu"], "direction": b"bidirectional", "hidden_size": 4}
    got = from_onnx("rnn_relu", *weights, **said, layout=1, activation_alpha=[])
    assert_equal(
        got.values(), from_onnx("rnn_relu", *weights, **attributes("rnn_relu", 2)).values()
    )


# Errors


@pytest.mark.parametrize(
    ("cell", "said", "error", "message"),
    [
        (
            "gru",
            {},
            ValueError,
            "linear_before_reset: expected 1, got 0: a GRU here resets h after",
        ),
        ("gru", {"linear_before_reset": 0}, ValueError, "linear_before_reset: expected 1, got 0"),
        (
            "lstm",
            {"clip": 3.0},
            ValueError,
            "clip: expected None or inf, got 3.0: the layers",
        ),
        ("lstm", {"input_forget": 1}, ValueError, "input_forget: expected 0, got 1"),
        ("lstm", {"direction": "reverse"}, ValueError, "direction: expected .* got 'reverse'"),
        (
            "lstm",
            {"activations": ["Sigmoid", "Tanh", "Relu"]},
            ValueError,
            r"activations: expected \['Sigmoid', 'Tanh', 'Tanh'\], got .*'Relu'",
        ),
        ("rnn_relu", {}, ValueError, r"activations: expected \['Relu'\], got \['Tanh'\]"),
        ("rnn_tanh", {"activations": [b"Relu"]}, ValueError, r"activations: expected \['Tanh'\]"),
        ("lstm", {"hidden_size": 5}, ValueError, "hidden_size: expected 4, got 5: as in R"),
        ("lstm", {"direction": "bidirectional"}, ValueError, r"R: expected \(2, 16, 4\), got"),
        ("lstm", {"clamp": 3.0}, TypeError, "attributes: expected those of LSTM, got clamp"),
        ("rnn_tanh", {"linear_before_reset": 1}, TypeError, "attributes: expected those of RNN"),
    ],
)
def test_nodes_that_can_not_be_represented(cell, said, error, message):
    with pytest.raises(error, match=message):
        from_onnx(cell, *node_weights(cell), **said)


HINTS = [
    ("lstm", {"clip": 1e30}, "clip: expected None or inf, got 1e+30: the layers here don't clip"),
    ("gru", {"clip": "inf", "linear_before_reset": 1}, "clip: expected None or inf, got 'inf'"),
    ("rnn_tanh", {"clip": float("nan")}, "clip: expected None or inf, got nan"),
    ("rnn_tanh", {"clip": -float("inf")}, "clip: expected None or inf, got -inf"),
    ("lstm", {"clip": True}, "clip: expected None or inf, got True"),
    ("lstm", {"input_forget": 1}, "input_forget: expected 0, got 1: an LSTM here has both gates. "),
    ("lstm", {"input_forget": "0"}, "input_forget: expected 0, got '0': "),
    ("lstm", {"input_forget": None}, "input_forget: expected 0, got None: "),
    ("gru", {"linear_before_reset": "1"}, "linear_before_reset: expected 1, got '1': a GRU here"),
    ("gru", {"linear_before_reset": 1.0}, "linear_before_reset: expected 1, got 1.0: "),
    ("gru", {"linear_before_reset": True}, "linear_before_reset: expected 1, got True: "),
    ("lstm", {"layout": 7}, "layout: expected 0 or 1, got 7: 0 is time first, 1 batch first"),
    ("rnn_tanh", {"layout": "0"}, "layout: expected 0 or 1, got '0': "),
    ("lstm", {"output_sequence": 2}, "output_sequence: expected 0 or 1, got 2: "),
    ("lstm", {"hidden_size": "4"}, "hidden_size: expected 4, got '4': as in R"),
    ("lstm", {"hidden_size": 4.0}, "hidden_size: expected 4, got 4.0: as in R"),
    ("lstm", {"direction": "reverse"}, "direction: expected 'forward' or 'bidirectional', got 'rev"
     "erse': the layers here don't run in reverse alone. Take it as 'forward', and reverse x and"),
    ("lstm", {"direction": 1}, "direction: expected 'forward' or 'bidirectional', got 1"),
    ("lstm", {"direction": None}, "direction: expected 'forward' or 'bidirectional', got None"),
    ("lstm", {"activation_alpha": ["0.5"]}, "activation_alpha: expected numbers, got ['0.5']"),
    ("lstm", {"activation_beta": "x"}, "activation_beta: expected numbers, got 'x'"),
    ("rnn_tanh", {"activations": "Relu"}, "activations: expected ['Tanh'], got 'Relu': others can'"
     "t be represented by 'rnn_tanh'; 'rnn_tanh' and 'rnn_relu' are the cells of a node RNN"),
    ("gru", {"activations": ["HardSigmoid", "Tanh"], "linear_before_reset": 1},
     "activations: expected ['Sigmoid', 'Tanh'], got ['HardSigmoid', 'Tanh']: others can't be"),
    ("gru", {"activations": [1, 2], "linear_before_reset": 1},
     "activations: expected ['Sigmoid', 'Tanh'], got [1, 2]: "),
]  # fmt: skip


@pytest.mark.parametrize(("cell", "said", "message"), HINTS)
def test_messages_show_what_came_and_what_to_do(cell, said, message):
    with pytest.raises(ValueError, match="expected") as error:
        from_onnx(cell, *node_weights(cell), **said)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("name", ["X", "sequence_lens", "initial_h", "initial_c"])
def test_inputs_of_a_node_belong_to_the_call(name):
    with pytest.raises(TypeError, match=f"expected no inputs of a node, got {name}: it is .*call"):
        from_onnx("lstm", *node_weights("lstm"), **{name: None})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_what_can_not_act_is_taken(cell, dtype):
    arrays = [a.astype(dtype) for a in node_weights(cell)]
    plain = from_onnx(cell, *arrays, **attributes(cell, 1))
    can_not_act = {
        "clip": [None, float("inf"), np.float32(np.inf), float(np.finfo(dtype).max)],
        "layout": [0, 1, np.int64(1)],
        "activation_alpha": [None, [], [0.0, 0.01], np.zeros(2, np.float32)],
        "activation_beta": [None, [1.0]],
        "output_sequence": [0, 1],
        "hidden_size": [4, np.int64(4)],
    }
    for name, values in can_not_act.items():
        for value in values:
            got = from_onnx(cell, *arrays, **attributes(cell, 1), **{name: value})
            assert_equal(got.values(), plain.values())


def test_a_clip_that_float64_exceeds_acts():
    clip = float(np.finfo(np.float32).max)
    with pytest.raises(ValueError, match="clip: expected None or inf"):
        from_onnx("rnn_relu", *node_weights("rnn_relu"), activations=["Relu"], clip=clip)


def test_coupled_gates_as_the_hint_says():
    """Of an LSTM with f = 1 - i: the forget gate has the input gate's weights with another sign."""
    W, R, B = node_weights("lstm")
    for array, parts in ((W, 4), (R, 4), (B, 8)):
        gates = np.split(array, parts, axis=1)  # i o f c, and of both biases
        for k in range(0, parts, 4):
            gates[k + 2][:] = -gates[k]
    x = normal(5, 3)
    layer = loaded("lstm", from_onnx("lstm", W, R, B))
    h = c = np.zeros(4)
    wanted = []
    for x_t in x:
        i, o, _, g = np.split(W[0] @ x_t + R[0] @ h + B[0, :16] + B[0, 16:], 4)
        i, o = 1 / (1 + np.exp(-i)), 1 / (1 + np.exp(-o))
        c = (1 - i) * c + i * np.tanh(g)
        h = o * np.tanh(c)
        wanted.append(h)
    np.testing.assert_allclose(layer(x)[0], wanted, **ROUNDING)


def test_peepholes():
    W, R, B = node_weights("lstm")
    plain = from_onnx("lstm", W, R, B)
    assert_equal(from_onnx("lstm", W, R, B, np.zeros((1, 12))).values(), plain.values())
    with pytest.raises(ValueError, match=r"P: expected None, or zeros .* no peepholes here"):
        from_onnx("lstm", W, R, B, normal(1, 12))
    with pytest.raises(ValueError, match=r"P: expected \(1, 12\), got \(12,\)"):
        from_onnx("lstm", W, R, B, np.zeros(12))
    with pytest.raises(ValueError, match="P: expected None"):
        from_onnx("rnn_tanh", *node_weights("rnn_tanh"), np.zeros((1, 12)))


W, R, B = node_weights("lstm")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"R": R[0]}, ValueError, r"R: expected \(1, 4\*H, H\), got \(16, 4\)"),
        ({"R": R[:, :12]}, ValueError, r"R: expected \(1, 16, 4\), got \(1, 12, 4\)"),
        ({"R": R[:, :, :0]}, ValueError, r"R: expected \(1, 4\*H, H\), got \(1, 16, 0\)"),
        ({"W": W[0]}, ValueError, r"W: expected \(1, 16, I\), got \(16, 3\)"),
        ({"W": W[:, :, :0]}, ValueError, r"W: expected \(1, 16, I\), got \(1, 16, 0\)"),
        ({"W": np.swapaxes(W, 1, 2)}, ValueError, r"W: expected \(1, 16, I\), got \(1, 3, 16\)"),
        ({"B": B[:, :16]}, ValueError, r"B: expected \(1, 32\), got \(1, 16\)"),
        ({"W": W.astype("f4")}, TypeError, "W: expected an array of float64, got float32"),
        ({"R": R.astype(int)}, TypeError, "R: expected an array of float32 or float64, got int64"),
        ({"layer": -1}, ValueError, "layer: expected at least 0, got -1"),
        ({"cell": "LSTM"}, ValueError, "cell: expected one of lstm, gru"),
    ],
)
def test_wrong_weights_of_a_node(change, error, message):
    with pytest.raises(error, match=message):
        from_onnx(**{"cell": "lstm", "W": W, "R": R, "B": B, **change})


def test_what_onnx_can_not_represent():
    with pytest.raises(ValueError, match="weight_hr_l0: expected none, since an LSTM of ONNX"):
        to_onnx("lstm", fusedrnn.LSTM(3, 4, proj_size=2).parameters)
    with pytest.raises(ValueError, match="layer: expected 0 to 0, got -1"):
        to_onnx("gru", fusedrnn.GRU(3, 4).parameters, layer=-1)

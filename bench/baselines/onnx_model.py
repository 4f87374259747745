"""A case as an ONNX model of one node, for the runtimes that read such models."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ..problem import Array, Problem
from . import Unsupported

# The operator, the order of torch's gates in its weights, and attributes. ONNX orders an LSTM's
# gates i o f c and a GRU's z r h; linear_before_reset is torch's GRU.
OPERATORS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "lstm": ("LSTM", (0, 3, 1, 2), {}),
    "gru": ("GRU", (1, 0, 2), {"linear_before_reset": 1}),
    "rnn_tanh": ("RNN", (0,), {"activations": ["Tanh"]}),
    "rnn_relu": ("RNN", (0,), {"activations": ["Relu"]}),
}


def build(problem: Problem) -> bytes:
    """Return the model: inputs X and the initial states, outputs Y and the last states."""
    case = problem.case
    if case.mode == "train":
        raise Unsupported("inference only")
    if case.dtype != "float32":
        raise Unsupported("float32 only")
    operator, order, attributes = OPERATORS[case.cell]

    def reordered(name: str) -> Array:
        a = problem.parameters[f"{name}_l0"]
        gates = np.split(a, case.gates)
        return np.concatenate([gates[g] for g in order])[np.newaxis]

    weights = {
        "W": reordered("weight_ih"),
        "R": reordered("weight_hh"),
        "B": np.concatenate((reordered("bias_ih"), reordered("bias_hh")), axis=1),
    }
    states = inputs_of(problem)[1:]
    outputs = ["Y", "Y_h", "Y_c"][: 3 if case.cell == "lstm" else 2]
    node = helper.make_node(
        operator,
        ["X", "W", "R", "B", *([""] if states else []), *states],
        outputs,
        hidden_size=case.hidden,
        **attributes,
    )
    shapes: list[tuple[int, ...]] = [problem.inputs[0].shape]
    shapes += [s.shape for s in problem.state or ()]
    graph = helper.make_graph(
        [node],
        case.cell,
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in zip(["X", *states], shapes, strict=True)
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(a, name) for name, a in weights.items()],
    )
    # Versions that both runtimes have read for years.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def inputs_of(problem: Problem) -> list[str]:
    """Return the names of the inputs: X, and the initial states where there are any."""
    return ["X", "initial_h", "initial_c"][: 1 + len(problem.state or ())]


def feeds(problem: Problem) -> list[dict[str, Array]]:
    """Return what the model is fed with, for each of the problem's inputs."""
    return [
        dict(zip(inputs_of(problem), (x, *(problem.state or ())), strict=True))
        for x in problem.inputs
    ]


def outputs(result: list[Array]) -> dict[str, Array]:
    """Return Y [T, 1, B, H], Y_h and Y_c by the reference's names."""
    return {"y": result[0][:, 0], **dict(zip("hc", result[1:], strict=False))}

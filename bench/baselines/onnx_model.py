"""A case as an ONNX model of one node, for the runtimes that read such models."""

from __future__ import annotations

from typing import Any

from onnx import TensorProto, helper, numpy_helper

from fusedrnn.weights import to_onnx

from ..problem import Array, Problem
from . import Unsupported

WEIGHTS = ("W", "R", "B")


def build(problem: Problem) -> bytes:
    """Return the model: inputs X and the initial states, outputs Y and the last states."""
    case = problem.case
    if case.mode == "train":
        raise Unsupported("inference only")
    if case.dtype != "float32":
        raise Unsupported("float32 only")
    weights = to_onnx(case.cell, problem.parameters)
    states = inputs_of(problem)[1:]
    outputs = ["Y", "Y_h", "Y_c"][: 3 if case.cell == "lstm" else 2]
    node = helper.make_node(
        weights.operator,
        ["X", *WEIGHTS, *([""] if states else []), *states],
        outputs,
        **weights.attributes,
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
        [numpy_helper.from_array(getattr(weights, name), name) for name in WEIGHTS],
    )
    return serialized(graph)


def build_product(shape: tuple[int, ...]) -> bytes:
    """Return a model of the matrix product of its input `a` with itself."""
    a, b = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "ab")
    node = helper.make_node("MatMul", ["a", "a"], ["b"])
    return serialized(helper.make_graph([node], "product", [a], [b]))


def serialized(graph: Any) -> bytes:
    """Return a model of a graph, in versions that both runtimes have read for years."""
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

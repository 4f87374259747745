"""OpenVINO, from the ONNX model: inference only."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino

from ..problem import Problem
from . import Contestant
from .onnx_model import build, feeds, outputs


def prepare(problem: Problem, threads: int) -> list[Contestant]:
    """Return an inference request in float32 that shares its inputs and outputs with NumPy."""
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(build(problem)),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        },
    )
    request = compiled.create_infer_request()
    given = [
        [openvino.Tensor(array, shared_memory=True) for array in feed.values()]
        for feed in feeds(problem)
    ]
    results = [request.get_output_tensor(k) for k in range(len(compiled.outputs))]

    def run(i: int) -> Any:
        for k, tensor in enumerate(given[i]):
            request.set_input_tensor(k, tensor)
        request.infer()
        return [tensor.data for tensor in results]

    def arrays(result: Any) -> Any:
        return outputs([np.array(a) for a in result])  # the next call overwrites them

    return [Contestant("openvino", run, arrays)]

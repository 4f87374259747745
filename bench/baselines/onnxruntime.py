"""ONNX Runtime: one LSTM, GRU or RNN node, inference only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnxruntime

from ..problem import Array, Problem
from . import Contestant
from .onnx_model import build, build_product, feeds, outputs


def prepare(problem: Problem, threads: int) -> list[Contestant]:
    """Return `session.run`; for single steps also a run on arrays that were bound before."""
    session = session_of(build(problem), threads)
    given = feeds(problem)
    contestants = [Contestant("onnxruntime", lambda i: session.run(None, given[i]), outputs)]
    if problem.case.mode == "step":
        contestants.append(bound(session, given))
    return contestants


def session_of(model: bytes, threads: int) -> Any:
    """Return a session for a model on so many threads, which spin as they do by default."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def product(a: Array, threads: int) -> Callable[[], Any]:
    """Return a call of the matrix product a a, for a benchmark beside its threads."""
    session = session_of(build_product(a.shape), threads)
    return lambda: session.run(None, {"a": a})


def bound(session: Any, given: list[dict[str, Array]]) -> Contestant:
    """Return a run that reads and writes the same arrays each time: its fastest call."""
    bindings = []
    for feed in given:
        binding = session.io_binding()
        for name, array in feed.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        for output in session.get_outputs():
            binding.bind_output(output.name, "cpu")
        bindings.append(binding)

    def run(i: int) -> Any:
        session.run_with_iobinding(bindings[i])
        return bindings[i]

    return Contestant(
        "onnxruntime:bound", run, lambda binding: outputs(binding.copy_outputs_to_cpu())
    )

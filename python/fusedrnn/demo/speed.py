"""The speed of a training step: the layer beside the NumPy reference, and where the time goes.

Run as a program, this file times the reference: its own process, because a BLAS reads the number
of its threads from the environment when it is loaded. One thread is fair to the reference: its
products are small, and more threads often make it slower.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .. import models, reference
from .._threads import get_num_threads, set_num_threads
from ..models import blas
from .model import LAYERS, Config
from .stopwatch import Stopwatch

REFERENCE_CELLS = {"lstm": "lstm", "gru": "gru", "rnn": "rnn_tanh"}
REPEATS = 5  # the median of these counts
ENOUGH_SECONDS = 1.5  # ... or of fewer, once they took so long


@dataclass(frozen=True)
class Case:
    """A step: forward and backward of the layer over T steps of B sequences."""

    config: Config
    steps: int  # T
    batch: int  # B

    def flops(self) -> float:
        """Return the operations of the matrix products.

        A layer multiplies 4H (LSTM), 3H (GRU) or H (RNN) rows by I + H columns in every step of
        every sequence, 2 operations each; backward does so twice more, for inputs and weights.
        """
        config = self.config
        rows = len(reference.CELLS[REFERENCE_CELLS[config.cell]].gates) * config.hidden
        columns = config.embedding + config.hidden + 2 * (config.layers - 1) * config.hidden
        return 3.0 * 2.0 * rows * columns * self.steps * self.batch


@dataclass(frozen=True)
class Timing:
    """One line of the comparison."""

    name: str
    seconds: float


def compare(case: Case, limit: float) -> str:
    """Return the comparison as lines of text; the reference may take `limit` seconds."""
    threads = get_num_threads()
    timings = []
    try:
        for count in sorted({1, threads}):
            set_num_threads(count)
            name = f"fused kernels, float32, {count} thread{'s' if count > 1 else ''}"
            timings.append(Timing(name, time_kernels(case)))
    finally:
        set_num_threads(threads)
    name = "NumPy reference, float64, 1 BLAS thread"
    lines = [f"  {t.name:41}{1e3 * t.seconds:8.1f} ms{_rate(case, t):>14}" for t in timings]
    try:
        slow = Timing(name, time_reference_alone(case, limit))
    except subprocess.TimeoutExpired:
        return "\n".join([*lines, f"  {name:41}not ready in the {limit:.1f} s that it got here"])
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        return "\n".join([*lines, f"  {name:41}could not be run: {error}"])
    lines.append(f"  {slow.name:41}{1e3 * slow.seconds:8.1f} ms{_rate(case, slow):>14}")
    ratios = " and ".join(f"{slow.seconds / t.seconds:.1f}" for t in timings)
    lines.append(
        f"  The kernels are {ratios} times as fast. The reference is written to be read, and\n"
        "  computes in double precision: that alone costs a factor of two."
    )
    return "\n".join(lines)


def _rate(case: Case, timing: Timing) -> str:
    return f"{1e-9 * case.flops() / timing.seconds:.1f} GFLOP/s"


def time_kernels(case: Case) -> float:
    """Return the seconds of a step of the fused layer."""
    config = case.config
    layer = LAYERS[config.cell](config.embedding, config.hidden, config.layers, seed=0)
    x, d_y = (a.astype(np.float32) for a in _data(case))

    def step() -> None:
        _, _, tape = layer.forward(x)
        layer.backward(tape, d_y)

    return median_seconds(step)


def time_reference(case: Case) -> float:
    """Return the seconds of a step of the reference, in this process."""
    config, cell = case.config, REFERENCE_CELLS[case.config.cell]
    shapes = reference.parameter_shapes(cell, config.embedding, config.hidden, config.layers)
    random, bound = np.random.default_rng(0), config.hidden**-0.5
    parameters = {name: random.uniform(-bound, bound, shape) for name, shape in shapes.items()}
    x, d_y = _data(case)

    def step() -> None:
        _, _, tape = reference.forward(cell, x, parameters)
        reference.backward(tape, d_y)

    return median_seconds(step)


def time_reference_alone(case: Case, limit: float) -> float:
    """Return the seconds of a step of the reference, in a process with one BLAS thread."""
    result = subprocess.run(
        [sys.executable, "-m", "fusedrnn.demo.speed", json.dumps(asdict(case))],
        env={**os.environ, **dict.fromkeys(blas.ENVIRONMENT, "1")},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=limit,
        check=True,
    )
    return float(result.stdout)


def median_seconds(step: Callable[[], None]) -> float:
    """Return the median time of a call, after one that warms up."""
    step()
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < ENOUGH_SECONDS:
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def _data(case: Case) -> tuple[Any, Any]:
    """Return x [T, B, I] and d_y [T, B, H], normal."""
    random, config = np.random.default_rng(1), case.config
    x = random.standard_normal((case.steps, case.batch, config.embedding))
    return x, random.standard_normal((case.steps, case.batch, config.hidden)) * 1e-3


def shares(model: models.SequenceModel, batch: models.Batch) -> str:
    """Return where the time of a training step goes; the model stays as it is."""
    drawn = model.random_state  # by dropout
    adam = models.Adam(model, learning_rate=0.0)
    gradients = model.step(batch).gradients  # also warms up
    watch = Stopwatch()
    for _ in range(REPEATS):
        _time_step(model, batch, watch)
        with watch("Adam"):
            models.clip_by_norm(gradients, 1.0)
            adam.step(gradients)
    model.random_state = drawn
    return watch.shares()


def _time_step(model: models.SequenceModel, batch: models.Batch, watch: Stopwatch) -> None:
    """Do what `model.step` does, part by part."""
    y, tapes = batch.inputs, []
    parts = {type(part).__name__: part for part in model.body.modules.values()}
    for name, part in parts.items():
        with watch(name):
            y, _, tape = part.forward(y)
        tapes.append((name, part, tape))
    with watch("softmax and loss"):
        dy = model.head.loss(y, batch.targets).gradients.y
    for name, part, tape in reversed(tapes):
        with watch(name):
            dy = part.backward(tape, dy).x


def main(argument: str) -> None:
    """Time the reference on a case given as JSON and print the seconds."""
    values = json.loads(argument)
    case = Case(**{**values, "config": Config(**values["config"])})
    print(time_reference(case))


if __name__ == "__main__":
    main(sys.argv[1])

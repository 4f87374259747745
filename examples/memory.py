"""What depth doesn't solve: gradients that vanish over time, and the gates that keep them.

Problem type: many to one, with most of the sequence between what matters and the answer. What the
loss at the end says about step t comes back through all steps in between::

    RNN    dL/dh_t = R^T diag(1 - h_{t+1}^2) dL/dh_{t+1}         (10.21)
           so |dL/dh_t| <= s^(T-t) |dL/dh_T|, s the largest singular value of R
    LSTM   dL/dc_t = f_{t+1} dL/dc_{t+1} + ...      f and z: a factor for each unit,
    GRU    dL/dh_t = z_{t+1} dL/dh_{t+1} + ...      which the model sets itself

The same factor in every step: below 1 the gradient vanishes, above 1 it may explode. More layers
don't change that; a gate near 1 does. f = sigmoid(b) with b = log(u), u from U(1, T - 1), decays
over some u steps ("chrono"), while torch's biases near 0 give f = 1/2, which vanishes as fast as
an RNN.

First figure: |dL/dx_t| before any training, for L = v h_T with a random v. Second: the adding
problem. x_t = (a number from U(0, 1), a mark); one number in each half of the sequence is marked,
and the answer at the end is their sum. Who remembers nothing says 1 and has the squared error
1/6.

Sources: Hochreiter, Untersuchungen zu dynamischen neuronalen Netzen, 1991; Bengio, Simard and
Frasconi, Learning Long-Term Dependencies with Gradient Descent is Difficult, 1994; Hochreiter and
Schmidhuber, Long Short-Term Memory, 1997 (the adding problem; here in the form of Arjovsky, Shah
and Bengio, 2016); Pascanu, Mikolov and Bengio, On the Difficulty of Training Recurrent Neural
Networks, 2013; Tallec and Ollivier, Can Recurrent Neural Networks Warp Time?, 2018 (chrono).
10.21: Goodfellow, Bengio and Courville, Deep Learning, 2016.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import fusedrnn
from fusedrnn import models
from fusedrnn.demo.example import Bound, Options, main
from fusedrnn.models import plots

UNITS, BATCH = 32, 32
BASELINE = 1 / 6  # of the answer 1: twice the variance of U(0, 1)
BACK = 500  # steps, of the figures of gradients

# How long the sequences are, and for how many steps each model is trained on them.
FULL = {10: 1200, 50: 600, 200: 500, 1000: 600}
QUICK = {10: 800, 100: 350}

# The worst of three seeds: -106, -1.7, -1.8, then 0.015, 0.168, 0.0011 and 0.0002; with --quick
# 0.029, 0.167, 0.0080 and 0.0008.
BOUNDS = (
    Bound("log10 gradient, RNN", at_most=-60),
    Bound("log10 gradient, LSTM", at_least=-4),
    Bound("log10 gradient, GRU", at_least=-4),
    Bound("error at the shortest T, RNN", at_most=0.03, quick=0.08),
    Bound("error at the longest T, RNN", at_least=0.13),
    Bound("error at the longest T, LSTM", at_most=0.02, quick=0.04),
    Bound("error at the longest T, GRU", at_most=0.02),
)

Array = npt.NDArray[Any]
Cell = fusedrnn.RNN | fusedrnn.LSTM | fusedrnn.GRU


@dataclass(frozen=True)
class Adding:
    """Batches of the adding problem, each drawn when it is asked for."""

    steps: int  # T
    batch_size: int
    batches: int
    seed: int

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self.batches

    def batch(self, epoch: int, index: int) -> models.Batch:
        """Return inputs (T, B, 2) and targets (B, 1)."""
        random = np.random.default_rng([self.seed, epoch, index])
        inputs = np.zeros((self.steps, self.batch_size, 2), np.float32)
        inputs[..., 0] = random.random((self.steps, self.batch_size))
        rows, half = np.arange(self.batch_size), self.steps // 2
        targets = np.zeros((self.batch_size, 1), np.float32)
        for start, end in ((0, half), (half, self.steps)):
            marked = random.integers(start, end, self.batch_size)
            inputs[marked, rows, 1] = 1
            targets[:, 0] += inputs[marked, rows, 0]
        return models.Batch(inputs, targets)


def remember(cell: Cell, steps: int, seed: int) -> Cell:
    """Set the biases of the gates that keep: to forget within 1 to T steps."""
    unit = np.random.default_rng(seed).uniform(1, steps - 1, UNITS)
    first, second = np.s_[:UNITS], np.s_[UNITS : 2 * UNITS]
    with cell.edit_parameters() as parameters:
        bias = parameters["bias_ih_l0"]
        bias[:], parameters["bias_hh_l0"][:] = 0, 0
        bias[second] = np.log(unit)  # gates in the order i f g o, or r z n
        if isinstance(cell, fusedrnn.LSTM):
            bias[first] = -np.log(unit)  # what keeps long takes in little
    return cell


def explosive(cell: Cell) -> Cell:
    """Make the recurrent weights four times as large."""
    with cell.edit_parameters() as parameters:
        parameters["weight_hh_l0"] *= 4
    return cell


# T, a seed and a dtype -> a layer.
Maker = Callable[[int, int, str], Cell]

CELLS: dict[str, Maker] = {
    "RNN": lambda steps, seed, dtype: fusedrnn.RNN(2, UNITS, seed=seed, dtype=dtype),
    "RNN, 3 layers": lambda steps, seed, dtype: fusedrnn.RNN(2, UNITS, 3, seed=seed, dtype=dtype),
    "LSTM": lambda steps, seed, dtype: remember(
        fusedrnn.LSTM(2, UNITS, seed=seed, dtype=dtype), steps, seed
    ),
    "GRU": lambda steps, seed, dtype: remember(
        fusedrnn.GRU(2, UNITS, seed=seed, dtype=dtype), steps, seed
    ),
}
ONLY_GRADIENTS: dict[str, Maker] = {
    "RNN, 4 R": lambda *arguments: explosive(CELLS["RNN"](*arguments)),
    "LSTM, torch's biases": lambda steps, seed, dtype: fusedrnn.LSTM(
        2, UNITS, seed=seed, dtype=dtype
    ),
}
# Learning rates. At T = 50 the RNN failed with 0.001, 0.003 and 0.006, too; at T = 200 also with an
# orthogonal R, or with relu and the identity as R (Le, Jaitly and Hinton, 2015), in 2000 steps.
RATES = {"RNN": 0.01, "RNN, 3 layers": 0.003, "LSTM": 0.02, "GRU": 0.02}
COLORS = {
    "RNN": plots.ORANGE,
    "RNN, 3 layers": "#E69F00",
    "RNN, 4 R": "#CC79A7",
    "LSTM": plots.BLUE,
    "LSTM, torch's biases": "#56B4E9",
    "GRU": plots.GREEN,
}


def gradient_norms(cell: Cell, steps: int, seed: int) -> Array:
    """Return |dL/dx_t|, mean over sequences, over that of the last step: of 0, 1, ... steps back.

    It is dL/da_t times the input weights, for the pre-activations a_t.
    """
    x = Adding(steps, 16, 1, seed).batch(0, 0).inputs.astype(np.float64)
    y, _, tape = cell.forward(x)
    dy = np.zeros_like(y)
    dy[-1] = np.random.default_rng(seed).normal(size=y.shape[1:])
    norms = np.linalg.norm(cell.backward(tape, dy).x, axis=2).mean(axis=1)[::-1]
    relative: Array = norms / norms[0]
    return relative


def error(name: str, steps: int, budget: int, seed: int) -> float:
    """Return the squared error on new sequences, after a training of so many steps."""
    begin = time.perf_counter()
    body = models.Sequential(CELLS[name](steps, seed, "float32"), models.Last())
    model = models.SequenceModel(body, models.RegressionHead(UNITS, 1, seed=seed))
    models.fit(
        model,
        Adding(steps, BATCH, budget, seed),
        models.Adam(model, RATES[name]),
        epochs=1,
        clip_norm=1.0,
        progress=False,
    )
    value = models.evaluate(model, Adding(steps, 250, 4, seed + 1))
    seconds = time.perf_counter() - begin
    print(f"T = {steps}, {name}: squared error {value:.4f}, {seconds:.1f} s", flush=True)
    return value


def draw(norms: dict[str, Array], errors: dict[str, dict[int, float]], path: Path) -> None:
    """Draw the gradients over the distance back, and the errors over T."""
    picture = plots.figure(11.0, 4.5)
    left, right = picture.subplots(1, 2)
    for name, values in norms.items():
        left.plot(np.where(values > 0, values, np.nan), color=COLORS[name], label=name)
    left.set(yscale="log", ylim=(1e-50, 1e20), xlabel="steps back from the end")
    left.lines[list(norms).index("GRU")].set_linestyle("--")  # it lies on the LSTM's
    left.legend(frameon=False, loc="lower right")
    plots.tidy(left, "|dL/dx| over that at the end, before training")
    for name, by_steps in errors.items():
        right.plot(*zip(*by_steps.items(), strict=True), "o-", color=COLORS[name], label=name)
    right.axhline(BASELINE, color=plots.GREY, ls="--", label="always 1")
    right.set(xscale="log", yscale="log", xlabel="T of the adding problem")
    right.set_xticks(list(errors["RNN"]), [str(steps) for steps in errors["RNN"]])
    right.minorticks_off()
    right.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.7))
    plots.tidy(right, "squared error after training")
    picture.savefig(path)


def run(options: Options) -> dict[str, float]:
    """Measure gradients, then train every cell at every T."""
    trainings = QUICK if options.quick else FULL
    longest = max(trainings)
    norms = {
        name: gradient_norms(make(1000, options.seed, "float64"), 1000, options.seed)
        for name, make in (CELLS | ONLY_GRADIENTS).items()
    }
    errors: dict[str, dict[int, float]] = {name: {} for name in CELLS}
    for steps, budget in trainings.items():
        for name in CELLS:
            if name != "RNN, 3 layers" or steps < longest:  # it takes three times as long
                errors[name][steps] = error(name, steps, budget, options.seed)
    print(f"\n| squared error | {' | '.join(f'T = {steps}' for steps in trainings)} |")
    print(f"|---|{'---:|' * len(trainings)}")
    for name, row in errors.items():
        print(f"| {name} | {' | '.join(f'{row[t]:.4f}' if t in row else '' for t in trainings)} |")
    print(f"| always 1 | {' | '.join(f'{BASELINE:.4f}' for _ in trainings)} |")
    if path := options.picture("memory"):
        draw(norms, errors, path)
    with np.errstate(divide="ignore"):  # too small for float64: -inf
        figures = {f"log10 gradient, {k}": float(np.log10(v[BACK])) for k, v in norms.items()}
    figures["error at the shortest T, RNN"] = errors["RNN"][min(trainings)]
    for name in ("RNN", "LSTM", "GRU"):
        figures[f"error at the longest T, {name}"] = errors[name][longest]
    return figures


if __name__ == "__main__":
    sys.exit(main(run, BOUNDS, __doc__))

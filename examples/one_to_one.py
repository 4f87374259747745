"""One vector in, one answer out: with a single step, a recurrent layer is a feed-forward layer.

Problem type: one to one, of fixed sizes. There is no time, and nothing to remember. A layer of the
recurrent kind still works, as a sequence of T = 1 that begins with h_0 = c_0 = 0. What is left::

    RNN    h = tanh(W x + b)                    the usual layer of a feed-forward network
    LSTM   h = o tanh(i g)                      i, o = sigmoid(W x + b), g = tanh(W x + b):
                                                a feed-forward layer whose units have gates
    p = softmax(V h + c)                        both, as ever

The forget gate f multiplies c_0, and the recurrent weights R multiply h_0, so the loss doesn't
depend on them: their gradient is 0, not just small. What to look at: that zero, the LSTM beside the
formula above, and that gates bring nothing here: the three bodies are equally good.

Data: 569 tumours, 30 measures of the cell nuclei of each, benign or malignant; each is judged by a
model that hasn't seen it (five folds). Street, Wolberg and Mangasarian, Nuclear Feature Extraction
for Breast Tumor Diagnosis, 1993; in scikit-learn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_breast_cancer

import fusedrnn
from fusedrnn import models
from fusedrnn.demo.example import Bound, Options, main
from fusedrnn.models import plots, schedules

UNITS, FOLDS, EPOCHS = 16, 5, 15
MALIGNANT, BENIGN = 0, 1  # the classes' numbers in the data

# Three seeds gave 0.968 to 0.979 for each of the bodies, with --quick too.
BOUNDS = (
    Bound("accuracy, Linear + Tanh", at_least=0.95),
    Bound("accuracy, RNN of one step", at_least=0.95),
    Bound("accuracy, LSTM of one step", at_least=0.95),
    Bound("gradient of R and f", at_most=0.0),
    Bound("LSTM - o tanh(i g)", at_most=5e-6),  # float32: sums of 30 numbers below 10
)

Array = npt.NDArray[Any]
Body = Callable[[int, int], Any]  # of the number of inputs, and a seed

BODIES: dict[str, Body] = {
    "Linear + Tanh": lambda inputs, seed: models.Sequential(
        models.Linear(inputs, UNITS, seed=seed), models.Tanh()
    ),
    "RNN of one step": lambda inputs, seed: fusedrnn.RNN(inputs, UNITS, seed=seed),
    "LSTM of one step": lambda inputs, seed: fusedrnn.LSTM(inputs, UNITS, seed=seed),
}


def data() -> tuple[Array, Array]:
    """Return the measures (1, N, 30), one step of N sequences, and the classes (1, N)."""
    table = load_breast_cancer()
    return table.data.astype(np.float32)[np.newaxis], table.target[np.newaxis]


def train(body: Any, x: Array, classes: Array, options: Options) -> models.SequenceModel:
    """Return a trained model with this body."""
    model = models.SequenceModel(body, models.SoftmaxHead(UNITS, 2, seed=options.seed))
    models.fit(
        model,
        models.Minibatches(x, classes, batch_size=32, seed=options.seed),
        models.AdamW(model, 0.01, weight_decay=0.01),
        epochs=EPOCHS // 3 if options.quick else EPOCHS,
        schedule=schedules.cosine(),
        progress=False,
    )
    return model


def held_out(make: Body, x: Array, classes: Array, options: Options) -> tuple[Array, Any]:
    """Return log p (1, N, 2), each by a model that was trained without it, and one such model."""
    order = np.random.default_rng(options.seed).permutation(x.shape[1])
    log_p = np.empty((*classes.shape, 2), np.float32)
    for fold in range(FOLDS):
        rest, part = np.delete(order, np.s_[fold::FOLDS]), order[fold::FOLDS]
        mean, deviation = x[:, rest].mean(axis=1), x[:, rest].std(axis=1)
        scaled = (x - mean) / deviation
        body = make(x.shape[-1], options.seed)
        model = train(body, scaled[:, rest], classes[:, rest], options)
        log_p[:, part] = model.predict(scaled[:, part])[0]
    return log_p, model


def gated(parameters: Any, x: Array) -> Array:
    """Return o tanh(i g): what an LSTM does in the first step."""
    bias = parameters["bias_ih_l0"] + parameters["bias_hh_l0"]
    i, _, g, o = np.split(x @ parameters["weight_ih_l0"].T + bias, 4, axis=-1)
    i, o = 1 / (1 + np.exp(-i)), 1 / (1 + np.exp(-o))
    h: Array = o * np.tanh(i * np.tanh(g))
    return h


def without_effect(model: models.SequenceModel, x: Array, classes: Array) -> float:
    """Return the largest gradient of what acts on the state before: R, and the rows of f in W."""
    gradients = model.step(models.Batch(x, classes)).gradients
    forget = np.s_[UNITS : 2 * UNITS]  # gates in the order i f g o
    parts = gradients["body.weight_hh_l0"], gradients["body.weight_ih_l0"][forget]
    return max(float(np.abs(part).max()) for part in parts)


def draw(log_p: Array, classes: Array, path: Path) -> None:
    """Draw what the LSTM says of the tumours of both kinds."""
    odds = (log_p[0, :, MALIGNANT] - log_p[0, :, BENIGN]) / np.log(10)
    edges = np.linspace(-3, 3, 25)
    picture = plots.figure(8.0, 4.0)
    axes = picture.subplots()
    kinds = (("benign", BENIGN, plots.BLUE), ("malignant", MALIGNANT, plots.ORANGE))
    for name, kind, color in kinds:
        chosen = odds[classes[0] == kind].clip(edges[0], edges[-1])
        wrong = int((chosen > 0).sum() if kind == BENIGN else (chosen <= 0).sum())
        label = f"{name}: {len(chosen)}, {wrong} of them wrong"
        axes.hist(chosen, edges, color=color, alpha=0.6, label=label)
    axes.axvline(0, color=plots.GREY, lw=1)
    axes.set_xticks(
        range(-3, 4), [f"1 : {10**-k}" if k < 0 else f"{10**k} : 1" for k in range(-3, 4)]
    )
    axes.set_xlabel("malignant : benign, the odds given by a model that hasn't seen the tumour")
    axes.set_yscale("log")  # else the few that are wrong would not be seen
    axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    plots.tidy(axes, "tumours")
    picture.savefig(path)


def run(options: Options) -> dict[str, float]:
    """Train the three bodies, and look at what is left of the LSTM."""
    x, classes = data()
    figures = {"accuracy, always benign": float((classes == BENIGN).mean())}
    for name, make in BODIES.items():
        log_p, model = held_out(make, x, classes, options)
        figures[f"accuracy, {name}"] = float((log_p.argmax(axis=-1) == classes).mean())
        print(f"{name}: {(log_p.argmax(axis=-1) != classes).sum()} of {classes.size} wrong")

    # The last one is the LSTM.
    scaled = (x - x.mean(axis=1)) / x.std(axis=1)
    figures["gradient of R and f"] = without_effect(model, scaled, classes)
    difference = model.body(scaled)[0] - gated(model.body.parameters, scaled)
    figures["LSTM - o tanh(i g)"] = float(np.abs(difference).max())
    if path := options.picture("one_to_one"):
        draw(log_p, classes, path)
    return figures


if __name__ == "__main__":
    sys.exit(main(run, BOUNDS, __doc__))

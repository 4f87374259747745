"""`fit` goes on from its checkpoint, to the bit, wherever it was stopped or killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fusedrnn
from fusedrnn import models
from fusedrnn.models import schedules
from fusedrnn.models.checkpoint import CheckpointError
from fusedrnn.models.data import Minibatches, Streams
from fusedrnn.models.optimizers import SGD, Adam, AdamW, RMSprop
from scripts import environment
from training_problems import (
    Line,
    Symbols,
    fit,
    line_data,
    raises,
    streams,
    text,
    without_seconds,
)

STEPS = 130
OPTIMIZERS = {
    "SGD": lambda model: SGD(model, 0.5, momentum=0.9),
    "Adam": lambda model: Adam(model, 0.01),
    "AdamW": lambda model: AdamW(model, 0.01),
    "RMSprop": lambda model: RMSprop(model, 0.003),
}


def train(model, kind="Adam", **options):
    """Two layers with dropout over carried states; epochs of 41 steps."""
    return fit(
        model,
        streams(),
        OPTIMIZERS[kind](model),
        **{
            "steps": STEPS,
            "record_every": 20,
            "validation": streams(200, seed=7),
            "clip_norm": 0.2,
            **options,
        },
    )


def everything(model, history) -> tuple:
    """All that must not depend on breaks."""
    parameters = {name: p.tobytes() for name, p in model.parameters.items()}
    return (
        parameters,
        model.random_state,
        without_seconds(history),
        history.best_step,
        history.best_loss,
    )


class Broken(Exception):
    pass


def break_at(step):
    def on_step(report):
        if report.step == step:
            raise Broken

    return on_step


@pytest.fixture(name="path")
def fixture_path(tmp_path):
    return tmp_path / "training.npz"


# Breaks


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_breaks_change_no_bit(kind, path):
    """In an epoch, at its end, with a record or without, of the best parameters or not."""
    schedule = schedules.warmup_cosine()
    want = Symbols()
    history = train(want, kind, schedule=schedule)
    for step in (1, 20, 41, 83, STEPS):
        model = Symbols(seed=3)  # of which nothing must remain
        model.load_parameters(Symbols().parameters)
        model.random_state = Symbols().random_state
        with pytest.raises(Broken):
            train(model, kind, schedule=schedule, checkpoint=path, checkpoint_every=1,
                  resume=True, on_step=break_at(step))  # fmt: skip
    model = Symbols()
    resumed = train(model, kind, schedule=schedule, checkpoint=path, resume=True)
    assert everything(model, resumed) == everything(want, history)


def fifth():
    """Validation data of a line of a fifth of the slope, which training passes soon."""
    data = line_data(seed=1, shuffle=False).batch(0, 0)
    return Minibatches(data.inputs, data.targets / 5, 8, batch_axis=0)


def test_the_best_parameters_outlive_a_break(path):
    options = {"epochs": 30, "validation": fifth()}
    want, model = Line(), Line()
    history = fit(want, **options)
    assert 1 < history.best_step < 100
    with pytest.raises(Broken):
        fit(Line(), **options, checkpoint=path, on_step=break_at(150))
    resumed = fit(model, **options, checkpoint=path, resume=True)
    assert everything(model, resumed) == everything(want, history)
    assert abs(model.parameters["w"][1]) < 1.0


def test_steps_after_the_checkpoint_are_done_again(path):
    with pytest.raises(Broken):
        train(Symbols(), checkpoint=path, checkpoint_every=25, on_step=break_at(99))
    model, want, steps = Symbols(), Symbols(), []
    history = train(model, checkpoint=path, resume=True, on_step=lambda r: steps.append(r.step))
    assert steps == list(range(76, STEPS + 1))
    assert everything(model, history) == everything(want, train(want))


def test_a_larger_budget_goes_on(path):
    """The validation at the end of the first part isn't one of the whole."""
    want = Symbols()
    history = train(want)
    for steps in (7, 50, STEPS):
        model = Symbols()
        resumed = train(model, steps=steps, checkpoint=path, resume=True)
        assert resumed.records[-1]["step"] == steps
    assert everything(model, resumed) == everything(want, history)


def test_a_finished_training_stays_as_it_is(path):
    model, again, steps = Symbols(), Symbols(), []
    first = train(model, checkpoint=path)
    file = path.read_bytes()
    second = train(again, checkpoint=path, resume=True, on_step=steps.append)
    assert everything(again, second) == everything(model, first)
    assert not steps
    assert path.read_bytes() == file


def test_patience_goes_on(path):
    options = {"epochs": 300, "validation": fifth(), "patience": 3}
    want, model = Line(), Line()
    history = fit(want, **options)
    assert history.stopped == "patience"
    last = history.records[-1]["step"]
    for step in (last - 15, last - 1):
        with pytest.raises(Broken):
            fit(Line(), **options, checkpoint=path, checkpoint_every=1, resume=True,
                on_step=break_at(step))  # fmt: skip
    for _ in range(2):  # the second time there is nothing to do
        resumed = fit(model, **options, checkpoint=path, resume=True)
        assert everything(model, resumed) == everything(want, history)
        assert resumed.stopped == "patience"


def test_a_budget_of_seconds_counts_those_before(path):
    first = fit(Line(), seconds=0.2, checkpoint=path)
    model = Line()
    second = fit(model, seconds=0.3, checkpoint=path, resume=True)
    assert second.records[-1]["seconds"] >= 0.3
    assert second.records[-1]["step"] > first.records[-1]["step"]
    started = time.perf_counter()
    fit(Line(), seconds=0.3, checkpoint=path, resume=True)
    assert time.perf_counter() - started < 0.2


def test_without_a_file_it_starts_anew(path):
    model, want = Line(), Line()
    fit(model, steps=9, checkpoint=path, resume=True)
    fit(want, steps=9)
    assert model.parameters["w"].tobytes() == want.parameters["w"].tobytes()
    assert path.exists()


def sequence_model(dropout=0.3):
    body = models.Sequential(
        models.Embedding(5, 6, seed=0), fusedrnn.GRU(6, 16, 2, dropout=dropout, seed=0)
    )
    return models.SequenceModel(body, models.SoftmaxHead(16, 5, seed=0))


def test_a_sequence_model_goes_on(path):
    """Of streams, whose states are nested, and of batches of sequences of all lengths."""
    symbols, lengths = text(420).reshape(21, 20), np.arange(20) % 8 * 3
    for data in (
        Streams(text(900), 4, 9, seed=2),
        Minibatches(symbols, (symbols + 1) % 5, 6, lengths=lengths, seed=2),
    ):
        options = {"data": data, "steps": 60, "validation": data, "record_every": 13}
        want = sequence_model()
        history = fit(want, **options)
        options.update(checkpoint=path, checkpoint_every=1, resume=True)
        for step in (1, 26, 40):
            with pytest.raises(Broken):
                fit(sequence_model(), **options, on_step=break_at(step))
        model = sequence_model()
        assert everything(model, fit(model, **options)) == everything(want, history)
        assert want.random_state == {"body.1": (want.random_state["body.1"][0], 60)}
        path.unlink()


# Files that can't be gone on from


def test_a_file_is_not_overwritten(path):
    path.write_bytes(b"something")
    with raises(ValueError, f"checkpoint: expected a new file, or resume=True, got {path}"):
        fit(Line(), steps=9, checkpoint=path)
    assert path.read_bytes() == b"something"


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_broken_file_is_refused_and_stays(suffix, tmp_path):
    path = tmp_path / f"training{suffix}"
    model = Line()
    fit(model, steps=9, checkpoint=path)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        other = Line()
        with pytest.raises(CheckpointError) as caught:
            fit(other, steps=9, checkpoint=path, resume=True)
        assert str(caught.value).startswith(f"{path}: broken, or not a file of fusedrnn (")
        assert path.read_bytes() == content
        assert not other.parameters["w"].any()


def test_a_file_of_another_training_is_refused_and_stays(path):
    fit(Line(), steps=9, checkpoint=path)
    content = path.read_bytes()
    line, wide, single = Line(), Line(4), Line(dtype="float32")
    for model, data, optimizer, message in (
        (wide, None, None, "model.parameters.w[1]: expected 4, got 3"),
        (single, None, None, "model.parameters.w[0]: expected 'float32', got 'float64'"),
        (Symbols(), streams(), None, "model.class: expected 'Symbols', got 'Line'"),
        (line, None, Adam(line, 0.02), "optimizer.learning_rate: expected 0.02, got 0.01"),
        (line, None, SGD(line, 0.01), "optimizer.optimizer: expected 'SGD', got 'Adam'"),
        (line, line_data(60), None, "data.batches: expected 8, got 7"),
        (line, line_data(seed=0, shuffle=False), None,
         "data.configuration.shuffle: expected False, got True"),
    ):  # fmt: skip
        with raises(CheckpointError, f"{path}: is of another training.{message}"):
            fit(model, data, optimizer, steps=9, checkpoint=path, resume=True)
    with pytest.raises(CheckpointError, match=r"configuration\.checksum: expected \d+, got \d+"):
        fit(line, line_data(seed=1), steps=9, checkpoint=path, resume=True)
    assert path.read_bytes() == content


def test_a_file_of_another_configuration_is_refused(path):
    fit(sequence_model(), streams(), steps=3, checkpoint=path)
    with raises(
        CheckpointError,
        f"{path}: is of another training.model.configuration.body.modules.1.dropout: "
        "expected 0.4, got 0.3",
    ):
        fit(sequence_model(0.4), streams(), steps=9, checkpoint=path, resume=True)


def test_a_state_that_no_file_can_hold(path):
    class Model(Symbols):
        def step(self, batch, state=None):
            step = super().step(batch)
            step.state = object()
            return step

    with pytest.raises(TypeError, match=r"^run\.state: expected None, .*, got object"):
        fit(Model(), streams(), steps=9, checkpoint=path, checkpoint_every=1)
    assert not path.exists()


# Kills

CHILD = """
import json, sys
from pathlib import Path
from training_problems import Symbols
from test_models_resume import everything, train

path, steps = Path(sys.argv[1]), int(sys.argv[2])
model = Symbols()
history = train(model, steps=steps, checkpoint=path, checkpoint_every=2, resume=True,
                on_step=lambda report: print(report.step, flush=True))
parameters, *rest = everything(model, history)
text = json.dumps([{name: p.hex() for name, p in parameters.items()}, *rest])
path.with_suffix(".json").write_text(text)
"""


def kill_at_random(path: Path, steps: int, seconds: float) -> list[int]:
    """Train until it is done, and kill the process again and again; return after which steps."""
    lives = []
    # On the same kernels as here, which may be forced: others round in another order.
    variables = environment(FUSEDRNN_ISA=os.environ.get("FUSEDRNN_ISA"))
    while not path.with_suffix(".json").exists():
        command = [sys.executable, "-c", CHILD, str(path), str(steps)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=variables) as process:
            first = process.stdout.readline()
            if len(lives) < 4:
                time.sleep(random.uniform(0, seconds))
                process.send_signal(signal.SIGKILL)
            rest = process.stdout.read()
        assert process.returncode in (0, -signal.SIGKILL)
        lives.append(int((first + rest).split()[-1]))
    return lives


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_kills_at_any_moment_change_no_bit(suffix, tmp_path):
    steps = 300
    path = tmp_path / f"training{suffix}"
    lives = kill_at_random(path, steps, 0.3)
    assert len(lives) > 1, "it was killed"
    assert lives[-1] == steps
    want = Symbols()
    parameters, *rest = everything(want, train(want, steps=steps))
    text = json.dumps([{name: p.hex() for name, p in parameters.items()}, *rest])
    assert path.with_suffix(".json").read_text() == text
    left = {path.name, path.with_suffix(".json").name}
    assert left == set(os.listdir(tmp_path))

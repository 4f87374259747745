"""`fit`: what a step is, budgets, records, early stop, errors, Ctrl-C and the display.

That a training goes on after a kill as if nothing had been is in test_models_resume.py.
"""

from __future__ import annotations

import io
import itertools
import math
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from fusedrnn.models import progress, schedules, training
from fusedrnn.models.data import Batch, Minibatches, Streams
from fusedrnn.models.optimizers import SGD, Adam, clip_by_norm
from scripts import run
from training_problems import (
    WEIGHTS,
    Line,
    Symbols,
    fit,
    line_data,
    raises,
    streams,
    text,
    without_seconds,
)


class Scripted:
    """A model that gives the losses, counts and gradients it is told, and notes its calls."""

    def __init__(self, losses=(), counts=(), gradients=(), validations=()):
        self.script = {"losses": losses, "counts": counts, "gradients": gradients}
        self.validations = iter(validations)
        self.random_state = {}
        self.parameters = {"p": np.zeros(1)}
        self.steps = 0
        self.states = []

    def load_parameters(self, parameters):
        self.parameters = {"p": np.array(parameters["p"])}

    def step(self, batch, state=None):
        loss, count, gradient = (
            values[self.steps] if self.steps < len(values) else 1.0
            for values in self.script.values()
        )
        self.states.append(state)
        self.steps += 1
        gradients = {"p": np.array([float(gradient)])}
        return SimpleNamespace(loss=loss, count=count, state=self.steps, gradients=gradients)

    def evaluate(self, batch, state=None):
        return SimpleNamespace(loss=next(self.validations), count=1, state=None)


class Batches:
    """A source of so many batches."""

    def __init__(self, count, carry=False):
        self.count, self.carry = count, carry

    def __len__(self):
        return self.count

    def batch(self, epoch, index):
        return Batch(np.zeros(1), np.zeros(1), carry=self.carry and index > 0)


# What is done


def test_a_line_is_learned():
    model = Line()
    history = fit(model, epochs=60, optimizer=SGD(model, 0.1, 0.5))
    np.testing.assert_allclose(model.parameters["w"], WEIGHTS, atol=0.01)
    np.testing.assert_allclose(model.parameters["b"], 0.25, atol=0.01)
    assert history.records[-1]["training_loss"] < 1e-4


def test_symbols_are_learned():
    """4 of 5 symbols follow from the one before: an untrained model gets log 5."""
    model = Symbols()
    assert training.evaluate(model, streams(seed=1)) == pytest.approx(math.log(5), abs=0.1)
    fit(model, streams(), epochs=15)
    assert training.evaluate(model, streams(seed=1)) < 0.85


def test_fit_is_the_loop_that_its_module_shows():
    """To the bit, with carried states, a schedule and clipping."""
    schedule = schedules.warmup_cosine(0.2)
    model, other = Symbols(), Symbols()
    history = fit(model, streams(), steps=90, schedule=schedule, clip_norm=0.1)
    optimizer, data, state, norms = Adam(other, 0.01), streams(), None, []
    for done in range(90):
        batch = data.batch(*divmod(done, len(data)))
        step = other.step(batch, state if batch.carry else None)
        state = step.state
        norms.append(clip_by_norm(step.gradients, 0.1))
        optimizer.step(step.gradients, 0.01 * schedule(done / 90))
    for name, p in other.parameters.items():
        assert model.parameters[name].tobytes() == p.tobytes()
    assert len(data) == 41
    assert history.column("gradient_norm") == pytest.approx(
        [np.mean(norms[:41]), np.mean(norms[41:82]), np.mean(norms[82:])]
    )
    assert min(norms) < 0.1 < max(norms)


def test_state_is_carried_where_the_batch_says_so():
    model = Scripted()
    fit(model, Batches(3, carry=True), epochs=2)
    assert model.states == [None, 1, 2, None, 4, 5]
    model = Scripted()
    fit(model, Batches(3), epochs=2)
    assert model.states == [None] * 6


def test_a_batch_without_targets_changes_nothing():
    model = Scripted(losses=[1.0, math.nan, 3.0], counts=[1, 0, 1])
    optimizer = SGD(model, 1.0, momentum=0.5)
    history = fit(model, Batches(3), optimizer, epochs=1)
    assert optimizer.steps == 2
    assert history.column("training_loss") == [2.0]
    assert history.column("step") == [3]


# Budgets


@pytest.mark.parametrize(
    ("budget", "steps"), [({"epochs": 3}, 21), ({"steps": 10}, 10), ({"seconds": 0}, 1)]
)
def test_budgets(budget, steps):
    fractions = []
    model = Line()

    def schedule(fraction):
        fractions.append(fraction)
        return 1.0

    reports = []
    history = fit(model, **budget, schedule=schedule, on_step=reports.append)
    assert history.stopped == "budget"
    assert history.records[-1]["step"] == len(reports) == steps
    assert [report.step for report in reports] == list(range(1, steps + 1))
    assert fractions == pytest.approx([k / steps for k in range(steps)])
    assert [r.fraction for r in reports] == pytest.approx([k / steps for k in range(1, steps + 1)])


def test_a_budget_of_seconds():
    model, fractions = Line(), []
    history = fit(model, seconds=0.1, schedule=lambda f: fractions.append(f) or 1.0)
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0
    assert 0.1 <= history.records[-1]["seconds"] < 5.0
    assert len(fractions) == history.records[-1]["step"] > 1


# Records


def test_records_of_epochs():
    model = Scripted(losses=[1, 2, 6, 4, 5, 6, 7], counts=[1, 1, 2], gradients=range(1, 8))
    history = fit(model, Batches(3), SGD(model, 0.5), steps=7, schedule=schedules.linear(0.3))
    assert without_seconds(history) == [
        {
            "step": step,
            "epoch": epoch,
            "training_loss": pytest.approx(loss),
            "validation_loss": None,
            "learning_rate": pytest.approx(0.5 * (1 - 0.1 * (step - 1))),
            "gradient_norm": pytest.approx(norm),
        }
        for step, epoch, loss, norm in ((3, 1, 15 / 4, 2), (6, 2, 5, 5), (7, 2, 7, 7))
    ]
    assert history.column("seconds") == sorted(history.column("seconds"))
    assert (history.best_step, history.best_loss) == (None, None)


def test_records_each_so_many_steps():
    model = Scripted(validations=itertools.repeat(2.0))
    history = fit(model, Batches(3), steps=7, record_every=2, validation=Batches(1))
    assert history.column("step") == [2, 4, 6, 7]
    assert history.column("validation_loss") == [2.0] * 4
    assert history.column("epoch") == [0, 1, 2, 2]


def test_the_smoothed_loss_is_a_mean_of_the_last_steps():
    reports = []
    losses = np.arange(60.0)
    fit(Scripted(losses=losses), Batches(3), steps=60, on_step=reports.append)
    assert reports[0].smoothed_loss == 0.0
    weights = 0.95 ** np.arange(60)[::-1]
    want = (weights * losses).sum() / weights.sum()
    assert reports[-1].smoothed_loss == pytest.approx(want)
    assert [report.loss for report in reports] == losses.tolist()


# Validation


def test_the_best_parameters_come_back():
    validations = [9.0, 5.0, 3.0, 4.0, 3.0, 5.0]  # the first checks that it fits
    for restore_best, want in ((True, -2.0), (False, -5.0)):
        model = Scripted(validations=validations)
        history = fit(
            model,
            Batches(1),
            SGD(model, 1.0),
            epochs=5,
            validation=Batches(1),
            restore_best=restore_best,
        )
        assert history.column("validation_loss") == validations[1:]
        assert (history.best_step, history.best_loss) == (2, 3.0)
        assert model.parameters["p"].item() == want


def test_patience_ends_the_training():
    validations = [9.0, 5.0, 6.0, 4.0, 4.0, 4.5, 3.0, 2.0]
    model = Scripted(validations=validations)
    history = fit(model, Batches(2), SGD(model, 1.0), epochs=50, validation=Batches(1), patience=2)
    assert history.stopped == "patience"
    assert history.column("validation_loss") == validations[1:6]
    assert history.best_step == 6
    assert model.parameters["p"].item() == -6.0


def test_evaluation_is_a_mean_over_targets_with_carried_states():
    class Model:
        def evaluate(self, batch, state):
            seen.append(state)
            index = len(seen)
            return SimpleNamespace(
                loss=[1.0, math.nan, 4.0][index - 1], count=[3, 0, 1][index - 1], state=index
            )

    seen = []
    assert training.evaluate(Model(), Batches(3, carry=True)) == (3 * 1.0 + 4.0) / 4
    assert seen == [None, 1, 2]
    model = Symbols(dropout=0.9)
    random_state = model.random_state
    data = Streams(text(97), 1, 12, random_offset=False)
    batches = [data.batch(0, index) for index in range(len(data))]
    whole = Batch(
        *(np.concatenate([getattr(b, n) for b in batches]) for n in ("inputs", "targets"))
    )
    assert training.evaluate(model, data) == pytest.approx(model.evaluate(whole).loss, rel=1e-5)
    assert model.random_state == random_state


# Numbers that aren't finite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("losses", "step 3: loss: expected a finite number, got {}"),
        ("gradients", "step 3: gradient of p: expected finite numbers, got {}"),
    ],
)
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_step_that_is_not_finite(bad, script, message, clip_norm, tmp_path):
    model = Scripted(**{script: [1.0, 1.0, bad]})
    optimizer = SGD(model, 1.0)
    path = tmp_path / "training.npz"
    value = abs(bad) if script == "gradients" else bad
    with raises(FloatingPointError, message.format(value)):
        fit(model, Batches(9), optimizer, epochs=1, clip_norm=clip_norm, checkpoint=path,
            checkpoint_every=1)  # fmt: skip
    assert model.parameters["p"].item() == -2.0
    assert optimizer.steps == 2
    again = Scripted()
    fit(again, Batches(9), SGD(again, 1.0), steps=2, clip_norm=clip_norm, checkpoint=path,
        resume=True)  # fmt: skip
    assert again.steps == 0  # the file is that of step 2
    assert again.parameters["p"].item() == -2.0


def test_a_parameter_that_overflows():
    model = Scripted(gradients=[1.0, 1e300])
    with pytest.raises(FloatingPointError, match=r"^step 2: p: overflow"):
        fit(model, Batches(9), SGD(model, 1e10), epochs=1)
    assert model.parameters["p"].item() == -1e10


def test_a_validation_that_is_not_finite(tmp_path):
    model = Scripted(validations=[1.0, 2.0, math.nan])
    path = tmp_path / "training.npz"
    with raises(FloatingPointError, "step 4: validation loss: expected a finite number, got nan"):
        fit(model, Batches(2), epochs=9, validation=Batches(1), checkpoint=path)
    again = Scripted(validations=[1.0])
    history = fit(again, Batches(2), steps=2, validation=Batches(1), checkpoint=path, resume=True)
    assert history.column("validation_loss") == [2.0]


# Errors before any training


def test_settings_are_checked_before_any_training(tmp_path):
    model = Symbols()
    before = {name: p.tobytes() for name, p in model.parameters.items()}
    random_state = model.random_state
    path = tmp_path / "training.npz"
    budget = "budget: expected exactly one of epochs, steps and seconds, got "
    for options, error, message in (
        ({"epochs": None}, ValueError, budget + "none"),
        ({"steps": 3}, ValueError, budget + "epochs and steps"),
        ({"epochs": 0}, ValueError, "epochs: expected at least 1, got 0"),
        ({"epochs": 1.5}, TypeError, "epochs: expected an integer, got float"),
        (
            {"epochs": None, "seconds": math.nan},
            ValueError,
            "seconds: expected a number in [0, inf), got nan",
        ),
        ({"clip_norm": 0}, ValueError, "clip_norm: expected a number in (0, inf), got 0"),
        ({"patience": 3}, ValueError, "patience: expected None without validation data"),
        ({"record_every": 0}, ValueError, "record_every: expected at least 1, got 0"),
        ({"schedule": 0.5}, TypeError, "schedule: expected a function, got float"),
        ({"resume": True}, ValueError, "resume: expected a checkpoint with it, got None"),
        ({"resume": 1}, TypeError, "resume: expected a bool, got int"),
        (
            {"checkpoint_every": 3},
            ValueError,
            "checkpoint_every: expected a checkpoint with it, got None",
        ),
        (
            {"checkpoint": path, "checkpoint_every": 0},
            ValueError,
            "checkpoint_every: expected at least 1, got 0",
        ),
        (
            {"optimizer": Adam(Symbols())},
            ValueError,
            "optimizer: expected one of this model, got another model's",
        ),
        ({"data": Batches(0)}, ValueError, "data: expected at least one batch, got 0"),
        ({"validation": Batches(0)}, ValueError, "validation: expected at least one batch, got 0"),
    ):
        with raises(error, message):
            fit(model, **{"data": streams(), "epochs": 1, **options})
    with pytest.raises(IndexError):
        fit(model, streams(), epochs=1, validation=Streams(text(99) + 1, 3, 8))
    assert {name: p.tobytes() for name, p in model.parameters.items()} == before
    assert model.random_state == random_state
    assert not path.exists()


def test_data_of_a_wrong_shape_changes_nothing():
    model = Line()
    with pytest.raises(ValueError, match="size 3 is different from 2"):
        fit(model, Minibatches(np.ones((8, 2)), np.ones(8), 4, batch_axis=0), epochs=1)
    assert not model.parameters["w"].any()


# Ctrl-C


def test_the_first_interrupt_ends_training_after_the_step(tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    path = tmp_path / "training.npz"

    class Model(Line):
        def step(self, batch, state=None):
            if len(reports) == 9:
                signal.raise_signal(signal.SIGINT)
            return super().step(batch)

    reports, model = [], Model()
    history = fit(model, epochs=99, checkpoint=path, on_step=reports.append)
    assert history.stopped == "interrupt"
    assert len(reports) == 10
    assert signal.getsignal(signal.SIGINT) is handler

    one, other = Model(), Line()
    reports = [None] * 100
    resumed = fit(one, epochs=5, checkpoint=path, resume=True)
    assert without_seconds(resumed) == without_seconds(fit(other, epochs=5))
    assert resumed.stopped == "budget"
    for name, p in other.parameters.items():
        assert one.parameters[name].tobytes() == p.tobytes()


def test_the_second_interrupt_acts_at_once():
    def interrupt(_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(Line(), epochs=99, on_step=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler


def test_ignored_interrupts_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        history = fit(Line(), steps=3, on_step=lambda _: signal.raise_signal(signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert history.stopped == "budget"


# What is shown


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_where_there_is_no_terminal(capsys):
    model = Line()
    training.fit(model, line_data(), Adam(model), steps=8, validation=line_data())
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("training 100%  loss ")
    assert ", validation " in lines[-1]
    assert lines[-1].endswith(" targets/s")


def test_a_bar_on_a_terminal():
    stream = Terminal()
    display = progress.open_progress(stream, lambda report: f"step {report.step}")
    assert isinstance(display, progress.Bar)
    model = Line()
    training.fit(model, line_data(), Adam(model), steps=8, progress=display)
    assert "100%" in stream.getvalue()
    assert "step 8" in stream.getvalue()
    assert stream.getvalue().endswith("\n")


def test_lines_without_tqdm(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert isinstance(progress.open_progress(Terminal()), progress.Lines)


def test_a_display_is_closed_also_after_an_error(capsys):
    class Display(progress.Silent):
        closed = False

        def close(self):
            self.closed = True

    display, model = Display(), Scripted(losses=[math.nan])
    with pytest.raises(FloatingPointError):
        training.fit(model, Batches(1), Adam(model), epochs=1, progress=display)
    assert display.closed
    assert capsys.readouterr().err == ""


def test_blas_has_one_thread_in_training(monkeypatch):
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def threads():
        pools = threadpoolctl.threadpool_info()
        return [pool["num_threads"] for pool in pools if pool["user_api"] == "blas"]

    seen = []
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = threads()
        fit(Line(), steps=1, on_step=lambda _: seen.extend(threads()))
        assert threads() == before
    assert seen
    assert set(seen) == {1}


def test_numpy_alone_will_do(tmp_path):
    script = """
        import sys
        for name in ("tqdm", "safetensors", "threadpoolctl", "matplotlib"):
            sys.modules[name] = None
        from fusedrnn import models
        from training_problems import Line, line_data
        model = Line()
        models.fit(model, line_data(), models.Adam(model, 0.1), epochs=9, checkpoint=sys.argv[1])
        print(abs(model.parameters["w"][1] + 2) < 0.1)
    """
    done = run(script, str(tmp_path / "training.npz"))
    assert done.stdout == "True\n"
    assert done.stderr.splitlines()[-1].startswith("training 100%  loss ")

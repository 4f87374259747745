"""A training goes on with what it began with: each setting is checked, and changed on purpose."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from fusedrnn import models
from fusedrnn.models import Batch, Minibatches, schedules, training
from fusedrnn.models.checkpoint import CheckpointError
from training_problems import Line, fit, line_data, raises

VALIDATION = line_data(20, seed=1, shuffle=False)
SETTINGS = {
    "steps": 9,
    "schedule": schedules.cosine(0.1),
    "clip_norm": 1.0,
    "patience": 5,
    "record_every": 3,
    "validation": VALIDATION,
}


@pytest.fixture(name="path")
def fixture_path(tmp_path):
    return tmp_path / "training.npz"


class Broken(Exception):
    pass


def interrupted(path):
    """Write the file of a training that was broken off after step 4."""

    def on_step(report):
        if report.step == 5:
            raise Broken

    with pytest.raises(Broken):
        fit(Line(), **SETTINGS, checkpoint=path, checkpoint_every=1, on_step=on_step)


def halved(fraction):
    return 1.0 if fraction < 0.5 else 0.5


OTHERS = {
    "schedule: expected 'cosine(end=0.2)', got 'cosine(end=0.1)'": {
        "schedule": schedules.cosine(0.2)
    },
    "schedule: expected 'constant()', got 'cosine(end=0.1)'": {"schedule": None},
    "schedule: expected 'step_decay(at=[0.501], factor=0.1)', got 'cosine(end=0.1)'": {
        "schedule": schedules.step_decay([0.501])
    },
    "budget.steps: expected 20, got 9": {"steps": 20},
    "budget: missing epochs": {"steps": None, "epochs": 2},
    "clip_norm: expected None, got 1.0": {"clip_norm": None},
    "clip_norm: expected 0.5, got 1.0": {"clip_norm": 0.5},
    "patience: expected 6, got 5": {"patience": 6},
    "patience: expected None, got 5": {"patience": None},
    "record_every: expected None, got 3": {"record_every": None},
    "validation.batches: expected 4, got 3": {"validation": line_data(30, seed=1)},
    "validation.configuration.shuffle: expected True, got False": {
        "validation": line_data(20, seed=1)
    },
}


@pytest.mark.parametrize("message", OTHERS)
def test_another_setting_is_refused_and_may_be_changed(message, path):
    interrupted(path)
    content = path.read_bytes()
    options = {**SETTINGS, **OTHERS[message], "checkpoint": path, "resume": True}
    name = message.split(":")[0].split(".")[0]
    line = Line()
    with raises(
        CheckpointError,
        f"{path}: is of another training.{message} (changed={(name,)} goes on all the same)",
    ):
        fit(line, **options)
    assert path.read_bytes() == content
    assert not line.parameters["w"].any()

    # A schedule that moves needs a budget; one that doesn't has none to compare.
    fit(line, **options, changed={name, "budget"} if name == "schedule" else {name})
    assert line.parameters["w"].any()
    assert path.read_bytes() != content
    fit(Line(), **options)  # with what it has gone on with


def test_what_changes_no_result_may_be_another(path):
    interrupted(path)
    again = {**SETTINGS, "restore_best": False, "checkpoint_every": 1}
    fit(Line(), **again, checkpoint=path, resume=True, on_step=lambda report: None)


def test_own_schedules_are_compared_by_their_values(path):
    fit(Line(), steps=9, schedule=halved, checkpoint=path)
    fit(Line(), steps=9, schedule=lambda f: 1.0 - 0.5 * (f >= 0.5), checkpoint=path, resume=True)
    with pytest.raises(CheckpointError, match=r"training\.schedule\[0\]: expected 2\.0, got 1\.0"):
        fit(Line(), steps=9, schedule=lambda f: 2 * halved(f), checkpoint=path, resume=True)
    with pytest.raises(CheckpointError, match=r"training\.budget\.steps: expected 12, got 9"):
        fit(Line(), steps=12, schedule=halved, checkpoint=path, resume=True)


def test_without_a_schedule_that_moves_the_budget_is_free(path):
    for k, schedule in enumerate((None, schedules.constant(), lambda fraction: 1.0)):
        one = path.with_stem(f"training{k}")
        fit(Line(), steps=9, schedule=schedule, checkpoint=one)
        fit(Line(), epochs=4, schedule=schedule, checkpoint=one, resume=True)


MADE = (
    schedules.constant(),
    schedules.linear(),
    schedules.linear(1.0),
    schedules.linear(0.5),
    schedules.cosine(),
    schedules.exponential(),
    schedules.exponential(0.02),
    schedules.step_decay(),
    schedules.step_decay(()),
    schedules.step_decay((0.5, 0.751)),
    schedules.step_decay(factor=0.2),
    schedules.warmup(0.1, schedules.cosine()),
    schedules.warmup(0.1, schedules.linear()),
    schedules.warmup(0.1, schedules.cosine(), 0.1),
    schedules.warmup(0.2, halved),
    schedules.warmup_cosine(),
    schedules.warmup_cosine(end=0.1),
)


def test_every_schedule_has_a_description_of_its_own():
    described = [json.dumps(schedules.description(schedule)) for schedule in MADE]
    assert len(set(described)) == len(MADE)
    constant = {repr(schedule) for schedule in MADE if schedules.is_constant(schedule)}
    assert constant == {"constant()", "linear(end=1.0)", "step_decay(at=[], factor=0.1)"}
    for schedule in MADE:
        assert 0.0 <= schedule(0.4) <= 1.0


class Given:
    """A source that says nothing of itself."""

    def __init__(self, batch: Batch) -> None:
        self.one = batch

    def __len__(self):
        return 2

    def batch(self, epoch, index):
        return self.one


def given(**changes):
    random = np.random.default_rng(0)
    batch = Batch(random.normal(size=(8, 3)), random.normal(size=8))
    return Given(replace(batch, **changes))


def test_data_that_says_nothing_of_itself_is_compared_by_its_first_batch(path):
    fit(Line(), given(), steps=3, checkpoint=path)
    fit(Line(), given(), steps=5, checkpoint=path, resume=True)
    other = given().one.targets + 1
    for changes, what in (
        ({"targets": other}, "targets.checksum: expected "),
        ({"inputs": np.zeros((8, 3))}, "inputs.checksum: expected "),
        ({"targets": other.astype(np.float32)}, "targets.dtype: expected 'float32', got 'float64'"),
        ({"weights": np.ones(8)}, "first_batch: missing weights"),
    ):
        with pytest.raises(CheckpointError, match=r"another training\.data\.first_batch") as e:
            fit(Line(), given(**changes), steps=5, checkpoint=path, resume=True)
        assert what in str(e.value)


@pytest.mark.parametrize(
    "inputs",
    [
        (np.ones((8, 3)), np.ones((2, 2))),
        {"x": np.ones((8, 3)), "z": [np.ones(2), np.ones(3)]},
        [np.ones((8, 3)), np.ones(2)],
    ],
    ids=["tuple", "mapping", "list"],
)
def test_inputs_of_several_arrays_are_compared_one_by_one(path, inputs):
    class Several(Line):
        def step(self, batch, state=None):
            values = batch.inputs.values() if isinstance(batch.inputs, dict) else batch.inputs
            return super().step(replace(batch, inputs=next(iter(values))), state)

    fit(Several(), given(inputs=inputs), steps=3, checkpoint=path)
    fit(Several(), given(inputs=inputs), steps=5, checkpoint=path, resume=True)
    (inputs["x"] if isinstance(inputs, dict) else inputs[0])[0, 0] = 2
    with pytest.raises(CheckpointError, match=r"first_batch\.inputs.*\.checksum: expected"):
        fit(Several(), given(inputs=inputs), steps=6, checkpoint=path, resume=True)


def test_the_axis_of_the_batch_is_part_of_the_data(path):
    """Three steps of three sequences look alike, whichever axis is which."""
    x = np.random.default_rng(0).normal(size=(3, 3))
    sources = [Minibatches(x, x, 1, batch_axis=axis, seed=0) for axis in (0, 1)]
    assert sources[0].configuration != sources[1].configuration
    assert sources[0].configuration["checksum"] == sources[1].configuration["checksum"]
    mixed = Minibatches(x, x, 1, batch_axis=0, target_axis=1, seed=0)
    assert mixed.configuration != sources[0].configuration


def test_a_model_of_ones_own_may_say_what_it_is(path):
    class Weighted(Line):
        def __init__(self, factor):
            super().__init__()
            self.configuration = {"factor": factor}

    fit(Weighted(1.0), steps=3, checkpoint=path)
    fit(Weighted(1.0), steps=4, checkpoint=path, resume=True)
    with pytest.raises(CheckpointError, match=r"model\.configuration\.factor: expected 2\.0, got"):
        fit(Weighted(2.0), steps=5, checkpoint=path, resume=True)


def test_what_json_cannot_hold_is_no_configuration(path):
    line, data = Line(), given()
    line.configuration = object()
    message = "model.configuration: expected what JSON can hold: Object of type object is not"
    with pytest.raises(TypeError, match=message):
        fit(line, checkpoint=path, steps=2)
    data.configuration = lambda: {}
    for options, name in (({"data": data}, "data"), ({"validation": data}, "validation")):
        with pytest.raises(
            TypeError, match=rf"^{name}\.configuration: expected what JSON can hold"
        ):
            fit(Line(), **options, checkpoint=path, steps=2)
    assert not path.exists()


@pytest.mark.parametrize("validation", [VALIDATION, None])
def test_other_validations_are_not_compared_with_those_before(path, validation):
    """The best of before would be the best for ever."""
    easy = Minibatches(np.zeros((8, 3)), np.zeros(8), 8, batch_axis=0)
    first = fit(Line(), steps=9, validation=easy, record_every=3, checkpoint=path)
    assert first.best_loss < 0.01
    line, options = Line(), {"steps": 40, "record_every": 3, "validation": validation}
    history = fit(line, **options, checkpoint=path, resume=True, changed={"validation"})
    fresh = Line()
    whole = fit(fresh, **options)
    assert np.array_equal(line.parameters["w"], fresh.parameters["w"])
    if validation is None:
        assert history.best_step is None and history.best_loss is None
    else:
        assert history.best_step == whole.best_step > 9
        assert history.best_loss == whole.best_loss > first.best_loss


def test_the_losses_options_are_part_of_a_model(path):
    x = np.arange(40).reshape(4, 10) % 3
    data = Minibatches(x, x, 5, seed=0)

    def model(ignore_index):
        head = models.SoftmaxHead(4, 3, ignore_index=ignore_index, seed=0)
        return models.SequenceModel(models.Embedding(3, 4, seed=0), head)

    fit(model(-100), data, steps=3, checkpoint=path)
    with pytest.raises(CheckpointError, match=r"head\.ignore_index: expected 0, got -100"):
        fit(model(0), data, steps=5, checkpoint=path, resume=True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"changed": "patience"}, TypeError, "changed: expected a collection of names, got str"),
        ({"changed": 1}, TypeError, "changed: expected a collection of names, got int"),
        (
            {"changed": ["data"]},
            ValueError,
            "changed: expected some of schedule, budget, clip_norm, patience, record_every, "
            "validation, got 'data'",
        ),
        (
            {"changed": ["patience"], "resume": False},
            ValueError,
            "changed: expected resume=True with it, got False",
        ),
    ],
)
def test_what_may_be_changed(options, error, message, path):
    with raises(error, message):
        fit(Line(), steps=3, **{"checkpoint": path, "resume": True, **options})


def test_a_file_that_says_less_is_refused(path, monkeypatch):
    """Such as one of an earlier version, also where what it doesn't say has its default here."""
    with monkeypatch.context() as earlier:
        earlier.setattr(training._Training, "_settings", lambda self: {})
        fit(Line(), steps=3, checkpoint=path)
    with pytest.raises(CheckpointError, match=r"is of another training: missing schedule$"):
        fit(Line(), steps=5, checkpoint=path, resume=True)

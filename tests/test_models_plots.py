"""The history of a training as JSON and as a picture."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from fusedrnn.models import plots
from fusedrnn.models.history import History
from scripts import output
from training_problems import Line, fit, line_data, raises


@pytest.fixture(name="history", scope="module")
def fixture_history():
    return fit(Line(), epochs=80, validation=line_data(seed=1))


def lines(axes) -> dict[str, tuple]:
    return {line.get_label(): line.get_data() for line in axes.get_lines()}


# JSON


def test_history_is_plain_json(history, tmp_path):
    text = history.to_json(tmp_path / "history.json")
    assert (tmp_path / "history.json").read_text() == text
    assert json.loads(text) == {
        "records": history.records,
        "stopped": "budget",
        "best_step": history.best_step,
        "best_loss": history.best_loss,
    }
    assert History.from_json(text) == history


# Pictures


def test_all_columns_are_drawn(history):
    losses, norms, rates = plots.draw_history(history).axes
    steps = history.column("step")
    drawn = lines(losses)
    assert len(drawn) == 3
    for label in ("training", "validation"):
        np.testing.assert_array_equal(drawn[label], (steps, history.column(f"{label}_loss")))
    best = f"best: {history.best_loss:.4g} at step {history.best_step}"
    np.testing.assert_array_equal(drawn[best], ([history.best_step], [history.best_loss]))
    assert [t.get_text() for t in losses.get_legend().get_texts()] == list(drawn)
    for axes, name in ((norms, "gradient_norm"), (rates, "learning_rate")):
        (data,) = lines(axes).values()
        np.testing.assert_array_equal(data, (steps, history.column(name)))
        assert axes.get_ylabel() == name.replace("_", " ")
    assert (losses.get_ylabel(), rates.get_xlabel()) == ("loss", "steps")


def test_scales_follow_the_values(history):
    losses, _, rates = plots.draw_history(history).axes
    assert max(history.column("training_loss")) > 20 * min(history.column("training_loss"))
    assert losses.get_yscale() == "log"
    assert rates.get_yscale() == "linear"
    assert rates.get_ylim()[0] == 0
    flat = History([{**record, "training_loss": -1.0} for record in history.records])
    assert plots.draw_history(flat).axes[0].get_yscale() == "linear"


def test_training_without_validation_or_targets(history):
    without = {"validation_loss": None}
    plain = History([{**record, **without} for record in history.records])
    assert list(lines(plots.draw_history(plain).axes[0])) == ["training"]
    empty = History([{**history.records[0], **without, "training_loss": None}])
    assert not lines(plots.draw_history(empty).axes[0])


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_files(history, suffix, start, tmp_path):
    path = tmp_path / f"history.{suffix}"
    history.plot(path)
    assert path.read_bytes().startswith(start)


def test_the_picture_has_ink(history, tmp_path):
    image = pytest.importorskip("matplotlib.image")
    history.plot(tmp_path / "history.png")
    pixels = image.imread(tmp_path / "history.png")
    assert pixels.shape[:2] == (650, 800)
    for name in (plots.BLUE, plots.ORANGE, plots.GREEN, plots.GREY):
        colour = np.array([int(name[k : k + 2], 16) for k in (1, 3, 5)]) / 255
        assert (abs(pixels[..., :3] - colour).max(axis=-1) < 0.02).sum() > 50


def test_a_history_without_records():
    with raises(ValueError, "history: expected at least one record, got none"):
        plots.draw_history(History())


def test_plots_leave_no_window_and_no_global_state():
    script = """
        import io, sys
        from fusedrnn.models import plots
        assert not any(name.startswith("matplotlib") for name in sys.modules)
        picture = plots.figure(3, 2)
        picture.subplots().plot([1, 2])
        picture.savefig(io.BytesIO(), format="png")
        print("matplotlib.pyplot" in sys.modules)
    """
    assert output(script) == "False"


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with raises(ImportError, "plots need the package matplotlib (pip install matplotlib)"):
        plots.figure()

"""The benchmark beside other libraries' threads: it measures, verifies, and knows its targets."""

from __future__ import annotations

import pytest

from bench import __main__, beside
from bench.baselines import ONE_THREAD, OURS, ours
from bench.cases import Case

CASE = Case("gru", "train", 8, 10, 16, 16)


def row(neighbour: str, one: float, all_threads: float, **peers: float) -> beside.Row:
    times = {ours(ONE_THREAD): one, OURS: all_threads, **peers}
    return beside.Row(neighbour, CASE, times, 1.9, {}, {})


@pytest.mark.parametrize(
    ("neighbour", "ms", "target"),
    [
        ("alone", 1, 1.8),
        ("alone", 0.9, 0.97),
        ("numpy-lent", 1, 1.8),
        ("numpy", 89, 0.97),
        ("numpy", 90, 1.25),
        ("onnxruntime", 90, 1.25),
        ("torch", 90, 1.6),
        ("torch", 1, 0.97),
    ],
)
def test_targets(neighbour, ms, target):
    assert row(neighbour, ms, ms).target == target


def test_table_names_what_is_met_and_what_is_not():
    rows = [row("numpy", 10, 5, torch=15, onnxruntime=20), row("torch", 100, 100)]
    text = beside.table(rows)
    assert "| 10.00 | 5.00 | 2.00 | 1.90 | 0.97, met | 3.00 |" in text
    assert "| 100.00 | 100.00 | 1.00 | 1.90 | 1.60, NOT met |  |" in text


@pytest.mark.serial
def test_a_quick_run_from_end_to_end(capsys):
    assert __main__.main(["--quick", "--beside", "alone", "numpy"]) == 0
    out = capsys.readouterr().out
    assert out.count(f"| {CASE} |") == 2
    assert "of 2 met" in out


def test_a_wrong_result_is_told(capsys, monkeypatch):
    wrong = beside.Row("alone", CASE, {ours(ONE_THREAD): 1, OURS: 1}, 2, {}, {"torch": "y: 1e-1"})
    monkeypatch.setattr(beside, "measure", lambda *_: [wrong])
    assert beside.main(["alone"]) == 1
    assert "WRONG: " in capsys.readouterr().err


def test_unknown_neighbours_are_refused(capsys):
    with pytest.raises(SystemExit):
        __main__.main(["--beside", "matlab"])
    assert "matlab" in capsys.readouterr().err

"""What the examples have in common: options, bounds, the table, the exit status."""

from __future__ import annotations

import math

import pytest

from fusedrnn.demo import example
from fusedrnn.demo.example import Bound, Options

BOUNDS = (Bound("accuracy", at_least=0.9, quick=0.5), Bound("loss", at_most=0.4))
DOC = "What it shows.\n\nMore."


def run(figures):
    return lambda options: figures


@pytest.mark.parametrize(
    ("figures", "quick", "missed"),
    [
        ({"accuracy": 0.9, "loss": 0.4}, False, []),
        ({"accuracy": 0.89, "loss": 0.4}, False, ["accuracy"]),
        ({"accuracy": 0.89, "loss": 0.41}, True, ["loss"]),
        ({"accuracy": math.nan, "loss": math.nan}, True, ["accuracy", "loss"]),
        ({"loss": 0.1}, True, ["accuracy"]),
    ],
)
def test_bounds(capsys, figures, quick, missed):
    assert [b.name for b in example.missed(figures, BOUNDS, quick)] == missed
    arguments = ["--quick"] if quick else []
    assert example.main(run(figures), BOUNDS, DOC, arguments) == bool(missed)
    out = capsys.readouterr().out
    assert out.startswith("What it shows.\n")
    assert out.count("missed!") == len(set(missed) & set(figures))


def test_a_bound_has_one_side():
    for sides in ({}, {"at_least": 1.0, "at_most": 2.0}):
        with pytest.raises(ValueError, match="x: expected one of at_least and at_most"):
            Bound("x", **sides)


def test_options_reach_the_program(tmp_path, capsys):
    seen = []

    def program(options):
        seen.append(options)
        return {"path": len(str(options.picture("curve")))}

    folder = tmp_path / "a" / "b"
    arguments = ["--quick", "--seed", "7", "--pictures", str(folder)]
    assert example.main(program, (), DOC, arguments) == 0
    assert seen == [Options(True, 7, folder)]
    assert folder.is_dir()
    assert f"picture: {folder / 'curve.png'}" in capsys.readouterr().out
    assert Options().picture("curve") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "expected 0 to 2^63 - 1, got -1"),
        (["--seed", "x"], "expected a whole number, got 'x'"),
        (["--loud"], "unrecognized arguments: --loud"),
    ],
)
def test_wrong_options(capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        example.main(run({}), (), DOC, arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ImportError("scikit-learn is missing"), 2, "error: scikit-learn is missing"),
        (OSError("the disk is full"), 2, "error: the disk is full"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_ends_a_program(capsys, error, status, message):
    def program(options):
        raise error

    assert example.main(program, (), DOC, []) == status
    assert capsys.readouterr().err.strip() == message


def test_a_directory_that_can_not_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert example.main(run({}), (), DOC, ["--pictures", str(tmp_path / "file")]) == 2
    assert "error: " in capsys.readouterr().err

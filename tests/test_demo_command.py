"""`python -m fusedrnn demo language`: its speed, its command line, its quick mode."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import fusedrnn
from demo_problems import SMALL, TINY, read_data, train
from fusedrnn import models
from fusedrnn.__main__ import main
from fusedrnn.demo import language, saved, speed
from fusedrnn.demo.continuations import pairs
from fusedrnn.demo.corpus import UNITS
from fusedrnn.demo.model import build
from fusedrnn.demo.recipe import QUICK
from fusedrnn.models import blas, checkpoint

# Speed


def test_flops_count_the_products():
    # 16 rows x (3 + 4) and 16 x (4 + 4), twice 5 x 2 times, and twice more for backward.
    case = speed.Case(replace(TINY, layers=2), steps=5, batch=2)
    assert case.flops() == 3 * 2 * 16 * (7 + 8) * 10


def test_speed_reports_a_reference_that_is_too_slow(monkeypatch):
    def late(case, limit):
        raise subprocess.TimeoutExpired("reference", limit)

    monkeypatch.setattr(speed, "time_reference_alone", late)
    text = speed.compare(speed.Case(TINY, 3, 2), 0.5)
    assert "fused kernels, float32, 1 thread" in text
    assert "not ready in the 0.5 s" in text


def test_shares_leave_the_model_as_it_is():
    data = read_data()
    model = build(replace(SMALL, dropout=0.5), len(data.vocabulary), seed=0)
    before, drawn = dict(model.parameters), dict(model.random_state)
    batch = models.Streams(data.train, 4, 8, seed=0).batch(0, 0)
    text = speed.shares(model, batch)
    assert sorted(part.rsplit(" ", 1)[0] for part in text.split(", ")) == [
        "Adam", "Dropout", "Embedding", "LSTM", "softmax and loss"
    ]  # fmt: skip
    assert dict(model.random_state) == drawn
    for name, parameter in model.parameters.items():
        assert (parameter == before[name]).all()


def test_restart_without_threadpoolctl(monkeypatch):
    calls = []
    monkeypatch.setattr(os, "execve", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(blas, "can_limit", lambda: False)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    blas.restart_with_one_thread()  # this program is pytest
    assert calls == []
    spec = importlib.util.find_spec("fusedrnn.__main__")
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    blas.restart_with_one_thread()
    [(program, arguments, environment)] = calls
    assert (program, arguments[1:]) == (sys.executable, sys.orig_argv[1:])
    assert environment["OPENBLAS_NUM_THREADS"] == "1"
    assert environment["FUSEDRNN_NUM_THREADS"] == str(fusedrnn.get_num_threads())
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    blas.restart_with_one_thread()
    assert len(calls) == 1


# The command line


def test_help(capsys):
    assert main([]) == 0
    assert "demo" in capsys.readouterr().out
    for arguments in (["demo", "--help"], ["demo", "language", "--help"]):
        with pytest.raises(SystemExit) as exit_info:
            main(arguments)
        assert exit_info.value.code == 0
        shown = capsys.readouterr().out
        assert "usage: python -m fusedrnn demo language" in shown
        for option in (
            "--unit", "--cell", "--hidden", "--layers", "--seconds", "--seed", "--temperature",
            "--save", "--load", "--pictures", "--quick",
        ):  # fmt: skip
            assert option in shown


def test_info(capsys):
    assert main(["info"]) == 0
    assert "isa: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hidden", "0"], "expected at least 1, got 0"),
        (["--layers", "-1"], "expected at least 1, got -1"),
        (["--hidden", "many"], "expected a whole number, got 'many'"),
        (["--seconds", "soon"], "expected a positive number, got soon"),
        (["--seconds", "0"], "expected a positive number, got 0"),
        (["--temperature", "nan"], "expected a positive number, got nan"),
        (["--seed", "-1"], "expected 0 to 2^63 - 1, got -1"),
        (["--cell", "transformer"], "invalid choice: 'transformer'"),
        (["--unit", "sentence"], "invalid choice: 'sentence'"),
        (["--quick", "--seconds", "3"], "--seconds: not with --quick"),
    ],
)
def test_bad_options(options, message, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["demo", *options])
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def error_of(options, capsys):
    assert main(["demo", *map(str, options)]) == 2
    shown = capsys.readouterr()
    assert "training" not in shown.err  # it came before the training
    return shown.err


def test_bad_files(tmp_path, capsys, monkeypatch):
    expected = "model.h5: expected a name that ends in .npz or .safetensors"
    assert expected in error_of(["--save", "model.h5"], capsys)
    assert expected in error_of(["--load", "model.h5"], capsys)
    missing = tmp_path / "no" / "model.npz"
    assert "there is no directory" in error_of(["--save", missing], capsys)
    assert "No such file or directory" in error_of(["--load", missing], capsys)
    (tmp_path / "dir.npz").mkdir()
    assert "is a directory" in error_of(["--save", tmp_path / "dir.npz"], capsys)
    (tmp_path / "m.adam.npz").mkdir()
    assert "m.adam.npz: is a directory" in error_of(["--save", tmp_path / "m.npz"], capsys)
    assert "File exists" in error_of(["--pictures", Path(__file__)], capsys)
    for suffix in checkpoint.SUFFIXES:
        broken = tmp_path / f"broken{suffix}"
        broken.write_bytes(b"not a model")
        message = f"error: {broken}: broken, or not a file of fusedrnn"
        assert message in error_of(["--load", broken], capsys)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = "needs the package safetensors (pip install safetensors); .npz does not"
    assert message in error_of(["--save", tmp_path / "model.safetensors"], capsys)


def test_pictures_need_matplotlib(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install matplotlib" in error_of(["--pictures", tmp_path], capsys)


@pytest.fixture
def file(tmp_path):
    data = read_data()
    model = build(SMALL, len(data.vocabulary), seed=0)
    adam = models.Adam(model, 1e-2)
    train(model, adam, 3)
    path = tmp_path / "model.npz"
    saved.save(path, saved.Language(model, data.vocabulary, "of another text"), adam)
    return path


def test_options_that_do_not_fit_the_file(file, capsys):
    assert "--cell gru does not fit" in error_of(["--load", file, "--cell", "gru"], capsys)
    assert "which has 32" in error_of(["--load", file, "--hidden", "64"], capsys)
    assert "which has character" in error_of(["--load", file, "--unit", "word"], capsys)


def test_a_file_of_another_text_or_without_adam(file, capsys):
    assert main(["demo", "--load", str(file), "--seconds", "0.01"]) == 0
    shown = capsys.readouterr().out
    assert f"Continuing with {file}, after 3 steps." in shown
    assert "Note: it was trained with another version of Python" in shown
    saved.adam_path(file).unlink()
    assert main(["demo", "--load", str(file), "--seconds", "0.01"]) == 0
    assert "model.adam.npz, so Adam starts anew." in capsys.readouterr().out


@pytest.mark.parametrize("unit", UNITS)
def test_demo_saves_and_continues(unit, tmp_path, capsys):
    path = tmp_path / "model.npz"
    small = ["--hidden", "16", "--cell", "gru", "--unit", unit, "--seconds", "2"]
    assert main(["demo", *small, "--save", str(path), "--pictures", str(tmp_path)]) == 0
    first = capsys.readouterr()
    for text in (
        "| trigram |", "| GRU     |", "NOT beat", "NumPy reference, float64", "kernels",
        f"perplexity per {unit}", "Time of a training step:", "preferred to bad ones",
    ):  # fmt: skip
        assert text in first.out
    assert f"bits/{unit}" in first.err
    after = next(line for line in first.out.splitlines() if line.startswith("| GRU"))

    assert main(["demo", "--load", str(path), "--seconds", "1"]) == 0
    second = capsys.readouterr().out
    assert f"Continuing with {path}" in second
    assert "another version" not in second
    held_out = after.split("|")[2].strip()
    assert f"before training ({held_out} bits per {unit})" in second


@pytest.mark.deep
@pytest.mark.parametrize("unit", UNITS)
def test_good_continuations_win_after_quick_training(unit, capsys):
    assert main(["demo", "language", "--quick", "--unit", unit]) == 0
    shown = capsys.readouterr().out
    count = len(pairs(unit, quick=True))
    assert f"preferred to bad ones, of {count}: {count} by the LSTM" in shown
    assert "missed" not in shown


@pytest.mark.parametrize("unit", UNITS)
def test_quick_fails_where_too_little_is_learned(unit, capsys, monkeypatch):
    monkeypatch.setitem(QUICK, unit, replace(QUICK[unit], budget=5))
    assert main(["demo", "--quick", "--unit", unit]) == 1
    assert "missed!" in capsys.readouterr().out


def test_interrupt_ends_the_training_and_shows_what_was_learned(capsys, monkeypatch):
    fit = models.fit

    def interrupted(*arguments, on_step, **options):
        def interrupt(report):
            on_step(report)
            if report.step == 3:
                signal.raise_signal(signal.SIGINT)

        return fit(*arguments, on_step=interrupt, **options)

    monkeypatch.setattr(models, "fit", interrupted)
    assert main(["demo", "--hidden", "8"]) == 0
    shown = capsys.readouterr().out
    assert "3 steps of 16 x 32 characters" in shown
    assert "Interrupted: this is how far it got." in shown
    assert "| LSTM    |" in shown


def test_interrupt_elsewhere_ends_it_all(capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(language.speed, "shares", interrupt)
    assert main(["demo", "--hidden", "8"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_loss_that_is_not_finite(capsys, monkeypatch):
    recipe = replace(QUICK["character"], learning_rate=1e38)
    monkeypatch.setitem(QUICK, "character", recipe)
    assert main(["demo", "--quick"]) == 2
    assert "error: training failed at step " in capsys.readouterr().err


def test_demo_runs_as_a_program():
    result = subprocess.run(
        [sys.executable, "-m", "fusedrnn"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path("/"),
    )
    assert "demo" in result.stdout

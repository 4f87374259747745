"""`python -m fusedrnn demo`: its files, its progress, its speed, its command line."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fusedrnn
from demo_problems import SMALL, TINY, read_data, run_steps
from fusedrnn.__main__ import main
from fusedrnn.demo import blas, checkpoint, progress, speed
from fusedrnn.demo.adam import Adam
from fusedrnn.demo.checkpoint import Checkpoint, CheckpointError
from fusedrnn.demo.model import Model
from fusedrnn.demo.training import Report


@pytest.fixture(name="data")
def fixture_data():
    return read_data()


# --- files --------------------------------------------------------------------------------------


@pytest.fixture
def trained(data):
    model = Model(SMALL, len(data.vocabulary))
    adam = Adam(model.parameters)
    run_steps(model, adam, 5)
    return model, adam


@pytest.mark.parametrize("suffix", checkpoint.SUFFIXES)
def test_saved_model_continues_as_if_never_stopped(suffix, trained, data, tmp_path):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    model, adam = trained
    path = tmp_path / f"model{suffix}"
    checkpoint.save(path, Checkpoint.of(model, adam, data.vocabulary, "hash"))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

    loaded = checkpoint.load(path)
    assert (loaded.config, loaded.vocabulary) == (SMALL, data.vocabulary)
    assert (loaded.text, loaded.adam_steps) == ("hash", 5)
    other = Model(loaded.config, len(loaded.vocabulary), seed=99)
    other_adam = Adam(other.parameters)
    loaded.restore(other, other_adam)
    text = data.test[:2000]
    assert other.bits_per_character(text, 2) == model.bits_per_character(text, 2)
    run_steps(model, adam, 3)
    run_steps(other, other_adam, 3)
    for name, parameter in model.parameters.items():
        np.testing.assert_array_equal(parameter, other.parameters[name], err_msg=name)


def test_checkpoint_may_lack_the_optimizer(trained, data):
    model, adam = trained
    whole = Checkpoint.of(model, adam, data.vocabulary, "")
    weights = {n: a for n, a in whole.arrays.items() if not n.startswith("adam.")}
    other = Model(SMALL, len(data.vocabulary), seed=99)
    other_adam = Adam(other.parameters)
    replace(whole, arrays=weights).restore(other, other_adam)
    assert other_adam.t == 0
    np.testing.assert_array_equal(other.parameters["embedding"], model.parameters["embedding"])
    wrong = {**weights, "head.bias": np.zeros(3, np.float32)}
    message = r"head.bias: expected float32 \(\d+,\), got float32 \(3,\)"
    with pytest.raises(CheckpointError, match=message):
        replace(whole, arrays=wrong).restore(other, other_adam)


def test_failed_save_leaves_the_old_file(trained, data, tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    path.write_bytes(b"old")

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError, match=r"model\.npz: No space left on device"):
        checkpoint.save(path, Checkpoint.of(*trained, data.vocabulary, ""))
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.npz"]


# --- progress and speed -------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


REPORT = Report(0.5, 10, 20_000, 2.345678, 4.0, False)


def test_plain_lines_without_a_terminal():
    stream = io.StringIO()
    display = progress.open_progress(stream)
    display.show(REPORT)
    display.show(REPORT)  # too early for another line
    display.show(replace(REPORT, fraction=1.0))
    display.close()
    expected = "loss 2.346 bits/char, 5,000 chars/s\n"
    assert stream.getvalue() == f"training  50%  {expected}training 100%  {expected}"


def test_bar_on_a_terminal():
    pytest.importorskip("tqdm")
    stream = Terminal()
    display = progress.open_progress(stream)
    display.show(REPORT)
    display.close()
    assert "50%|" in stream.getvalue()
    assert "loss 2.346 bits/char" in stream.getvalue()


def test_lines_on_a_terminal_without_tqdm(monkeypatch):
    monkeypatch.setattr(progress, "tqdm_installed", lambda: False)
    assert isinstance(progress.open_progress(Terminal()), progress.Lines)


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


# --- the command line ---------------------------------------------------------------------------


def test_help(capsys):
    assert main([]) == 0
    assert "demo" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_info:
        main(["demo", "--help"])
    assert exit_info.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--hidden", "--seconds", "--cell", "--save", "--load", "--temperature"):
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
    for suffix in checkpoint.SUFFIXES:
        broken = tmp_path / f"broken{suffix}"
        broken.write_bytes(b"not a model")
        assert "is not a file of this demo" in error_of(["--load", broken], capsys)
    monkeypatch.setattr(checkpoint.importlib.util, "find_spec", lambda name: None)
    message = "needs the package safetensors (pip install safetensors); .npz does not"
    assert message in error_of(["--save", tmp_path / "model.safetensors"], capsys)


def test_options_that_do_not_fit_the_file(trained, data, tmp_path, capsys):
    path = tmp_path / "model.npz"
    checkpoint.save(path, Checkpoint.of(*trained, data.vocabulary, ""))
    assert "--cell gru does not fit" in error_of(["--load", path, "--cell", "gru"], capsys)
    assert "which has 32" in error_of(["--load", path, "--hidden", "64"], capsys)


def test_demo_saves_and_continues(tmp_path, capsys):
    path = tmp_path / "model.npz"
    small = ["--hidden", "16", "--cell", "gru", "--seconds", "3"]
    assert main(["demo", *small, "--save", str(path)]) == 0
    first = capsys.readouterr()
    for text in ("| trigram |", "| GRU     |", "NOT beat", "NumPy reference, float64", "kernels"):
        assert text in first.out
    assert "bits/char" in first.err
    after = next(line for line in first.out.splitlines() if line.startswith("| GRU"))

    assert main(["demo", "--load", str(path), "--seconds", "1"]) == 0
    second = capsys.readouterr().out
    assert f"Continuing with {path}" in second
    assert "another version" not in second
    held_out = after.split("|")[2].strip()
    assert f"before training ({held_out} bits per character)" in second


def test_demo_runs_as_a_program():
    result = subprocess.run(
        [sys.executable, "-m", "fusedrnn"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path("/"),
    )
    assert "demo" in result.stdout

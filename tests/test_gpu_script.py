"""The script for a machine with a GPU: parts that fail, hang or lack something."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "gpu"


def load():
    loader = importlib.machinery.SourceFileLoader("gpu_script", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_script", loader))
    sys.modules["gpu_script"] = module  # dataclasses look there
    loader.exec_module(module)
    return module


gpu = load()


@pytest.fixture
def machine(tmp_path):
    for name in ("build", "out"):
        (tmp_path / name).mkdir()
    return gpu.Machine(tmp_path / "build", tmp_path / "out", dry=True)


def part(name, *scripts, weight=1.0, needs=()):
    commands = [[sys.executable, "-c", script] for script in scripts]
    return gpu.Part(name, weight, needs, lambda machine, seconds: commands)


def summary(machine):
    return json.loads((machine.out / "summary.json").read_text())


def statuses(machine):
    return {name: what["status"] for name, what in summary(machine)["parts"].items()}


def log(machine):
    return (machine.out / "log.txt").read_text()


FINE = part("fine", "print('done')")
FAILS = part("fails", "print('begun'); raise SystemExit(3)", "print('too late')")
# It says what it has when it is told to end, as pytest and the benchmark do.
HANGS = part(
    "hangs",
    "import time\ntry:\n    print('half', flush=True); time.sleep(60)\n"
    "except KeyboardInterrupt:\n    print('all that there is')",
    weight=3,
)


def test_a_part_that_fails_or_hangs_ends_alone(machine, capsys):
    last = part("last", "print('still here')", weight=3)
    begin = time.monotonic()
    assert not gpu.run_all(machine, [FINE, FAILS, HANGS, last], 8.0)
    assert time.monotonic() - begin < 8
    assert statuses(machine) == {
        "fine": "ok",
        "fails": "failed",
        "hangs": "timeout",
        "last": "ok",
    }
    parts = summary(machine)["parts"]
    assert parts["fails"]["why"].endswith(" ended with 3")
    assert " had " in parts["hangs"]["why"] and parts["hangs"]["seconds"] <= 4
    assert "why" not in parts["fine"] and not summary(machine)["ok"]
    for text in ("done", "begun", "half\nall that there is", "still here"):
        assert text in log(machine)
    assert "too late" not in log(machine)
    said = capsys.readouterr().out
    assert "begun" in said and "half" in said and "still here" not in said
    assert "-- fails: failed: " in said and "-- fine: ok, " in said


def test_all_parts_that_are_fine_are_success(machine):
    assert gpu.run_all(machine, [FINE, part("other", "pass", "pass")], 20.0)
    assert summary(machine)["ok"]


def test_the_summary_is_there_while_a_part_runs(machine):
    file = machine.out / "summary.json"
    copy = machine.out / "meanwhile.json"
    looks = part("looks", f"import shutil; shutil.copy({str(file)!r}, {str(copy)!r})")
    assert gpu.run_all(machine, [FINE, looks], 20.0)
    meanwhile = json.loads(copy.read_text())
    assert meanwhile["parts"]["fine"]["status"] == "ok"
    assert meanwhile["parts"]["looks"]["status"] == "running" and not meanwhile["ok"]


def test_nothing_outlives_its_part(machine, monkeypatch):
    monkeypatch.setattr(gpu, "GRACE", 0.2)
    pids = machine.out / "pids"
    deaf = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"os.fork(); open({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(60)"
    )
    assert not gpu.run_all(machine, [part("deaf", deaf)], 3.0)
    assert statuses(machine) == {"deaf": "timeout"}
    both = [int(line) for line in pids.read_text().split()]
    assert len(both) == 2
    for _ in range(100):
        if not any(map(running, both)):
            break
        time.sleep(0.02)
    assert not any(map(running, both))


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_what_is_missing_falls_away(machine):
    machine.have["numpy"] = "2"
    ran = part("ran", "pass", needs=["numpy"])
    lacks = part("lacks", "raise SystemExit('ran')", needs=["numpy", "doctest", gpu.KERNEL_TESTS])
    assert not gpu.run_all(machine, [lacks, ran], 20.0)
    assert statuses(machine) == {"lacks": "missing", "ran": "ok"}
    why = summary(machine)["parts"]["lacks"]["why"]
    assert why == f"doctest, {gpu.KERNEL_TESTS} (not built)"


def test_what_the_build_makes_is_there_for_the_next_part(machine):
    made = machine.build / gpu.BUILT[gpu.KERNEL_TESTS]
    build = part("build", f"from pathlib import Path; p = Path({str(made)!r})\n"
                 "p.parent.mkdir(parents=True); p.touch()")  # fmt: skip
    tests = part("tests", "pass", needs=[gpu.KERNEL_TESTS])
    assert not gpu.run_all(machine, [tests, build], 20.0)
    assert statuses(machine) == {"tests": "missing", "build": "ok"}
    assert gpu.run_all(machine, [tests], 20.0)


def test_a_program_that_is_not_there_is_a_failure(machine):
    absent = gpu.Part("absent", 1.0, (), lambda m, s: [["/nonexistent/program"]])
    assert not gpu.run_all(machine, [absent, FINE], 20.0)
    assert statuses(machine) == {"absent": "failed", "fine": "ok"}
    assert "program can't be started: " in summary(machine)["parts"]["absent"]["why"]


def test_time_that_is_left_over_is_for_the_next_parts(machine):
    limits = []

    def quick(m, seconds):
        limits.append(seconds)
        return []

    parts = [gpu.Part(name, weight, (), quick) for name, weight in (("a", 6), ("b", 1), ("c", 3))]
    assert gpu.run_all(machine, parts, 100.0)
    assert limits == pytest.approx([60, 25, 100], abs=1)


# The parts themselves


def test_the_parts_fit_in_their_time():
    assert sum(p.weight for p in gpu.PARTS) == gpu.SECONDS <= 540
    assert gpu.PARTS[0].name == "build"


def options_of(machine, name, seconds=100.0):
    (found,) = (p for p in gpu.PARTS if p.name == name)
    return found.commands(machine, seconds)


@pytest.mark.parametrize("dry", [True, False])
def test_both_runs_do_the_same(machine, dry):
    machine.dry = dry
    needed = (*gpu.FOR_MODULES, *gpu.FOR_TESTS, "pytest-timeout")
    machine.have |= dict.fromkeys(needed, "there")
    machine.gpu = {} if dry else {"architecture": "90-real"}
    configure, ninja = options_of(machine, "build")
    assert configure[:3] == ["cmake", "--preset", "emulated" if dry else "gpu"]
    assert f"-DFUSEDRNN_CUDA_ARCHITECTURES={'' if dry else '90-real'}" in configure
    assert {"_core", "_cuda", gpu.KERNEL_TESTS} < {*ninja}
    (command,) = options_of(machine, "gpu")
    assert ("--quick" in command) == dry and command[-2:] == ["--seconds", "85.0"]
    (command,) = options_of(machine, "cpu")
    threads = command[command.index("--threads") + 1 :]
    assert threads[0] == "1" and ("--quick" in command) == dry
    is_there, tests = options_of(machine, "python")
    assert is_there[-1] == ("emulated" if dry else "real")
    assert "--timeout=33.0" in tests


MODULES = {"_core", "_cuda"}


@pytest.mark.parametrize(
    ("have", "targets", "options"),
    [
        ("doctest pybind11 Python.h", {gpu.KERNEL_TESTS, *MODULES}, {"PYTHON=ON", "TESTS=ON"}),
        ("pybind11 Python.h", MODULES, {"PYTHON=ON", "TESTS=OFF"}),
        ("doctest pybind11", {gpu.KERNEL_TESTS}, {"PYTHON=OFF", "TESTS=ON"}),
        ("doctest Python.h", {gpu.KERNEL_TESTS}, {"PYTHON=OFF", "TESTS=ON"}),
    ],
)
def test_what_can_be_built_is(machine, have, targets, options):
    machine.have |= dict.fromkeys(have.split(), "there")
    configure, ninja = options_of(machine, "build")
    assert {*ninja[5:]} == targets
    assert {f"-DFUSEDRNN_{option}" for option in options} < {*configure}


@pytest.mark.parametrize("cpus", [1, 2, 6, 16])
def test_threads_are_doubled_up_to_all_cpus(machine, monkeypatch, cpus):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cpus))
    (command,) = options_of(machine, "cpu")
    wanted = [str(n) for n in (1, 2, 4, 8, 16) if n <= cpus]
    begin = command.index("--threads") + 1
    assert command[begin : begin + len(wanted) + 1][:-1] == wanted
    assert not command[begin + len(wanted)].isdigit()


def test_the_package_has_no_module_but_the_builds(machine):
    gpu.prepare(machine)
    package = machine.build / "package" / "fusedrnn"
    assert (package / "__init__.py").is_file() and (package / "examples").is_dir()
    assert machine.lacks(["_core", "_cuda"]) == ["_core (not built)", "_cuda (not built)"]
    (module,) = package.glob("_core.*.so")
    module.readlink().touch()
    assert machine.lacks(["_core", "_cuda"]) == ["_cuda (not built)"]
    gpu.prepare(machine)  # again, over what is there


def test_the_stand_in_of_the_sanitizer_runs_the_program(machine):
    gpu.prepare(machine)
    for status, word in ((0, "ok"), (4, "failed")):
        script = f"import sys; print(sys.argv[1:]); sys.exit({status})"
        options = ["--tool=memcheck", "--error-exitcode=99"]
        command = ["compute-sanitizer", *options, sys.executable, "-c", script, "--test-case=a*"]
        checks = gpu.Part("checks", 1.0, (), lambda m, s, command=command: [command])
        gpu.run_all(machine, [checks], 20.0)
        assert statuses(machine) == {"checks": word}
    assert log(machine).count("No compute-sanitizer on the emulation") == 2
    assert log(machine).count("['--test-case=a*']") == 2


def test_doctest_may_be_a_header_alone(machine, monkeypatch, tmp_path):
    header = tmp_path / "include" / "doctest" / "doctest.h"
    monkeypatch.setenv("DOCTEST_INCLUDE", str(tmp_path / "include"))
    gpu.find_doctest(machine)
    assert "doctest" not in machine.have and not machine.options
    header.parent.mkdir(parents=True)
    header.touch()
    gpu.find_doctest(machine)
    assert machine.have["doctest"] and len(machine.options) == 1
    package = Path(machine.options[0].removeprefix("-Ddoctest_DIR="))
    made = (package / "doctestConfig.cmake").read_text()
    assert f'doctest::doctest INTERFACE "{tmp_path / "include"}")' in made
    assert machine.options[0] in gpu.configure(machine)


# The command


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_machine_without_anything(tmp_path):
    """No GPU, and no tools but what lies beside Python: every part says what it lacks."""
    (tmp_path / "nothing").mkdir()
    variables = {
        "PATH": str(tmp_path / "nothing"),
        "FUSEDRNN_BUILD": str(tmp_path / "build"),
        "DOCTEST_INCLUDE": str(tmp_path / "nothing"),
    }
    (tmp_path / "out").mkdir()
    for name in ("gpu.json", "log.txt"):
        (tmp_path / "out" / name).write_text("of a run before")
    done = run(str(tmp_path / "out"), **variables)
    assert done.returncode == 1, done.stderr
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["summary.json"]
    assert done.stderr == ""
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert not found["ok"] and not found["dry_run"] and not found["gpu"]
    assert {"GPU", "doctest"} <= {*found["missing"]}
    assert list(found["parts"]) == [p.name for p in gpu.PARTS]
    assert {p["status"] for p in found["parts"].values()} == {"missing"}
    assert "GPU" in found["parts"]["build"]["why"]
    assert f"doctest, {gpu.KERNEL_TESTS} (not built)" == found["parts"]["networks"]["why"]
    assert "NOT ALL IS FINE" in done.stdout


def test_a_gpu_is_built_for(tmp_path, monkeypatch, machine):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA Some GPU, 8.6, 580.1, 24576 MiB'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    machine.dry = False
    gpu.look(machine)
    assert machine.gpu["architecture"] == "86-real" and machine.have["GPU"] == "NVIDIA Some GPU"
    assert "-DFUSEDRNN_CUDA_ARCHITECTURES=86-real" in gpu.configure(machine)
    tool.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    other = gpu.Machine(machine.build, machine.out, dry=False)
    gpu.look(other)
    assert not other.gpu and "GPU" not in other.have


def test_wrong_arguments():
    done = run()
    assert done.returncode == 2 and "required: OUT" in done.stderr

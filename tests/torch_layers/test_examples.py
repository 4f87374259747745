"""The examples for torch run, by the commands that they name, and check what they claim."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import environment

pytestmark = [pytest.mark.deep, pytest.mark.timeout(150)]

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name, *arguments, limit=120):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def figure(pattern, text):
    (found,) = re.findall(pattern, text)
    return float(found)


def test_the_language_model_learns_the_same_with_and_without_the_swap():
    printed = example("torch_dropin.py", "--quick")
    plain, ours = (
        figure(rf"^{name}: loss .* ([\d.]+) on the test text; \d+ words/s$", line)
        for name, line in zip(("torch", "fusedrnn"), printed.splitlines()[1:3], strict=True)
    )
    assert plain == pytest.approx(ours, abs=1e-3)
    assert figure(r"at most (\S+) apart", printed) <= 1e-3
    assert figure(r"fusedrnn / torch: ([\d.]+) in words/s", printed) > 0


def test_the_language_model_by_torch_alone():
    printed = example("torch_dropin.py", "--quick", "--plain")
    assert "torch: loss" in printed and "fusedrnn" not in printed


def test_two_processes_train_as_one():
    printed = example("torch_ddp.py")
    for title in ("gradients of the first step", "weights after 5 updates"):
        assert figure(rf"{title}: 2 processes and one are (\S+) of the norm", printed) <= 1e-5
    assert printed.splitlines()[-1] == "and the same, bit for bit, in all 2 processes"

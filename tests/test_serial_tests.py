"""tests/conftest.py: beside a test that is marked ``serial`` no other one runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from scripts import environment

SETTINGS = """
[pytest]
markers = serial
"""
TESTS = """
import pathlib, time, pytest
LOG = pathlib.Path(__file__).parent / "log"

def stay(word):
    begin = time.monotonic()
    time.sleep(0.05)
    with LOG.open("a") as file:
        file.write(f"{word} {begin} {time.monotonic()}\\n")

@pytest.mark.serial
@pytest.mark.parametrize("k", range(4))
def test_alone(k):
    stay("alone")

@pytest.mark.parametrize("k", range(12))
def test_beside(k):
    stay("beside")
"""


def test_no_test_runs_beside_a_serial_one(tmp_path):
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    (tmp_path / "test_both.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "xdist", "-n", "2"]
    # The imports of other plugins take seconds.
    variables = environment() | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
    )
    assert "16 passed" in done.stdout, done.stdout + done.stderr
    runs = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    spans = sorted((float(begin), float(end), word) for word, begin, end in runs)
    overlapping = [
        (one[2], other[2])
        for i, one in enumerate(spans)
        for other in spans[i + 1 :]
        if other[0] < one[1]
    ]
    assert not [pair for pair in overlapping if "alone" in pair]
    assert overlapping, "nothing ran side by side: this shows nothing"
    assert [word for *_, word in spans[-4:]] == ["alone"] * 4

"""What `docs/guarantees.md` says that no other test asserts: across processes, and its program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fusedrnn
from scripts import output

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "guarantees.md"

#: Prints a digest of all results of each cell, with sizes that several threads divide.
DIGEST = """
import hashlib
import numpy as np
import fusedrnn

digest = hashlib.sha256()
for make in (fusedrnn.LSTM, fusedrnn.GRU, fusedrnn.RNN):
    for dtype in ("float32", "float64"):
        layer = make(31, 65, 2, bidirectional=True, dtype=dtype, seed=0)
        x = np.random.default_rng(0).normal(size=(12, 17, 31)).astype(dtype)
        y, state, tape = layer.forward(x)
        gradients = layer.backward(tape, y)
        for array in (y, gradients.x, *gradients.parameters.values()):
            digest.update(array.tobytes())
print(fusedrnn.info()["isa"], fusedrnn.get_num_threads(), digest.hexdigest())
"""


@pytest.mark.parametrize("isa", fusedrnn.info()["isa_available"])
def test_the_same_bits_in_every_process_and_for_every_number_of_threads(isa):
    runs = [output(DIGEST, FUSEDRNN_ISA=isa, FUSEDRNN_NUM_THREADS=n).split() for n in "123"]
    assert [run[:2] for run in runs] == [[isa, n] for n in "123"]
    assert len({digest for _, _, digest in runs}) == 1


def test_the_pages_program_runs():
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.M)
    before = fusedrnn.get_num_threads()
    exec(compile(block, str(PAGE), "exec"), {"__name__": "page"})
    assert fusedrnn.get_num_threads() == before


def test_what_the_page_names_is_there():
    text = PAGE.read_text("utf-8")
    tests = re.findall(r"\b(test_\w+\.py)\b", text)
    assert len(tests) >= 6
    for name in tests:
        assert (ROOT / "tests" / name).is_file(), name
    for path in re.findall(r"`(fusedrnn(?:\.\w+)+)", text):
        value: object = fusedrnn
        for name in path.split(".")[1:]:
            if name != "torch":  # which need not be installed
                value = getattr(value, name)

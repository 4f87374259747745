"""What the package shows of itself: the names of its modules, and tapes."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil

import numpy as np
import pytest

import fusedrnn
from fusedrnn import functional
from scripts import output

SUBMODULES = ("cuda", "functional", "models", "reference", "torch", "weights")
# Programs, `python -m fusedrnn demo`, and where LSTM, GRU and RNN are written.
OTHERS = {"demo", "examples", "layers"}


def test_dir_shows_every_public_module():
    found = {
        module.name
        for module in pkgutil.iter_modules(fusedrnn.__path__)
        if not module.name.startswith("_")
    }
    assert found - OTHERS == set(SUBMODULES)
    assert set(SUBMODULES) <= set(dir(fusedrnn))
    assert dir(fusedrnn) == sorted({*fusedrnn.__all__, *SUBMODULES})


@pytest.mark.parametrize("name", [None, *SUBMODULES])
def test_dir_shows_what_is_public_and_no_more(name):
    full = "fusedrnn" if name is None else f"fusedrnn.{name}"
    if name == "torch":
        pytest.importorskip("torch")
    module = importlib.import_module(full)
    names = dir(module)
    assert names == sorted(set(names))
    assert set(module.__all__) <= set(names)
    assert not [shown for shown in names if shown.startswith("_")]
    optional = {"DeviceArray"}  # which is there where CUDA is
    if importlib.util.find_spec("torch") is None:
        optional.add("torch")
    for shown in set(names) - optional:
        assert hasattr(module, shown), shown


def test_submodules_come_when_they_are_asked_for():
    script = """
import sys
import fusedrnn

names = dir(fusedrnn)
loaded = [n for n in ("models", "torch") if f"fusedrnn.{n}" in sys.modules]
assert not loaded and "torch" not in sys.modules, loaded
print(fusedrnn.models.Linear.__name__, "models" in names, "torch" in names)
assert "torch" not in sys.modules
"""
    assert output(script).split() == ["Linear", "True", "True"]


def test_without_torch_its_module_is_no_attribute_and_says_why():
    script = """
import sys

sys.modules["torch"] = None
import inspect
import fusedrnn

assert not hasattr(fusedrnn, "torch")
assert dict(inspect.getmembers(fusedrnn))["LSTM"] is fusedrnn.LSTM
try:
    fusedrnn.torch
except AttributeError as error:
    print(error)
"""
    assert output(script).startswith("torch: fusedrnn.torch needs PyTorch, which isn't installed")


def test_other_names_are_no_attributes():
    message = "module 'fusedrnn' has no attribute 'keras'"
    with pytest.raises(AttributeError, match=message):
        fusedrnn.keras  # noqa: B018


T, B, I, H = 5, 2, 3, 4  # noqa: E741
LAYERS = {
    "lstm": lambda **options: fusedrnn.LSTM(I, H, seed=0, **options),
    "gru": lambda **options: fusedrnn.GRU(I, H, seed=0, **options),
    "rnn_tanh": lambda **options: fusedrnn.RNN(I, H, seed=0, **options),
    "rnn_relu": lambda **options: fusedrnn.RNN(I, H, nonlinearity="relu", seed=0, **options),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", LAYERS)
def test_a_tape_shows_its_call(cell, dtype):
    layer = LAYERS[cell](dtype=dtype)
    y, _, tape = layer.forward(np.ones((T, B, I), dtype))
    assert repr(tape) == str(tape) == f"<Tape of {cell}: x (5, 2, 3) {dtype}, not spent>"
    layer.backward(tape, y)
    assert repr(tape) == f"<Tape of {cell}: x (5, 2, 3) {dtype}, spent>"


def test_a_tape_shows_x_as_it_was_given():
    x = np.ones((B, T, I), np.float32)
    layer = LAYERS["gru"](batch_first=True, bidirectional=True)
    for lengths in (None, [2, 5]):
        tape = layer.forward(x, lengths=lengths)[2]
        assert repr(tape) == "<Tape of gru: x (2, 5, 3) float32, not spent>"
    assert repr(layer.forward(x[0])[2]) == "<Tape of gru: x (5, 3) float32, not spent>"
    one = functional.forward("gru", x[0], LAYERS["gru"]().parameters, checkpoint_every=2)[2]
    assert repr(one) == "<Tape of gru: x (5, 3) float32, not spent>"

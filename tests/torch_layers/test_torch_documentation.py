"""The examples of fusedrnn.torch run, and its public names are documented."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch

import fusedrnn.torch

README = Path(__file__).parents[2] / "README.md"
FOLDER = Path(fusedrnn.torch.__file__).parent
MODULES = ["fusedrnn.torch"] + [
    f"fusedrnn.torch.{path.stem}" for path in sorted(FOLDER.glob("*.py")) if path.stem != "__init__"
]
PUBLIC = {name: getattr(fusedrnn.torch, name) for name in fusedrnn.torch.__all__}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    assert module.__doc__, "a module says what it is"
    globs = {**vars(module), "torch": torch, "fusedrnn": fusedrnn}
    for test in doctest.DocTestFinder().find(module, globs=globs):
        report: list[str] = []
        doctest.DocTestRunner().run(test, out=report.append)
        assert not report, "".join(report)


def test_examples_are_where_people_look():
    for name, value in PUBLIC.items():
        if name not in ("NotAccelerated", "Report", "restore"):  # accelerate's shows them
            assert ">>>" in value.__doc__, name


def test_the_readme(capsys):
    text = README.read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (block,) = [block for block in blocks if "import torch" in block]
    names: dict = {"__name__": "readme"}
    with fusedrnn.torch.strict():
        exec(compile(block, str(README), "exec"), names)
    assert capsys.readouterr().out == "1: accelerated\n"
    assert names["model"][1].weight_hh_l0.grad.any()
    found = set(re.findall(r"`fusedrnn\.torch\.(\w+)", text))
    assert found and found <= {*PUBLIC}
    for path in re.findall(r"`python (examples/\w+\.py)", text):
        assert (README.parent / path).is_file()


def sections(value: object) -> set[str]:
    return set(re.findall(r"^([A-Z]\w+)\n-+$", inspect.getdoc(value) or "", re.MULTILINE))


def test_functions_and_classes_describe_their_arguments():
    for name, value in PUBLIC.items():
        if inspect.isfunction(value):
            assert {"Parameters", "Returns", "Raises"} <= sections(value), name
            described = value
        elif name in ("NotAccelerated", "Report"):
            continue
        else:
            assert {"Parameters", "Attributes", "Raises", "Examples"} <= sections(value), name
            described = value.__init__
        doc = inspect.getdoc(value) or ""
        for argument in inspect.signature(described).parameters:
            if argument not in ("self", "args", "kwargs"):
                assert re.search(rf"\b{argument}\b", doc), (name, argument)
    for kind in (fusedrnn.torch.LSTM, fusedrnn.torch.LSTMCell):
        assert {"Parameters", "Returns", "Raises"} <= sections(kind.forward)


def test_public_names_say_where_they_are_found():
    for name, value in PUBLIC.items():
        assert value.__module__ == "fusedrnn.torch", name
        assert inspect.getdoc(value), name

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

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text("utf-8") for page in PAGES}
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


def blocks(page: str) -> list[str]:
    """Return a page's programs for torch."""
    found = re.findall(r"^```python\n(.*?)^```", TEXTS[page], re.DOTALL | re.MULTILINE)
    return [block for block in found if "import torch" in block]


def run(block: str) -> dict:
    names: dict = {"__name__": "page"}
    with fusedrnn.torch.strict():
        exec(compile(block, "<page>", "exec"), names)
    return names


BLOCKS = [pytest.param(b, id=f"{page}-{k}") for page in TEXTS for k, b in enumerate(blocks(page))]


@pytest.mark.parametrize("block", BLOCKS)
def test_programs_of_the_pages_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(block)
    assert not list(tmp_path.iterdir()), "a reader's folder stays as it was"


@pytest.mark.parametrize("page", ["README.md", "docs/pytorch.md"])
def test_a_page_begins_with_accelerate(page, capsys):
    layer = run(blocks(page)[0])["model"][1]
    assert capsys.readouterr().out == "1: accelerated\n"
    assert isinstance(layer, fusedrnn.torch.LSTM)


def test_the_page_on_torch_goes_back_through_time():
    assert run(blocks("docs/pytorch.md")[0])["model"][1].weight_hh_l0.grad.any()


def test_names_on_the_pages_exist():
    text = "\n".join(TEXTS.values())
    found = set(re.findall(r"`fusedrnn\.torch\.(\w+)", text))
    assert found
    assert found <= {*PUBLIC}
    programs = re.findall(r"`python (examples/\w+\.py)", text)
    assert programs
    for path in programs:
        assert (ROOT / path).is_file()


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

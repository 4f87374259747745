"""The pages on each kind of sequence problem: programs run, figures hold."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fusedrnn.demo.continuations import PAIRS
from fusedrnn.demo.example import Bound, missed

ROOT = Path(__file__).parent.parent
PAGES = {path.stem: path for path in sorted((ROOT / "docs" / "models").glob("*.md"))}
EXAMPLES = {path.stem: path for path in sorted((ROOT / "examples").glob("[!_]*.py"))}
#: Those of sequence problems; the others are about torch.
PROBLEMS = [name for name, path in EXAMPLES.items() if "BOUNDS" in path.read_text("utf-8")]
#: The programs that save pictures.
SOURCES = [*EXAMPLES.values(), *(ROOT / "python" / "fusedrnn" / "demo").glob("*.py")]

BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \| ([^|]*)\|$", re.MULTILINE)


def text(page: str) -> str:
    return PAGES[page].read_text("utf-8")


def everything() -> str:
    return "\n".join(map(text, PAGES))


BLOCKS = [
    pytest.param(block, id=f"{page}-{k}")
    for page in PAGES
    for k, block in enumerate(BLOCK.findall(text(page)))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_programs_run_and_leave_nothing_behind(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "<page>", "exec"), {"__name__": "page"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("page", PAGES)
def test_pages_have_what_a_reader_looks_for(page):
    assert text(page).startswith("# ")
    assert BLOCK.search(text(page))
    if page != "README":
        headings = re.findall(r"^## (.+)$", text(page), re.MULTILINE)
        assert headings == ["Equations", "In code", "The program", "Figures"]
        assert "python -m fusedrnn demo" in text(page)
        assert f"({page}.md)" in text("README")


def pictures(page: str) -> list[str]:
    return PICTURE.findall(text(page))


def test_pictures_are_those_that_the_programs_make():
    made = re.compile(r'options\.picture(?:s / )?\(?"(\w+?)(?:\.png)?"')
    programs = [path for path in SOURCES if path.name != "example.py"]
    names = {name for path in programs for name in made.findall(path.read_text("utf-8"))}
    assert {Path(p).stem for page in PAGES for p in pictures(page)} == names
    for page in PAGES:
        for picture in pictures(page):
            assert picture == f"{Path(picture).stem}.png"
            assert (PAGES[page].parent / picture).is_file()


def test_every_example_has_its_page():
    named = set(re.findall(r"\w+", everything()))
    assert named >= set(EXAMPLES)
    for name in PROBLEMS:
        assert f"python -m fusedrnn demo {name}" in everything()


# Figures


def program(name: str) -> ModuleType:
    """Return an example as a module."""
    spec = importlib.util.spec_from_file_location(f"page_{name}", EXAMPLES[name])
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bounds() -> dict[str, tuple[Bound, ...]]:
    """The bounds of each example."""
    return {name: program(name).BOUNDS for name in PROBLEMS}


def page_of(example: str) -> str:
    (page,) = [p for p in PAGES if p != "README" and f"demo {example}`" in text(p)]
    return page


def figures(example: str) -> dict[str, tuple[str, str]]:
    """Return value and bound, as the page says them, by the figure's name."""
    table = text(page_of(example)).partition("| figure | value | bound |\n")[2]
    return {name: (value, bound.strip()) for name, value, bound in ROW.findall(table)}


@pytest.mark.parametrize("example", PROBLEMS)
def test_bounds_are_those_of_the_program(example, bounds):
    said = {name: bound for name, (_, bound) in figures(example).items() if bound}
    assert said == {bound.name: bound.text(quick=False) for bound in bounds[example]}


@pytest.mark.parametrize("example", PROBLEMS)
def test_figures_meet_their_bounds(example, bounds):
    values = {name: float(value) for name, (value, _) in figures(example).items()}
    assert values
    assert not missed(values, bounds[example], quick=False)


@pytest.mark.parametrize("unit", PAIRS)
def test_continuations_are_those_of_the_program(unit):
    for pair in PAIRS[unit]:
        assert f"| {pair.context.strip()} | good {pair.good.strip()} |" in text("language")
        assert f"|  | bad {pair.bad.strip()} |" in text("language")


@pytest.mark.parametrize("page", PAGES)
def test_no_figure_is_missing(page):
    assert "@@" not in text(page)

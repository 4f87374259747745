"""Examples run, public names are documented, stubs agree with the compiled module."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import fusedrnn
from fusedrnn import _core, functional, layers, models, reference, weights
from fusedrnn._layer import Parameters
from scripts import output

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").rglob("*.md"))
# The pages on models have tests of their own.
PAGES = [README, *(page for page in DOCS if page.parent.name != "models")]
PACKAGE = Path(fusedrnn.__file__).parent
LAYERS = (fusedrnn.LSTM, fusedrnn.GRU, fusedrnn.RNN)

# Those about torch have their own tests, where torch is installed.
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__main__.py" and "torch" not in str(path.relative_to(PACKAGE))
]


# Examples


def examples(module: ModuleType) -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    module = importlib.import_module(name)
    assert module.__doc__, "a module says what it is"
    for test in examples(module):
        report: list[str] = []
        doctest.DocTestRunner().run(test, out=report.append)
        assert not report, "".join(report)


def test_examples_are_found():
    """What a newcomer reaches first has an example; `backward` and `RNN` point to one."""
    found = {test.name for name in MODULES for test in examples(importlib.import_module(name))}
    assert {
        "fusedrnn",
        "fusedrnn.info",
        "fusedrnn.layers.LSTM",
        "fusedrnn.layers.GRU",
        "fusedrnn.layers.RNN",
        "fusedrnn.functional.Weights",
        "fusedrnn.functional.infer",
        "fusedrnn.functional.forward",
        "fusedrnn.reference",
        "fusedrnn._threads.set_num_threads",
        "fusedrnn._layer.Layer.edit_parameters",
        "fusedrnn._layer.Layer.stream",
        "fusedrnn._stream.Stream",
    } <= found


def blocks(page: Path) -> list[str]:
    """Return a page's programs, without those for torch."""
    found = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [block for block in found if "import torch" not in block]


BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{k}")
    for page in PAGES
    for k, block in enumerate(blocks(page))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_programs_of_the_pages_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "<page>", "exec"), {"__name__": "page"})
    assert not list(tmp_path.iterdir()), "a reader's folder stays as it was"


def test_programs_are_found_on_the_pages():
    assert {page.stem for page in PAGES if blocks(page)} >= {"README", "layers", "gpu"}


def test_the_example_of_the_readme_is_short_and_lowers_its_loss():
    block = blocks(README)[0]
    assert len([line for line in block.splitlines() if line.strip()]) <= 14
    names: dict = {"__name__": "readme"}
    exec(compile(block, str(README), "exec"), names)
    before, after = names["y"], names["lstm"](names["x"])[0]
    assert (after**2).mean() < (before**2).mean()


def test_the_readme_is_short_and_its_commands_stand_on_lines_of_their_own():
    lines = README.read_text("utf-8").splitlines()
    assert len(lines) <= 120
    for end in ("python -m fusedrnn demo", "python -m pytest"):
        (command,) = (line for line in lines if line.startswith("python3 -m venv") and end in line)
        assert re.fullmatch(
            r"python3 -m venv \.venv && \.venv/bin/pip install '\.\[\w+\]' && .+", command
        )


@pytest.mark.parametrize("page", [README, *DOCS], ids=lambda page: str(page.relative_to(ROOT)))
def test_names_on_the_pages_exist(page):
    text = page.read_text("utf-8")
    for path in re.findall(r"`(fusedrnn(?!\.torch)(?:\.\w+)+)(?:\(\w*\))?`", text):
        value: object = fusedrnn
        for name in path.split(".")[1:]:
            value = getattr(value, name)


# Docstrings


def sections(value: object) -> set[str]:
    doc = inspect.getdoc(value) or ""
    return set(re.findall(r"^([A-Z]\w+)\n-+$", doc, re.MULTILINE))


def functions() -> dict[str, FunctionType]:
    """The public functions and methods, with `__call__` and `__init__`'s class left to others."""
    found = {f"fusedrnn.{n}": getattr(fusedrnn, n) for n in fusedrnn.__all__}
    for module in (functional, models, weights):
        name = module.__name__.rpartition(".")[2]
        found |= {f"{name}.{n}": getattr(module, n) for n in module.__all__}
    for kind in (*LAYERS, fusedrnn.Stream):
        members = inspect.getmembers(kind, inspect.isfunction)
        found |= {
            f"{kind.__name__}.{name}": member
            for name, member in members
            if not name.startswith("_") or name == "__call__"
        }
    return {name: value for name, value in found.items() if inspect.isfunction(value)}


def own_parameters(function: object) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize("name", functions())
def test_functions_describe_what_goes_in_and_comes_out(name):
    function = functions()[name]
    doc, found = inspect.getdoc(function), sections(function)
    assert doc
    assert doc.splitlines()[0].endswith((".", ":")), "the first line is a sentence"
    given = own_parameters(function)
    if given:
        assert {"Parameters", "Raises"} <= found
        text = doc[doc.index("Parameters\n") : doc.index("Raises\n")]
        for parameter in given:
            assert re.search(
                rf"^([\w, ]+, )?\*{{0,2}}{parameter}(,[\w, ]+)?( : .*)?$", text, re.MULTILINE
            )
    returns = inspect.signature(function).return_annotation
    if "Iterator" in str(returns):
        assert "Yields" in found
    elif returns != "None":
        assert "Returns" in found


@pytest.mark.parametrize(
    "kind", [*LAYERS, fusedrnn.Stream, functional.Weights], ids=lambda k: k.__name__
)
def test_classes_describe_their_constructor(kind):
    doc, found = inspect.getdoc(kind), sections(kind)
    assert {"Parameters", "Attributes", "Raises", "Examples"} <= found
    text = doc[: doc.index("Attributes\n")]
    for parameter in own_parameters(kind.__init__):
        assert re.search(rf"\b{parameter}\b", text), parameter


@pytest.mark.parametrize(
    ("kind", "names"),
    [(k, ()) for k in (*LAYERS, Parameters, fusedrnn.Stream)] + [(fusedrnn.Tape, ("backward",))],
)
def test_public_members_have_docstrings(kind, names):
    for name in [n for n in dir(kind) if not n.startswith("_")]:
        assert inspect.getdoc(getattr(kind, name)), f"{kind.__name__}.{name}"
    for name in names:
        assert name in dir(kind)


@pytest.mark.parametrize(
    "module",
    [fusedrnn, functional, layers, models, reference, weights],
    ids=lambda m: m.__name__,
)
def test_public_names_are_documented_and_there(module):
    assert len(module.__all__) == len(set(module.__all__))
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, (type, FunctionType, ModuleType)):
            assert inspect.getdoc(value), name


def test_gradients_and_tape_describe_themselves():
    assert "Attributes" in sections(fusedrnn.Gradients)
    assert "forward" in inspect.getdoc(fusedrnn.Tape)
    for name in ("spent", "nbytes", "weights"):
        assert inspect.getdoc(getattr(fusedrnn.Tape, name)).endswith(".")


# The import


def test_the_import_is_light():
    """NumPy is the only dependency: nothing else is imported but threadpoolctl, if it is there."""
    script = """
        import sys
        import numpy
        before = set(sys.modules)
        import fusedrnn
        tops = {name.partition(".")[0] for name in set(sys.modules) - before}
        print(*sorted(tops - set(sys.stdlib_module_names)))
    """
    assert set(output(script).split()) <= {"fusedrnn", "numpy", "threadpoolctl"}


def test_the_version_is_the_packages():
    assert fusedrnn.__version__ == fusedrnn.info()["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", fusedrnn.__version__)


# Stubs

STUB = ast.parse((PACKAGE / "_core.pyi").read_text("utf-8"))


def arguments(function: ast.FunctionDef) -> list[tuple[str, bool]]:
    """The names of the parameters, and whether each has a default."""
    given = function.args
    required = len(given.args) - len(given.defaults)
    return [(a.arg, i >= required) for i, a in enumerate(given.args) if a.arg != "self"]


def compiled_arguments(function: object) -> list[tuple[str, bool]]:
    """The same of a compiled function, from the signature at the head of its docstring."""
    signature = function.__doc__.splitlines()[0]
    (parsed,) = ast.parse(f"def {signature}: ...").body
    return arguments(parsed)


def public(names) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def test_stubs_have_the_names_of_the_module():
    named = [n for n in STUB.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    assert {n.name for n in named} == public(dir(_core))
    for node in named:
        if isinstance(node, ast.ClassDef):
            members = {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
            assert public(members) == public(dir(getattr(_core, node.name)))


def test_stubs_have_the_parameters_of_the_module():
    checked = 0
    for node in ast.walk(STUB):
        for member in getattr(node, "body", []):
            owner = getattr(_core, node.name) if isinstance(node, ast.ClassDef) else _core
            if not isinstance(member, ast.FunctionDef) or member.decorator_list:
                continue
            compiled = compiled_arguments(getattr(owner, member.name))
            assert compiled == arguments(member), member.name
            checked += 1
    assert checked >= 10


# What stubtest can't know. pybind11's classes have a metaclass, which is no promise; a Tape has no
# constructor to call.
ALLOWED = """
fusedrnn\\._core\\.(PackedWeights|Stream|Tape|Unpacked)
fusedrnn\\._core\\.Tape\\.__init__
"""


@pytest.mark.deep
@pytest.mark.extras
def test_stubtest(tmp_path):
    pytest.importorskip("mypy.stubtest")
    allowed = tmp_path / "allowed"
    allowed.write_text(ALLOWED)
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "MYPYPATH": str(PACKAGE.parent)}
    if "site-packages" in PACKAGE.parts:  # mypy looks there by itself, and refuses to be told
        del environment["MYPYPATH"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "fusedrnn._core", "--allowlist", str(allowed)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

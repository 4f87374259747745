"""The programs that ``python -m fusedrnn demo`` runs by name: the files in ``examples/``, and more.

A wheel carries the examples as ``fusedrnn/examples``; each is a program that runs by itself.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import command

EXAMPLES = Path(__file__).parent.parent / "examples"

# What runs where no name is given.
DEFAULT = "language"

#: Programs of the package itself.
BUILT_IN: dict[str, Callable[[Sequence[str]], int]] = {DEFAULT: command.main}


def names() -> dict[str, str]:
    """Return what each program shows, by its name: the first line of its docstring."""
    found = {path.stem: summary(path) for path in EXAMPLES.glob("[!_]*.py")}
    found |= {name: summary(Path(command.__file__)) for name in BUILT_IN}
    return dict(sorted(found.items()))


def summary(path: Path) -> str:
    """Return the first line of a program's docstring; the program isn't run for it."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return text.partition("\n")[0]


def missing(path: Path) -> list[str]:
    """Return the packages that a program imports and that aren't installed."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return sorted(name for name in found if importlib.util.find_spec(name) is None)


def main(arguments: Sequence[str]) -> int:
    """Run the program that the first argument names, with the others; return its exit status."""
    first, *rest = [*arguments, ""][: max(len(arguments), 1)]
    if first in ("--list", "-l"):
        return _print_list()
    if first in BUILT_IN:
        return BUILT_IN[first](rest)
    if not first or first.startswith("-"):  # options of the default
        return BUILT_IN[DEFAULT](arguments)
    if first not in names():
        parser = argparse.ArgumentParser(prog="python -m fusedrnn demo")
        parser.error(f"NAME: expected one of {', '.join(names())}, got {first!r}; see --list")
    path = EXAMPLES / f"{first}.py"
    if packages := missing(path):
        named = ", ".join(packages)
        print(f"error: {first} needs packages that aren't installed: {named}", file=sys.stderr)
        print("pip install 'fusedrnn[demo]' brings all but torch", file=sys.stderr)
        return 2
    # A process of its own: some start others, for which they must be the main program.
    return subprocess.run([sys.executable, path, *rest], check=False).returncode


def _print_list() -> int:
    shown = names()
    width = max(map(len, shown))
    for name, line in shown.items():
        print(f"{name:{width}}  {line}")
    print(f"\npython -m fusedrnn demo NAME [--help]; without a name: {DEFAULT}")
    return 0

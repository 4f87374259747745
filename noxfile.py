"""Tasks by name: `nox` checks the style and runs the tests, `nox --list` names all.

Each has an environment of its own. `.ci/run` is the gate, which has much more.
"""

from __future__ import annotations

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
PYPROJECT = nox.project.load_toml("pyproject.toml")


def group(name: str) -> tuple[str, ...]:
    """Return the requirements of a dependency group."""
    return nox.project.dependency_groups(PYPROJECT, name)


@nox.session(default=True)
def style(session: nox.Session) -> None:
    """Check lint, format, types, and what repo-review asks of a project."""
    session.install("numpy", *group("style"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    kinds = ("*.h", "*.cpp", "*.inl", "*.cu")
    sources = session.run("git", "ls-files", *kinds, external=True, silent=True)
    session.run("clang-format", "--dry-run", "-Werror", *str(sources).split())
    session.run("sp-repo-review", ".")


@nox.session(default=True)
def tests(session: nox.Session) -> None:
    """Install the package and run its tests; arguments go to pytest."""
    session.install(".[test]")
    session.run("pytest", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure beside the peers; arguments go to the benchmark."""
    session.install(".", *group("bench"))
    session.run("python", "-m", "bench", *session.posargs)


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Make the sdist, and from it the wheel, in the folder dist."""
    session.install("build")
    session.run("python", "-m", "build")

"""What the project says of itself: one version, one licence, and both in what is installed."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

import fusedrnn
from fusedrnn import _core

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
LICENSE = (ROOT / "LICENSE").read_text("utf-8")


def cited(key: str) -> str:
    """Return a value of CITATION.cff, of those that fill one line."""
    text = (ROOT / "CITATION.cff").read_text("utf-8")
    (value,) = re.findall(rf"^(?:  - )?{key}: (.+)$", text, re.MULTILINE)
    return value


def test_the_version_is_said_alike():
    (built,) = re.findall(
        r"project\(fusedrnn VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text("utf-8")
    )
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)[1]
    assert fusedrnn.__version__ == built == cited("version") == newest
    assert "version" in PROJECT["dynamic"]


def test_the_licence_is_bsd_with_three_clauses():
    assert PROJECT["license"] == cited("license") == "BSD-3-Clause"
    assert PROJECT["license-files"] == ["LICENSE"]
    title, _, copyright_line = LICENSE.splitlines()[:3]
    assert title == "BSD 3-Clause License"
    assert copyright_line == "Copyright (c) 2026, the fusedrnn developers"
    clauses = re.findall(r"^\d\. (\w+)", LICENSE, re.MULTILINE)
    assert clauses == ["Redistributions", "Redistributions", "Neither"]
    # The SPDX expression replaces the classifier.
    assert not [name for name in PROJECT["classifiers"] if name.startswith("License ::")]


def test_the_project_describes_itself_alike():
    assert [{"name": cited("name")}] == PROJECT["authors"]
    assert cited("abstract") == PROJECT["description"]
    assert cited("title") == PROJECT["name"]


def test_what_the_pages_install_is_there():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")]
    text = "\n".join(page.read_text("utf-8") for page in pages)
    extras = set(re.findall(r"pip install '\.\[(\w+)\]'", text))
    assert {"demo", "models", "test", "torch"} <= extras <= {*PROJECT["optional-dependencies"]}
    groups = set(re.findall(r"--group (\w+)", text))
    assert {"bench"} <= groups <= {*PYPROJECT["dependency-groups"]}


def installed() -> importlib.metadata.Distribution | None:
    """Return the distribution that the package was imported from, unless it is the source tree."""
    for distribution in importlib.metadata.distributions(name="fusedrnn"):
        found = Path(str(distribution.locate_file("fusedrnn/__init__.py")))
        if found.is_file() and found.samefile(fusedrnn.__file__):
            return distribution
    return None


def test_what_is_installed_says_the_same():
    distribution = installed()
    if distribution is None:
        pytest.skip("fusedrnn was imported from the source tree, which has no metadata")
    metadata = distribution.metadata
    assert distribution.version == fusedrnn.__version__
    assert metadata["License-Expression"] == PROJECT["license"]
    assert metadata.get_all("License-File") == PROJECT["license-files"]
    assert metadata["Author"] == PROJECT["authors"][0]["name"]
    assert metadata["Summary"] == PROJECT["description"]
    assert set(metadata.get_all("Provides-Extra")) == {*PROJECT["optional-dependencies"]}
    (kept,) = (file for file in distribution.files or () if file.name == "LICENSE")
    assert kept.read_text("utf-8") == LICENSE


def test_the_module_has_no_iostreams_of_its_own():
    """Its copy of libstdc++ would initialise locales beside those of torch and ONNX Runtime.

    torch's messages then lack their numbers, and ONNX Runtime ends the process at its import.
    """
    assert b"St9basic_ios" not in Path(_core.__file__).read_bytes()

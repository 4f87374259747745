"""``python -m fusedrnn demo``: the list, the names, and what runs where none is given."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fusedrnn.__main__ import main
from fusedrnn.demo import programs

ROOT = Path(__file__).parent.parent
IN_THE_TREE = {path.stem for path in (ROOT / "examples").glob("[!_]*.py")}


def test_the_wheel_has_all_examples():
    assert {path.stem for path in programs.EXAMPLES.glob("*.py")} == IN_THE_TREE
    for name in IN_THE_TREE:
        original = ROOT / "examples" / f"{name}.py"
        assert (programs.EXAMPLES / original.name).read_bytes() == original.read_bytes()


def test_the_list_names_them_all(capsys):
    assert main(["demo", "--list"]) == 0
    lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    shown = {name: text for name, text in (line.split(maxsplit=1) for line in lines)}
    assert set(shown) == IN_THE_TREE | {"language"}
    assert shown == programs.names()
    for text in shown.values():
        assert text.endswith("."), "the first line says what a program shows"


def test_the_page_on_models_names_them_all():
    text = (ROOT / "docs" / "models" / "README.md").read_text("utf-8")
    assert set(re.findall(r"`(\w+)`", text)) >= IN_THE_TREE | {"language"}


@pytest.fixture
def _two(tmp_path, monkeypatch):
    (tmp_path / "good.py").write_text('"""Shows its arguments."""\nimport sys\nprint(sys.argv[1:])')
    (tmp_path / "bad.py").write_text('"""Fails."""\nimport sys\nsys.exit(3)')
    (tmp_path / "_part.py").write_text('"""No program."""')
    monkeypatch.setattr(programs, "EXAMPLES", tmp_path)


@pytest.mark.usefixtures("_two")
def test_a_program_runs_by_name(capfd):
    assert main(["demo", "good", "--quick", "x y"]) == 0
    assert capfd.readouterr().out.strip() == "['--quick', 'x y']"
    assert main(["demo", "bad"]) == 3


@pytest.mark.usefixtures("_two")
def test_packages_that_are_not_there(capsys):
    program = '"""Needs much."""\nimport sys, nowhere.at_all\nfrom neither.here import nor_there\n'
    (programs.EXAMPLES / "needy.py").write_text(program)
    assert main(["demo", "needy"]) == 2
    message = "error: needy needs packages that aren't installed: neither, nowhere\n"
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.usefixtures("_two")
def test_names_that_are_not_there(capsys):
    for name in ("_part", "ugly", "../good"):
        with pytest.raises(SystemExit) as error:
            main(["demo", name])
        assert error.value.code == 2
        message = f"NAME: expected one of bad, good, language, got {name!r}; see --list"
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([], []),
        (["--seconds", "5"], ["--seconds", "5"]),
        (["language"], []),
        (["language", "--quick"], ["--quick"]),
    ],
)
def test_language_is_what_runs_without_a_name(monkeypatch, arguments, given):
    seen = []
    monkeypatch.setitem(programs.BUILT_IN, "language", lambda rest: seen.append(list(rest)) or 7)
    assert main(["demo", *arguments]) == 7
    assert seen == [given]


def test_the_other_commands(capsys):
    assert main([]) == 0
    assert "demo" in capsys.readouterr().out
    assert main(["info"]) == 0
    assert "isa: " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["nonsense"])

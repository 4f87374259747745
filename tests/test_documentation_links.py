"""Links between the pages lead to files and headings that are there, and to every page."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = [ROOT / name for name in ("docs", "bench", "csrc")]
PAGES = sorted([*ROOT.glob("*.md"), *(page for f in FOLDERS for page in f.rglob("*.md"))])

CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+?)\s*$", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def links(text: str) -> list[str]:
    """Return the links of a page to others and to itself, without those to the web."""
    # What a link shows may be code, so code keeps its place.
    found = LINK.findall(CODE.sub("code", text))
    return [target for target in found if not urlsplit(target).scheme]


def anchors(text: str) -> set[str]:
    """Return what GitHub calls the headings of a page."""
    found: set[str] = set()
    for heading in HEADING.findall(FENCED.sub("", text)):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        base = anchor = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        count = 0
        while anchor in found:
            count += 1
            anchor = f"{base}-{count}"
        found.add(anchor)
    return found


def broken(page: Path, target: str) -> str | None:
    """Return what is wrong with a link, or None."""
    path, _, anchor = target.partition("#")
    file = (page.parent / unquote(path)).resolve() if path else page
    if not file.exists():
        return f"{target}: no such file"
    if not file.is_relative_to(ROOT.resolve()):
        return f"{target}: outside the project"
    if anchor and anchor not in anchors(file.read_text("utf-8")):
        return f"{target}: no such heading"
    return None


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    found = [broken(page, target) for target in links(page.read_text("utf-8"))]
    assert not [what for what in found if what]


def test_every_page_of_the_documentation_can_be_reached():
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop().resolve()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        for target in links(page.read_text("utf-8")):
            waiting.append(
                page.parent / unquote(target.partition("#")[0]) if target[0] != "#" else page
            )
    assert {page.resolve() for page in PAGES if page.is_relative_to(ROOT / "docs")} <= reached


def test_links_and_headings_are_found():
    text = """
# `a_b` and C++: [more](x.md)

# Twice
```sh
# Twice, in [code](no.md)
```
## Twice
See [`f`](y.md#twice-1), ![a picture](z.png), [the web](https://example.org), `[no](link)`,
[here](#twice).
"""
    assert links(text) == ["x.md", "y.md#twice-1", "z.png", "#twice"]
    assert anchors(text) == {"a_b-and-c-more", "twice", "twice-1"}


def test_broken_links_are_found(tmp_path):
    page = ROOT / "docs" / "README.md"
    assert broken(page, "../README.md#install") is None
    assert broken(page, "no.md") == "no.md: no such file"
    assert broken(page, "../README.md#no") == "../README.md#no: no such heading"
    assert broken(page, f"{Path(tmp_path).anchor}") == f"{tmp_path.anchor}: outside the project"

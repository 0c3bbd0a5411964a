"""The documents are true of the tree: what they link to and name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from conformance.attacks import registry
from tests.conformance.test_attacks_guards import ISOLATED, NATIVE, PYTHON

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAMED = re.compile(r"`(tests/[\w/.-]+?)(?:::(\w+))?`")


def documents(repository: Path) -> list[Path]:
    return sorted(
        [
            *repository.glob("*.md"),
            *repository.glob("docs/**/*.md"),
            *repository.glob("tests/**/*.md"),
        ]
    )


def anchors(text: str) -> set[str]:
    """The names that headings have in a rendered document."""
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(document: Path) -> list[str]:
    """The links of a document to files or headings that are not there."""
    found = []
    for target in LINK.findall(document.read_text()):
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        if re.match(r"[a-z]+:", target):
            continue
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            found.append(target)
    return found


def absent_tests(document: Path, repository: Path) -> list[str]:
    """The tests that a document names and that are not there."""
    found = []
    for path, name in NAMED.findall(document.read_text()):
        file = repository / path
        if not file.exists() or (name and f"def {name}(" not in file.read_text()):
            found.append(f"{path}::{name}" if name else path)
    return found


def test_links(repository: Path, subtests: SubTests) -> None:
    for document in documents(repository):
        with subtests.test(str(document.relative_to(repository))):
            assert broken_links(document) == []
            assert absent_tests(document, repository) == []


def test_what_is_absent_is_found(repository: Path, tmp_path: Path) -> None:
    document = tmp_path / "one.md"
    document.write_text(
        "# A title, here\n[a](one.md#a-title-here) [b](one.md#b) [c](none.md) [d](https://example.org)\n"
        "`tests/lint/test_docs.py::test_links` `tests/lint/test_docs.py::test_none` `tests/none.py`\n"
    )
    assert broken_links(document) == ["one.md#b", "none.md"]
    assert absent_tests(document, repository) == [
        "tests/lint/test_docs.py::test_none",
        "tests/none.py",
    ]


@pytest.fixture
def guards(repository: Path) -> str:
    """The table of guards in the threat model."""
    text = (repository / "docs/threat-model.md").read_text()
    return text.partition("## Guards")[2].partition("\n## ")[0].partition("\n\\*")[0]


def test_every_recipe_has_a_guard(repository: Path, guards: str) -> None:
    registry.load()
    rows = [line.split(" | ") for line in guards.splitlines() if line.startswith("| ")][1:]
    named = {name for row in rows for name in re.findall(r"`([\w-]+)`", row[3])}
    assert named == registry.RECIPES.keys()
    table = (repository / "docs/threat-model.md").read_text().partition("## Guards")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, re.M)) == registry.RECIPES.keys()


def test_the_proven_ones_are_marked(guards: str) -> None:
    """A star is for what succeeds when its guard is taken out."""
    proven = {
        n for _, names in [*NATIVE.values(), *PYTHON.values(), ISOLATED] for n in names.split()
    }
    assert set(re.findall(r"`([\w-]+)`\*", guards)) == proven

"""Every row has a check, and docs/spec-coverage.md says which."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from conformance import checks, coverage, registry
from conformance.checks.cgroups import V2
from conformance.rows import ROWS

CELL = re.compile(
    r"^\| (\d+\.[\w.]+) \| (MUST|SHOULD|MAY) \| (.+?) \| ([\w.:]+)(, [^|]+)? \| (.+) \|$"
)


@pytest.fixture(autouse=True, scope="module")
def loaded() -> None:
    checks.load()


def also(repository: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((repository / "tests/conformance/also.json").read_text())
    return found


def test_every_row_has_a_check() -> None:
    assert [number for number in ROWS if number not in registry.CHECKS] == []


def test_the_document_is_complete_and_true(repository: Path) -> None:
    """When this fails: see the head of conformance/coverage.py, or `make coverage`."""
    text = (repository / "docs/spec-coverage.md").read_text()
    found = {}
    for line in text.splitlines():
        match = CELL.match(line)
        if match:
            found[match[1]] = match
    assert list(found) == list(ROWS)
    for number, match in found.items():
        assert match[2] == ROWS[number].level, number
        if not (number.startswith("7.") and V2):  # the document is made on cgroup v1
            assert match[4] == coverage.function_of(number), number


def test_what_no_machine_shows_says_why(repository: Path) -> None:
    """A row that no column passes has a note, and another test or a decision behind it."""
    text = (repository / "docs/spec-coverage.md").read_text()
    notes = set(re.findall(r"^(\d+)\. ", text.partition("## Why not")[2], re.M))
    more = also(repository)
    for line in text.splitlines():
        match = CELL.match(line)
        if match and "pass" not in match[6].split(" | "):
            assert set(re.findall(r"\((\d+)\)", match[6])) <= notes and "(" in match[6], line
            assert match[1] in more, f"{match[1]}: no other test is named"


def test_further_tests_are_there(repository: Path) -> None:
    for number, words in also(repository).items():
        assert number in ROWS
        texts = [(repository / x).read_text() for x in re.findall(r"tests/[\w/.]+\.py", words)]
        # they speak of the properties that the row names
        for name in re.findall(r"\b[a-z]+[A-Z]\w*", ROWS[number].title) if texts else ():
            assert any(name in text for text in texts), (number, name)


def test_columns(tmp_path: Path) -> None:
    report = {"runtime": "x", "version": "x version 1", "checks": []}
    report["checks"] = [
        {"number": "1.1", "verdict": "pass", "observed": ""},
        {"number": "1.2", "verdict": "fail", "observed": "something\nelse"},
        {"number": "1.3", "verdict": "skip", "observed": "no such thing"},
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps([report]))
    text = coverage.render([coverage.Column.read(f"here={path}")], {"1.1": "tests/x.py"})
    assert "| 1.1 | MUST | config.json is read from the bundle directory" in text
    assert ", tests/x.py | pass |" in text
    assert "| **fail** (1) |" in text and "\n1. expected ; observed something\n" in text
    assert "| no (2) |" in text and "\n2. no such thing\n" in text
    with pytest.raises(ValueError):
        coverage.Column.read("nothing")

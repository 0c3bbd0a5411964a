"""The conformance suite's own parts: rows, selection, verdicts, reports; no container is made."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from conformance import checks, registry, report, runner
from conformance.__main__ import main, parse
from conformance.rows import MAY, MUST, ROWS, SHOULD
from conformance.runner import FAIL, PASS, SKIP, Outcome, Report

FOLDER = Path(checks.__file__).parent.parent


@pytest.fixture(autouse=True, scope="module")
def loaded() -> None:
    checks.load()


def outcome(number: str, verdict: str = FAIL, observed: str = "seen") -> Outcome:
    return Outcome(number, verdict, "wanted", observed, 0.5, ["{}"], ["runtime create x"], "")


def test_rows_are_well_formed(subtests: SubTests) -> None:
    for number, row in ROWS.items():
        with subtests.test(number):
            assert row.level in (MUST, SHOULD, MAY)
            assert row.title == row.title.strip()
            assert len(runner.numbers(row.since)) == 3
            assert 1 <= row.section <= 11


def test_every_mount_option_is_checked() -> None:
    assert {n for n in ROWS if n.startswith("5.")} - set(registry.CHECKS) == set()


def test_a_row_has_one_check() -> None:
    for number in ("2.1", "99.1"):
        with pytest.raises(ValueError):
            registry.register(number, lambda trial: None)


@pytest.mark.parametrize(
    ("patterns", "first", "count"),
    [("4.29", "4.29", 1), ("8", "8.1", 13), ("5.r*", "5.ratime", None), ("10.1,2.1", "2.1", 2)],
)
def test_select(patterns: str, first: str, count: int | None) -> None:
    rows = registry.select(patterns)
    assert rows[0].number == first
    assert count is None or len(rows) == count
    assert len({row.number for row in rows}) == len(rows)


def test_select_refuses_what_matches_nothing() -> None:
    with pytest.raises(ValueError, match=r"no row matches '4\.999'"):
        registry.select("4.29,4.999")
    assert len(registry.select(None)) == len(ROWS)


@pytest.mark.parametrize(
    ("number", "claims", "verdict"),
    [
        ("6.23", "1.2.0", SKIP),
        ("6.23", "1.3.0", FAIL),
        ("6.23", "1.3.0-rc.1", FAIL),
        ("6.23", "", FAIL),
        ("9.10", "1.0.2-dev", FAIL),
        ("9.10", "1.0.0", SKIP),
        ("2.1", "1.0.0", FAIL),
    ],
)
def test_newer_than_claimed_is_no_failure(number: str, claims: str, verdict: str) -> None:
    assert runner.excuse(outcome(number), claims).verdict == verdict


def test_a_pass_needs_no_excuse() -> None:
    assert runner.excuse(outcome("6.23", PASS), "1.0.0").verdict == PASS


def test_violations() -> None:
    assert outcome("2.1").violation
    assert not outcome("2.1", PASS).violation
    assert not outcome("2.8").violation


def test_difference() -> None:
    base = {"a": {"b": 1, "c/d": [1]}, "gone": 2}
    changed = {"a": {"b": 2, "c/d": [1, 2]}, "new": {"x": 1}}
    assert runner.difference(changed, base) == {
        "/a/b": 2,
        "/a/c~1d": [1, 2],
        "/gone": None,
        "/new": {"x": 1},
    }
    assert runner.difference(base, base) == {}


def test_tap() -> None:
    assert report.tap_line(outcome("2.1", PASS), 3).startswith("ok 3 2.1 MUST ")
    assert report.tap_line(outcome("2.1", SKIP, "why"), 4).endswith(" # SKIP why")
    lines = report.tap_line(outcome("2.1", FAIL, "a\nb"), 5).splitlines()
    assert lines[0].startswith("not ok 5 2.1 MUST ")
    assert all(line.startswith("#") for line in lines[1:])
    assert "#   observed: a | b" in lines
    assert "#   $ runtime create x" in lines


def test_json_and_markdown() -> None:
    done = Report("name", "name 1", "1.3.0", ["a note"], [outcome("2.1"), outcome("2.8", PASS)])
    (document,) = json.loads(report.as_json([done]))
    assert document["checks"][0]["number"] == "2.1"
    assert document["checks"][0]["verdict"] == FAIL
    assert document["checks"][1]["level"] == MAY
    text = report.as_markdown([done, done._replace(name="other")])
    assert "1/2 (–1 MUST)" in text
    assert "| 2.1 | MUST |" in text
    assert "| 2.8 |" not in text
    assert "* name: a note" in text
    assert "1 pass, 1 fail (1 MUST), 0 skip" in report.summary(done)


def test_junit() -> None:
    """What CI servers read: attributes and children of each element, and text that XML can hold."""
    found = [outcome("2.1", FAIL, "a <b> & \x00\x1b[1m é\nc"), outcome("2.8", PASS)]
    found.append(outcome("2.11", SKIP, 'no "such"'))
    done = Report("/usr/bin/name --strict", "name 1", "1.3.0", ["a note"], found)
    text = report.as_junit([done, done._replace(name="other", notes=[])])
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<testsuites ')
    root = ET.fromstring(text)
    counts = {"tests": "6", "failures": "2", "errors": "0", "skipped": "2"}
    assert counts.items() <= root.attrib.items()
    first, second = root.findall("testsuite")
    assert (first.get("name"), second.get("name")) == ("/usr/bin/name --strict", "other")
    assert [first.get(name) for name in ("tests", "failures", "skipped")] == ["3", "1", "1"]
    assert first.findtext("system-out") == "a note"
    failed, passed, skipped = first.findall("testcase")
    assert failed.get("classname") == "name.2"
    assert failed.get("name", "").startswith("2.1 MUST ")
    assert failed.get("time") == "0.500"
    failure = failed.find("failure")
    assert failure is not None
    assert failure.get("type") == "MUST"
    assert failure.get("message") == "a <b> & \ufffd\ufffd[1m é | c"
    assert "observed: a <b> & \ufffd" in str(failure.text)
    assert "$ runtime create x" in str(failure.text)
    assert not list(passed)
    assert [child.get("message") for child in skipped] == ['no "such"']


def test_list(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(registry.CHECKS, "4.39")
    assert main(["--list", "--select", "4.29,4.39"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "[not yet checked]" not in lines[0]
    assert "[not yet checked]" in lines[1]
    assert lines[-1] == "1 of 2 rows are checked"


@pytest.mark.parametrize(
    "argv", [[], ["--runtime", "nosuchruntime"], ["--list", "--select", "77.7"], ["--nosuch"]]
)
def test_wrong_calls(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(argv)
    assert end.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_a_runtime_may_have_options() -> None:
    target = runner.Target.parse("sh --strict")
    assert target.words[0].endswith("/sh")
    assert target.name == "sh --strict"


def test_stands_alone(tmp_path: Path, subtests: SubTests) -> None:
    """Nothing but the standard library and its own folder."""
    for path in FOLDER.rglob("*.py"):
        with subtests.test(str(path.relative_to(FOLDER))):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                for name in names:
                    top = name.split(".")[0]
                    assert top == "conformance" or top in sys.stdlib_module_names
    (tmp_path / "conformance").symlink_to(FOLDER)
    command = [sys.executable, "-I", "-c",
               "import sys, runpy; sys.path.insert(0, '.'); sys.argv[1:] = ['--list'];"
               " runpy.run_module('conformance', run_name='__main__')"]  # fmt: skip
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "rows are checked" in run.stdout

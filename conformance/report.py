"""The reports: TAP for tests, JSON for programs, JUnit XML for CI servers, markdown for people."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from pathlib import Path

from conformance.registry import CHECKS
from conformance.rows import MUST, ROWS, SECTIONS, Row
from conformance.runner import FAIL, PASS, SKIP, Outcome, Report


def heading(outcome: Outcome) -> str:
    """Number, level and property."""
    return f"{outcome.number} {outcome.row.level} {outcome.row.title}"


def repeat(outcome: Outcome) -> list[str]:
    """How to do by hand what the check did."""
    lines = []
    for number, change in enumerate(outcome.changes, 1):
        lines.append(f"config of bundle{number}, changes to the base: {change}")
    lines += [f"$ {command}" for command in outcome.commands]
    if outcome.kept:
        lines.append(f"bundles kept in {outcome.kept}")
    return lines


def tap_line(outcome: Outcome, index: int) -> str:
    """One result of a TAP stream, with the details of a failure as comments."""
    text = heading(outcome).replace("#", "\\#")
    if outcome.verdict == SKIP:
        return f"ok {index} {text} # SKIP {_line(outcome.observed)}"
    if outcome.verdict == PASS:
        return f"ok {index} {text}"
    details = [f"expected: {outcome.expected}", f"observed: {outcome.observed}", *repeat(outcome)]
    comments = "\n".join(f"#   {_line(text)}" for text in details)
    return f"not ok {index} {text}\n{comments}"


def _line(text: str) -> str:
    return " | ".join(text.split("\n"))


def as_json(reports: Iterable[Report]) -> str:
    """Everything."""
    document = [
        {
            "runtime": report.name,
            "version": report.version,
            "claims": report.claims,
            "notes": report.notes,
            "checks": [
                {
                    "number": o.number,
                    "level": o.row.level,
                    "since": o.row.since,
                    "property": o.row.title,
                    "verdict": o.verdict,
                    "expected": o.expected,
                    "observed": o.observed,
                    "seconds": round(o.seconds, 3),
                    "config": o.changes,
                    "commands": o.commands,
                    "kept": o.kept or None,
                }
                for o in report.outcomes
            ],
        }
        for report in reports
    ]
    return json.dumps(document, indent=1, ensure_ascii=False)


_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What a document of XML 1.0 cannot hold (section 2.2), not even escaped."""


def as_junit(reports: Sequence[Report]) -> str:
    """JUnit XML: a test suite for each runtime, a test case for each row."""
    root = ET.Element("testsuites", name="conformance")
    for report in reports:
        suite = ET.SubElement(root, "testsuite", name=_text(report.name))
        properties = ET.SubElement(suite, "properties")
        for name, value in (("version", report.version), ("claims", report.claims)):
            ET.SubElement(properties, "property", name=name, value=_text(value))
        for outcome in report.outcomes:
            _testcase(suite, report, outcome)
        if report.notes:
            ET.SubElement(suite, "system-out").text = _text("\n".join(report.notes))
        _totals(suite, report.outcomes)
    _totals(root, [outcome for report in reports for outcome in report.outcomes])
    ET.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode")


def _testcase(suite: ET.Element, report: Report, outcome: Outcome) -> None:
    """One row; the classname groups rows by runtime and chapter."""
    runtime = re.sub(r"\W+", "_", Path(report.name.split()[0]).name)
    case = ET.SubElement(
        suite,
        "testcase",
        classname=f"{runtime}.{outcome.row.section}",
        name=_text(heading(outcome)),
        time=f"{outcome.seconds:.3f}",
    )
    if outcome.verdict == SKIP:
        ET.SubElement(case, "skipped", message=_text(_line(outcome.observed)))
    elif outcome.verdict == FAIL:
        failure = ET.SubElement(
            case, "failure", type=outcome.row.level, message=_text(_line(outcome.observed))
        )
        details = [f"expected: {outcome.expected}", f"observed: {outcome.observed}"]
        failure.text = _text("\n".join([*details, *repeat(outcome)]))


def _totals(element: ET.Element, outcomes: Sequence[Outcome]) -> None:
    element.set("tests", str(len(outcomes)))
    element.set("failures", str(sum(o.verdict == FAIL for o in outcomes)))
    element.set("errors", "0")
    element.set("skipped", str(sum(o.verdict == SKIP for o in outcomes)))
    element.set("time", f"{sum(o.seconds for o in outcomes):.3f}")


def _text(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def summary(report: Report) -> str:
    """A line of counts."""
    count = {v: sum(o.verdict == v for o in report.outcomes) for v in (PASS, FAIL, SKIP)}
    broken = sum(o.violation for o in report.outcomes)
    return (
        f"{report.name} ({report.version}, spec {report.claims or 'unknown'}): {count[PASS]} pass, {count[FAIL]} fail"
        f" ({broken} MUST), {count[SKIP]} skip"
    )


def as_markdown(reports: Sequence[Report]) -> str:
    """Counts for each section, then every row that fails somewhere."""
    names = [report.name for report in reports]
    lines = ["| section | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for section, title in SECTIONS.items():
        parts = [[o for o in r.outcomes if o.row.section == section] for r in reports]
        if any(parts):
            lines.append(f"| {section}. {title} | " + " | ".join(map(_count, parts)) + " |")
    lines.append("| **all** | " + " | ".join(_count(r.outcomes) for r in reports) + " |")
    lines += [
        "",
        "Passed of checked; (–n MUST) are requirements that do not hold; skipped are left out.",
        "",
        "| row | level | property | " + " | ".join(names) + " |",
        "|---" * (len(names) + 3) + "|",
    ]
    found = [{o.number: o for o in r.outcomes} for r in reports]
    for number, row in ROWS.items():
        cells = [by_number.get(number) for by_number in found]
        if any(o and o.verdict == FAIL for o in cells):
            texts = [_cell(o) for o in cells]
            lines.append(f"| {number} | {row.level} | {row.title} | " + " | ".join(texts) + " |")
    notes = [f"* {report.name}: {note}" for report in reports for note in report.notes]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _count(outcomes: Sequence[Outcome]) -> str:
    judged = [o for o in outcomes if o.verdict != SKIP]
    broken = sum(o.violation for o in judged)
    text = f"{sum(o.verdict == PASS for o in judged)}/{len(judged)}"
    return text + (f" (–{broken} {MUST})" if broken else "")


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    if outcome.verdict != FAIL:
        return outcome.verdict
    return "**fail**: " + _line(outcome.observed)[:120].replace("|", "\\|")


def listing(rows: Sequence[Row]) -> str:
    """The rows, with those that have no check yet marked."""
    lines = [
        f"{r.number:<18} {r.level:<6} {r.title}"
        + (f"  (since {r.since})" if r.since != "1.0.0" else "")
        + ("" if r.number in CHECKS else "  [not yet checked]")
        for r in rows
    ]
    checked = sum(r.number in CHECKS for r in rows)
    return "\n".join([*lines, f"{checked} of {len(rows)} rows are checked"])

"""The reports of the attack kit: TAP for tests, JSON for programs, markdown for people."""

from __future__ import annotations

import json
from collections.abc import Sequence

from conformance.attacks.registry import RECIPES, Recipe
from conformance.attacks.runner import INAPPLICABLE, SAFE, VULNERABLE, Outcome, Report


def _line(text: str) -> str:
    return " ".join(text.split()).replace("#", "")


def tap_line(outcome: Outcome, index: int) -> str:
    """One outcome: `not ok` where the attack succeeds."""
    word = "not ok" if outcome.verdict == VULNERABLE else "ok"
    text = f"{word} {index} - {outcome.name}: {outcome.recipe.title}"
    if outcome.verdict == INAPPLICABLE:
        return f"{text} # SKIP {_line(outcome.observed)}"
    return f"{text}\n# {outcome.verdict}: {_line(outcome.observed)}"


def summary(report: Report) -> str:
    """A line of counts."""
    count = {
        v: sum(o.verdict == v for o in report.outcomes) for v in (SAFE, VULNERABLE, INAPPLICABLE)
    }
    parts = ", ".join(f"{number} {word}" for word, number in count.items())
    return f"{report.name} ({report.version}): {parts}"


def as_json(reports: Sequence[Report]) -> str:
    """Everything that is known of each outcome."""
    documents = [
        {
            "runtime": report.name,
            "version": report.version,
            "notes": report.notes,
            "outcomes": [
                {
                    **outcome._asdict(),
                    "attacker": outcome.recipe.attacker,
                    "title": outcome.recipe.title,
                    "advisories": outcome.recipe.advisories,
                }
                for outcome in report.outcomes
            ],
        }
        for report in reports
    ]
    return json.dumps(documents, indent=1)


def as_markdown(reports: Sequence[Report], proven: Sequence[str] | None = None) -> str:
    """A line for each recipe, a column for each runtime; recipes that nobody loses to are unproven."""
    chosen = [o.recipe for o in reports[0].outcomes]
    found = [{o.name: o for o in report.outcomes} for report in reports]
    lost = {o.name for report in reports for o in report.outcomes if o.verdict == VULNERABLE}
    lost |= set(proven or ())
    lines = [
        "| recipe | a vulnerable runtime… | replays | "
        + " | ".join(r.name for r in reports)
        + " |",
        "|---" * (len(reports) + 3) + "|",
    ]
    for one in chosen:
        cells = [_cell(by_name[one.name]) for by_name in found]
        name = f"`{one.name}`" + ("" if one.name in lost else " (unproven)")
        words = ", ".join(one.advisories) or "–"
        lines.append(f"| {name} | {one.title} | {words} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"* {summary(report)}" for report in reports)])


def _cell(outcome: Outcome) -> str:
    if outcome.verdict == VULNERABLE:
        return "**vulnerable**"
    return "n/a" if outcome.verdict == INAPPLICABLE else outcome.verdict


def listing(recipes: Sequence[Recipe]) -> str:
    """The recipes."""
    width = max(map(len, RECIPES))
    return "\n".join(
        f"{r.name:<{width}} {r.attacker:<10}{r.title}"
        + (f" ({', '.join(r.advisories)})" if r.advisories else "")
        for r in recipes
    )

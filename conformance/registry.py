"""The list of checks: a function for each row, registered by its number."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable

from conformance.rows import ROWS, Row
from conformance.trial import Trial

Function = Callable[[Trial], None]
CHECKS: dict[str, Function] = {}


def register(number: str, function: Function) -> None:
    """Make `function` the check of a row; raises ValueError for an unknown row or a second check."""
    if number not in ROWS or number in CHECKS:
        raise ValueError(f"{number}: no such row, or checked already")
    CHECKS[number] = function


def check(number: str) -> Callable[[Function], Function]:
    """Decorator: this function is the check of row `number`."""

    def keep(function: Function) -> Function:
        register(number, function)
        return function

    return keep


def select(patterns: str | None) -> list[Row]:
    """The rows that match one of the comma-separated patterns (`4.29`, `5.*`, `2`), in order.

    Raises ValueError for a pattern that nothing matches.
    """
    if not patterns:
        return list(ROWS.values())
    chosen: set[str] = set()
    for pattern in patterns.split(","):
        word = f"{pattern}.*" if pattern.isdigit() else pattern
        found = fnmatch.filter(ROWS, word.strip())
        if not found:
            raise ValueError(f"no row matches {pattern!r}")
        chosen.update(found)
    return [row for row in ROWS.values() if row.number in chosen]

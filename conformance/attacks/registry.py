"""The recipes: what is attacked, by whom, and which advisories each replays."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from conformance.attacks.field import Attack

    Function = Callable[[Attack], None]

# Who is hostile.
IMAGE, CONFIG, PROGRAM, NEIGHBOUR, CALLER = "image", "config", "program", "neighbour", "caller"


class Recipe(NamedTuple):
    """One attack.

    Args:
        name: its name on the command line.
        attacker: IMAGE, CONFIG, PROGRAM (in the container), NEIGHBOUR (a concurrent process) or CALLER (environment).
        title: what a vulnerable runtime does.
        advisories: CVE or GHSA ids; empty for a hazard that has none.
        function: raises Compromised when the attack succeeds.
    """

    name: str
    attacker: str
    title: str
    advisories: tuple[str, ...]
    function: Function


RECIPES: dict[str, Recipe] = {}


def recipe(
    name: str, attacker: str, title: str, *advisories: str
) -> Callable[[Function], Function]:
    """Decorator: this function is the recipe `name`; raises ValueError for a second one."""

    def keep(function: Function) -> Function:
        if name in RECIPES:
            raise ValueError(f"{name}: a second recipe")
        RECIPES[name] = Recipe(name, attacker, title, advisories, function)
        return function

    return keep


def load() -> None:
    """Import all recipes."""
    from conformance.attacks import caller, config, host, image, program, race

    assert caller and config and host and image and program and race


def select(patterns: str | None) -> list[Recipe]:
    """The recipes of which a name, attacker or advisory matches one of the comma-separated patterns.

    Raises ValueError for a pattern that nothing matches.
    """
    if not patterns:
        return list(RECIPES.values())
    chosen: set[str] = set()
    for pattern in patterns.split(","):
        found = {
            one.name
            for one in RECIPES.values()
            if any(
                fnmatch.fnmatch(word, pattern.strip())
                for word in (one.name, one.attacker, *one.advisories)
            )
        }
        if not found:
            raise ValueError(f"no recipe matches {pattern!r}")
        chosen |= found
    return [one for one in RECIPES.values() if one.name in chosen]

"""Device rules for the tests."""

from __future__ import annotations

import random
from typing import Any

from ociruntime.cgroups import devices

DENY_ALL = {"allow": False, "access": "rwm"}
ALLOW_ALL = {"allow": True, "access": "rwm"}


def rule(allow: bool, kind: str, major: int | None, minor: int | None, access: str) -> Any:
    out: dict[str, Any] = {"allow": allow, "type": kind, "access": access}
    if major is not None:
        out["major"] = major
    if minor is not None:
        out["minor"] = minor
    return out


def whole(rules: list[Any]) -> list[devices.Rule]:
    """The rules with the default ones, as a device filter gets them."""
    return [*devices.parse_rules(rules), *devices.DEFAULT_RULES]


def random_rules(rand: random.Random) -> list[Any]:
    out = []
    for _ in range(rand.randrange(7)):
        kind = rand.choice("aabbcc")
        if kind == "a" and rand.random() < 0.6:
            out.append({"allow": rand.random() < 0.4, "access": "rwm"})
            continue
        out.append(
            rule(
                rand.random() < 0.6,
                kind,
                rand.choice([None, 1, 5, 10]),
                rand.choice([None, 0, 3, 5]),
                "".join(rand.sample("rwm", rand.randint(1, 3))),
            )
        )
    return out

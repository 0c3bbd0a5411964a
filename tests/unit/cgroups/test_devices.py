"""Device rules: what they mean, as v1 writes, as an eBPF program."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest
from pytest_subtests import SubTests

from ociruntime import errors
from ociruntime.cgroups import bpf, devices

sys.path.insert(0, str(Path(__file__).parent))
import cgroup_bpf
from cgroup_rules import ALLOW_ALL, DENY_ALL, random_rules, rule, whole

TYPES = {"b": 1, "c": 2}
BITS = {"m": 1, "r": 2, "w": 4}


def meaning(rules: list[devices.Rule], kind: str, major: int, minor: int, letter: str) -> bool:
    """The specification: the last rule that names the access decides, else it is denied."""
    allowed = False
    for allow, a_kind, a_major, a_minor, access, _ in rules:
        if (
            a_kind in ("a", kind)
            and a_major in (-1, major)
            and a_minor in (-1, minor)
            and letter in access
        ):
            allowed = allow
    return allowed


def v1_meaning(state: devices.Access, kind: str, major: int, minor: int, letter: str) -> bool:
    """What the kernel makes of a v1 devices cgroup, for a single access."""
    hit = any(
        key[0] == kind and key[1] in (-1, major) and key[2] in (-1, minor) and letter in access
        for key, access in state.exceptions.items()
    )
    return hit != state.allow


def ask(program: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    bits = sum(BITS[letter] for letter in access)
    return bool(cgroup_bpf.run(program, TYPES[kind], bits, major, minor))


def test_parse(subtests: SubTests) -> None:
    at = "/linux/resources/devices/0"
    cases: list[tuple[dict[str, Any], list[devices.Rule]]] = [
        (DENY_ALL, [(False, "a", -1, -1, "rwm", at)]),
        ({"allow": False}, [(False, "a", -1, -1, "rwm", at)]),
        ({"allow": True, "type": "a"}, [(True, "a", -1, -1, "rwm", at)]),
        ({"allow": True, "type": "c", "major": 136}, [(True, "c", 136, -1, "rwm", at)]),
        (rule(True, "c", -1, -1, "mr"), [(True, "c", -1, -1, "rm", at)]),
        (rule(True, "b", 8, 0, "rr"), [(True, "b", 8, 0, "r", at)]),
        (
            rule(False, "a", None, None, "m"),
            [(False, "b", -1, -1, "m", at), (False, "c", -1, -1, "m", at)],
        ),
        (
            rule(True, "a", 1, 3, "rwm"),
            [(True, "b", 1, 3, "rwm", at), (True, "c", 1, 3, "rwm", at)],
        ),
    ]
    for item, expected in cases:
        with subtests.test(item=item):
            assert devices.parse_rules([item]) == expected


def test_parse_errors(subtests: SubTests) -> None:
    for item, pointer in (
        (rule(True, "p", 1, 1, "r"), "/type"),
        (rule(True, "u", 1, 1, "r"), "/type"),
        (rule(True, "c", 1, 1, "rx"), "/access"),
        (rule(True, "c", 1 << 32, 1, "r"), "/major"),
        (rule(True, "c", 1, -2, "r"), "/minor"),
    ):
        with subtests.test(item=item), pytest.raises(errors.Error) as info:
            devices.parse_rules([DENY_ALL, item])
        assert info.value.pointer == "/linux/resources/devices/1" + pointer


@pytest.mark.parametrize(
    "rules",
    [[], [DENY_ALL], [DENY_ALL, DENY_ALL], [rule(True, "c", 10, 229, "rwm")]],
    ids=["none", "deny all", "deny all twice", "allow only"],
)
def test_denied_unless_allowed(rules: list[Any]) -> None:
    """GHSA-g54h-m393-cpwq: no rules, or only ones that allow, leave nothing else open."""
    program = bpf.program(whole(rules))
    state = devices.target(rules)
    for kind, major, minor, access, expected in (
        ("b", 8, 0, "r", False),
        ("b", 8, 0, "rw", False),
        ("b", 8, 0, "m", True),
        ("c", 1, 1, "r", False),
        ("c", 1, 3, "rwm", True),
        ("c", 1, 9, "r", True),
        ("c", 5, 0, "rw", True),
        ("c", 5, 1, "rw", False),
        ("c", 5, 2, "rw", True),
        ("c", 136, 77, "rw", True),
        ("c", 10, 200, "rw", True),
        ("c", 10, 229, "rw", bool(rules) and rules[0].get("type") == "c"),
    ):
        assert ask(program, kind, major, minor, access) == expected, (kind, major, minor, access)
        for letter in access:
            assert v1_meaning(state, kind, major, minor, letter) == expected


def test_second_deny_all_in_mid_list() -> None:
    rules = [
        DENY_ALL,
        rule(True, "c", 10, 229, "rwm"),
        rule(True, "b", 7, None, "r"),
        DENY_ALL,
        rule(True, "c", 10, 1, "r"),
    ]
    program = bpf.program(whole(rules))
    assert not ask(program, "c", 10, 229, "r")
    assert not ask(program, "b", 7, 0, "r")
    assert ask(program, "c", 10, 1, "r")
    state = devices.target(rules)
    assert ("c", 10, 229) not in state.exceptions
    assert state.exceptions[("c", 10, 1)] == "r"


def test_privileged() -> None:
    rules = [DENY_ALL, rule(True, "c", 1, 3, "rwm"), ALLOW_ALL]
    assert devices.v1_writes(rules) == [(True, "a", "")]
    program = bpf.program(whole(rules))
    assert ask(program, "b", 8, 0, "rwm")


def test_allowed_but_for_exceptions(subtests: SubTests) -> None:
    rules = [ALLOW_ALL, rule(False, "b", 8, 0, "w"), rule(False, "c", 1, 3, "rwm")]
    writes = devices.v1_writes(rules)
    with subtests.test("v1"):
        assert writes == [(True, "a", ""), (False, "b 8:0 w", "/linux/resources/devices/1")]
    program = bpf.program(whole(rules))
    with subtests.test("v2"):
        assert not ask(program, "b", 8, 0, "rw")
        assert ask(program, "b", 8, 0, "r")
        assert ask(program, "b", 8, 1, "rw")
        assert ask(program, "c", 1, 3, "rw"), "default devices cannot be denied"


def test_v1_fresh() -> None:
    writes = devices.v1_writes(
        [DENY_ALL, rule(True, "c", 10, 229, "rw"), rule(True, "c", 1, 3, "r")]
    )
    assert writes[0] == (False, "a", "")
    assert (True, "c 10:229 rw", "/linux/resources/devices/1") in writes
    assert [text for _, text, _ in writes].count("c 1:3 rwm") == 1
    assert all(allow for allow, _, _ in writes[1:])
    assert len(writes) == 2 + len(devices.DEFAULT_RULES)


def test_v1_hole_is_an_error(subtests: SubTests) -> None:
    """The kernel takes such a rule without a word, and without effect."""
    holes = [
        [rule(True, "c", 10, None, "rw"), rule(False, "c", 10, 229, "r")],
        [rule(True, "c", None, 229, "r"), rule(False, "c", 10, 229, "rwm")],
        [rule(True, "b", None, None, "m"), rule(False, "b", 8, None, "m")],
        [ALLOW_ALL, rule(False, "b", 8, None, "rwm"), rule(True, "b", 8, 1, "r")],
    ]
    for rules in holes:
        with (
            subtests.test(rules=rules),
            pytest.raises(errors.Error, match="out of the broader") as e,
        ):
            devices.target(rules)
        assert e.value.pointer == f"/linux/resources/devices/{len(rules) - 1}"
    fine = [
        [rule(True, "c", 10, None, "rw"), rule(False, "c", 10, 229, "m")],
        [rule(True, "c", 10, None, "rw"), rule(False, "c", 10, None, "r")],
        [rule(True, "c", 10, None, "rw"), rule(False, "b", 10, 229, "r")],
        [rule(True, "c", 10, 229, "rw"), rule(False, "c", 10, None, "r")],
    ]
    for rules in fine:
        with subtests.test(rules=rules):
            devices.target(rules)


def test_v1_update_has_no_gap(subtests: SubTests) -> None:
    live = devices.parse_v1_list("c *:* m\nb *:* m\nc 1:3 rwm\nc 7:1 rw\n")
    writes = devices.v1_writes([DENY_ALL, rule(True, "c", 7, 1, "w")], live)
    with subtests.test("what stays is not touched"):
        touched = [text for _, text, _ in writes]
        assert not any(text.startswith(("a", "c 1:3", "c *:*")) for text in touched)
    with subtests.test("what is new comes first, what goes last"):
        assert writes[-1] == (False, "c 7:1 r", "")
        assert all(allow for allow, _, _ in writes[:-1])
    with subtests.test("no change, no write"):
        state = devices.target([DENY_ALL])
        listing = "".join(devices.text(k, a) + "\n" for k, a in state.exceptions.items())
        assert devices.v1_writes([DENY_ALL], devices.parse_v1_list(listing)) == []
    with subtests.test("from everything allowed"):
        assert devices.v1_writes([DENY_ALL], devices.parse_v1_list("a *:* rwm\n"))[0][1] == "a"


def test_three_readings_agree() -> None:
    """The specification, the program and (where it can say it) v1 mean the same, for random rules."""
    rand = random.Random(7)
    said = 0
    for _ in range(400):
        rules = random_rules(rand)
        parsed = whole(rules)
        program = bpf.program(parsed)
        try:
            state: devices.Access | None = devices.target(rules)
        except errors.Error:
            state = None
        if state is not None and state.allow:
            state = None  # there the default rules cannot undo a broader denial on v1
        said += state is not None
        for kind in "bc":
            for major in (1, 5, 10, 99):
                for minor in (0, 3, 5, 99):
                    single = {
                        letter: meaning(parsed, kind, major, minor, letter) for letter in "rwm"
                    }
                    for access in ("r", "w", "m", "rw", "rwm", "rm"):
                        expected = all(single[letter] for letter in access)
                        got = ask(program, kind, major, minor, access)
                        assert got == expected, (rules, kind, major, minor, access)
                    if state is not None:
                        for letter in "rwm":
                            assert (
                                v1_meaning(state, kind, major, minor, letter) == single[letter]
                            ), (rules, kind, major, minor, letter)
    assert said > 100


def test_program_is_small() -> None:
    """A hundred device rules (a privileged container) stay far below the limits of the verifier."""
    rules = [DENY_ALL, *(rule(True, "c", 10, minor, "rwm") for minor in range(100))]
    program = bpf.program(whole(rules))
    assert len(program) % 8 == 0
    assert len(program) // 8 < 700

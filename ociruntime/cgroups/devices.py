"""linux.resources.devices: which device nodes a container may make and use. Pure. Hot module.

Spec: config-linux.md "Allowed Device list"; kernel: Documentation/admin-guide/cgroup-v1/devices.rst, v2: bpf.py.

A container starts from "nothing" (GHSA-g54h-m393-cpwq), the configured rules are applied strictly in order, then the
default rules, which a configuration therefore cannot take away. They are those of runc: no 5:1, since a container's
/dev/console is a pseudo terminal (136:*).
"""

from __future__ import annotations

from ociruntime import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    # allow, type (a, b or c), major, minor (-1 = any), access ("rwm"), JSON pointer
    Rule = tuple[bool, str, int, int, str, str]
    Key = tuple[str, int, int]
    # (write to devices.allow, else devices.deny; text; JSON pointer)
    Write = tuple[bool, str, str]

ANY = -1
_LETTERS = "rwm"
_BASE = "/linux/resources/devices"

DEFAULT_RULES: tuple[Rule, ...] = (
    (True, "c", ANY, ANY, "m", ""),
    (True, "b", ANY, ANY, "m", ""),
    (True, "c", 1, 3, "rwm", ""),  # /dev/null
    (True, "c", 1, 5, "rwm", ""),  # /dev/zero
    (True, "c", 1, 7, "rwm", ""),  # /dev/full
    (True, "c", 1, 8, "rwm", ""),  # /dev/random
    (True, "c", 1, 9, "rwm", ""),  # /dev/urandom
    (True, "c", 5, 0, "rwm", ""),  # /dev/tty
    (True, "c", 5, 2, "rwm", ""),  # /dev/ptmx
    (True, "c", 136, ANY, "rwm", ""),  # /dev/pts/*
    (True, "c", 10, 200, "rwm", ""),  # /dev/net/tun
)


def parse_rules(rules: Iterable[Mapping[str, Any]]) -> list[Rule]:
    """The configured rules with the spec's defaults filled in: type a, major and minor any, access rwm."""
    out: list[Rule] = []
    for index, item in enumerate(rules):
        pointer = f"{_BASE}/{index}"
        kind = item.get("type") or "a"
        access = item.get("access") or _LETTERS
        if kind not in ("a", "b", "c"):
            raise errors.Error(f"invalid device type {kind!r}", pointer=pointer + "/type")
        if any(letter not in _LETTERS for letter in access):
            raise errors.Error(f"invalid device access {access!r}", pointer=pointer + "/access")
        access = "".join(letter for letter in _LETTERS if letter in access)
        major = _number(item, "major", pointer)
        minor = _number(item, "minor", pointer)
        allow = bool(item["allow"])
        if kind == "a" and (major != ANY or minor != ANY or access != _LETTERS):
            # "a" stands for every device and access in the kernel's v1 language: say it for both types
            out.append((allow, "b", major, minor, access, pointer))
            kind = "c"
        out.append((allow, kind, major, minor, access, pointer))
    return out


def _number(item: Mapping[str, Any], key: str, pointer: str) -> int:
    value = item.get(key)
    if value is None or value == ANY:
        return ANY
    if not 0 <= value < 1 << 32:
        raise errors.Error(f"invalid device {key} {value}", pointer=f"{pointer}/{key}")
    return int(value)


class Access:
    """What a v1 devices cgroup holds: a default and the exceptions from it (Linux security/device_cgroup.c)."""

    __slots__ = ("allow", "exceptions", "pointers")

    def __init__(self, allow: bool = False) -> None:
        self.allow = allow
        self.exceptions: dict[Key, str] = {}
        self.pointers: dict[Key, str] = {}

    def apply(self, rule: Rule) -> None:
        """One rule; a device that several exceptions cover keeps the broadest."""
        allow, kind, major, minor, access, pointer = rule
        if kind == "a":
            self.allow = allow
            self.exceptions = {}
            return
        key = (kind, major, minor)
        if allow != self.allow:
            self.exceptions[key] = _union(self.exceptions.get(key, ""), access)
            self.pointers[key] = pointer
            return
        for other, held in list(self.exceptions.items()):
            if not any(letter in held for letter in access):
                continue
            if _covers(key, other):
                rest = "".join(letter for letter in held if letter not in access)
                if rest:
                    self.exceptions[other] = rest
                else:
                    del self.exceptions[other]
            elif _overlap(other, key):
                # the kernel would accept this rule and go on as if it had never been written
                raise errors.Error(
                    f"device rule {text(key, access)} cannot be taken out of the broader"
                    f" {text(other, held)} on cgroup v1",
                    pointer=pointer,
                )


def _overlap(one: Key, other: Key) -> bool:
    return (
        one[0] == other[0]
        and (one[1] == other[1] or ANY in (one[1], other[1]))
        and (one[2] == other[2] or ANY in (one[2], other[2]))
    )


def _covers(broad: Key, narrow: Key) -> bool:
    return broad[0] == narrow[0] and broad[1] in (ANY, narrow[1]) and broad[2] in (ANY, narrow[2])


def _union(one: str, other: str) -> str:
    return "".join(letter for letter in _LETTERS if letter in one or letter in other)


def text(key: Key, access: str) -> str:
    """A rule in the kernel's v1 form: ``c 1:3 rwm``."""
    kind, major, minor = key
    return f"{kind} {_star(major)}:{_star(minor)} {access}"


def _star(number: int) -> str:
    return "*" if number == ANY else str(number)


def target(rules: Sequence[Mapping[str, Any]]) -> Access:
    """What the container shall have in the end."""
    state = Access()
    for rule in parse_rules(rules):
        state.apply(rule)
    if (
        not state.allow
    ):  # else they are allowed, and the denied ones are what the config asked for last
        for rule in DEFAULT_RULES:
            state.apply(rule)
    else:
        _allow_defaults(state)
    return state


def _allow_defaults(state: Access) -> None:
    """Default rules where everything is allowed but for exceptions: only those exceptions can be in the way."""
    for rule in DEFAULT_RULES:
        key = (rule[1], rule[2], rule[3])
        if key in state.exceptions:
            state.apply(rule)


def parse_v1_list(listing: str) -> Access:
    """devices.list of a live cgroup. ``a *:* rwm``: everything is allowed; the kernel then hides exceptions."""
    state = Access()
    for line in listing.splitlines():
        words = line.split()
        if len(words) != 3:
            continue
        if words[0] == "a":
            return Access(True)
        major, _, minor = words[1].partition(":")
        if not all(number == "*" or number.isdecimal() for number in (major, minor)):
            continue
        key = (
            words[0],
            ANY if major == "*" else int(major),
            ANY if minor == "*" else int(minor),
        )
        state.exceptions[key] = _union(words[2], "")
    return state


def v1_writes(rules: Sequence[Mapping[str, Any]], current: Access | None = None) -> list[Write]:
    """The writes that bring a v1 devices cgroup to what the rules say.

    ``current``: what a cgroup in use has now. Then only differences are written, what is new first, so that no device
    is refused meanwhile which is allowed before and after (runc #2204). None: a new cgroup.
    """
    goal = target(rules)
    out: list[Write] = []
    if current is None or current.allow != goal.allow or goal.allow:
        # deny mode lists nothing of its exceptions, so it is always started afresh
        out.append((goal.allow, "a", ""))
        current = Access(goal.allow)
    for key, access in goal.exceptions.items():
        new = "".join(c for c in access if c not in current.exceptions.get(key, ""))
        if new:
            out.append((not goal.allow, text(key, new), goal.pointers.get(key, "")))
    for key, access in current.exceptions.items():
        old = "".join(c for c in access if c not in goal.exceptions.get(key, ""))
        if old:
            out.append((goal.allow, text(key, old), ""))
    return out

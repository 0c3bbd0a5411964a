"""What the checks share: the config's parts and what was found wrong.

Hot module.
"""

from __future__ import annotations

from ociruntime import errors
from ociruntime.spec.json_reader import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

UNMAPPABLE = 0xFFFFFFFF
"""(uid_t) -1: no id, but "leave as it is" to the kernel."""


HOOK_KINDS = (
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
)
"""config.md, "POSIX-platform Hooks"."""


class Problem(errors.ConfigProblem):
    """A ConfigProblem that names the rule behind it (docs/compatibility/config.md lists the rules)."""

    __slots__ = ("rule",)

    def __init__(self, rule: str, pointer: str, message: str, hint: str | None = None) -> None:
        super().__init__(pointer, message, 0, hint)
        self.rule = rule


class Context:
    """One config under examination.

    ``strict``: the letter of the specification where it and the engines disagree. ``process``, ``linux``: those
    objects, empty when absent. ``namespaces``: type → path, empty for a new one. ``problems``: what makes the config
    invalid; ``warnings``: (pointer, message) of what is accepted all the same.
    """

    __slots__ = ("linux", "namespaces", "problems", "process", "strict", "warnings")

    def __init__(self, spec: dict[str, Any], strict: bool = False) -> None:
        self.strict = strict
        self.process: dict[str, Any] = spec.get("process") or {}
        self.linux: dict[str, Any] = spec.get("linux") or {}
        self.namespaces: dict[str, str] = {
            entry["type"]: entry.get("path") or "" for entry in self.linux.get("namespaces") or ()
        }
        self.problems: list[Problem] = []
        self.warnings: list[tuple[str, str]] = []

    def error(self, rule: str, pointer: str, message: str, hint: str | None = None) -> None:
        self.problems.append(Problem(rule, pointer, message, hint))

    def warn(self, pointer: str, message: str) -> None:
        self.warnings.append((pointer, message))


def shown(value: Any) -> str:
    """A value of the config for a message: JSON on one line, shortened."""
    text = dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def number_list(text: str) -> list[tuple[int, int]] | None:
    """The ranges of a list such as ``0-3,7`` (cpuset(7), "List format"); None when it is malformed.

    Spaces around numbers and empty items are accepted, as the specification's pattern suggests.
    """
    ranges = []
    for item in text.split(","):
        item = item.strip(" ")
        if not item:
            continue
        first, dash, last = item.partition("-")
        first, last = first.strip(" "), last.strip(" ")
        if not dash:
            last = first
        if not (_is_number(first) and _is_number(last)) or int(first) > int(last):
            return None
        ranges.append((int(first), int(last)))
    return ranges


def _is_number(text: str) -> bool:
    return 0 < len(text) < 10 and text.isascii() and text.isdecimal()

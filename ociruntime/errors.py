"""Errors that end a command: one line, lower case, with the place in config.json where there is one.

Hot module.
"""

from __future__ import annotations

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Error(Exception):
    """A failure to report to the caller.

    ``message``: one line; engines search some of these texts (docs/compatibility.md). ``hint``: what may mend it.
    ``pointer``: JSON pointer in config.json (RFC 6901). ``exit_code``: of the command. ``extra``: more keys of the
    JSON log line (path, step, …).
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        pointer: str | None = None,
        exit_code: int = 1,
        extra: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.pointer = pointer
        self.exit_code = exit_code
        self.extra = extra


class UsageError(Error):
    """A wrong call: the message is followed by the verb's usage."""


class NeedFullPython(Exception):
    """The rest of this command needs more than the launcher's core phase offers; nothing has been done yet.

    cli.py answers by executing the whole command again under the full interpreter.
    """


class ConfigProblem:
    """One thing wrong with config.json.

    ``pointer``: JSON pointer; ``message``: what is wrong, lower case; ``line``: 1-based, 0 when not known;
    ``hint``: text or None.
    """

    __slots__ = ("hint", "line", "message", "pointer")

    def __init__(self, pointer: str, message: str, line: int = 0, hint: str | None = None) -> None:
        self.pointer = pointer
        self.message = message
        self.line = line
        self.hint = hint


class ConfigError(Error):
    """config.json is rejected; ``problems`` holds every one found, the first makes the message."""

    def __init__(self, message: str, problems: Sequence[ConfigProblem]) -> None:
        super().__init__(message, pointer=problems[0].pointer if problems else None)
        self.problems = list(problems)


def pointer_step(name: str) -> str:
    """A property name as one step of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def strerror(number: int) -> str:
    """strerror(3) in lower case, the form in which Go programs print it and engines search for it."""
    text = posix.strerror(number)
    return text[:1].lower() + text[1:]


def from_os(
    exc: OSError, what: str, *, pointer: str | None = None, hint: str | None = None
) -> Error:
    """``what: strerror`` for a failed system call; ``what`` says the call and its object."""
    return Error(f"{what}: {strerror(exc.errno or 0)}", pointer=pointer, hint=hint)

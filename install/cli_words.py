"""The words of the command line as manual pages and completions need them: one view of cli_options and cli_help."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from ociruntime import cli_help, cli_options, signals
from ociruntime.plan import words

NEW_ID = frozenset(("create", "run", "restore", "plan"))
"""Verbs whose CONTAINER-ID is one that need not exist."""

SIGNALS = sorted(signals.name(number).removeprefix("SIG") for number in range(1, 32))
"""What `kill` is completed with; it knows more."""


@dataclass(frozen=True)
class Option:
    """One option of a verb, or of the whole command.

    ``placeholder``: the name of its value, empty for a switch. ``choices``: the words its value may be, where those are
    few. ``values``: what else a shell may offer: "directories", "files", or empty.
    """

    name: str
    short: str
    placeholder: str
    text: str
    choices: tuple[str, ...]
    values: str
    repeatable: bool

    @property
    def names(self) -> list[str]:
        """As they are typed, the letter first."""
        return ([f"-{self.short}"] if self.short else []) + [f"--{self.name}"]


def _option(verb: str, word: str, texts: dict[str, tuple[str, str]]) -> Option:
    name, short, kind, placeholder, text = cli_help.text_of(word, texts)
    choices: tuple[str, ...] = ()
    if kind:
        listed = cli_help.CHOICES.get(f"{verb} {name}" if verb else name, "")
        choices = words.CAPABILITIES if placeholder == "CAPABILITY" else tuple(listed.split())
    files = {"DIR": "directories", "FILE": "files", "PATH": "files"}
    values = files.get(placeholder, "") if kind else ""
    return Option(name, short, placeholder, text, choices, values, kind == cli_options.LIST)


def options(verb: str) -> list[Option]:
    """The options of a verb; with an empty one, those of the whole command."""
    if verb:
        texts, line = cli_help.OPTIONS, f"{cli_options.VERBS[verb]} help,h"
        own = dict(texts, help=("", "print help"))
        return [_option(verb, word, own) for word in line.split()]
    return [_option("", word, cli_help.GLOBAL) for word in cli_options.GLOBAL.split()]


def takes_id(verb: str) -> bool:
    """Whether the first argument of a verb is the id of a container that exists."""
    return verb not in NEW_ID and cli_options.ARGUMENTS[verb][2].startswith("CONTAINER-ID")

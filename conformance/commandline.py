"""What the command lines of the checks and of the attacks have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from conformance import runner


def parser(
    prog: str, description: str | None, epilog: str, formats: Sequence[str], kind: str
) -> argparse.ArgumentParser:
    """A parser with --runtime, --format and --list; ``kind``: what is listed."""
    made = argparse.ArgumentParser(prog=prog, description=description, epilog=epilog)
    made.add_argument(
        "--runtime",
        action="append",
        default=[],
        metavar="PATH|NAME",
        help='a runtime, perhaps with options: "NAME --option"; may be given several times',
    )
    made.add_argument("--format", choices=formats, default="tap")
    made.add_argument("--list", action="store_true", help=f"print the {kind} and end")
    return made


def parse(
    made: argparse.ArgumentParser, argv: Sequence[str], select: Callable[[str | None], list[Any]]
) -> argparse.Namespace:
    """The options, with `targets` and what `select` makes of --select as `chosen`; status 2 for a wrong call."""
    options = made.parse_args(argv)
    try:
        options.chosen = select(options.select)
        options.targets = [runner.Target.parse(text) for text in options.runtime]
    except ValueError as error:
        made.error(str(error))
    if not options.list and not options.targets:
        made.error("--runtime is needed")
    return options

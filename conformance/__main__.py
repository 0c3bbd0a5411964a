"""Judge OCI runtimes by the runtime specification alone.

Each check is a property of the specification with its level (MUST, SHOULD, MAY).  The runtimes are
used as an engine uses them: create, start, state, kill, delete and a config.json.  Needs a C compiler
(for the static program that runs in the containers), and root: an ordinary user's containers have a user
namespace, and checks that such a user cannot prepare are skipped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from conformance import checks, commandline, registry, report, runner
from conformance.rows import SHOULD

EPILOG = """
exit status: 0 when every MUST that was checked holds (with --strict every SHOULD too, and
what is newer than the specification that a runtime claims), 1 when one
does not, 2 for a wrong call and for a runtime that
cannot run anything here.
"""


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    formats = ("tap", "json", "junit", "markdown")
    parser = commandline.parser("python -m conformance", __doc__, EPILOG, formats, "rows")
    parser.add_argument(
        "--select", metavar="ROWS", help="rows by number, pattern or section: 4.29,5.r*,10"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="the newest specification counts, and a broken SHOULD as well",
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the bundles of failed checks there"
    )
    return commandline.parse(parser, argv, registry.select)


def judge(options: argparse.Namespace) -> list[runner.Report]:
    """Run the checks; with TAP each result is printed as it comes."""
    tap = options.format == "tap"
    index = 0

    def progress(outcome: runner.Outcome) -> None:
        nonlocal index
        index += 1
        if tap:
            print(report.tap_line(outcome, index), flush=True)

    if tap:
        count = sum(row.number in registry.CHECKS for row in options.chosen)
        print("TAP version 13", f"1..{count * len(options.targets)}", sep="\n", flush=True)
    keep = options.keep.absolute() if options.keep else None
    reports = []
    for target in options.targets:
        done = runner.run(target, options.chosen, keep, progress, options.strict)
        reports.append(done)
        for line in [*done.notes, report.summary(done)]:
            print(f"# {line}", file=sys.stdout if tap else sys.stderr, flush=True)
    return reports


def main(argv: list[str]) -> int:
    """Run the command line; returns the exit status."""
    checks.load()
    options = parse(argv)
    if options.list:
        print(report.listing(options.chosen))
        return 0
    try:
        reports = judge(options)
    except runner.Unusable as reason:
        # The words that TAP has for it.
        print(f"Bail out! {reason}", file=sys.stdout if options.format == "tap" else sys.stderr)
        return 2
    if options.format == "json":
        print(report.as_json(reports))
    elif options.format == "junit":
        print(report.as_junit(reports))
    elif options.format == "markdown":
        print(report.as_markdown(reports))
    outcomes = [o for done in reports for o in done.outcomes]
    strict = options.strict and any(
        o.verdict == runner.FAIL and o.row.level == SHOULD for o in outcomes
    )
    return int(strict or any(o.violation for o in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

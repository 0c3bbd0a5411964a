"""Attack OCI runtimes the way published advisories did.  Needs root and a C compiler.

Each recipe builds a hostile image, configuration, program, neighbour or caller, runs the runtime against it
and looks at a canary directory, mounts, cgroups and the runtime's own file.  Everything happens in namespaces of
its own, and on private copies of what could be overwritten.  Control runtime: conformance/attacks/careless.py loses.
"""

from __future__ import annotations

import argparse
import os
import sys

from conformance import commandline
from conformance.attacks import registry, report, runner
from conformance.runner import Unusable

EPILOG = """
exit status: 0 when no attack succeeds, 1 when one does, 2 for a wrong call and for a runtime that
cannot run anything here.
"""


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    formats = ("tap", "json", "markdown")
    parser = commandline.parser(
        "python -m conformance.attacks", __doc__, EPILOG, formats, "recipes"
    )
    parser.add_argument(
        "--select", metavar="WORDS", help="names, attackers or advisories, with wildcards"
    )
    parser.add_argument("--rounds", type=int, default=300, help="rounds of each race (300)")
    options = commandline.parse(parser, argv, registry.select)
    if not options.list and os.geteuid() != 0:
        parser.error("the attacks need root")
    return options


def main(argv: list[str]) -> int:
    """Run the command line; returns the exit status."""
    registry.load()
    options = parse(argv)
    if options.list:
        print(report.listing(options.chosen))
        return 0
    tap = options.format == "tap"
    index = 0

    def progress(outcome: runner.Outcome) -> None:
        nonlocal index
        index += 1
        if tap:
            print(report.tap_line(outcome, index), flush=True)

    if tap:
        count = len(options.chosen) * len(options.targets)
        print("TAP version 13", f"1..{count}", sep="\n", flush=True)
    reports = []
    try:
        for target in options.targets:
            done = runner.run(target, options.chosen, options.rounds, progress)
            reports.append(done)
            for line in [*done.notes, report.summary(done)]:
                print(f"# {line}", file=sys.stdout if tap else sys.stderr, flush=True)
    except Unusable as reason:
        print(f"Bail out! {reason}", file=sys.stdout if tap else sys.stderr)
        return 2
    if options.format == "json":
        print(report.as_json(reports))
    elif options.format == "markdown":
        print(report.as_markdown(reports))
    return int(any(o.verdict == runner.VULNERABLE for r in reports for o in r.outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

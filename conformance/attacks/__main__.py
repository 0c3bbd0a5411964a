"""Attack OCI runtimes the way published advisories did.  Needs root and a C compiler.

Each recipe builds a hostile image, configuration, program, neighbour or caller, runs the runtime against it
and looks at a canary directory, mounts, cgroups and the runtime's own file.  Everything happens in namespaces of
its own, and on private copies of what could be overwritten.  Control runtime: conformance/attacks/careless.py loses.
"""

from __future__ import annotations

import argparse
import os
import sys

from conformance.attacks import registry, report, runner
from conformance.runner import Target, Unusable

EPILOG = """
exit status: 0 when no attack succeeds, 1 when one does, 2 for a wrong call and for a runtime that
cannot run anything here.
"""


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m conformance.attacks", description=__doc__, epilog=EPILOG
    )
    parser.add_argument(
        "--runtime",
        action="append",
        default=[],
        metavar="PATH|NAME",
        help="a runtime, perhaps with options; may be given several times",
    )
    parser.add_argument(
        "--select", metavar="WORDS", help="names, attackers or advisories, with wildcards"
    )
    parser.add_argument("--rounds", type=int, default=300, help="rounds of each race (300)")
    parser.add_argument("--format", choices=("tap", "json", "markdown"), default="tap")
    parser.add_argument("--list", action="store_true", help="print the recipes and end")
    options = parser.parse_args(argv)
    try:
        options.recipes = registry.select(options.select)
        options.targets = [Target.parse(text) for text in options.runtime]
    except ValueError as error:
        parser.error(str(error))
    if not options.list and not options.targets:
        parser.error("--runtime is needed")
    if not options.list and os.geteuid() != 0:
        parser.error("the attacks need root")
    return options


def main(argv: list[str]) -> int:
    """Run the command line; returns the exit status."""
    registry.load()
    options = parse(argv)
    if options.list:
        print(report.listing(options.recipes))
        return 0
    tap = options.format == "tap"
    index = 0

    def progress(outcome: runner.Outcome) -> None:
        nonlocal index
        index += 1
        if tap:
            print(report.tap_line(outcome, index), flush=True)

    if tap:
        count = len(options.recipes) * len(options.targets)
        print("TAP version 13", f"1..{count}", sep="\n", flush=True)
    reports = []
    try:
        for target in options.targets:
            done = runner.run(target, options.recipes, options.rounds, progress)
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

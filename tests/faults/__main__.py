"""Play every fault of every verb: `python -m tests.faults [--select NAME,…] [--sample N] [--jobs N]`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from conformance.kit import build_testprog, remove_tree
from tests.faults import campaign, injector
from tests.faults.scenarios import Place, scenarios, world
from tests.integration.harness import runtime_path


def one(name: str, sample: int, kinds: str, lenient: bool) -> dict[str, object]:
    """All faults of one scenario, or about ``sample`` of them."""
    program = build_testprog()
    injector.tracer()
    injector.numbers()
    runtime = runtime_path()
    assert runtime, "the runtime is not built"
    path = Path(tempfile.mkdtemp(prefix=f"flt{os.getpid()}x"))
    path.chmod(0o711)
    tally = campaign.Tally()
    before = time.monotonic()
    try:
        with world():
            place = Place(path, runtime, program)
            scenario = scenarios()[name]
            with scenario.open(place) as watch:
                # Once without a fault: mount points in the root, caches.
                outcome = scenario.prepare(place).run(path, [])
                assert outcome.code == 0, f"{name} fails without a fault: {outcome}"
                problems = [
                    line
                    for line in scenario.settle(place, watch, outcome, False)
                    if not line.startswith("file ")  # mount points, made once
                ]
                watch.again()
                points = scenario.prepare(place).record(path)
                scenario.settle(place, watch, outcome, True)
                watch.again()
                chosen = list(campaign.faults(points, kills="k" in kinds, errors="e" in kinds))
                if sample and len(chosen) > sample:
                    chosen = chosen[sample // 2 :: len(chosen) // sample]
                tally.points = len(points)
                tally.problems += problems
                campaign.play(place, scenario, chosen, tally, watch, lenient)
                place.delete()
    finally:
        remove_tree(path)
    return {
        "name": name,
        "points": tally.points,
        "cases": tally.cases,
        "tolerated": tally.tolerated,
        "problems": tally.problems,
        "slowest": round(tally.slowest, 2),
        "seconds": round(time.monotonic() - before),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--select", default="", help="scenarios, with commas between")
    parser.add_argument("--sample", type=int, default=0, help="only so many faults of each")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--kinds", default="ke", help="k: kills, e: errors")
    parser.add_argument(
        "--lenient", action="store_true", help="overlook errors that do not name the errno"
    )
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", help="write all to this file")
    options = parser.parse_args()
    chosen = [name for name in options.select.split(",") if name] or list(scenarios())
    if options.one:
        print(json.dumps(one(chosen[0], options.sample, options.kinds, options.lenient)))
        return 0
    running: list[tuple[str, subprocess.Popen[str]]] = []
    results = []
    waiting = list(chosen)
    total: Counter[str] = Counter()
    failed = 0
    while waiting or running:
        while waiting and len(running) < options.jobs:
            name = waiting.pop(0)
            command = [sys.executable, "-m", "tests.faults", "--one", "--select", name]
            command += ["--sample", str(options.sample), "--kinds", options.kinds]
            command += ["--lenient"] if options.lenient else []
            running.append((name, subprocess.Popen(command, stdout=subprocess.PIPE, text=True)))
        name, process = running.pop(0)
        out, _ = process.communicate()
        if process.returncode != 0:
            failed += 1
            print(f"{name}: the harness failed")
            continue
        result = json.loads(out)
        results.append(result)
        total.update(result["cases"])
        cases = ", ".join(f"{count} {kind}" for kind, count in sorted(result["cases"].items()))
        print(
            f"{name}: {result['points']} points: {cases};"
            f" {len(result['problems'])} problems; slowest {result['slowest']} s; took {result['seconds']} s",
            flush=True,
        )
        for problem in result["problems"]:
            failed += 1
            print(f"  {problem}", flush=True)
    print(f"total: {sum(total.values())} faults: {dict(total)}; {failed} problems")
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

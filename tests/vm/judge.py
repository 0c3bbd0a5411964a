#!/usr/bin/env python3
"""The conformance suite in virtual machines: `make coverage-vm`.

Judges this runtime by default and with --strict as root, and as an ordinary user; with --peers runc and crun as both.
One machine after another, each for one runtime and user; leaves USER-RUNTIME.json in a folder, which
`make coverage` makes columns of docs/spec-coverage.md from.  The exit status is 77 when no machine can be had, 1 when
one of them has no result.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import suite

OURS = ".venv/bin/ociruntime"
KERNEL = {"root": "stable", "user": "backports"}


class Verdicts(NamedTuple):
    """One run: who judges which runtime on which kernel, and the name of what it leaves."""

    user: str
    name: str
    runtime: str
    kernel: str

    @property
    def file(self) -> str:
        return f"{self.user}-{self.name}.json"


def choose(peers: bool, kernel: str | None, only: list[str]) -> list[Verdicts]:
    """The runs in their order, or those of them that `only` names as USER-RUNTIME."""
    runtimes = [
        ("root", "ours", OURS),
        ("root", "strict", f"{OURS} --strict"),
        ("user", "ours", OURS),
    ]
    if peers:
        runtimes += [(user, name, name) for user in KERNEL for name in ("runc", "crun")]
    runs = [Verdicts(*words, kernel or KERNEL[words[0]]) for words in runtimes]
    return [run for run in runs if not only or f"{run.user}-{run.name}" in only]


def judge(run: Verdicts, folder: Path, timeout: float, select: str | None) -> bool:
    """One boot; returns whether it left a report."""
    words = ["--kernel", run.kernel, "--image", suite.SUITE, "--timeout", str(timeout)]
    words += ["--copy", str(suite.REPOSITORY), *suite.environment()]
    words.append("--user" if run.user == "user" else "--rdma")
    words += ["--", ".venv/bin/python", "-m", "conformance", "--format", "json"]
    words += ["--runtime", run.runtime, *(["--select", select] if select else [])]
    begin = time.monotonic()
    done = subprocess.run(
        [str(HERE / "vmrun.py"), *words],
        cwd=suite.REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=False,
    )
    try:
        json.loads(done.stdout)
    except ValueError:
        print(f"{run.file}: exit status {done.returncode} without a report", file=sys.stderr)
        return False
    (folder / run.file).write_bytes(done.stdout)
    print(
        f"{run.file}: after {time.monotonic() - begin:.0f} s on the {run.kernel} kernel", flush=True
    )
    return True


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the reports go")
    parser.add_argument("--peers", action="store_true", help="runc and crun as well")
    parser.add_argument("--kernel", choices=suite.KERNELS, help="the same kernel for all")
    parser.add_argument("--only", action="append", default=[], metavar="USER-RUNTIME")
    parser.add_argument("--select", metavar="ROWS", help="rows by number: 4.29,5.*,10")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for each (3600)")
    options = parser.parse_args()
    try:
        suite.prepare([options.kernel] if options.kernel else list(KERNEL.values()))
    except suite.Unavailable as reason:
        print(f"SKIPPED: no virtual machine: {reason}", flush=True)
        return int(suite.SKIPPED)
    options.folder.mkdir(parents=True, exist_ok=True)
    runs = choose(options.peers, options.kernel, options.only)
    done = [judge(run, options.folder, options.timeout, options.select) for run in runs]
    return int(not all(done))


if __name__ == "__main__":
    sys.exit(main())

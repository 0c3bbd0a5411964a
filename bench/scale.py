"""What a verb costs while many containers are alive: python -m bench scale [--sizes 10,100,1000] [--rounds 9].

The containers are created and wait for `start`, which costs ociruntime 72 KiB each. runc's take 10 MB: it stops at
`--runc-most`. Minima of CPU time in ms: wall time says more about what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import measure
from bench.bundles import BenchBundle

VERBS = {
    "list": ("list",),
    "list --quiet": ("list", "--quiet"),
    "list --format json": ("list", "--format", "json"),
    "state": ("state", "{}"),
    "ps --format json": ("ps", "--format", "json", "{}"),
    "kill": ("kill", "{}", "28"),  # WINCH: ignored
}
ONE_MORE = ("create one more", "delete it")


class Group:
    """The containers of one runtime."""

    def __init__(self, peer: measure.Peer, bundle: BenchBundle, most: int) -> None:
        self.peer = peer
        self.bundle = bundle
        self.most = most
        self.count = 0

    def name(self, number: int) -> str:
        return f"bench-scale-{self.peer.name}-{number}"

    def create(self) -> float:
        """One more container; milliseconds of CPU time."""
        where = ("--bundle", str(self.bundle.path))
        return self.peer.cpu("create", *where, self.name(self.count))

    def grow(self, size: int) -> None:
        """Until there are ``size``."""
        while self.count < size:
            self.create()
            self.count += 1

    def round(self) -> dict[str, float]:
        """Every verb once; milliseconds of CPU time."""
        middle = self.name(self.count // 2)
        found = {
            column: self.peer.cpu(*(word.format(middle) for word in words))
            for column, words in VERBS.items()
        }
        found[ONE_MORE[0]] = self.create()
        found[ONE_MORE[1]] = self.peer.cpu("delete", self.name(self.count))
        return found

    def clear(self) -> None:
        """Delete all, one that was being made as well."""
        for number in range(self.count + 1):
            self.peer.quiet("delete", "--force", self.name(number))
        self.count = 0


def collect(groups: list[Group], sizes: list[int], rounds: int) -> dict[int, dict[str, Any]]:
    """size → runtime → column → the minimum in ms."""
    table: dict[int, dict[str, Any]] = {}
    for size in sizes:
        there = [group for group in groups if size <= group.most]
        for group in there:
            group.grow(size)
        runs: dict[str, list[dict[str, float]]] = {group.peer.name: [] for group in there}
        for number in range(rounds):
            turn = number % len(there)
            for group in there[turn:] + there[:turn]:
                runs[group.peer.name].append(group.round())
        table[size] = {
            name: {column: min(one[column] for one in found) for column in found[0]}
            for name, found in runs.items()
        }
    return table


def report(table: dict[int, dict[str, Any]], rounds: int) -> str:
    """A Markdown table for each runtime."""
    out = []
    sizes = list(table)
    for name in table[sizes[0]]:
        there = [size for size in sizes if name in table[size]]
        out.append(
            f"\n### {name}: minimum of CPU time in ms of {rounds} rounds with so many containers alive\n"
        )
        out.append("| | " + " | ".join(map(str, there)) + " | last to first |")
        out.append("|---" * (len(there) + 2) + "|")
        for column in table[sizes[0]][name]:
            times = [table[size][name][column] for size in there]
            cells = [f"{milliseconds:.2f}" for milliseconds in times]
            out.append(f"| {column} | " + " | ".join(cells) + f" | {times[-1] / times[0]:.2f} |")
            if column.startswith("list"):
                each = [f"{t / size:.3f}" for t, size in zip(times, there, strict=True)]
                ratio = times[-1] / there[-1] / (times[0] / there[0])
                out.append(f"| … per container | {' | '.join(each)} | {ratio:.2f} |")
    return "\n".join(out)


def main(argv: list[str], runtime: str) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench scale", description=__doc__)
    parser.add_argument("--sizes", default="10,100,1000")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--runc-most", type=int, default=100)
    parser.add_argument("--cpu", type=int, help="pin everything to this processor")
    parser.add_argument("--runtime", default=runtime)
    parser.add_argument("--peers", default="runc,crun", help="comma-separated names on PATH")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    options = parser.parse_args(argv)
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    sizes = sorted(int(size) for size in options.sizes.split(","))
    scratch = Path(tempfile.mkdtemp(prefix="ociruntime-scale-"))
    groups: list[Group] = []
    try:
        bundle = BenchBundle("default", scratch)
        bundle.write("/bin/true")
        for name in ("ociruntime", *options.peers.split(",")):
            path = options.runtime if name == "ociruntime" else shutil.which(name)
            if path:
                most = options.runc_most if name == "runc" else sizes[-1]
                peer = measure.Peer(name, path, scratch / f"root-{name}")
                groups.append(Group(peer, bundle, most))
            elif name:
                print(f"bench: {name} is not installed, left out", file=sys.stderr)
        table = collect(groups, sizes, options.rounds)
        print(report(table, options.rounds))
        if options.json:
            options.json.write_text(json.dumps(table, indent=1))
    finally:
        for group in groups:
            group.clear()
        shutil.rmtree(scratch, ignore_errors=True)
    return 0

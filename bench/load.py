"""Many containers at once under an engine: python -m bench load [--engines podman,ctr] [--containers 200].

Each engine runs twice, in private worlds: with ociruntime and with runc, the control. Both start, ask (an exec that
fails unless the container is the right one) and remove as many containers, in turns of a fifth, so that all are alive
in the end; then whatever is left is listed: processes, mounts, cgroups, state, shared memory, descriptors of daemons.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.engines.crowd import Crowd
from tests.engines.drivers import DRIVERS, OURS

TURNS = 5
PHASES = ("start", "ask", "remove")


def crowds(kind: str, paths: dict[str, Path], callers: int) -> list[Crowd]:
    """The engine with each runtime. Raises RuntimeError where it does not start."""
    made: list[Crowd] = []
    try:
        for name, path in paths.items():
            engine = DRIVERS[kind](f"load{os.getpid()}{kind}{name}", name, path)
            made.append(Crowd(engine, callers))
    except BaseException:
        for crowd in made:
            crowd.engine.close()
        raise
    return made


def in_turns(pair: list[Crowd], phase: str, count: int) -> dict[str, float]:
    """Seconds that each runtime took for one phase of all containers."""
    seconds = dict.fromkeys([crowd.engine.runtime for crowd in pair], 0.0)
    for turn in range(TURNS):
        numbers = range(turn * count // TURNS, (turn + 1) * count // TURNS)
        for crowd in pair if turn % 2 else pair[::-1]:
            action: Callable[[range], float] = getattr(crowd, phase)
            seconds[crowd.engine.runtime] += action(numbers)
    return seconds


def measure(kind: str, paths: dict[str, Path], count: int, callers: int) -> dict[str, Any]:
    """Seconds by phase and runtime, and what is left by runtime."""
    pair = crowds(kind, paths, callers)
    try:
        descriptors = {crowd.engine.runtime: -crowd.descriptors() for crowd in pair}
        found: dict[str, Any] = {"version": pair[0].engine.version()}
        found["seconds"] = {phase: in_turns(pair, phase, count) for phase in PHASES}
        found["left"] = {crowd.engine.runtime: crowd.leaks() for crowd in pair}
        for crowd in pair:
            descriptors[crowd.engine.runtime] += crowd.descriptors()
        found["descriptors more"] = descriptors
        return found
    finally:
        for crowd in pair:
            crowd.engine.close()


def report(kind: str, found: dict[str, Any], count: int, callers: int) -> str:
    """A Markdown table: containers a second."""
    seconds = found["seconds"]
    names = list(seconds[PHASES[0]])
    out = [
        f"\n### {count} containers under {kind} ({found['version']}), {callers} at once:"
        " containers a second\n"
    ]
    out.append("| | " + " | ".join(names) + " | ociruntime to runc |")
    out.append("|---" * (len(names) + 2) + "|")
    seconds["all"] = {name: sum(seconds[phase][name] for phase in PHASES) for name in names}
    for phase, times in seconds.items():
        cells = [f"{count / times[name]:.1f}" for name in names]
        ratio = times["runc"] / times[OURS] if "runc" in times else 0.0
        out.append(f"| {phase} | " + " | ".join(cells) + f" | {ratio:.2f} |")
    for name in names:
        left = found["left"][name] or ["nothing"]
        more = found["descriptors more"][name]
        out.append(f"\nLeft by {name}: {', '.join(left)}; descriptors of daemons: {more:+d}")
    return "\n".join(out)


def main(argv: list[str], runtime: str) -> int:
    """Measure, print, write; 1 when ociruntime left something."""
    parser = argparse.ArgumentParser(prog="python -m bench load", description=__doc__)
    parser.add_argument("--engines", default="podman,ctr", help=f"of {', '.join(DRIVERS)}")
    parser.add_argument("--containers", type=int, default=200)
    parser.add_argument("--callers", type=int, default=8, help="commands at the same time")
    parser.add_argument("--runtime", default=runtime)
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    options = parser.parse_args(argv)
    if os.geteuid() != 0:
        raise SystemExit("bench: needs root")
    paths = {OURS: Path(options.runtime).absolute()}
    if found := shutil.which("runc"):
        paths["runc"] = Path(found)
    figures: dict[str, Any] = {}
    for kind in options.engines.split(","):
        if shutil.which(DRIVERS[kind].command[0]) is None:
            print(f"bench: {kind} is not installed, left out", file=sys.stderr)
            continue
        figures[kind] = measure(kind, paths, options.containers, options.callers)
        print(report(kind, figures[kind], options.containers, options.callers), flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return 1 if any(figure["left"][OURS] for figure in figures.values()) else 0

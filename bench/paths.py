"""What engines ask most often, with the very command lines that they use, beside the peers.

A container of the Docker-like bundle runs `sleep`. Engines are subreapers, so is the benchmark.
"""

from __future__ import annotations

import ctypes
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path

from bench import measure
from bench.bundles import BenchBundle

_PR_SET_CHILD_SUBREAPER = 36

# The column → who asks. The order is that of one round.
ASKED = {
    "--version": "dockerd, podman info",
    "features": "dockerd, containerd 2",
    "state": "buildah, ten times a second",
    "kill, a signal": "stop, kill",
    "exec --process": "probes, health checks, exec",
    "ps --format json": "docker top, containerd's restart",
    "update --resources -": "resource updates",
    "update of nothing": "dockerd, update --restart",
    "pause": "pause, commit",
    "resume": "unpause",
    "kill --all, init is dead": "every stop under containerd",
    "delete": "",
    "delete --force after delete": "every exit under containerd",
}
NEAR_CRUN = ("state", "kill, a signal", "exec --process", "ps --format json")

# The bars: the highest ratio of the minima to (crun, runc).
TARGETS: dict[str, tuple[float | None, float]] = {
    column: (1.35 if column in NEAR_CRUN else None, 1.0) for column in ASKED
}

Table = dict[
    str, dict[str, list[float]]
]  # runtime → column → milliseconds; nothing for what it lacks


def reap() -> None:
    """Collect what detached processes leave behind."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


class Asked:
    """One round for one runtime."""

    def __init__(self, peer: measure.Peer, bundle: BenchBundle, scratch: Path) -> None:
        self.peer = peer
        self.bundle = bundle
        self.ident = f"bench-asked-{peer.name}"
        self.log = scratch / f"log-{peer.name}.json"
        self.process = scratch / "process.json"
        self.process.write_text(json.dumps({**bundle.base["process"], "args": ["/bin/true"]}))
        self.pid_file = scratch / f"pid-{peer.name}"
        self.limits = scratch / "limits.json"
        self.limits.write_text(json.dumps({"cpu": {"shares": 512}, "memory": {"limit": 128 << 20}}))
        self.nothing = scratch / "nothing.json"
        self.nothing.write_text("{}")

    def timed(self, *args: str, stdin: Path = Path("/dev/null")) -> float:
        """Milliseconds of one verb with the options that a shim gives."""
        options = ("--log", str(self.log), "--log-format", "json")
        try:
            return self.peer.timed(*options, *args, stdin=stdin)
        finally:
            reap()

    def round(self) -> dict[str, float]:
        """Milliseconds by column; raises CommandFailed. A peer without `features` has no such column."""
        ident = self.ident
        found: dict[str, float] = {}
        self.bundle.write("/bin/sleep", "1000")
        try:
            self.timed("create", "--bundle", str(self.bundle.path), ident)
            pid = self.peer.pid(ident)
            self.timed("start", ident)
            found["--version"] = self.peer.timed("--version")
            try:
                found["features"] = self.peer.timed("features")
            except measure.CommandFailed:
                pass
            found["state"] = self.peer.timed("state", ident)
            found["kill, a signal"] = self.timed("kill", ident, "28")  # WINCH: ignored
            detached = ("--detach", "--pid-file", str(self.pid_file))
            found["exec --process"] = self.timed(
                "exec", "--process", str(self.process), *detached, ident
            )
            found["ps --format json"] = self.timed("ps", "--format", "json", ident)
            update = ("update", "--resources", "-", ident)
            found["update --resources -"] = self.timed(*update, stdin=self.limits)
            found["update of nothing"] = self.timed(*update, stdin=self.nothing)
            found["pause"] = self.timed("pause", ident)
            found["resume"] = self.timed("resume", ident)
            self.timed("kill", ident, "9")
            measure.wait_gone(pid)
            reap()
            found["kill --all, init is dead"] = self.timed("kill", "--all", ident, "9")
            found["delete"] = self.timed("delete", ident)
            found["delete --force after delete"] = self.timed("delete", "--force", ident)
        finally:
            self.peer.quiet("delete", "--force", ident)
            reap()
        return found


def collect(peers: list[measure.Peer], bundle: BenchBundle, scratch: Path, rounds: int) -> Table:
    """All timed rounds; the order of the peers turns from round to round."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    table: Table = {peer.name: {column: [] for column in ASKED} for peer in peers}
    asked = [Asked(peer, bundle, scratch) for peer in peers]
    for number in range(rounds + 1):
        turn = number % len(asked)
        for one in asked[turn:] + asked[:turn]:
            result = one.round()
            if number:  # the first warms the caches
                for column, milliseconds in result.items():
                    table[one.peer.name][column].append(milliseconds)
    return table


def report(
    table: Table,
    rounds: int,
    judge: Callable[[tuple[float | None, float | None], tuple[float | None, float | None]], str],
) -> str:
    """A Markdown table: minimum / median in ms, and the ratios of the minima."""
    names = list(table)
    out = [f"\n### what engines ask, bundle docker: {rounds} rounds, minimum / median in ms\n"]
    out.append("| | " + " | ".join(names) + " | to crun | to runc | target | asked by |")
    out.append("|---" * (len(names) + 5) + "|")
    for column, who in ASKED.items():
        times = {name: table[name][column] for name in names}
        cells = [
            f"{min(times[name]):.2f} / {statistics.median(times[name]):.2f}" if times[name] else "–"
            for name in names
        ]
        ours = min(times["ociruntime"])
        to_crun, to_runc = (
            ours / min(times[peer]) if times.get(peer) else None for peer in ("crun", "runc")
        )
        texts = ["–" if ratio is None else f"{ratio:.2f}" for ratio in (to_crun, to_runc)]
        judged = judge(TARGETS[column], (to_crun, to_runc))
        out.append(f"| {column} | " + " | ".join([*cells, *texts, judged, who]) + " |")
    return "\n".join(out)

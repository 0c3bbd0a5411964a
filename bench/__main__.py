"""Compare ociruntime with runc and crun: python -m bench [--only asked] [--rounds 30] [--cpu 1] [--json F] [--svg F].

Whole commands, interleaved in one run (the order turns from round to round), minima and medians. Absolute times move
with the machine; quote the ratios. `python -m bench load` and `python -m bench scale` are about many containers.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import load, measure, paths, scale, svg
from bench.bundles import BenchBundle

REPOSITORY = Path(__file__).resolve().parent.parent
RUNTIME = str(REPOSITORY / ".venv" / "bin" / "ociruntime")
COLUMNS = (*measure.STEPS, "create+start+delete")
UNIFIED = "/sys/fs/cgroup/unified"
PARTS = ("verbs", "asked", "extras")

# The first bar: (bundle, column) → highest ratio to (crun, runc) of the minima; None where there is none.
TARGETS: dict[tuple[str, str], tuple[float | None, float | None]] = {
    ("default", "state"): (1.2, 0.85),
    ("default", "start"): (1.2, 0.85),
    ("default", "kill"): (1.2, 0.85),
    ("default", "delete"): (1.2, 0.85),
    ("default", "exec"): (None, 0.6),
    ("default", "run"): (1.7, 0.6),
    ("default", "create+start+delete"): (1.5, 0.6),
    ("docker", "run"): (None, 0.4),
    ("docker", "create+start+delete"): (0.75, 0.45),
}

Table = dict[str, dict[str, dict[str, list[float]]]]  # bundle → runtime → column → milliseconds


def private_mounts(argv: list[str]) -> None:
    """On a hybrid host crun works only where it sees no cgroup2: run in a mount namespace without it."""
    if os.path.ismount(UNIFIED) and "OCIRUNTIME_BENCH_INNER" not in os.environ:
        os.environ["OCIRUNTIME_BENCH_INNER"] = "1"
        inner = [sys.executable, "-m", "bench", *argv]
        script = f'umount {UNIFIED} && exec "$@"'
        os.execvp(
            "unshare",
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *inner],
        )


def collect(peers: list[measure.Peer], bundles: list[BenchBundle], rounds: int) -> Table:
    """All timed rounds."""
    table: Table = {b.name: {p.name: {c: [] for c in COLUMNS} for p in peers} for b in bundles}
    for number in range(rounds + 1):
        for bundle in bundles:
            turn = number % len(peers)
            for peer in peers[turn:] + peers[:turn]:
                result = measure.one_round(peer, bundle, peer.timed)
                if number == 0:  # warms the page cache and the seccomp cache
                    continue
                row = table[bundle.name][peer.name]
                for step, milliseconds in result.items():
                    row[step].append(milliseconds)
                row["create+start+delete"].append(
                    sum(result[step] for step in ("create", "start", "delete"))
                )
    return table


def verdict(
    limits: tuple[float | None, float | None], ratios: tuple[float | None, float | None]
) -> str:
    """``ok``, ``missed``, or nothing where there is no bar or no peer."""
    pairs = [(ratio, limit) for ratio, limit in zip(ratios, limits, strict=True) if limit and ratio]
    if not pairs:
        return ""
    return "ok" if all(ratio <= limit for ratio, limit in pairs) else "missed"


def report(table: Table, names: list[str], rounds: int) -> str:
    """Markdown tables: minimum / median in ms, and the ratios of the minima."""
    out = []
    for bundle, rows in table.items():
        out.append(f"\n### bundle {bundle}: {rounds} rounds, minimum / median in ms\n")
        out.append("| | " + " | ".join(names) + " | to crun | to runc | target |")
        out.append("|---" * (len(names) + 4) + "|")
        for column in COLUMNS:
            cells = [
                f"{min(rows[name][column]):.2f} / {statistics.median(rows[name][column]):.2f}"
                for name in names
            ]
            ours = min(rows["ociruntime"][column])
            ratios = {
                peer: ours / min(rows[peer][column]) if peer in rows else None
                for peer in ("crun", "runc")
            }
            texts = ["–" if ratio is None else f"{ratio:.2f}" for ratio in ratios.values()]
            limits = TARGETS.get((bundle, column), (None, None))
            judged = verdict(limits, (ratios["crun"], ratios["runc"]))
            out.append(f"| {column} | " + " | ".join([*cells, *texts, judged]) + " |")
    return "\n".join(out)


def extras(peers: list[measure.Peer], bundle: BenchBundle) -> tuple[str, Any]:
    """Memory and system calls."""
    rows: dict[str, dict[str, int]] = {}
    for peer in peers:
        rows[peer.name] = {
            "init waiting for start, RSS KiB": measure.init_rss_kib(peer, bundle),
            "smallest memory limit for true, KiB": measure.smallest_memory_kib(peer, bundle),
        }
        if shutil.which("strace"):
            rows[peer.name]["system calls of run"] = measure.syscalls_of_run(peer, bundle)
        peaks = measure.one_round(peer, bundle, peer.peak_kib)
        for step in measure.STEPS:
            rows[peer.name][f"peak RSS of {step}, KiB"] = int(peaks[step])
    names = list(rows)
    out = ["\n### memory and system calls, bundle default\n", "| | " + " | ".join(names) + " |"]
    out.append("|---" * (len(names) + 1) + "|")
    for key in rows[names[0]]:
        out.append(f"| {key} | " + " | ".join(str(rows[name][key]) for name in names) + " |")
    return "\n".join(out), rows


def plot(rows: dict[str, dict[str, list[float]]]) -> str:
    """The minima of one bundle as an SVG."""
    series = {name: [min(times[column]) for column in COLUMNS] for name, times in rows.items()}
    return svg.chart("default bundle: minimum of whole commands, ms", COLUMNS, series)


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="counted rounds (default 30)")
    parser.add_argument("--cpu", type=int, help="pin everything to this processor")
    parser.add_argument("--runtime", default=RUNTIME)
    parser.add_argument("--peers", default="runc,crun", help="comma-separated names on PATH")
    parser.add_argument(
        "--systemd",
        action="store_const",
        const=["--systemd-cgroup"],
        default=[],
        dest="driver",
        help="with the systemd driver: systemd must be pid 1",
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="one table; repeatable")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--svg", type=Path, help="write a plot of the default bundle to this file")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Measure, print, write."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # containers are removed then as well
    if argv[:1] == ["load"]:
        return load.main(argv[1:], RUNTIME)
    if os.geteuid() != 0:
        raise SystemExit("bench: needs root")
    private_mounts(argv)
    if argv[:1] == ["scale"]:
        return scale.main(argv[1:], RUNTIME)
    options = parse(argv)
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    scratch = Path(tempfile.mkdtemp(prefix="ociruntime-bench-"))
    try:
        commands = {"ociruntime": options.runtime}
        for name in options.peers.split(","):
            found = shutil.which(name) if name else None
            if found:
                commands[name] = found
            elif name:
                print(f"bench: {name} is not installed, left out", file=sys.stderr)
        peers = [
            measure.Peer(name, path, scratch / f"root-{name}", options.driver)
            for name, path in commands.items()
        ]
        bundles = [BenchBundle(name, scratch) for name in ("default", "docker")]
        parts = options.only or PARTS
        for peer in peers:
            first = subprocess.check_output([peer.path, "--version"], text=True).splitlines()
            print(f"{peer.name}: {', '.join(first[:4])}", flush=True)
        figures: dict[str, Any] = {}
        if "verbs" in parts:
            table = figures["times_ms"] = collect(peers, bundles, options.rounds)
            print(report(table, list(commands), options.rounds), flush=True)
            if options.svg:
                options.svg.write_text(plot(table["default"]))
        if "asked" in parts:
            asked = paths.collect(peers, bundles[1], scratch, options.rounds)
            figures["asked_ms"] = asked
            print(paths.report(asked, options.rounds, verdict), flush=True)
        if "extras" in parts:
            text, figures["extras"] = extras(peers, bundles[0])
            print(text)
        if options.json:
            options.json.write_text(json.dumps(figures, indent=1))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""python -m tests.soak [--cycles 10000] [--alive 1000] [--callers 2] [--every 500] [--runtime PATH]

Containers come and go (create, start, exec, kill, delete; plain ones, ones with limits and seccomp, ones with a user
namespace), then many are alive at once.  Counted before and after: descriptors, mounts, cgroups, files below the state
root, /tmp and /run, which all have to be as before; and the kernel's caches, dying cgroups, keys and memory, which
must not grow with the cycles.  The exit status is 1 when something grew.  Ctrl-C ends it, with everything gone.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from conformance.kit import Runtime, become_subreaper, build_testprog, find_runtime
from tests.integration import hostlib
from tests.soak import figures
from tests.soak.lives import Soak

REPOSITORY = Path(__file__).resolve().parent.parent.parent
WARM_UP = 12  # cycles until what is made once is there
ENOUGH = 5000  # cycles from which on a leak would stand out from what else the machine does
PLACES = (Path("/tmp"), Path("/run"))


def cover(directory: Path) -> None:
    """An empty file system over a directory, in which nobody else's files are; this repository stays where it is."""
    staging = Path("/mnt")
    subprocess.run(["mount", "-n", "-t", "tmpfs", "-o", "mode=1777", "soak", staging], check=True)
    if directory in REPOSITORY.parents:
        again = staging / REPOSITORY.relative_to(directory)
        again.mkdir(parents=True)
        subprocess.run(["mount", "-n", "--bind", REPOSITORY, again], check=True)
    subprocess.run(["mount", "-n", "--move", staging, directory], check=True)


class Report:
    """The figures of one run."""

    def __init__(self, soak: Soak, places: dict[str, Path], judge_kernel: bool) -> None:
        self.soak, self.places, self.judge_kernel = soak, places, judge_kernel
        self.start = time.monotonic()
        if judge_kernel:
            figures.drop_caches()
        self.exact = self.now()
        self.kernel = figures.kernel()
        self.line("begin")

    def now(self) -> figures.Figures:
        return figures.exact(self.soak.runtime.root.name, self.places)

    def line(self, what: str) -> None:
        """Print where things stand."""
        exact = ", ".join(f"{name} {number}" for name, number in self.now().items())
        seconds = time.monotonic() - self.start
        print(f"{seconds:7.0f} s  {what}: {exact}; {figures.of_interest(figures.kernel())}")
        sys.stdout.flush()

    def verdict(self, settle: float) -> list[str]:
        """What grew, after at most `settle` seconds for what goes in its own time: namespaces, cgroups."""
        end = time.monotonic() + settle
        kernel = figures.kernel()
        while True:
            found = figures.changed(self.exact, self.now())
            if self.judge_kernel:
                figures.drop_caches()
                # What other processes have at one time they have not at the next.
                kernel = figures.lowest(kernel, figures.kernel())
                found += figures.grown(self.kernel, kernel, self.soak.done)
            if not found or time.monotonic() > end:
                return found
            time.sleep(20 if self.judge_kernel else 2)  # without its caches the machine is slow


def soak_through(soak: Soak, options: argparse.Namespace, places: dict[str, Path]) -> list[str]:
    """All of it; what went wrong or grew."""
    soak.cycles(WARM_UP, options.callers)
    soak.done = 0
    report = Report(soak, places, options.cycles >= ENOUGH)
    while soak.done < options.cycles and not soak.stop.is_set():
        soak.cycles(min(options.every, options.cycles - soak.done), options.callers)
        report.line(f"{soak.done} cycles")
    if options.alive and not soak.stop.is_set():
        there = soak.crowd(options.alive, options.callers)
        report.line(f"{len(there)} alive")
        if not soak.problems:
            soak.ask(there)
            soak.disperse(there, options.callers)
        report.line("dispersed")
    if soak.problems:
        return soak.problems
    found = report.verdict(options.settle)
    report.line("end")
    return found


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--cycles", type=int, default=10_000)
    parser.add_argument("--alive", type=int, default=1_000, help="containers at once, at the end")
    parser.add_argument("--callers", type=int, default=2, help="verbs at the same time")
    parser.add_argument("--every", type=int, default=500, help="cycles from report to report")
    parser.add_argument("--settle", type=float, default=60.0, help="seconds to wait in the end")
    parser.add_argument("--runtime", default=str(REPOSITORY / ".venv/bin/ociruntime"))
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run, print, judge."""
    options = parse(argv)
    if os.geteuid() != 0:
        raise SystemExit("soak: needs root")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.nice(5)
    runtime_path = find_runtime(options.runtime)
    with hostlib.private_mount_namespace():
        become_subreaper()
        for directory in PLACES:
            cover(directory)
        tempfile.tempdir = "/tmp"
        place = Path(tempfile.mkdtemp(prefix=f"soak{os.getpid()}x"))
        place.chmod(0o711)
        program = build_testprog(place)
        runtime = Runtime(runtime_path, place / f"{place.name}-root")
        soak = Soak(runtime, place, program)
        try:
            found = soak_through(soak, options, {str(place): place for place in PLACES})
        except KeyboardInterrupt:
            found = ["interrupted"]
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            soak.clear()
            left = [f"cgroup {path}" for path in hostlib.cgroups(runtime.root.name)]
            left += [f"process {text}" for text in hostlib.children().values()]
            become_subreaper(False)
    print(f"{soak.done} cycles, {options.alive} alive: " + ("nothing grew" if not found else ""))
    for line in found:
        print(f"  {line}")
    for line in left:
        print(f"  left behind: {line}")
    return 1 if found or left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Running whole commands: wall time, peak memory, system calls."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.bundles import BenchBundle

STEPS = ("create", "state", "start", "exec", "kill", "delete", "run")


class CommandFailed(Exception):
    """A timed command ended with a status that it should not have."""


class Peer:
    """A runtime under measurement with a state directory of its own; `options` come before each verb."""

    def __init__(self, name: str, path: str, root: Path, options: Sequence[str] = ()) -> None:
        self.name = name
        self.path = path
        self.root = root
        self.options = options

    def argv(self, *args: str) -> list[str]:
        """The full command line."""
        return [self.path, "--root", str(self.root), *self.options, *args]

    def timed(self, *args: str, stdin: Path = Path("/dev/null")) -> float:
        """Run one verb to its end, output to /dev/null; milliseconds; raises CommandFailed."""
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, str(stdin), os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
        ]
        argv = self.argv(*args)
        begin = time.perf_counter()
        pid = os.posix_spawn(self.path, argv, os.environ, file_actions=actions)
        _, status = os.waitpid(pid, 0)
        elapsed = (time.perf_counter() - begin) * 1000
        if status != 0:
            raise CommandFailed(f"{' '.join(argv)}: status {os.waitstatus_to_exitcode(status)}")
        return elapsed

    def cpu(self, *args: str) -> float:
        """CPU time of one verb, user and system, in ms; other load of the machine hardly moves it."""
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(self.argv(*args), stdin=quiet, stdout=quiet, stderr=quiet)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise CommandFailed(f"{' '.join(self.argv(*args))}: status {process.returncode}")
        return (usage.ru_utime + usage.ru_stime) * 1000

    def peak_kib(self, *args: str) -> float:
        """Peak resident memory of one verb, its largest process, in KiB.

        Measured from a small process: a child's ru_maxrss begins with what its parent had.
        """
        with tempfile.NamedTemporaryFile("r") as out:
            argv = ["/usr/bin/time", "-f", "%M", "-o", out.name, *self.argv(*args)]
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            if done.returncode != 0:
                raise CommandFailed(f"{' '.join(argv)}: status {done.returncode}")
            return float(out.read())

    def quiet(self, *args: str, stderr: int = subprocess.DEVNULL) -> int:
        """Run one verb, not timed; returns the exit status."""
        return subprocess.run(
            self.argv(*args), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr
        ).returncode

    def pid(self, container: str) -> int:
        """The container's init pid as ``state`` reports it."""
        import json

        return int(json.loads(subprocess.check_output(self.argv("state", container)))["pid"])


def wait_gone(pid: int) -> None:
    """Until the process is dead (a zombie counts as dead: pid 1 may reap late)."""
    for _ in range(1000):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return
        if stat.rsplit(")", 1)[1].split()[0] in "ZX":
            return
        time.sleep(0.005)


def one_round(peer: Peer, bundle: BenchBundle, measured: Callable[..., float]) -> dict[str, float]:
    """Every verb once through ``measured`` (peer.timed or peer.peak_kib): a container that sleeps through
    create … delete, and one that runs true."""
    ident = f"bench-{peer.name}-{bundle.name}"
    result: dict[str, float] = {}
    bundle.write("/bin/sleep", "1000")
    where = ("--bundle", str(bundle.path))
    try:
        result["create"] = measured("create", *where, ident)
        pid = peer.pid(ident)
        result["state"] = measured("state", ident)
        result["start"] = measured("start", ident)
        result["exec"] = measured("exec", ident, "/bin/true")
        result["kill"] = measured("kill", ident, "KILL")
        wait_gone(pid)
        result["delete"] = measured("delete", ident)
        bundle.write("/bin/true")
        result["run"] = measured("run", *where, ident)
    finally:
        peer.quiet("delete", "--force", ident)
    return result


def init_rss_kib(peer: Peer, bundle: BenchBundle) -> int:
    """Resident memory of the process that waits for ``start`` (VmRSS)."""
    ident = f"bench-rss-{peer.name}"
    bundle.write("/bin/true")
    try:
        if peer.quiet("create", "--bundle", str(bundle.path), ident) != 0:
            raise CommandFailed(f"{peer.name} create")
        status = Path(f"/proc/{peer.pid(ident)}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(match.group(1)) if match else 0
    finally:
        peer.quiet("delete", "--force", ident)


def syscalls_of_run(peer: Peer, bundle: BenchBundle) -> int:
    """System calls of ``run`` with everything it starts, by strace -fc."""
    bundle.write("/bin/true")
    with tempfile.NamedTemporaryFile("r") as out:
        command: Sequence[str] = ["strace", "-fc", "-o", out.name]
        subprocess.run(
            [*command, *peer.argv("run", "--bundle", str(bundle.path), f"bench-st-{peer.name}")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        last = Path(out.name).read_text().strip().splitlines()[-1].split()
    return int(last[3])


def smallest_memory_kib(peer: Peer, bundle: BenchBundle) -> int:
    """The smallest memory limit, in KiB to the next 64, with which ``run`` of true succeeds."""
    low, high = 0, 16384
    while high - low > 64:
        middle = (low + high) // 2 // 4 * 4
        bundle.write("/bin/true", memory_limit=middle * 1024)
        ident = f"bench-mem-{peer.name}"
        try:
            ok = all(peer.quiet("run", "--bundle", str(bundle.path), ident) == 0 for _ in range(2))
        finally:
            peer.quiet("delete", "--force", ident)
        if ok:
            high = middle
        else:
            low = middle
    return high

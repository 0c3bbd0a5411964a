"""The host as the integration tests need it: a private mount namespace, cgroup v1 for crun, and
what a test may have left behind.  Calls the kernel through ctypes, as Python 3.11 lacks unshare.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from conformance.kit import child_pids

CGROUP_ROOT = Path("/sys/fs/cgroup")
UNIFIED = CGROUP_ROOT / "unified"
CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


@contextlib.contextmanager
def private_mount_namespace() -> Iterator[None]:
    """Meanwhile this process (of one thread) has mounts that nobody else sees."""
    before = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    cwd = os.getcwd()
    try:
        _check(_libc.unshare(CLONE_NEWNS), "unshare")
        _check(_libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mount --make-rprivate /")
        yield
    finally:
        # setns refuses a process of several threads: end pytest's watchdog, wait for the others.
        faulthandler.cancel_dump_traceback_later()
        for _ in range(200):
            if len(os.listdir("/proc/self/task")) == 1:
                break
            time.sleep(0.1)
        _check(_libc.setns(before, CLONE_NEWNS), "setns")
        os.close(before)
        os.chdir(cwd)


class Busy(Exception):
    """A controller cannot be moved: other cgroups use it."""


class AllControllersOnV1:
    """Every controller on a v1 hierarchy while it lasts.

    crun refuses a hybrid machine as long as the cgroup2 hierarchy has a controller.  Call it in a
    private mount namespace only: it mounts a /sys/fs/cgroup of its own.
    """

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.enabled: list[str] = []
        if not UNIFIED.exists():
            return
        present = [p.name for p in CGROUP_ROOT.iterdir() if p.is_mount()]
        controllers = [n for n in present if n not in ("unified", "systemd")]
        self.taken = (UNIFIED / "cgroup.controllers").read_text().split()
        self.enabled = (UNIFIED / "cgroup.subtree_control").read_text().split()
        for name in set(self.taken) & set(self.enabled):
            (UNIFIED / "cgroup.subtree_control").write_text(f"-{name}")
        subprocess.run(["umount", "-R", CGROUP_ROOT], check=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "mode=755", "cgroup", CGROUP_ROOT], check=True
        )
        for name in [*controllers, *self.taken]:
            (CGROUP_ROOT / name).mkdir()
            _mount_v1(name, CGROUP_ROOT / name)
        (CGROUP_ROOT / "systemd").mkdir()
        _mount_v1("none,name=systemd", CGROUP_ROOT / "systemd")
        UNIFIED.mkdir()
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", UNIFIED], check=True)

    def give_back(self) -> None:
        """Return the controllers to cgroup2.

        The kernel frees a v1 hierarchy only at an umount that finds no child cgroup, and
        children are freed late: retry.
        """
        for name in self.taken:
            path = CGROUP_ROOT / name
            for _ in range(15):
                remove_cgroups(path, "")
                subprocess.run(["umount", path], check=False)
                if _freed(name):
                    break
                _mount_v1(name, path)
            if name in self.enabled and _hierarchy(name) == 0:
                (UNIFIED / "cgroup.subtree_control").write_text(f"+{name}")


def _mount_v1(controller: str, path: Path) -> None:
    """Mount a v1 hierarchy; it is busy until the last cgroup of the other kind is really gone."""
    command = ["mount", "-t", "cgroup", "-o", controller, "cgroup", str(path)]
    for _ in range(100):
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.2)
    raise Busy(f"{controller} is in use on another hierarchy")


def _freed(controller: str) -> bool:
    """Whether the kernel gives the controller back within a second."""
    for _ in range(20):
        if _hierarchy(controller) == 0:
            return True
        time.sleep(0.05)
    return False


def _hierarchy(controller: str) -> int:
    for line in Path("/proc/cgroups").read_text().splitlines():
        if line.startswith(controller + "\t"):
            return int(line.split()[1])
    return 0


def cgroups(word: str) -> list[Path]:
    """Every cgroup directory whose path contains `word`, deepest first.

    A parent that is called exactly so was asked for by cgroupsPath: it is the caller's.
    """
    found = []
    for top, _, _ in os.walk(CGROUP_ROOT):
        if word in top[len(str(CGROUP_ROOT)) :] and not top.endswith(f"/{word}"):
            found.append(Path(top))
    return sorted(found, key=lambda p: len(p.parts), reverse=True)


def remove_cgroups(top: Path, word: str) -> None:
    """Remove the empty cgroups below `top` whose path contains `word`."""
    for directory, _, _ in os.walk(top, topdown=False):
        if directory != str(top) and word in directory:
            try:
                os.rmdir(directory)
            except OSError:
                pass


def mounts() -> list[str]:
    """The lines of this process's mountinfo."""
    return Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()


def children() -> dict[int, str]:
    """Children of this process that still run or wait to be reaped: pid -> what it is."""
    found = {}
    for pid in child_pids():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
        found[pid] = f"{stat.split()[1]} {stat.rpartition(')')[2].split()[0]} {command!r}"
    return found


def reap(before: dict[int, str]) -> None:
    """Collect the zombies among the children that were not there `before`."""
    for pid, text in children().items():
        if pid not in before and " Z " in text:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass

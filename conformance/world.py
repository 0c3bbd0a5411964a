"""A private corner of the host for the checks, and how it is swept clean afterwards.

The kernel is called through ctypes: Python 3.11 has no unshare.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
from pathlib import Path

from conformance.kit import alive, become_subreaper, child_pids

CGROUPS = Path("/sys/fs/cgroup")
UNIFIED = CGROUPS / "unified"
CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE, MS_SHARED, MS_BIND = 0x4000, 1 << 18, 1 << 20, 0x1000
MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount(source: str, target: Path, kind: str | None, flags: int = 0) -> None:
    """mount(2); raises OSError."""
    _check(
        _libc.mount(
            source.encode(), os.fsencode(target), kind.encode() if kind else None, flags, None
        ),
        f"mount {target}",
    )


def umount(target: Path) -> None:
    """umount2(2), lazily; raises OSError."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def enter() -> None:
    """Mounts of our own (an ordinary user has no right to any), and every orphan becomes a child of this process.

    Raises OSError.
    """
    if os.geteuid() != 0:
        become_subreaper()
        return
    _check(_libc.unshare(CLONE_NEWNS), "unshare the mount namespace")
    mount("none", Path("/"), None, MS_REC | MS_PRIVATE)
    become_subreaper()


def mountinfo() -> list[str]:
    """The lines of this process's mountinfo."""
    return Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()


def _directories(word: str) -> list[Path]:
    """Every directory below CGROUPS whose path contains `word`, deepest first."""
    start = len(str(CGROUPS))
    found = [Path(top) for top, _, _ in os.walk(CGROUPS) if word in top[start:]]
    return sorted(found, key=lambda p: len(p.parts), reverse=True)


def cgroups(word: str) -> list[Path]:
    """Every cgroup whose path contains `word`, deepest first."""
    lines = [line.split() for line in mountinfo()]
    tops = [words[4] for words in lines if words[words.index("-") + 1] in ("cgroup", "cgroup2")]
    found = _directories(word)
    return [path for path in found if any(path.is_relative_to(top) for top in tops)]


def kill_children() -> None:
    """Kill and reap every child: between two checks none is ours."""
    for _ in range(50):
        pids = child_pids()
        if not pids:
            return
        for pid in pids:
            if alive(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        signal.sigtimedwait([signal.SIGCHLD], 0.01)


def remove_cgroups(word: str) -> None:
    """Kill what runs in our cgroups, thaw it first, and remove them."""
    for path in cgroups(word):
        for name, text in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            with contextlib.suppress(OSError):
                if (path / name).exists():
                    (path / name).write_text(text)
        with contextlib.suppress(OSError):
            for pid in (path / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
    kill_children()
    for path in cgroups(word):
        with contextlib.suppress(OSError):
            path.rmdir()
    # crun makes directories with files where no hierarchy is mounted.
    for path in set(_directories(word)) - set(cgroups(word)):
        shutil.rmtree(path, ignore_errors=True)


def keep_tree(path: Path, target: Path) -> None:
    """Copy a bundle for the user: regular files and links, no devices or sockets."""

    def special(directory: str, names: list[str]) -> set[str]:
        entries = [Path(directory, name) for name in names]
        return {e.name for e in entries if not (e.is_symlink() or e.is_dir() or e.is_file())}

    shutil.copytree(path, target, symlinks=True, ignore=special, dirs_exist_ok=True)

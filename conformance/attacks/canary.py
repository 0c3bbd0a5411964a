"""A host directory that no container may reach, ways to point to it, and races against path resolution."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from conformance.kit import Bundle

Entry = tuple[int, int, int, int, int, bytes]
HOW = ("absolute", "relative", "many", "chain")


class Canary:
    """A host directory outside the root file system; nothing of it may ever change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "sub").mkdir(parents=True)
        for name in ("ptmx", "null", "console", "secret", "sub/file"):
            (path / name).write_text(f"canary {name}\n")
        self.renew()

    def renew(self) -> None:
        """Take what is there now for what must stay."""
        self.before = self._look()

    def _look(self) -> dict[str, Entry]:
        found = {}
        for path in [self.path, *sorted(self.path.rglob("*"))]:
            st = path.lstat()
            data = path.read_bytes() if stat.S_ISREG(st.st_mode) else b""
            if path.is_symlink():
                data = os.fsencode(os.readlink(path))
            found[str(path)] = (
                st.st_ino,
                st.st_mode,
                st.st_uid,
                st.st_gid,
                st.st_mtime_ns,
                data,
            )
        return found

    @property
    def changed(self) -> list[str]:
        """The paths that are new, gone or different."""
        now = self._look()
        return sorted(
            k for k in now.keys() | self.before.keys() if now.get(k) != self.before.get(k)
        )


def targets(canary: Canary) -> dict[str, str]:
    """Ways to point from the top of a root file system to the canary."""
    return {
        "absolute": str(canary.path),
        "relative": f"../{canary.path.name}",
        "many": "../" * 30 + str(canary.path),
        "chain": "chain-link",
    }


def plant(bundle: Bundle, name: str, how: str, canary: Canary) -> None:
    """Make rootfs/`name` a symlink to the canary, in one of the `targets` ways."""
    path = bundle.rootfs / name
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    if how == "chain":
        (bundle.rootfs / "chain-link").symlink_to(canary.path)
    path.symlink_to(targets(canary)[how])


@contextlib.contextmanager
def flipping(program: Path, first: Path, second: Path) -> Iterator[None]:
    """Exchange two names about a million times a second meanwhile (renameat2)."""
    with subprocess.Popen(
        [program, "flip", first, second, "3600"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield
            if process.poll() is not None:
                raise RuntimeError("the flipper has ended: there was no race")
        finally:
            process.kill()

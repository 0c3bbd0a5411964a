"""A tree that behaves like resctrl: groups come with their files, and schemata are merged line by line."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from ociruntime.cgroups import files
from ociruntime.host import resctrl

SCHEMATA = "    L3:0=ff;1=ff\n    MB:0=100;1=100\n"


class FakeResctrl:
    """The tree at ``top``; ``writes``: (path below top, text) of every write, in order. ``ids`` are left for groups."""

    def __init__(self, top: Path, ids: int = 8) -> None:
        self.top = top
        self.ids = ids
        self.writes: list[tuple[str, str]] = []
        self._write = files.write
        self.proc = top.parent / "proc"
        if top.exists():
            return  # another process has made it
        (top / "info").mkdir(parents=True)
        (top / "info/last_cmd_status").write_text("ok\n")
        self._fill(top, monitor=False)
        (self.proc / "self").mkdir(parents=True)
        line = f"35 30 0:33 / {top} rw,nosuid - resctrl resctrl rw\n"
        (self.proc / "self/mountinfo").write_text("1 0 8:1 / / rw - ext4 /dev/x rw\n" + line)

    def _fill(self, path: Path, *, monitor: bool) -> None:
        (path / "tasks").write_text("")
        if not monitor:
            (path / "schemata").write_text(SCHEMATA)
            (path / "mon_groups").mkdir()

    def install(self, patch: pytest.MonkeyPatch) -> FakeResctrl:
        """Make resctrl.py use it."""
        find = resctrl.mount_point
        patch.setattr(resctrl, "mount_point", lambda proc="": find(str(self.proc)))
        patch.setattr(resctrl, "posix", self)
        patch.setattr(files, "write", self.write)
        return self

    def mkdir(self, path: str, mode: int) -> None:
        if not self.ids and not os.path.exists(path):
            raise OSError(errno.ENOSPC, "no id left")
        os.mkdir(path, mode)
        self.ids -= 1
        self._fill(Path(path), monitor="/mon_groups/" in path)

    def rmdir(self, path: str) -> None:
        if not os.path.isdir(path):
            raise FileNotFoundError(errno.ENOENT, "gone")
        shutil.rmtree(path)
        self.ids += 1

    def write(self, path: str, text: str) -> None:
        place = Path(path)
        if self.top not in place.parents:
            self._write(path, text)
            return
        if not place.exists():
            raise FileNotFoundError(errno.ENOENT, "no such group")
        self.writes.append((str(place.relative_to(self.top)), text))
        if place.name == "tasks":
            with place.open("a") as file:
                file.write(text + "\n")
            return
        lines = {line.strip().partition(":")[0]: line for line in place.read_text().splitlines()}
        new = [line.partition(":") for line in text.splitlines()]
        names = [name for name, _, _ in new]
        if len(set(names)) < len(names) or not set(names) <= set(lines):
            (self.top / "info/last_cmd_status").write_text("Unknown or duplicate domain\n")
            raise OSError(errno.EINVAL, "schemata")
        lines |= {name: f"    {name}:{rest}" for name, _, rest in new}
        place.write_text("".join(f"{line}\n" for line in lines.values()))

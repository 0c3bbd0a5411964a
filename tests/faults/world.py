"""What a command may leave behind: looked at before and after."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from tests.integration import hostlib

CGROUPS = Path("/sys/fs/cgroup")


class Watch:
    """The world before a fault; ``leaks`` tells what is new since.

    Args:
        root: the state root.
        cgroup: path of the containers' parent cgroup, which nobody but the runtime makes.
        folders: whose files are compared.
    """

    def __init__(self, root: Path, cgroup: str, folders: list[Path]) -> None:
        self.root, self.cgroup, self.folders = root, cgroup, folders
        self.places = [path for path in (CGROUPS, *CGROUPS.iterdir()) if path.is_dir()]
        self.idle: Callable[[], None] = lambda: None
        self.before = self._look()

    def _look(self) -> set[str]:
        found = {f"mount {line}" for line in hostlib.mounts()}
        found |= {f"process {pid}" for pid in hostlib.children()}
        # Those of the scenario itself are looked at by it.
        devices = [name for _, name in socket.if_nameindex() if not name.startswith("fault")]
        found |= {f"device {name}" for name in devices}
        found.add(f"open descriptors: {len(os.listdir('/proc/self/fd'))}")
        for place in self.places:
            if (place / self.cgroup).exists():
                found.add(f"cgroup {place / self.cgroup}")
        if self.root.is_dir():
            # A cache (names with a dot) belongs to no container.
            found |= {f"state {name}" for name in os.listdir(self.root) if name[:1] != "."}
        for folder in self.folders:
            for top, folders, files in os.walk(folder):
                found |= {f"file {top}/{name}" for name in (*folders, *files)}
        return found

    def again(self) -> None:
        """Take what is there now as what was there before."""
        self.before = self._look()

    def leaks(self, patience: float = 5.0) -> list[str]:
        """What is new, after a moment for what is just going."""
        known = {int(line.split()[1]): "" for line in self.before if line.startswith("process")}
        end = time.monotonic() + patience
        while True:
            self.idle()
            hostlib.reap(known)
            new = sorted(self._look() - self.before)
            if not new or time.monotonic() > end:
                children = {f"process {pid}": text for pid, text in hostlib.children().items()}
                return [f"{line} {children.get(line, '')}".rstrip() for line in new]
            time.sleep(0.005)

    def sweep(self) -> None:
        """End what was left and remove its cgroups, so that one leak is reported once."""
        for pid in hostlib.children():
            if f"process {pid}" not in self.before:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
        hostlib.reap({})
        hostlib.remove_cgroups(hostlib.CGROUP_ROOT, self.cgroup)

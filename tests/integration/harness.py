"""What the integration tests import: the kit of the conformance suite, and a leak detector."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TypeVar

from conformance.kit import (
    Bundle,
    Container,
    Result,
    Runtime,
    alive,
    base_config,
    fields,
    poll,
)
from tests.integration import hostlib

__all__ = [
    "Bundle",
    "Container",
    "Result",
    "Runtime",
    "Snapshot",
    "alive",
    "base_config",
    "by_kind",
    "fields",
    "poll",
    "runtime_path",
    "why_no_apparmor",
    "why_no_criu",
]

T = TypeVar("T")
REPOSITORY = Path(__file__).resolve().parent.parent.parent


def runtime_path() -> str | None:
    """The runtime under test: $RUNTIME (name or path), $OCIRUNTIME_BIN, or the built one."""
    name = os.environ.get("RUNTIME") or os.environ.get("OCIRUNTIME_BIN")
    if name is None:
        name = str(REPOSITORY / ".venv" / "bin" / "ociruntime")
    return shutil.which(name)


def by_kind(runtime: Runtime, default: T, **others: T) -> T:
    """What this runtime does, where the peers' ways differ: `others` by the runtime's kind."""
    return others.get(runtime.kind, default)


@functools.cache
def why_no_criu() -> str:
    """Why criu cannot be used here; empty when it can."""
    if shutil.which("criu") is None:
        return "criu is not installed"
    if os.geteuid() != 0:
        return "criu needs root"
    done = subprocess.run(["criu", "check"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else "criu does not work with this kernel"


def why_no_apparmor() -> str:
    """Why AppArmor cannot be used here; empty when it can."""
    enabled = Path("/sys/module/apparmor/parameters/enabled")
    if not enabled.exists() or enabled.read_text().strip() != "Y":
        return "a kernel without AppArmor"
    return "" if shutil.which("apparmor_parser") else "apparmor_parser is not installed"


class Snapshot:
    """What the host looked like before a test; `leaks` tells what is new.

    Args:
        word: part of the name of every container (and so cgroup) of the test.
        root: the state directory of the runtime.
    """

    def __init__(self, word: str, root: Path) -> None:
        self.word, self.root = word, root
        self.mounts = set(hostlib.mounts())
        self.children = hostlib.children()
        self.files = len(os.listdir("/proc/self/fd"))
        self.netns = self._netns()

    @staticmethod
    def _netns() -> set[str]:
        path = Path("/run/netns")
        return set(os.listdir(path)) if path.is_dir() else set()

    def leaks(self) -> list[str]:
        """Everything left behind, one line each; waits a moment for what is just going."""
        found: list[str] = []
        for _ in range(100):
            hostlib.reap(self.children)
            found = self._look()
            if not found:
                break
            time.sleep(0.02)
        return found

    def _look(self) -> list[str]:
        found = [f"mount {line}" for line in hostlib.mounts() if line not in self.mounts]
        found += [f"cgroup {path}" for path in hostlib.cgroups(self.word)]
        found += [
            f"process {pid} {text}"
            for pid, text in hostlib.children().items()
            if pid not in self.children
        ]
        found += [f"netns {name}" for name in self._netns() - self.netns]
        if self.root.is_dir():
            # A cache (names with a dot) may stay: it belongs to no container.
            found += [f"state {p}" for p in self.root.iterdir() if not p.name.startswith(".")]
        if len(os.listdir("/proc/self/fd")) > self.files:
            found.append(f"descriptors of {sys.argv[0]}")
        return found

    def sweep(self) -> None:
        """Remove what was left, so that one leak is reported once."""
        left = {pid for pid in hostlib.children() if pid not in self.children}
        for path in hostlib.cgroups(self.word):
            with contextlib.suppress(FileNotFoundError):
                left |= set(map(int, (path / "cgroup.procs").read_text().split()))
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        if left:
            time.sleep(0.05)
        hostlib.reap(self.children)
        hostlib.remove_cgroups(hostlib.CGROUP_ROOT, self.word)

"""The two bundles: the default spec config, and a Docker-like one with Docker's default seccomp profile."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
SAMPLES = {"default": "spec-default.json", "docker": "docker-default.json"}
APPLETS = ("sh", "true", "sleep", "cat")


def make_rootfs(where: Path) -> None:
    """A root file system of one static busybox."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise SystemExit("bench: busybox not found: apt-get install busybox-static")
    (where / "bin").mkdir(parents=True)
    shutil.copy(busybox, where / "bin" / "busybox")
    for applet in APPLETS:
        (where / "bin" / applet).symlink_to("busybox")


class BenchBundle:
    """One bundle directory whose config.json is rewritten for each purpose."""

    def __init__(self, name: str, parent: Path) -> None:
        self.name = name
        self.path = parent / name
        make_rootfs(self.path / "rootfs")
        self.base: dict[str, Any] = json.loads((DATA / SAMPLES[name]).read_text())
        self.base["process"]["terminal"] = False
        self.base["process"]["user"] = {"uid": 0, "gid": 0}
        self.base["linux"].pop("cgroupsPath", None)
        # crun 1.8.1 writes the -1 of "unlimited" into pids.max and fails.
        self.base["linux"].get("resources", {}).pop("pids", None)

    def write(self, *args: str, memory_limit: int | None = None) -> None:
        """Write config.json to run ``args``, with a memory limit in bytes if given."""
        config = json.loads(json.dumps(self.base))
        config["process"]["args"] = list(args)
        if memory_limit is not None:
            config["linux"].setdefault("resources", {})["memory"] = {"limit": memory_limit}
        (self.path / "config.json").write_text(json.dumps(config))

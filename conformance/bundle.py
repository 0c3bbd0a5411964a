"""Bundles with the test program in them, and the configuration that every test starts from."""

from __future__ import annotations

import copy
import json
import os
import pwd
import shutil
from pathlib import Path
from typing import Any

Config = dict[str, Any]
PATH_ENV = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def base_config() -> Config:
    """A small valid configuration: root user, five new namespaces, the usual mounts.

    For an ordinary user: a user namespace with this user as its root, and the subordinate ids beside it.
    """
    config = _base_config()
    if os.geteuid() != 0:
        config["linux"]["namespaces"].append({"type": "user"})
        for kind, own, file in (
            ("uidMappings", os.geteuid(), "/etc/subuid"),
            ("gidMappings", os.getegid(), "/etc/subgid"),
        ):
            config["linux"][kind] = [{"containerID": 0, "hostID": own, "size": 1}]
            config["linux"][kind] += _subordinate(Path(file))
    return config


def _subordinate(path: Path) -> list[dict[str, int]]:
    """The map of this user's subordinate ids (subuid(5)) from container id 1 on; empty without any."""
    names = (pwd.getpwuid(os.geteuid()).pw_name, str(os.geteuid()))
    for line in path.read_text().splitlines() if path.exists() else ():
        name, first, size = line.split(":")
        if name in names:
            return [{"containerID": 1, "hostID": int(first), "size": int(size)}]
    return []


def _base_config() -> Config:
    return {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "hostname": "testhost",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/init", "exit", "0"],
            "env": [PATH_ENV],
            "cwd": "/",
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            },
            {
                "destination": "/sys",
                "type": "sysfs",
                "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", "ro"],
            },
        ],
        "linux": {
            "namespaces": [{"type": t} for t in ("pid", "network", "ipc", "uts", "mount")],
        },
    }


class Bundle:
    """A bundle directory with a root file system that holds little more than the test program."""

    def __init__(self, path: Path, program: Path, config: Config | None = None) -> None:
        self.path = path
        self.rootfs = path / "rootfs"
        self.program = program
        self.config: Config = config if config is not None else base_config()
        self.rootfs.mkdir(parents=True)
        for name in ("proc", "dev", "sys", "tmp", "etc"):
            (self.rootfs / name).mkdir()
        (self.rootfs / "tmp").chmod(0o1777)
        self.install("init")

    def install(self, name: str) -> Path:
        """Copy the test program into the root file system under another name."""
        target = self.rootfs / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.program, target)
        target.chmod(0o755)
        return target

    @property
    def process(self) -> dict[str, Any]:
        return self.config["process"]  # type: ignore[no-any-return]

    @property
    def linux(self) -> dict[str, Any]:
        return self.config["linux"]  # type: ignore[no-any-return]

    @property
    def mounts(self) -> list[dict[str, Any]]:
        return self.config["mounts"]  # type: ignore[no-any-return]

    def args(self, *args: str) -> Bundle:
        """Set the program: the arguments after /init of the test program."""
        self.process["args"] = ["/init", *args]
        return self

    def mount(self, destination: str, kind: str | None, source: str, *options: str) -> Bundle:
        """Append a mount."""
        entry: dict[str, Any] = {"destination": destination, "source": source}
        if kind is not None:
            entry["type"] = kind
        if options:
            entry["options"] = list(options)
        self.mounts.append(entry)
        return self

    def drop_mount(self, destination: str) -> Bundle:
        self.config["mounts"] = [m for m in self.mounts if m["destination"] != destination]
        return self

    def namespace(self, kind: str, path: str | None = None) -> Bundle:
        """Ask for a namespace: a new one, or the one at `path`."""
        self.without_namespace(kind)
        entry = {"type": kind} if path is None else {"type": kind, "path": path}
        self.linux["namespaces"].append(entry)
        return self

    def without_namespace(self, kind: str) -> Bundle:
        self.linux["namespaces"] = [n for n in self.linux["namespaces"] if n["type"] != kind]
        return self

    def user_namespace(self, host: int = 100000, size: int = 65536) -> Bundle:
        """A new user namespace; the root file system is given to its root."""
        self.namespace("user")
        for kind in ("uidMappings", "gidMappings"):
            self.linux[kind] = [{"containerID": 0, "hostID": host, "size": size}]
        for path in [self.rootfs, *self.rootfs.rglob("*")]:
            os.chown(path, host, host, follow_symlinks=False)
        return self

    def write(self) -> Bundle:
        """Write config.json as the configuration is now."""
        (self.path / "config.json").write_text(json.dumps(self.config, indent=1))
        return self

    def write_raw(self, text: str | bytes) -> Bundle:
        data = text.encode() if isinstance(text, str) else text
        (self.path / "config.json").write_bytes(data)
        return self

    def clone(self, path: Path) -> Bundle:
        """A second bundle with the same configuration and a fresh root file system."""
        return Bundle(path, self.program, copy.deepcopy(self.config))

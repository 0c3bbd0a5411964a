"""`spec`: write the config.json to begin with, as runc's.

Cold: runs in the full interpreter.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from ociruntime import cgroups, errors

if TYPE_CHECKING:
    from ociruntime.cli import Call

_CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",  # a side channel through the energy counters (GHSA-7ww5-4wqc-m92c)
    "/proc/scsi",
)
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def _mount(destination: str, kind: str, source: str, options: str) -> dict[str, Any]:
    mount: dict[str, Any] = {"destination": destination, "type": kind, "source": source}
    if options:
        mount["options"] = options.split(",")
    return mount


def default_config(*, cgroup_namespace: bool) -> dict[str, Any]:
    """The config of `spec`. ``cgroup_namespace``: as it is with runc on hosts with cgroup v2 alone."""
    namespaces = ["pid", "network", "ipc", "uts", "mount"]
    if cgroup_namespace:
        namespaces.append("cgroup")
    return {
        "ociVersion": "1.3.0",
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [f"PATH={_PATH}", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                name: list(_CAPABILITIES) for name in ("bounding", "effective", "permitted")
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "ociruntime",
        "mounts": [
            _mount("/proc", "proc", "proc", ""),
            _mount("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
            _mount(
                "/dev/pts",
                "devpts",
                "devpts",
                "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
            ),
            _mount("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
            _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
            _mount("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
            _mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": name} for name in namespaces],
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READONLY),
        },
    }


def make_rootless(config: dict[str, Any], uid: int, gid: int) -> None:
    """Change ``config`` for an ordinary user: a user namespace with his own ids, the host's network, no limits."""
    linux = config["linux"]
    linux["namespaces"] = [
        entry for entry in linux["namespaces"] if entry["type"] not in ("network", "user")
    ]
    linux["namespaces"].append({"type": "user"})
    linux["uidMappings"] = [{"containerID": 0, "hostID": uid, "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": gid, "size": 1}]
    del linux["resources"]
    for index, mount in enumerate(config["mounts"]):
        if mount["destination"] == "/sys":
            # sysfs belongs to the owner of the network namespace: the host's is shown.
            config["mounts"][index] = _mount("/sys", "none", "/sys", "rbind,nosuid,noexec,nodev,ro")
        elif "options" in mount:
            mount["options"] = [
                word for word in mount["options"] if not word.startswith(("gid=", "uid="))
            ]


def run(call: Call) -> int:
    """Write config.json into the bundle; an existing one is not overwritten."""
    config = default_config(cgroup_namespace=cgroups.detect() == "v2")
    if call.switch("rootless"):
        make_rootless(config, os.geteuid(), os.getegid())
    path = os.path.join(call.text("bundle") or ".", "config.json")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o666)
    except FileExistsError:
        raise errors.Error("file config.json exists. Remove it first") from None
    except OSError as exc:
        raise errors.from_os(exc, f"open {path}") from exc
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(json.dumps(config, indent="\t"))
    return 0

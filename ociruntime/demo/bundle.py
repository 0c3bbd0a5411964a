"""The demo's bundle: an empty root with the host's programs bound into it read-only."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ociruntime.demo.inside import SCRIPT

MEMORY_LIMIT = 64 << 20
"""Bytes."""

PIDS_LIMIT = 32

FIRST_HOST_ID = 100_000
"""The user that the container's root is outside, when the demo runs as root."""

HOST_DIRECTORIES = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/alternatives",
)

REFUSED_CALLS = (
    *("acct", "add_key", "bpf", "delete_module", "finit_module", "fsconfig", "fsmount", "fsopen"),
    *(
        "init_module",
        "kexec_file_load",
        "kexec_load",
        "keyctl",
        "mount",
        "mount_setattr",
        "move_mount",
    ),
    *("open_by_handle_at", "open_tree", "perf_event_open", "pivot_root", "process_vm_readv"),
    *(
        "process_vm_writev",
        "ptrace",
        "quotactl",
        "reboot",
        "request_key",
        "setns",
        "swapoff",
        "swapon",
    ),
    *("umount2", "unshare", "userfaultfd"),
)

_CLONE_NAMESPACES = 0x7E020080  # linux/sched.h: every CLONE_NEW* that clone(2) takes
_ENOSYS = 38


def _mounts() -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
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
            "destination": "/tmp",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "nodev", "mode=1777", "size=16m"],
        },
    ]
    options = ["rbind", "ro", "nosuid", "nodev"]
    for path in HOST_DIRECTORIES:
        if os.path.isdir(path):
            mounts.append({"destination": path, "type": "bind", "source": path, "options": options})
    return mounts


def _seccomp() -> dict[str, Any]:
    refuse = "SCMP_ACT_ERRNO"
    flags = {"index": 0, "value": _CLONE_NAMESPACES, "op": "SCMP_CMP_MASKED_EQ"}
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": list(REFUSED_CALLS), "action": refuse},
            # Threads and processes, but no new user namespace; clone3 hides its flags from a filter.
            {
                "names": ["clone"],
                "action": refuse,
                "args": [{**flags, "value": 0x10000000, "valueTwo": 0x10000000}],
            },
            {"names": ["clone3"], "action": refuse, "errnoRet": _ENOSYS},
        ],
    }


def _user_namespace(uid: int, gid: int) -> dict[str, Any]:
    """The id maps: 65536 ids for root, one's own id for an ordinary user (needs no helper program)."""
    if uid == 0:
        row = {"containerID": 0, "hostID": FIRST_HOST_ID, "size": 65536}
        return {"uidMappings": [row], "gidMappings": [row]}
    return {
        "uidMappings": [{"containerID": 0, "hostID": uid, "size": 1}],
        "gidMappings": [{"containerID": 0, "hostID": gid, "size": 1}],
    }


def config(args: list[str], *, terminal: bool, uid: int, gid: int) -> dict[str, Any]:
    """The bundle's config.json for the program ``args``; ``uid`` and ``gid`` are the caller's."""
    namespaces = ("pid", "mount", "uts", "ipc", "network", "cgroup", "user", "time")
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in namespaces],
        **_user_namespace(uid, gid),
        # The container's clock of uptime begins now.
        "timeOffsets": {
            "boottime": {"secs": -int(time.clock_gettime(time.CLOCK_BOOTTIME)), "nanosecs": 0}
        },
        "seccomp": _seccomp(),
        "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sysrq-trigger"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
    }
    if uid == 0:
        linux["resources"] = {
            "devices": [{"allow": False, "access": "rwm"}],
            "memory": {"limit": MEMORY_LIMIT},
            "pids": {"limit": PIDS_LIMIT},
        }
    return {
        "ociVersion": "1.3.0",
        "hostname": "demo",
        "root": {"path": "rootfs", "readonly": True},
        "process": {
            "terminal": terminal,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "cwd": "/",
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME=/tmp",
                "LANG=C.UTF-8",
                "PS1=inside the container # ",
                f"TERM={os.environ.get('TERM', 'xterm')}",
            ],
            "capabilities": {
                kind: ["CAP_CHOWN", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"]
                for kind in ("bounding", "effective", "permitted")
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 256, "hard": 256}],
            "noNewPrivileges": True,
        },
        "mounts": _mounts(),
        "linux": linux,
    }


def make(path: Path, *, uid: int, gid: int) -> None:
    """Lay the bundle out in the directory ``path`` (new, or one made by this function). Raises OSError."""
    root = path / "rootfs"
    for name in ("proc", "dev", "tmp", "etc", *(name[1:] for name in HOST_DIRECTORIES)):
        if name in ("proc", "dev", "tmp", "etc") or os.path.isdir(f"/{name}"):
            (root / name).mkdir(mode=0o755, parents=True, exist_ok=True)
    (root / "etc/passwd").write_text(
        "root:x:0:0:the container's root:/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
    )
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost demo\n")
    (root / "demo.sh").write_text(SCRIPT)
    args = ["/bin/sh", "/demo.sh", *(["limits"] if uid == 0 else [])]
    write_config(path, config(args, terminal=False, uid=uid, gid=gid))


def write_config(path: Path, content: dict[str, Any]) -> None:
    """Write config.json into the bundle ``path``."""
    (path / "config.json").write_text(json.dumps(content, indent=4) + "\n")

"""What the compiler has to know about the host. Gathered by host/probe.py; made up by tests.

Hot module: a plain class, filled once per create or exec.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Facts:
    """Host facts, all plain data.

    * ``privileged``: effective uid 0 with CAP_SYS_ADMIN in the user namespace that owns the host's mounts;
      bind sources and the root tree are then opened by the parent.
    * ``euid``, ``egid``: of the runtime.
    * ``kernel``: (major, minor) of uname.
    * ``machine``: uname machine, ``x86_64`` or ``aarch64``.
    * ``cap_last``: highest capability number of the kernel; ``cap_bounding``, ``cap_permitted``: masks of the runtime.
    * ``sources``: for bind mounts, mounts[] index → ``"dir"``, ``"file"`` or an errno (int) when it cannot be used.
    * ``devices``: in a user namespace: host device path → 0 when it can be bound, or an errno why it cannot.
    * ``cgroup_mode``: ``"v1"``, ``"hybrid"``, ``"v2"``, ``"none"``;
      ``cgroup_mounts``: as ociruntime.cgroups.mount_facts().
    * ``rootfs``: absolute host path of root.path.
    * ``apparmor``, ``selinux``: the LSM is enabled.
    * ``mount_setattr``: the kernel has mount_setattr(2), new in Linux 5.12.
    * ``mounts``: (mount point, file system type) of the host's mount table, only for --no-pivot.
    * ``no_setgroups``: the runtime's user namespace denies setgroups(2), and so does every one below it.
    * ``in_userns``: the runtime itself runs in a user namespace. ``kcore``: the kernel has /proc/kcore.
    """

    __slots__ = (
        "apparmor",
        "cap_bounding",
        "cap_last",
        "cap_permitted",
        "cgroup_mode",
        "cgroup_mounts",
        "devices",
        "egid",
        "euid",
        "in_userns",
        "kcore",
        "kernel",
        "machine",
        "mount_setattr",
        "mounts",
        "no_setgroups",
        "privileged",
        "rootfs",
        "selinux",
        "sources",
    )

    def __init__(self) -> None:
        self.privileged = True
        self.in_userns = False
        self.no_setgroups = False
        self.kcore = True
        self.euid = 0
        self.egid = 0
        self.kernel = (6, 1)
        self.mount_setattr = True
        self.machine = "x86_64"
        self.cap_last = 40
        self.cap_bounding = (1 << 41) - 1
        self.cap_permitted = (1 << 41) - 1
        self.sources: dict[int, str | int] = {}
        self.devices: dict[str, int] = {}
        self.cgroup_mode = "hybrid"
        self.cgroup_mounts: list[Any] = []
        self.rootfs = ""
        self.apparmor = False
        self.selinux = False
        self.mounts: list[tuple[str, str]] = []

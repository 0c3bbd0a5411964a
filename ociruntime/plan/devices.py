"""Device nodes, the links of /dev, ptmx, and what hides paths: maskedPaths and readonlyPaths.

Hot module.
"""

from __future__ import annotations

from ociruntime import errors
from ociruntime.paths import clean
from ociruntime.plan import ops, words
from ociruntime.plan.context import outside, refuse
from ociruntime.plan.mount_options import NODEV, NOEXEC, NOSUID, RDONLY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ociruntime.plan.context import Context

    Device = tuple[str, str, int, int, int, int, int]  # origin, path, mode, major, minor, uid, gid

_S_IFMT, _S_IFIFO = 0o170000, 0o010000
_CAP_MKNOD = 27
_ENOENT = 2


def number(major: int, minor: int) -> int:
    """dev_t as the kernel takes it, makedev(3); the mknod(2) system call takes 32 bits."""
    return (minor & 0xFF) | (major & 0xFFF) << 8 | (minor & ~0xFF) << 12


def read(ctx: Context, linux: dict[str, Any], mounts: Iterable[Any]) -> list[Device] | None:
    """The nodes to make; None where /dev is a directory of the host's, which is left alone.

    In a user namespace nodes cannot be made: the parent is asked for one that was made outside, or for the host's.
    """
    for entry in mounts:
        if entry[2] == "/dev" and entry[4].bind is not None:
            return None
    devices: list[Device] = []
    listed = set()
    for index, device in enumerate(linux.get("devices") or ()):
        path = clean(device["path"])
        listed.add(path)
        mode = (device["fileMode"] & 0o7777) if device.get("fileMode") is not None else 0o666
        mode |= words.DEVICE_TYPES[device["type"]]
        origin = f"/linux/devices/{index}"
        major, minor = device.get("major") or 0, device.get("minor") or 0
        if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
            raise refuse(f"device {major}:{minor} is beyond the kernel's range", pointer=origin)
        devices.append(
            (origin, path, mode, major, minor, device.get("uid") or 0, device.get("gid") or 0)
        )
    for path, major, minor in words.DEFAULT_DEVICES:
        if path not in listed:
            devices.append(("", path, 0o020666, major, minor, 0, 0))
    if not bound(ctx):
        return devices
    for device in devices:
        origin, path, mode = device[:3]
        if mode & _S_IFMT == _S_IFIFO:
            continue
        node = _node(ctx, device) if origin else None
        hindrance = ctx.facts.devices.get(path, _ENOENT)
        if node is None and hindrance:
            raise refuse(
                f"{path} on the host: {errors.strerror(hindrance)}, and none can be made",
                origin,
                "in a user namespace the host's node is used: make it there, or leave it out",
            )
        if ctx.facts.privileged:
            name = "device:" + path
            if name not in ctx.plan.fds:
                ctx.plan.fd(name)
                ctx.plan.binds.append((name, path, False, 0, 0, 0, 0, (), None, origin))
            if node is not None:
                ctx.plan.nodes[name] = node
    return devices


def _node(ctx: Context, device: Device) -> tuple[int, int, int, int] | None:
    """The node that the runtime can make outside of the user namespace, with an owner inside of it; or None."""
    _, _, mode, major, minor, uid, gid = device
    facts = ctx.facts
    if not facts.privileged or facts.in_userns or not facts.cap_permitted >> _CAP_MKNOD & 1:
        return None
    host_uid, host_gid = outside(uid, ctx.uid_maps), outside(gid, ctx.gid_maps)
    if host_uid is None or host_gid is None:
        return None
    return mode, number(major, minor), host_uid, host_gid


def bound(ctx: Context) -> bool:
    """Whether nodes of the host are bound because mknod(2) is not allowed: mknod needs the initial user namespace."""
    return ctx.userns or ctx.facts.in_userns


def add(ctx: Context, devices: list[Device] | None) -> None:
    """Make the nodes and links of /dev."""
    if devices is None:
        return
    plan, root = ctx.plan, ctx.root
    bind = bound(ctx)
    for origin, path, mode, major, minor, uid, gid in devices:
        if not bind or mode & _S_IFMT == _S_IFIFO:
            plan.add(origin, ops.MKNOD, root, path, mode, number(major, minor), uid, gid)
            continue
        name = "device:" + path
        if name in plan.fds:
            tree = plan.fds.index(name)
        else:
            tree = plan.slot()
            plan.add(origin, ops.TREE, tree, ops.NONE, path, 0, 0)
        plan.add(origin, ops.ATTACH, tree, root, path, ops.TARGET_FILE, 0, ops.NONE)
    kept = {"flags": ops.F_IGNORE, "errnos": words.EEXIST}
    for path, target in words.DEV_LINKS:
        plan.add("", ops.SYMLINK, root, path, target, **kept)
    if ctx.facts.kcore:
        plan.add("", ops.SYMLINK, root, "/dev/core", "/proc/kcore", **kept)
    plan.add("", ops.SYMLINK, root, "/dev/ptmx", "pts/ptmx", **kept)


def hide(ctx: Context, linux: dict[str, Any]) -> None:
    """readonlyPaths, then maskedPaths, which may lie above them; an absent path is fine."""
    plan, root = ctx.plan, ctx.root
    for index, path in enumerate(linux.get("readonlyPaths") or ()):
        plan.add(f"/linux/readonlyPaths/{index}", ops.READONLY, root, clean(path))
    masked = linux.get("maskedPaths") or ()
    if not masked:
        return
    # The host's null device, verified, never the container's (CVE-2025-31133); one empty directory for all.
    null, empty = plan.slot(), plan.slot()
    plan.add(
        "/linux/maskedPaths",
        ops.OPEN,
        null,
        ops.NONE,
        "/dev/null",
        words.O_PATH,
        0,
        0o020000,
        number(1, 3),
    )
    data = ("nr_blocks=1", "nr_inodes=1")
    attributes = RDONLY | NOSUID | NODEV | NOEXEC
    plan.add(
        "/linux/maskedPaths", ops.FSMOUNT, empty, "tmpfs", "tmpfs", data, len(data), attributes
    )
    for index, path in enumerate(masked):
        plan.add(f"/linux/maskedPaths/{index}", ops.MASK, root, clean(path), null, empty)

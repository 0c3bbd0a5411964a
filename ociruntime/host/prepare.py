"""Opening what a plan names: namespaces, the root's tree, bind sources, devices, a verified /proc.

Hot module. What is opened here is never resolved by path again (engines call `create` in a mount namespace that is
gone later). Names: docs/architecture.md.
"""

from __future__ import annotations

import errno
import fcntl
import posix

from ociruntime import errors
from ociruntime.host import native, procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ociruntime.plan.facts import Facts
    from ociruntime.plan.ops import Plan

_NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)
_NAMESPACES = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "network": 0x40000000,
    "time": 0x00000080,
}
_AT_FDCWD = -100
_S_IFMT, _S_IFCHR, _S_IFBLK = 0o170000, 0o020000, 0o060000


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        posix.close(fd)


def open_descriptors(
    plan: Plan, spec: dict[str, Any], facts: Facts, *, gate: int = -1, pidfd: int = -1
) -> list[int]:
    """One descriptor for each name in plan.fds[2:], in order; all the caller's to close.

    ``gate``: the listening socket; ``pidfd``: of the init of the container to join; both are duplicated.
    Raises errors.Error with the place in config.json; nothing stays open then.
    """
    fds: list[int] = []
    opener = _Opener(plan, spec, facts)
    try:
        for name in plan.fds[2:]:
            if name == "procfs":
                fds.append(procfs.root())
            elif name == "rootfs":
                fds.append(open_rootfs(facts.rootfs))
            elif name == "gate":
                fds.append(fcntl.fcntl(gate, fcntl.F_DUPFD_CLOEXEC, 3))
            elif name == "pidfd":
                fds.append(fcntl.fcntl(pidfd, fcntl.F_DUPFD_CLOEXEC, 3))
            else:
                kind, _, rest = name.partition(":")
                fds.append(opener.open(kind, rest))
        return fds
    except BaseException:
        close_all(fds)
        raise
    finally:
        opener.close()


def open_rootfs(path: str) -> int:
    """A detached, recursive copy of the tree at root.path.

    A path that is or passes a symlink is refused: who can exchange it decides what becomes the root.
    Raises errors.Error.
    """
    pointer = "/root/path"
    try:
        fd = native.openat2(
            _AT_FDCWD,
            path,
            posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC,
            native.RESOLVE_NO_SYMLINKS,
        )
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            message = f"invalid rootfs {path}: not an absolute path, or a symlink"
            raise errors.Error(message, pointer=pointer) from exc
        raise errors.from_os(exc, f"invalid rootfs: open {path}", pointer=pointer) from exc
    try:
        return native.open_tree(fd, "", native.TREE_CLONE | native.AT_RECURSIVE)
    except OSError as exc:
        raise errors.from_os(exc, f"open_tree of rootfs {path}", pointer=pointer) from exc
    finally:
        posix.close(fd)


def open_namespace(kind: str, path: str, pointer: str | None = None) -> int:
    """A descriptor of the namespace at ``path``, which must be of type ``kind`` (6.4); errors.Error."""
    try:
        # Non-blocking: the path may as well lead to a fifo.
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    except OSError as exc:
        raise errors.from_os(exc, f"open {kind} namespace {path}", pointer=pointer) from exc
    try:
        found = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError as exc:
        posix.close(fd)
        raise errors.Error(f"{path} is not a namespace", pointer=pointer) from exc
    if found != _NAMESPACES[kind]:
        posix.close(fd)
        names = [name for name, flag in _NAMESPACES.items() if flag == found]
        raise errors.Error(
            f"{path} is a {''.join(names)} namespace, not a {kind} namespace", pointer=pointer
        )
    return fd


class _Opener:
    """Opens the descriptors of one plan whose names have an argument."""

    def __init__(self, plan: Plan, spec: dict[str, Any], facts: Facts) -> None:
        self.plan = plan
        self.linux: dict[str, Any] = spec.get("linux") or {}
        self.facts = facts
        self.userns: dict[str, int] = {}  # user namespaces made for idmapped mounts, by their maps

    def close(self) -> None:
        close_all(self.userns.values())
        self.userns = {}

    def open(self, kind: str, rest: str) -> int:
        if kind == "ns":
            return self._namespace(rest)
        if kind == "mount":
            return self._bind(f"mount:{rest}", f"/mounts/{rest}")
        if kind == "device":
            return open_device(rest)
        raise errors.Error(f"the plan asks for an unknown descriptor {kind}:{rest}")

    def _namespace(self, kind: str) -> int:
        for index, entry in enumerate(self.linux.get("namespaces") or ()):
            if entry["type"] == kind and entry.get("path"):
                return open_namespace(kind, entry["path"], f"/linux/namespaces/{index}/path")
        raise errors.Error(f"the plan asks for a {kind} namespace that the config does not name")

    def _bind(self, name: str, pointer: str) -> int:
        raise NotImplementedError


def open_device(path: str) -> int:
    """A detached bind of a device node of the host; errors.Error."""
    try:
        fd = posix.open(path, posix.O_PATH | posix.O_NOFOLLOW | posix.O_CLOEXEC)
        try:
            if posix.fstat(fd).st_mode & _S_IFMT not in (_S_IFCHR, _S_IFBLK):
                raise errors.Error(f"bind device {path}: not a device", pointer="/linux/devices")
            return native.open_tree(fd, "", native.TREE_CLONE)
        finally:
            posix.close(fd)
    except OSError as exc:
        raise errors.from_os(exc, f"bind device {path}", pointer="/linux/devices") from exc

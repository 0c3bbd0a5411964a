"""Opening what a plan names: namespaces, the root's tree, bind sources, devices, a verified /proc.

Hot module. What is opened here is never resolved by path again (engines call `create` in a mount namespace that is
gone later). Names: docs/architecture.md and plan/ops.py.
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

    from ociruntime.plan.ops import Bind, IdMap, Plan

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
_MOUNT_ATTR_IDMAP = 0x100000
_MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NOEXEC = 2, 8
_MS_REC = 0x4000
_S_IFMT, _S_IFCHR, _S_IFBLK = 0o170000, 0o020000, 0o060000


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        posix.close(fd)


def open_descriptors(plan: Plan, *, gate: int = -1, pidfd: int = -1) -> list[int]:
    """One descriptor for each name in plan.fds[2:], in order; all the caller's to close.

    ``gate``: the listening socket; ``pidfd``: of the init of the container to join; both are duplicated.
    Raises errors.Error with the place in config.json; nothing stays open then.
    """
    fds: list[int] = []
    maps: dict[str, int] = {}  # user namespaces made for idmapped mounts
    binds = {bind[0]: bind for bind in plan.binds}
    try:
        for name in plan.fds[2:]:
            if name in binds:
                fds.append(_bind(plan, binds[name], maps))
            elif name == "procfs":
                fds.append(procfs.root())
            elif name == "rootfs":
                fds.append(open_rootfs(*plan.paths[name]))
            elif name == "root":
                fds.append(open_root_of(pidfd))
            elif name in ("gate", "pidfd"):
                given = gate if name == "gate" else pidfd
                fds.append(fcntl.fcntl(given, fcntl.F_DUPFD_CLOEXEC, 3))
            elif name in plan.systems:
                fds.append(_file_system(plan, name, maps))
            elif name[:3] == "ns:":
                fds.append(open_namespace(name[3:], *plan.paths[name]))
            else:
                raise errors.Error(f"the plan asks for an unknown descriptor {name}")
        return fds
    except BaseException:
        close_all(fds)
        raise
    finally:
        close_all(maps.values())


def open_rootfs(path: str, pointer: str = "/root/path") -> int:
    """A detached, recursive copy of the tree at root.path.

    A path that is or passes a symlink is refused: who can exchange it decides what becomes the root.
    Raises errors.Error.
    """
    call = "open"
    try:
        flags = posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC
        fd = native.openat2(_AT_FDCWD, path, flags, native.RESOLVE_NO_SYMLINKS)
        try:
            call = "open_tree of"
            return native.open_tree(fd, "", native.OPEN_TREE_CLONE | native.AT_RECURSIVE)
        finally:
            posix.close(fd)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            message = f"invalid rootfs {path}: not an absolute path, or a symlink"
            raise errors.Error(message, pointer=pointer) from exc
        raise errors.from_os(exc, f"invalid rootfs: {call} {path}", pointer=pointer) from exc


def open_root_of(pidfd: int) -> int:
    """The root directory (O_PATH) of the process behind a pidfd; errors.Error."""
    try:
        info = procfs.read_record(f"/proc/self/fdinfo/{pidfd}")
        pid = int(info.partition(b"Pid:")[2].split()[0])
        fd = posix.open(f"/proc/{pid}/root", posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
        try:
            native.pidfd_send_signal(pidfd, 0)  # still there: the pid was not another process's
        except OSError:
            posix.close(fd)
            raise
        return fd
    except (IndexError, ValueError):
        raise errors.Error("container not running") from None
    except OSError as exc:
        raise errors.from_os(exc, "open the container's root") from exc


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


def _bind(plan: Plan, bind: Bind, maps: dict[str, int]) -> int:
    """The detached tree of a bind mount or device: id map, attributes and propagation applied."""
    name, source, recursive, attr_set, attr_clr, tree_set, tree_clr, propagation = bind[:8]
    idmap, pointer = bind[8:]
    if name[:7] == "device:":
        node = plan.nodes.get(name)
        made = _make_device(*node) if node is not None else -1
        return made if made >= 0 else _device(source, pointer)
    call, hint = "open_tree", None
    fd = -1
    try:
        tree = native.AT_RECURSIVE if recursive else 0
        fd = native.open_tree(_AT_FDCWD, source, native.OPEN_TREE_CLONE | tree)
        call, hint = "mount_setattr on", "this needs Linux 5.12"
        if idmap is not None:
            userns = _idmap_namespace(plan, idmap, maps, pointer)
            flags = native.AT_RECURSIVE if idmap[0] else 0
            try:
                native.mount_setattr(fd, _MOUNT_ATTR_IDMAP, 0, 0, flags, userns)
            except OSError:
                call, hint = "map ids of", "a file system below may not support idmapped mounts"
                raise
        if tree_set or tree_clr:
            native.mount_setattr(fd, tree_set, tree_clr, 0, native.AT_RECURSIVE)
        if attr_set or attr_clr:
            native.mount_setattr(fd, attr_set, attr_clr, 0, 0)
        for number in propagation:
            flags = native.AT_RECURSIVE if number & _MS_REC else 0
            native.mount_setattr(fd, 0, 0, number & ~_MS_REC, flags)
        return fd
    except OSError as exc:
        if fd >= 0:
            posix.close(fd)
        if exc.errno not in (errno.ENOSYS, errno.EINVAL):
            hint = None
        raise errors.from_os(exc, f"{call} {source}", pointer=pointer, hint=hint) from exc
    except errors.Error:
        posix.close(fd)
        raise


def _file_system(plan: Plan, name: str, maps: dict[str, int]) -> int:
    """A detached mount of a new file system with an id map. Raises errors.Error."""
    kind, idmap, pointer, source, options, attributes = plan.systems[name]
    userns = _idmap_namespace(plan, idmap, maps, pointer)
    context = fd = -1
    call = "fsopen"
    try:
        context = native.fsopen(kind)
        call = "fsconfig"
        native.fsconfig(context, "source", source)
        for option in options:
            key, equals, value = option.partition("=")
            native.fsconfig(context, key, value if equals else None)
        native.fsconfig_create(context)
        call = "fsmount"
        fd = native.fsmount(context, attributes)
        call = "map ids"
        native.mount_setattr(fd, _MOUNT_ATTR_IDMAP, 0, 0, 0, userns)
        return fd
    except OSError as exc:
        if fd >= 0:
            posix.close(fd)
        hint = None
        if call == "map ids" and exc.errno in (errno.EINVAL, errno.EPERM):
            hint = "this kernel cannot map the ids of that file system (tmpfs: from Linux 6.3 on)"
        what = f"mount {kind}: {call}"
        raise errors.from_os(exc, what, pointer=pointer, hint=hint) from exc
    finally:
        if context >= 0:
            posix.close(context)


def _device(path: str, pointer: str) -> int:
    """A detached bind of a device node of the host; never through a symlink. Raises errors.Error."""
    try:
        fd = posix.open(path, posix.O_PATH | posix.O_NOFOLLOW | posix.O_CLOEXEC)
        try:
            if posix.fstat(fd).st_mode & _S_IFMT not in (_S_IFCHR, _S_IFBLK):
                raise errors.Error(f"bind device {path}: not a device", pointer=pointer)
            return native.open_tree(fd, "", native.OPEN_TREE_CLONE)
        finally:
            posix.close(fd)
    except OSError as exc:
        raise errors.from_os(exc, f"bind device {path}", pointer=pointer) from exc


def _make_device(mode: int, device: int, uid: int, gid: int) -> int:
    """A detached bind of a new device node in a file system of its own; -1 where that cannot be done.

    The device cgroup around this process may forbid it, and before Linux 6.15 a detached tree cannot be cloned.
    """
    top = -1
    context = native.fsopen("tmpfs")
    try:
        native.fsconfig(context, "mode", "700")
        native.fsconfig_create(context)
        top = native.fsmount(context, _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NOEXEC)
        posix.mknod("node", mode, device, dir_fd=top)
        posix.chown("node", uid, gid, dir_fd=top)
        posix.chmod("node", mode & 0o7777, dir_fd=top)
        return native.open_tree(top, "node", native.OPEN_TREE_CLONE)
    except OSError:
        return -1
    finally:
        posix.close(context)
        if top >= 0:
            posix.close(top)


def _idmap_namespace(plan: Plan, idmap: IdMap, maps: dict[str, int], pointer: str) -> int:
    """A descriptor of a user namespace with the maps of an idmapped mount; kept in ``maps`` for the next one."""
    _, uid_mappings, gid_mappings = idmap
    if uid_mappings is None or gid_mappings is None:
        key = "ns:user"
        if key not in maps:
            maps[key] = open_namespace("user", *plan.paths[key])
        return maps[key]
    key = f"{uid_mappings} {gid_mappings}"
    if key not in maps:
        from ociruntime.host import idmap as idmaps

        maps[key] = idmaps.userns_fd(uid_mappings, gid_mappings, pointer)
    return maps[key]

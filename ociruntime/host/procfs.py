"""The host's /proc, by descriptor.

Hot module; proc(5).
"""

from __future__ import annotations

import errno
import posix

from ociruntime import errors

PATH = posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC
_PF_EXITING = 4  # include/linux/sched.h; set before the descriptors are closed
_LIMIT = 16 << 20  # bytes; a mount table of 100,000 lines


def read_file(path: str) -> bytes:
    """The whole of a file of the kernel; OSError."""
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        data = b""
        # A read may end early, where the next record does not fit into the kernel's page.
        while chunk := posix.read(fd, 65536):
            data += chunk
            if len(data) > _LIMIT:
                raise OSError(errno.EFBIG, posix.strerror(errno.EFBIG), path)
        return data
    finally:
        posix.close(fd)


def read_record(path: str) -> bytes:
    """A file of the kernel that is one record (stat, status, a number), with one read; OSError."""
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        return posix.read(fd, 16384)
    finally:
        posix.close(fd)


def write(dirfd: int, name: str, data: bytes) -> None:
    """Write ``data`` to a file below ``dirfd`` with one write(2), as the kernel's files need it; OSError."""
    fd = posix.open(name, posix.O_WRONLY | posix.O_CLOEXEC, dir_fd=dirfd)
    try:
        posix.write(fd, data)
    finally:
        posix.close(fd)


def root() -> int:
    """A descriptor (O_PATH) of a genuine procfs that shows this pid namespace.

    The host's /proc when it is one: procfs by its magic, its root by inode 1, this process by ``self``
    (CVE-2025-52881: what init writes must not go to a look-alike); else a new private one.
    Raises errors.Error.
    """
    from ociruntime.host import native

    try:
        fd = posix.open("/proc", PATH)
    except OSError as exc:
        problem = f"open /proc: {errors.strerror(exc.errno or 0)}"
    else:
        try:
            if _genuine(fd, native.fs_type(fd)):
                return fd
            problem = "/proc is not the proc file system of this pid namespace"
        except OSError as exc:
            problem = f"/proc: {errors.strerror(exc.errno or 0)}"
        posix.close(fd)
    try:
        context = native.fsopen("proc")
        try:
            native.fsconfig_create(context)
            return native.fsmount(context, 0)
        finally:
            posix.close(context)
    except OSError as exc:
        raise errors.from_os(exc, f"{problem}, and mounting one") from exc


def _genuine(fd: int, magic: int) -> bool:
    return (
        magic == 0x9FA0
        and posix.fstat(fd).st_ino == 1
        and posix.readlink("self", dir_fd=fd) == str(posix.getpid())
    )


def open_pid(pid: int) -> int:
    """A descriptor (O_PATH) of /proc/PID; OSError (ENOENT: no such process)."""
    return posix.open(f"/proc/{pid}", PATH)


def names_init(name: str) -> bool:
    """Whether it is the command name that init has until it executes the program: that of its memory file (before
    Linux 6.14: the number of its descriptor)."""
    return name.startswith("memfd:") or name.isdecimal()


def last_words(pid: int) -> tuple[str, bool]:
    """(command name, whether it is exiting or a zombie) of a process; ("", True): there is none."""
    try:
        data = read_record(f"/proc/{pid}/stat")
    except OSError:
        return "", True
    head, _, tail = data.rpartition(b")")  # a name may hold brackets
    fields = tail.split()
    if len(fields) < 7 or not fields[6].isdigit():
        return "", True
    name = head.partition(b"(")[2].decode("utf-8", "replace")
    return name, bool(int(fields[6]) & _PF_EXITING)

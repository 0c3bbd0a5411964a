"""Reading and writing control files by descriptor. Hot module.

Nothing here follows a user's symbolic link: a cgroup file system holds none and nobody can make one.
"""

from __future__ import annotations

import posix
from errno import EACCES, EINVAL, ENODEV, ENOENT, ENOTDIR, EOPNOTSUPP

from ociruntime import errors

# No such file or controller, not of this kind of cgroup, not for this user.
_NOT_THERE = (ENOENT, ENOTDIR, ENODEV, EOPNOTSUPP, EINVAL, EACCES)
_READ = posix.O_RDONLY | posix.O_CLOEXEC
_WRITE = posix.O_WRONLY | posix.O_CLOEXEC


def read(path: str) -> str:
    """The whole text of a control file; OSError when it cannot be read."""
    fd = posix.open(path, _READ)
    try:
        data = posix.read(fd, 8192)
        if len(data) == 8192:
            while more := posix.read(fd, 65536):
                data += more
    finally:
        posix.close(fd)
    return data.decode("utf-8", "surrogateescape")


def read_or_none(path: str) -> str | None:
    """The text of a control file, None when there is no such file or it has nothing to say.

    Raises errors.Error where it may have: a cgroup whose processes cannot be read is not an empty one.
    """
    try:
        return read(path)
    except OSError as exc:
        if exc.errno in _NOT_THERE:
            return None
        raise errors.from_os(exc, f"read {path}") from exc


def write(path: str, value: str) -> None:
    """Write a control file by one write(2), as the kernel parses it; OSError as the kernel answers."""
    fd = posix.open(path, _WRITE)
    try:
        posix.write(fd, value.encode("utf-8", "surrogateescape"))
    finally:
        posix.close(fd)


def put(path: str, value: str) -> None:
    """As ``write``, for whom any failure is an error: errors.Error with the file, the value and the errno."""
    try:
        write(path, value)
    except OSError as exc:
        raise write_error(exc, path, value, None) from None


def exists(path: str) -> bool:
    """Whether a path exists, as far as the caller may see."""
    return posix.access(path, posix.F_OK)


def writable(path: str) -> bool:
    """Whether the caller may write to a file."""
    return posix.access(path, posix.W_OK)


def numbers(text: str) -> list[int]:
    """The decimal numbers of a list such as cgroup.procs (0 = a process of another pid namespace)."""
    return [int(word) for word in text.split()]


def write_error(
    exc: OSError, name: str, value: str, pointer: str | None, hint: str | None = None
) -> errors.Error:
    """The error of a failed write, naming file, value and place in config.json."""
    if len(value) > 64:
        value = value[:61] + "..."
    what = f"cgroup: write {value} to {name}"
    return errors.from_os(exc, what, pointer=pointer, hint=hint)

"""A seccomp profile (linux.seccomp) → the filter's bytes, compiled once and then taken from a cache.

Hot module: on a hit neither libseccomp nor the compiler (seccomp_compile.py) is touched.

The cache is ``<root>/.cache/seccomp/<key>``. The key is a digest of the whole profile (every value with its type and
length, so that no two profiles meet), the library's file, the kernel's release and the machine. A file that this
user does not own, that others may write, or whose digest is wrong is not used.
"""

from __future__ import annotations

import marshal
import posix
from _blake2 import blake2b

from ociruntime import errors
from ociruntime.host import libseccomp, unixsock
from ociruntime.host.libseccomp import FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NEW_LISTENER, TSYNC_ESRCH = 8, 16
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
_FORMAT = b"1"  # changes with what the compiler makes of a profile
_DIGEST = 16
_CACHE_LIMIT = 128  # entries; engines use a handful of profiles
_NOTIFY = "SCMP_ACT_NOTIFY"
_POINTER = "/linux/seccomp"


class Filter:
    """``code``: struct sock_filter[]; ``flags``: for seccomp(2); ``listener``: one will come; ``key``: of the cache."""

    __slots__ = ("code", "flags", "key", "listener")

    def __init__(self, code: bytes, flags: int, listener: bool, key: str) -> None:
        self.code = code
        self.flags = flags
        self.listener = listener
        self.key = key


def filter_for(profile: dict[str, Any], root: str) -> Filter:
    """The filter of a profile, from the cache below the state directory ``root`` or compiled.

    Raises errors.Error. A cache that cannot be used costs time and nothing else.
    """
    listener = False
    for rule in profile.get("syscalls") or ():
        if rule["action"] == _NOTIFY:
            listener = True
    if listener and not profile.get("listenerPath"):
        raise errors.Error("SCMP_ACT_NOTIFY needs listenerPath", pointer=f"{_POINTER}/syscalls")
    flags = filter_flags(profile.get("flags"), listener)
    key = cache_key(profile)
    directory = f"{root}/.cache/seccomp"
    code = _read(f"{directory}/{key}")
    if code is None:
        from ociruntime.host import seccomp_compile

        code = seccomp_compile.compile_profile(profile)
        _store(directory, key, code)
    return Filter(code, flags, listener, key)


def filter_flags(words: list[str] | None, listener: bool) -> int:
    """The flags argument of seccomp(2); without the property SPEC_ALLOW, as with runc. Raises errors.Error."""
    if words is None:
        flags = FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    else:
        flags = 0
        for index, word in enumerate(words):
            if word not in FLAGS:
                raise errors.Error(
                    f"unknown seccomp flag {word}", pointer=f"{_POINTER}/flags/{index}"
                )
            flags |= FLAGS[word]
    if listener:
        flags |= NEW_LISTENER
        if flags & FLAGS["SECCOMP_FILTER_FLAG_TSYNC"]:
            flags |= TSYNC_ESRCH  # how a listener and a failed TSYNC are told apart
    else:
        flags &= ~FLAGS["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]  # EINVAL without a listener
    return flags


def cache_key(profile: dict[str, Any]) -> str:
    """The cache key of a profile on this machine, in hexadecimal."""
    uname = posix.uname()
    # marshal version 2 writes type, length and value of everything, and no references.
    parts = (_FORMAT, libseccomp.stamp(uname.machine), uname.release, uname.machine, profile)
    return blake2b(marshal.dumps(parts, 2), digest_size=24).hexdigest()


def _read(path: str) -> bytes | None:
    """The filter in a cache file, None when there is none to be trusted."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC)
    except OSError:
        return None
    try:
        stat = posix.fstat(fd)
        if stat.st_uid != posix.geteuid() or stat.st_mode & 0o177777 != 0o100600:
            return None
        if not _DIGEST < stat.st_size <= _DIGEST + 8 * MAX_INSTRUCTIONS:
            return None
        data = posix.read(fd, stat.st_size)
    except OSError:
        return None
    finally:
        posix.close(fd)
    code = data[_DIGEST:]
    if len(code) % 8 or blake2b(code, digest_size=_DIGEST).digest() != data[:_DIGEST]:
        return None
    return code


def _store(directory: str, key: str, code: bytes) -> None:
    """Put a filter into the cache, whole or not at all."""
    temporary = f"{directory}/.{key}.{posix.getpid()}"
    try:
        for made in (directory.rpartition("/")[0], directory):
            try:
                posix.mkdir(made, 0o700)
            except FileExistsError:
                continue
        names = posix.listdir(directory)
        if len(names) >= _CACHE_LIMIT:
            for name in names:
                posix.unlink(f"{directory}/{name}")
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC
        fd = posix.open(temporary, flags, 0o600)
        try:
            posix.write(fd, blake2b(code, digest_size=_DIGEST).digest() + code)
        finally:
            posix.close(fd)
        posix.rename(temporary, f"{directory}/{key}")
    except OSError as exc:
        from ociruntime import log

        log.debug(f"seccomp cache {directory}: {errors.strerror(exc.errno or 0)}")


def send_listener(path: str, metadata: str, state: dict[str, Any], pid: int, fd: int) -> None:
    """Tell a seccomp agent of a container: one connection, one message, closed at once (10.6 to 10.8).

    ``path``: listenerPath; ``state``: the container's state; ``pid``: of the process with the filter; ``fd``: the
    listener, closed whatever happens. Raises errors.Error.
    """
    from ociruntime.spec import json_reader

    document = {"ociVersion": state["ociVersion"], "fds": ["seccompFd"], "pid": pid}
    if metadata:
        document["metadata"] = metadata
    document["state"] = state
    try:
        agent = unixsock.connect(path)
        try:
            text = json_reader.dumps(document)
            unixsock.send(agent, text.encode("utf-8", "surrogateescape"), (fd,))
        finally:
            posix.close(agent)
    except OSError as exc:
        raise errors.from_os(
            exc,
            f"linux.seccomp.listenerPath: send seccomp listener to {path}",
            pointer=f"{_POINTER}/listenerPath",
            hint="the seccomp agent must listen there, on a stream socket, before the container starts",
        ) from exc
    finally:
        posix.close(fd)

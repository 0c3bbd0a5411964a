"""The circumstances of a call, made the same for every verb, once and first.

Hot module. Engines start a runtime with leaked descriptors, closed or read-only stdio, ignored and blocked
signals, any umask and an almost empty environment (docs/compatibility.md).
"""

from __future__ import annotations

import posix

import _ocisys

from ociruntime import errors

caller_umask = 0o022
"""The umask that the caller had; the container gets it under --strict."""

listen_fds = 0
"""Descriptors of socket activation, from 3 on (sd_listen_fds(3))."""

_MAX_FDS = 1 << 16


def environ(name: str) -> str | None:
    """A variable of the caller; empty counts as unset (conmon sets XDG_RUNTIME_DIR to nothing)."""
    value = posix.environ.get(name.encode())
    return value.decode("utf-8", "surrogateescape") if value else None


def start(preserve_fds: int = 0, keep: int = 0) -> int:
    """Normalise this process; must come before anything is opened that is to stay.

    ``preserve_fds``: of the option --preserve-fds. ``keep``: one more descriptor that stays.
    Returns how many descriptors from 3 on the container gets. Raises errors.Error when one of them is not open.
    """
    global caller_umask, listen_fds
    _ocisys.reset_signals()
    for fd in (0, 1, 2):
        try:
            posix.fstat(fd)
        except OSError:
            posix.set_inheritable(posix.open("/dev/null", posix.O_RDWR), True)
    listen_fds = _listen_fds()
    kept = listen_fds + preserve_fds
    if not 0 <= preserve_fds <= _MAX_FDS:
        raise errors.Error(f"invalid preserve-fds {preserve_fds}")
    for fd in range(3, 3 + kept):
        try:
            posix.fstat(fd)
        except OSError as exc:
            message = f"unable to stat preserved-fd {fd - 3} (of {kept})"
            raise errors.from_os(exc, message) from exc
    try:
        if keep > 3 + kept:
            _ocisys.close_range(3 + kept, keep - 1)
        _ocisys.close_range(keep + 1 if keep >= 3 + kept else 3 + kept, 0xFFFFFFFF)
    except OSError:
        _close_each(3 + kept, keep)
    caller_umask = posix.umask(0o022)
    return kept


def _listen_fds() -> int:
    """LISTEN_FDS, when LISTEN_PID says that this process is meant (podman leaves its own behind)."""
    if environ("LISTEN_PID") != str(posix.getpid()):
        return 0
    count = environ("LISTEN_FDS") or ""
    if not count.isdecimal() or int(count) > _MAX_FDS:
        raise errors.Error(f"invalid LISTEN_FDS {count!r}")
    return int(count)


def _close_each(first: int, keep: int) -> None:
    """close_range(2) for an outer seccomp filter that does not know it."""
    for name in posix.listdir("/proc/self/fd"):
        if int(name) >= first and int(name) != keep:
            try:
                posix.close(int(name))
            except OSError:
                continue  # the descriptor of the listing itself

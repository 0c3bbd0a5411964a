"""Unix sockets by descriptor, whatever the length of their path.

Hot module; unix(7): sun_path holds 107 bytes and engines have longer paths, so a socket is reached through
/proc/self/fd of its directory.
"""

from __future__ import annotations

import _socket
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

STREAM = _socket.SOCK_STREAM
SEQPACKET = _socket.SOCK_SEQPACKET
DGRAM = _socket.SOCK_DGRAM
_CLOEXEC = _socket.SOCK_CLOEXEC
_PATH_MAX = 107
_ENOTCONN = 107
_PATIENCE = (4).to_bytes(8, sys.byteorder) + bytes(8)
"""struct timeval: connect(2) waits without end for a listener with a full queue, sending for one that reads nothing."""


def connect(path: str, kind: int = STREAM) -> int:
    """A new descriptor connected to the socket at ``path`` (``@name``: abstract); OSError, EAGAIN when nobody takes
    the connection, or later the data, for 4 s."""
    sock = _socket.socket(_socket.AF_UNIX, kind | _CLOEXEC)
    try:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, _PATIENCE)
        raw = path.encode("utf-8", "surrogateescape")
        if raw[:1] == b"@":
            _connect(sock, b"\0" + raw[1:])
        elif len(raw) <= _PATH_MAX:
            _connect(sock, raw)
        else:
            directory, _, name = path.rpartition("/")
            fd = posix.open(directory or "/", posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
            try:
                _connect(sock, f"/proc/self/fd/{fd}/{name}")
            finally:
                posix.close(fd)
        return sock.detach()
    finally:
        sock.close()


def _connect(sock: _socket.socket, address: bytes | str) -> None:
    """connect(2), again after a signal: CPython takes an interrupted one for one that goes on by itself, which on a
    Unix socket none does; OSError."""
    while True:
        sock.connect(address)
        try:
            sock.getpeername()
        except OSError as exc:
            if exc.errno != _ENOTCONN:
                raise
        else:
            return


def listen(dirfd: int, name: str, kind: int = SEQPACKET, backlog: int = 8) -> int:
    """A new descriptor listening at ``name`` in the directory ``dirfd`` (a datagram socket: bound); OSError."""
    sock = _socket.socket(_socket.AF_UNIX, kind | _CLOEXEC)
    try:
        sock.bind(f"/proc/self/fd/{dirfd}/{name}")
        if kind != DGRAM:
            sock.listen(backlog)
        return sock.detach()
    finally:
        sock.close()


def send(fd: int, data: bytes, fds: Iterable[int] = ()) -> None:
    """Send all of ``data`` on a connected socket, ``fds`` with its first byte (SCM_RIGHTS); OSError."""
    sock = _socket.socket(fileno=fd)
    try:
        numbers = list(fds)
        rest = data
        if numbers:
            packed = b"".join(number.to_bytes(4, sys.byteorder) for number in numbers)
            control = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)]
            rest = data[sock.sendmsg([data], control, _socket.MSG_NOSIGNAL) :]
        while rest:
            rest = rest[sock.send(rest, _socket.MSG_NOSIGNAL) :]
    finally:
        sock.detach()

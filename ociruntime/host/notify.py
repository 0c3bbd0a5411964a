"""sd_notify(3) between the container and whoever waits for it: readiness goes out, and nothing else.

Hot module, imported only when the caller has NOTIFY_SOCKET set. The container gets a directory with a socket of ours
(it must not reach the caller's own); `start`, or `run` in the foreground, listens there. What the container says is
not passed on as it is: MAINPID and the like would be taken as the runtime's own word.
"""

from __future__ import annotations

import posix
import select

from ociruntime import errors
from ociruntime.host import unixsock

DIRECTORY = "notify"  # in the state directory
_SOCKET = "notify.sock"
_MESSAGE_MAX = 4096
_BARRIER_TIMEOUT = 5000  # milliseconds; a receiver that knows no barriers keeps the descriptor


def prepare(state_directory: str) -> tuple[str, str]:
    """Make the directory for the container's socket, which goes to /run/notify; it and the variable for the program.

    Raises errors.Error.
    """
    path = f"{state_directory}/{DIRECTORY}"
    try:
        posix.mkdir(path, 0o755)
    except FileExistsError:
        pass
    except OSError as exc:
        raise errors.from_os(exc, f"mkdir {path}") from exc
    return path, f"NOTIFY_SOCKET=/run/notify/{_SOCKET}"


def listen(state_fd: int) -> int:
    """Bind the container's socket in the state directory ``state_fd``; a descriptor. Raises errors.Error."""
    try:
        directory = posix.open(
            DIRECTORY, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC, dir_fd=state_fd
        )
        try:
            try:
                posix.unlink(_SOCKET, dir_fd=directory)
            except FileNotFoundError:
                pass
            fd = unixsock.listen(directory, _SOCKET, unixsock.DGRAM)
            posix.chmod(_SOCKET, 0o777, dir_fd=directory)  # any user of the container
            return fd
        finally:
            posix.close(directory)
    except OSError as exc:
        raise errors.from_os(exc, f"bind {DIRECTORY}/{_SOCKET}") from exc


def is_ready(message: bytes) -> bool:
    """Whether a notification says that the service is up."""
    return b"READY=1" in message.split(b"\n")


def forward(caller: str, pid: int) -> None:
    """Tell the caller's socket that the container is ready and which process it is.

    Waits until that has been read (sd_notify_barrier(3)): systemd cannot tell whose word it is once this process is
    gone. Raises errors.Error.
    """
    try:
        fd = unixsock.connect(caller, unixsock.DGRAM)
        try:
            unixsock.send(fd, b"READY=1\nMAINPID=%d" % pid)
            reader, writer = posix.pipe2(posix.O_CLOEXEC)
            try:
                try:
                    unixsock.send(fd, b"BARRIER=1", (writer,))
                finally:
                    posix.close(writer)
                poll = select.poll()
                poll.register(reader, select.POLLIN)
                poll.poll(_BARRIER_TIMEOUT)
            finally:
                posix.close(reader)
        finally:
            posix.close(fd)
    except OSError as exc:
        raise errors.from_os(exc, f"notify {caller}") from exc


def take(fd: int, caller: str, pid: int) -> bool:
    """Read one notification from the container; True when it was READY=1 and has been passed on.

    Raises errors.Error.
    """
    if not is_ready(posix.read(fd, _MESSAGE_MAX)):
        return False
    forward(caller, pid)
    return True


def wait_ready(fd: int, pidfd: int, caller: str, pid: int) -> bool:
    """Wait until the container says that it is ready (True) or its process ends (False). Raises errors.Error."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    while True:
        events = dict(poll.poll())
        if fd in events and take(fd, caller, pid):
            return True
        if pidfd in events and fd not in events:
            return False

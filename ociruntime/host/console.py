"""The console socket: where the caller takes the pty master from.

Hot module.
"""

from __future__ import annotations

import posix

from ociruntime import errors
from ociruntime.host import unixsock

_NAME = b"/dev/ptmx"  # goes along with the descriptor; receivers show it at most


def check(terminal: bool, console_socket: str | None, detach: bool) -> None:
    """The rules for process.terminal, --console-socket and --detach; errors.Error.

    ``detach``: nobody stays to copy the terminal's data (`create`, and `run` and `exec` with --detach).
    """
    if terminal and detach and not console_socket:
        raise errors.Error(
            "cannot allocate tty if ociruntime will detach without setting console socket",
            pointer="/process/terminal",
        )
    if console_socket and not (terminal and detach):
        raise errors.Error(
            "cannot use console socket if ociruntime will not detach or allocate tty",
            pointer="/process/terminal",
        )


def connect(path: str) -> int:
    """Connect to the console socket, before anything is made and before its path can lose its meaning.

    Returns a descriptor for send(). Raises errors.Error.
    """
    try:
        return unixsock.connect(path)
    except OSError as exc:
        raise errors.from_os(exc, f"connect to console socket {path}") from exc


def send(socket: int, master: int) -> None:
    """Hand the pty master over; closes both descriptors, whatever happens. Raises errors.Error."""
    try:
        unixsock.send(socket, _NAME, (master,))
    except OSError as exc:
        raise errors.from_os(exc, "send pty master over console socket") from exc
    finally:
        posix.close(master)
        posix.close(socket)

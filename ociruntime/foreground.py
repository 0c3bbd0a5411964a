"""What `run` and `exec` do while their program runs in the foreground.

Hot module. Signals are forwarded, a terminal is copied, and the program's end becomes the exit code.
"""

from __future__ import annotations

import posix

from ociruntime import errors
from ociruntime.host import launch, native

_PR_SET_CHILD_SUBREAPER = 36
_NOT_FORWARDED = (9, 19)  # SIGKILL and SIGSTOP cannot be blocked
_SIGNALS = tuple(number for number in range(1, 65) if number not in (*_NOT_FORWARDED, 32, 33))


def hold_signals() -> None:
    """Block every signal: from before the program starts until wait() forwards what has come."""
    import _ocisys

    posix.close(_ocisys.signalfd(_SIGNALS))


def become_subreaper() -> None:
    """Adopt the container's orphans, so that they are reaped here."""
    import _ocisys

    _ocisys.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def wait(init: launch.Init, master: int = -1) -> int:
    """Wait for the program; its exit code, 128 + N when signal N ended it. Raises errors.Error.

    ``master``: of its pseudo terminal, which is copied from and to this process's own stdio.
    """
    try:
        status = native.wait_foreground(init.pid, init.pidfd, master=master)
    except OSError as exc:
        raise errors.from_os(exc, "wait for the program") from exc
    init.status = status
    init.close()
    if posix.WIFSIGNALED(status):
        return 128 + posix.WTERMSIG(status)
    return posix.WEXITSTATUS(status)

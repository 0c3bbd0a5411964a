"""Why a process does not get on: whether it was stopped, or waits in the kernel.

Hot module, imported only once somebody has waited in vain for a while. proc(5), signal(7).
"""

from __future__ import annotations

import posix

import _ocisys

from ociruntime import errors, signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_LOOKS, _INTERVAL = 10, 0.1  # a second: who merely slows a process down lets it run in between
_ENDING = (signals.SIGHUP, signals.SIGINT, 3, signals.SIGTERM)


def check_stopped(pid: int, hint: str) -> None:
    """Raises errors.Error when a process has been stopped by a signal for the whole of a second.

    A process that a debugger holds (state t) is not: it goes on when the debugger lets it.
    """
    if _stays_stopped(pid):
        raise errors.Error(f"init (pid {pid}) is stopped", hint=hint)


def check_clone(pid: int) -> None:
    """The same for the process that ``pid``, a child of ours that has ended, has cloned beside itself and that has not
    said so yet. It is killed: nobody else knows of it. Raises errors.Error."""
    name = _name(pid)
    for child in _children():
        if child != pid and _name(child) == name and _stays_stopped(child):
            posix.kill(child, signals.SIGKILL)
            posix.waitpid(child, 0)
            raise errors.Error(f"init (pid {child}) is stopped", hint=ENDED)


def end_clones(known: set[int]) -> None:
    """End and reap the children of this process, beside ``known``, that init has cloned beside itself.

    As long as one is not reaped, the init of its pid namespace does not end. Of other children, which a shell may have
    left to this process, none is killed.
    """
    from ociruntime.host import procfs

    for child in _children():
        if child not in known and procfs.names_init(_name(child)):
            posix.kill(child, signals.SIGKILL)
            posix.waitpid(child, 0)


def check_asleep(init: int, pids: Iterable[int]) -> None:
    """Raises errors.Error when one of the processes of a container whose init was killed has been in uninterruptible
    sleep for the whole of a second: SIGKILL has to wait until the file system or device answers that it asked."""
    asleep = [pid for pid in {init, *pids} if _state_of(f"/proc/{pid}") == "D"]
    for pid in sorted(asleep, key=lambda pid: pid != init):
        if _stays(lambda pid=pid: _state_of(f"/proc/{pid}") == "D"):  # type: ignore[misc]
            place = _read(f"/proc/{pid}/wchan").strip()
            raise errors.Error(
                f"container init still running: process {pid} ({_name(pid)}) is in uninterruptible sleep"
                + (f", in {place} of the kernel" if place not in ("", "0") else ""),
                hint="it asked a file system or device that does not answer; delete again once it does",
            )


ENDED = "somebody sent it SIGSTOP while it was being set up; it was killed"


def check_asked_to_end() -> None:
    """Raises errors.Error when this process, which holds its signals back for the program, is asked to end."""
    pending = 0
    for line in _read("/proc/self/status").splitlines():
        if line.startswith(("SigPnd:", "ShdPnd:")):
            pending |= int(line.split()[1], 16)
    for signum in _ENDING:
        if pending & 1 << (signum - 1):
            text = f"{signals.name(signum)} came before the program was executed"
            raise errors.Error(text, exit_code=128 + signum)


def _stays_stopped(pid: int) -> bool:
    return _stays(lambda: _state_of(f"/proc/{pid}") == "T")


def _stays(condition: Callable[[], bool]) -> bool:
    """Whether something holds at every look of a second."""
    for look in range(_LOOKS):
        if look:
            _ocisys.sleep(_INTERVAL)
        if not condition():
            return False
    return True


def _read(path: str) -> str:
    """A file of procfs; empty when it, or its process, is not there or not ours to look at."""
    from ociruntime.host import procfs

    try:
        return procfs.read_record(path).decode("utf-8", "replace")
    except OSError:
        return ""


def _state_of(place: str) -> str:
    return _read(f"{place}/stat").rpartition(")")[2].strip()[:1]


def _name(pid: int) -> str:
    return _read(f"/proc/{pid}/stat").rpartition(")")[0].partition("(")[2]


def _children() -> list[int]:
    own = posix.getpid()
    return [int(word) for word in _read(f"/proc/self/task/{own}/children").split()]

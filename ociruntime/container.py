"""The lifecycle of a container that exists: start, kill, delete, pause, resume; and how steps are run and undone.

Hot module; lifecycle_create.py and lifecycle_exec.py have the two verbs that start a process.
"""

from __future__ import annotations

import posix
import select

import _ocisys

from ociruntime import errors, log, signals, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeAlias, TypeVar

    Context = TypeVar("Context")
    Action: TypeAlias = "Callable[[Context], None]"
    Step: TypeAlias = "tuple[str, Action[Context], Action[Context] | None]"

_KILL_TIMEOUT = 10.0  # seconds that a killed init may take to go
_LOOK_AFTER = 3.0  # seconds until somebody asks why it takes so long
_REAP_INTERVAL = 0.1
_ENOENT, _ESRCH, _EINVAL = 2, 3, 22
_PF_EXITING = 0x4  # include/linux/sched.h


def run_steps(steps: Sequence[Step[Context]], context: Context) -> None:
    """Run ``(name, do, undo)`` one after the other; after a failure undo what was done, the last first.

    The failing step's own ``undo`` is called as well: it may have done half of its work. An error carries the name
    of its step (``extra["step"]``); what undoing runs into is logged as a warning.
    """
    done = 0
    try:
        for name, do, _ in steps:
            done += 1
            if log.debugging():
                log.debug(name)
            do(context)
    except errors.NeedFullPython:
        raise
    except BaseException as exc:
        if isinstance(exc, errors.Error):
            exc.extra = {"step": steps[done - 1][0], **(exc.extra or {})}
        while done:
            done -= 1
            name, _, undo = steps[done]
            if undo is not None:
                try:
                    undo(context)
                except (errors.Error, OSError) as problem:
                    log.warning(f"undo {name}: {problem}")
        raise


def send_signal(container: state.Container, signum: int) -> None:
    """Send a signal to the container's init, by pidfd and never to a process that got its pid later.

    Raises errors.Error (``container not running``) when it is gone.
    """
    pidfd = open_init(container)
    try:
        if not _signal(pidfd, signum):
            raise not_running()
    finally:
        posix.close(pidfd)


def _signal(pidfd: int, signum: int) -> bool:
    """Send a signal; False when the process is gone. Raises errors.Error."""
    try:
        _ocisys.pidfd_send_signal(pidfd, signum)
    except OSError as exc:
        if exc.errno == _ESRCH:
            return False
        raise errors.from_os(exc, f"send {signals.name(signum)}") from exc
    return True


def open_init(container: state.Container) -> int:
    """A pidfd of the container's living init. Raises errors.Error (``container not running``)."""
    pid = container.data.get("pid")
    if not pid:
        raise not_running()
    try:
        pidfd = posix.pidfd_open(pid)
    except OSError as exc:
        if exc.errno in (_ESRCH, _EINVAL):
            raise not_running() from exc
        raise errors.from_os(exc, f"pidfd_open {pid}") from exc
    # Looked at after the pidfd was taken: what it stands for is the process with this start time.
    if container.process() is None:
        posix.close(pidfd)
        raise not_running()
    return pidfd


class NotRunning(errors.Error):
    """The process is gone."""


def not_running() -> NotRunning:
    """The error for a process that is gone; engines search for this text."""
    return NotRunning("container not running")


def cgroup(container: state.Container) -> Any:
    """The cgroup manager of a container (ociruntime.cgroups.base.Manager); None when none was decided on yet."""
    recorded = container.data.get("cgroup")
    if not recorded:
        return None
    from ociruntime import cgroups

    try:
        for place in recorded.get("at") or ():
            if tuple([word.__class__ for word in place]) != (str, str, int):
                raise TypeError
            if place[1][:1] != "/":  # nothing but a hierarchy is walked through
                raise ValueError
        for key in ("path", "mount", "unit", "slice"):
            if recorded.get(key, "").__class__ is not str:
                raise TypeError
        if recorded.get("mount", "/")[:1] != "/":
            raise ValueError
        return cgroups.from_state(recorded)
    except (KeyError, TypeError, ValueError) as exc:
        raise state.damaged(state.STATE_FILE, "cgroup is incomplete") from exc


def kill(container: state.Container, signum: int, *, everything: bool) -> None:
    """Send a signal to init, or with ``everything`` to each process of the container's cgroup.

    A stopped container is an error, but not with ``everything``: what is left in its cgroup is killed then.
    Without a pid namespace of its own nobody kills init's children: SIGKILL goes to all. Raises errors.Error.
    """
    data = container.data
    if everything or (signum == signals.SIGKILL and data.get("host_pids")):
        manager = cgroup(container)
        if manager is not None and manager.exists():
            if not everything and container.process() is None:
                raise not_running()
            manager.kill_all(signum)
            return
        if everything and container.process() is None:
            return
    send_signal(container, signum)
    if signum == signals.SIGKILL and container.frozen():
        # A process frozen by cgroup v1 does not even die.
        cgroup(container).thaw()


def kill_and_wait(container: state.Container) -> None:
    """SIGKILL init and everything in the cgroup; returns when init is gone. Raises errors.Error."""
    try:
        pidfd = open_init(container)
    except NotRunning:
        return
    try:
        _signal(pidfd, signals.SIGKILL)
        # Meanwhile: what takes a while to import.
        manager = cgroup(container)
        if manager is not None:
            if container.data.get("host_pids"):
                manager.kill_all(signals.SIGKILL)
            elif container.frozen():
                manager.thaw()
        if _reap_until_exit(pidfd, _LOOK_AFTER):
            return
        from ociruntime.host import stuck

        stuck.check_asleep(container.data["pid"], manager.pids() if manager else ())
        if not _reap_until_exit(pidfd, _KILL_TIMEOUT - _LOOK_AFTER):
            raise errors.Error("container init still running")
    finally:
        posix.close(pidfd)


def _reap_until_exit(pidfd: int, seconds: float) -> bool:
    """wait_exit() of a killed init. The first process of a pid namespace ends after all others are reaped: some may be
    our own children."""
    deadline = _ocisys.monotonic() + seconds
    while not wait_exit(pidfd, _REAP_INTERVAL):
        _reap_all()
        if _ocisys.monotonic() > deadline:
            return False
    return True


def _reap_all() -> None:
    """Reap what has ended among the children of this process."""
    try:
        while posix.waitpid(-1, posix.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def wait_exit(pidfd: int, seconds: float) -> bool:
    """Whether the process behind a pidfd ends within ``seconds``."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    deadline = _ocisys.monotonic() + seconds
    while True:
        left = deadline - _ocisys.monotonic()
        if poll.poll(max(0, int(left * 1000))):
            return True
        if left <= 0:
            return False


def publish(init: Any, pid_file: str | None, pidfd_socket: int) -> None:
    """Write the pid file, under a temporary name first, and send the pidfd; closes the socket. Raises errors.Error."""
    if pid_file:
        try:
            state.replace_file(pid_file, b"%d" % init.pid, 0o644)
        except OSError as exc:
            raise errors.from_os(exc, f"write pid file {pid_file}") from exc
    if pidfd_socket >= 0:
        from ociruntime.host import unixsock

        try:
            unixsock.send(pidfd_socket, b"pidfd", (init.pidfd,))
        except OSError as exc:
            raise errors.from_os(exc, "send pidfd over pidfd socket") from exc
        finally:
            posix.close(pidfd_socket)


def unpublish(pid_file: str | None) -> None:
    """Remove the pid file."""
    if pid_file:
        try:
            posix.unlink(pid_file)
        except FileNotFoundError:
            return


def encoded_document(document: state.State) -> bytes:
    """A state as hooks get it on stdin."""
    from ociruntime.spec import json_reader

    return json_reader.dumps(document).encode()


def state_document(container: state.Container, status: str) -> bytes:
    """The state of a container as hooks get it on stdin."""
    return encoded_document(container.document(status))


def stored_hooks(container: state.Container) -> dict[str, Any]:
    """The hooks that later verbs run, by kind; empty when there are none."""
    if not container.data.get("hooks"):
        return {}
    try:
        data = state.read_file(state.HOOKS_FILE, container.fd)
    except OSError as exc:
        raise errors.from_os(exc, f"read {state.HOOKS_FILE}") from exc
    hooks = state.load_object(data, state.HOOKS_FILE)
    if any(entries.__class__ is not list for entries in hooks.values()):
        raise state.damaged(state.HOOKS_FILE, "hooks are no list")
    return hooks


def destroy(container: state.Container) -> None:
    """Remove the cgroup and the directory of a container without a living init, then run the poststop hooks.

    Their failures are warnings (runtime-spec runtime.md, Lifecycle 13). Raises errors.Error.
    """
    hooks = stored_hooks(container).get("poststop")
    manager = cgroup(container)
    if manager is not None:
        if container.data.get("host_pids") or container.data.get("phase") != "ready":
            # Where no pid namespace died with init, its children may be left.
            manager.kill_all(signals.SIGKILL)
        try:
            manager.delete()
        except errors.Error:
            manager.kill_all(signals.SIGKILL)
            manager.delete()
    remove_class(container)
    document = state_document(container, state.STOPPED) if hooks else b""
    container.remove()
    if hooks:
        from ociruntime.host import hooks as runner

        runner.run(
            "poststop", hooks, document, cwd=container.data.get("bundle", "/"), keep_going=True
        )


def assign_class(container: state.Container, pid: int) -> None:
    """Put a new process into the container's resctrl groups, where it has some. Raises errors.Error."""
    recorded = container.data.get("rdt")
    if recorded:
        from ociruntime.host import resctrl

        resctrl.from_state(recorded).assign((pid,))


def remove_class(container: state.Container) -> None:
    """Remove the resctrl groups that create made. Raises errors.Error."""
    recorded = container.data.get("rdt")
    if recorded:
        from ociruntime.host import resctrl

        resctrl.from_state(recorded).delete()


def end_creation(container: state.Container) -> None:
    """Kill the init of a half-made container: its creator may wait for it for ever, and hold the lock."""
    if container.data.get("phase") != "ready":
        try:
            send_signal(container, signals.SIGKILL)
        except errors.Error as exc:
            log.debug(f"init of a half-made container: {exc.message}")


def delete(container: state.Container, *, force: bool, strict: bool = False) -> None:
    """Delete a stopped or created container, with ``force`` one in any state; it is locked.

    ``strict``: by the letter of the specification, which lets only a stopped one be deleted. Raises errors.Error.
    """
    status = container.status(locked=True)
    allowed = (state.STOPPED,) if strict else (state.STOPPED, state.CREATED)
    if not force and status not in allowed:
        raise errors.Error(f"cannot delete container {container.id} that is not stopped: {status}")
    if status != state.STOPPED or container.data.get("phase") != "ready":
        kill_and_wait(container)
    destroy(container)


def pause(container: state.Container) -> None:
    """Freeze a running or created container, which is locked. Raises errors.Error."""
    status = container.status(locked=True)
    if status not in (state.RUNNING, state.CREATED):
        raise errors.Error(f"container not running or created: {status}")
    manager = _manager(container)
    manager.freeze()
    try:
        gone = ending(container)
    except errors.Error:
        manager.thaw()  # a failed pause pauses nothing
        raise
    if gone:
        # `kill`, which takes no lock, looked at the freezer before: what cgroup v1 has frozen would not even die.
        manager.thaw()
        raise not_running()


def ending(container: state.Container) -> bool:
    """Whether init is gone, on its way out, or about to get SIGKILL (proc_pid_stat(5), proc_pid_status(5))."""
    if container.process() is None:
        return True
    place = f"/proc/{container.data['pid']}"
    try:
        stat = state.read_file(f"{place}/stat").rpartition(b")")[2].split()
        status = state.read_file(f"{place}/status")
    except OSError as exc:
        if exc.errno in (_ENOENT, _ESRCH):
            return True
        raise errors.from_os(exc, f"read {place}") from exc
    if int(stat[6]) & _PF_EXITING:
        return True
    bit = 1 << (signals.SIGKILL - 1)
    return any(
        int(line.split()[1], 16) & bit
        for line in status.splitlines()
        if line.startswith((b"SigPnd:", b"ShdPnd:"))
    )


def resume(container: state.Container) -> None:
    """Thaw a paused container, which is locked. Raises errors.Error."""
    if container.status(locked=True) != state.PAUSED:
        raise errors.Error("container not paused")
    _manager(container).thaw()


def _manager(container: state.Container) -> Any:
    manager = cgroup(container)
    if manager is None:
        raise errors.Error("container has no cgroup")
    return manager

"""Starting init and talking with it until it is ready or has executed its program.

Hot module. docs/architecture.md has the protocol: one packet per message on one SEQPACKET channel, every SYNC
compared with the plan. init dies with the channel: nothing here has to run for that (the runtime may be killed at
any moment).
"""

from __future__ import annotations

import _struct
import posix
import select

import _ocisys

from ociruntime import errors
from ociruntime.host import native
from ociruntime.plan import ops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Handlers = Mapping[int, Callable[["Init"], None]]
    OnDescriptor = Callable[[int], None]

_HEAD = _struct.Struct("=IIiI")
_NO_OP = 0xFFFFFFFF
_SIGKILL = 9
_CLONE_HINTS = {
    1: "new namespaces need CAP_SYS_ADMIN, or a user namespace among them (as spec --rootless writes it)",
    11: "a limit on the number of processes is reached",
    22: "the kernel may lack one of the namespaces",
    28: "a limit below /proc/sys/user is reached",
}
_KILL_TIMEOUT = 10.0  # seconds that a killed process may take to go

_known: set[int] = set()
"""The processes of all Init objects."""


class Init:
    """A process that runs a plan.

    ``pid``; ``pidfd`` and ``channel`` are descriptors, -1 once closed.
    """

    __slots__ = ("channel", "cloned", "pid", "pidfd", "plan", "status")

    def __init__(self, plan: ops.Plan, pid: int, pidfd: int, channel: int) -> None:
        self.plan = plan
        self.pid = pid
        self.pidfd = pidfd
        self.channel = channel
        self.status: int | None = None  # as of waitpid(2), once reaped
        self.cloned = False  # ``pid`` is the clone that the first process made beside itself
        _known.add(pid)

    def serve(
        self,
        handlers: Handlers,
        *,
        on_console: OnDescriptor | None = None,
        on_listener: OnDescriptor | None = None,
    ) -> str:
        """Answer init's messages until it waits at its gate (``"ready"``), has executed (``"exec"``), or has done all
        of a plan without gate and program (``"done"``).

        ``handlers[tag](init)`` does the host's part of each SYNC. ``on_console`` gets the pty master, ``on_listener``
        the seccomp listener; both own what they get. The channel is closed in the end.
        On every failure init is killed and reaped before errors.Error (or a handler's exception) is raised.
        """
        try:
            outcome = self._serve(handlers, on_console, on_listener)
        except BaseException:
            self.kill_and_reap()
            raise
        self._close_channel()
        return outcome

    def _serve(
        self,
        handlers: Handlers,
        on_console: OnDescriptor | None,
        on_listener: OnDescriptor | None,
    ) -> str:
        expected = iter(self.plan.syncs)
        callbacks = {ops.MSG_CONSOLE: on_console, ops.MSG_LISTENER: on_listener}
        while True:
            try:
                data, fds, pid = native.channel_recv(self.channel)
            except ConnectionResetError:  # it died with our last answer unread
                data, fds, pid = b"", [], 0
            except BlockingIOError:  # silent for a while (SO_RCVTIMEO)
                self._look()
                continue
            except OSError as exc:
                raise errors.from_os(exc, "receive from init") from exc
            try:
                if not data:
                    return self._end()
                if len(data) < _HEAD.size or len(data) > _HEAD.size + 3072:
                    raise errors.Error(f"init sent a message of {len(data)} bytes")
                kind, op, number, value = _HEAD.unpack_from(data)
                if kind == ops.MSG_SYNC:
                    self._answer(value, next(expected, 0), handlers)
                elif kind == ops.MSG_READY:
                    missing = next(expected, 0)
                    if missing or "gate" not in self.plan.fds:
                        raise errors.Error(f"init is ready where the plan has {_tag(missing)}")
                    return "ready"
                elif kind == ops.MSG_CHILD:
                    self._adopt(pid)
                elif kind in callbacks:
                    callback = callbacks[kind]
                    if len(fds) != 1 or callback is None:
                        raise errors.Error(f"init sent {len(fds)} descriptors in message {kind}")
                    callback(fds.pop())
                elif kind == ops.MSG_ERROR:
                    raise _attributed(self.plan, op, number, data)
                elif kind in (ops.MSG_WARNING, ops.MSG_DEBUG):
                    _log(self.plan, kind, op, number, data)
                else:
                    raise errors.Error(f"init sent an unknown message {kind}")
            finally:
                for fd in fds:
                    posix.close(fd)

    def _look(self) -> None:
        """Raise errors.Error when init will say nothing more. However long a mount or a hook takes is for it to say."""
        from ociruntime.host import procfs, stuck

        stuck.check_asked_to_end()
        stuck.check_stopped(self.pid, stuck.ENDED)
        if procfs.last_words(self.pid)[1]:
            stuck.check_clone(self.pid)

    def _answer(self, asked: int, expected: int, handlers: Handlers) -> None:
        """Do the host's part of one SYNC and say so."""
        if asked != expected or not expected:
            raise errors.Error(f"init asked for {_tag(asked)} where the plan has {_tag(expected)}")
        handler = handlers.get(asked)
        if handler is None:
            raise errors.Error(f"init asked for {_tag(asked)} and nothing is prepared for it")
        handler(self)
        try:
            native.channel_send(self.channel, _HEAD.pack(ops.MSG_GO, _NO_OP, 0, asked))
        except (BrokenPipeError, ConnectionResetError):
            pass  # init is gone; why it went is still to be read
        except OSError as exc:
            raise errors.from_os(exc, "send to init: sendmsg") from exc

    def _end(self) -> str:
        """What the end of the channel means."""
        if any(code == ops.GATE for code, *_ in self.plan.ops):
            raise errors.Error(f"container init {self._death()} before it was ready")
        if all(code != ops.EXEC for code, *_ in self.plan.ops):
            if self.wait(_KILL_TIMEOUT) != 0:
                raise errors.Error(f"init {self._death()} before it had done its work")
            return "done"
        if self._never_executed():
            raise errors.Error(f"container init {self._death()} before it executed the program")
        return "exec"

    def _never_executed(self) -> bool:
        """Whether a process that is ending was still init: by the command name that the kernel keeps.

        Before it has executed init this is this process's own.
        """
        from ociruntime.host import procfs

        name, exiting = procfs.last_words(self.pid)
        if not exiting:
            return False
        if not procfs.names_init(name) and name != procfs.last_words(posix.getpid())[0]:
            return False
        programs = [args[0] for code, _, _, args in self.plan.ops if code == ops.FIND_EXE]
        programs += [args[4] for code, _, _, args in self.plan.ops if code == ops.EXEC]
        return all(str(path).rpartition("/")[2][:15] != name for path in programs)

    def _death(self) -> str:
        """How init ended, in words."""
        status = self.wait(_KILL_TIMEOUT)
        if status is None:
            return "closed its channel"
        if posix.WIFSIGNALED(status):
            signum = posix.WTERMSIG(status)
            reason = ", out of memory or killed by someone else" if signum == _SIGKILL else ""
            return f"was killed by signal {signum}{reason}"
        return f"exited with status {posix.WEXITSTATUS(status)}"

    def _adopt(self, pid: int) -> None:
        """The first process has cloned the real one (CLONE_PARENT: a child of ours) and exits."""
        if pid <= 0:
            raise errors.Error("init sent a child without credentials")
        try:
            pidfd = posix.pidfd_open(pid)
        except OSError as exc:
            # It may be in a pid namespace whose init does not end as long as this one is not reaped.
            _end_child(pid)
            raise errors.from_os(exc, f"pidfd_open of init's child {pid}") from exc
        try:
            if pid == self.pid:
                raise errors.Error("init sent itself as its child")
            # Nobody else's process may be taken for init, and killed for it.
            posix.waitid(posix.P_PIDFD, pidfd, posix.WEXITED | posix.WNOHANG | posix.WNOWAIT)
            if self.wait(_KILL_TIMEOUT) is None:
                raise errors.Error("init has cloned itself and does not end")
        except BaseException as exc:
            posix.close(pidfd)
            if isinstance(exc, ChildProcessError):
                raise errors.Error(f"init sent process {pid}, which is not its child") from exc
            raise
        posix.close(self.pidfd)
        _known.discard(self.pid)
        _known.add(pid)
        self.pid, self.pidfd, self.status, self.cloned = pid, pidfd, None, True

    def wait(self, timeout: float | None = None) -> int | None:
        """Reap the process; its status as of waitpid(2), None when ``timeout`` seconds were not enough."""
        if self.status is None:
            if timeout is not None and not wait_readable(self.pidfd, timeout):
                return None
            self.status = posix.waitpid(self.pid, 0)[1]
        return self.status

    def kill(self) -> None:
        """Send SIGKILL; fine when it is gone already."""
        try:
            _ocisys.pidfd_send_signal(self.pidfd, _SIGKILL)
        except ProcessLookupError:
            pass

    def kill_and_reap(self) -> None:
        """End the process, whatever it does, and let go of it."""
        if self.pidfd >= 0 and self.status is None:
            self.kill()
            self.wait(_KILL_TIMEOUT)
        self.close()
        if not self.cloned and any(code == ops.CLONE for code, *_ in self.plan.ops):
            # It may have cloned itself and not got to say so.
            from ociruntime.host import stuck

            stuck.end_clones(_known)

    def close(self) -> None:
        """Close the descriptors. A process that still waits for an answer gives up and exits by itself."""
        if self.status is not None:
            _known.discard(self.pid)
        self._close_channel()
        if self.pidfd >= 0:
            posix.close(self.pidfd)
            self.pidfd = -1

    def _close_channel(self) -> None:
        if self.channel >= 0:
            posix.close(self.channel)
            self.channel = -1


def launch(
    plan: ops.Plan,
    encoded: bytes,
    fds: Sequence[int],
    *,
    preserve_fds: int = 0,
    cgroup_fd: int = -1,
    join_fds: Sequence[int] = (),
    stdio: tuple[int, int, int] | None = None,
) -> Init:
    """Start init with a plan.

    ``encoded``: the plan's bytes, made with first_fd 3 + ``preserve_fds``. ``fds``: for plan.fds[2:], in order; they
    stay the caller's. ``cgroup_fd``: of a cgroup v2 to start in; ``join_fds``: `tasks` files of cgroup v1 that the
    child writes itself to before anything else. ``stdio``: in place of 0, 1 and 2.
    Raises errors.Error.
    """
    if len(fds) != len(plan.fds) - 2:
        raise errors.Error(f"the plan needs {len(plan.fds) - 2} descriptors, not {len(fds)}")
    owned: list[int] = []
    try:
        ours, theirs = native.channel_pair()
        owned += (ours, theirs)
        plan_fd = native.memfd_sealed(encoded)
        owned.append(plan_fd)
        program = native.init_memfd()
        owned.append(program)
        pid, pidfd = native.spawn(
            program,
            3 + preserve_fds,
            [theirs, plan_fd, *fds],
            clone_flags=plan.clone_flags,
            cgroup_fd=cgroup_fd,
            join_fds=join_fds,
            stdio=stdio,
        )
        owned.remove(ours)
        return Init(plan, pid, pidfd, ours)
    except OSError as exc:
        call = exc.filename or "clone3"
        hint = _CLONE_HINTS.get(exc.errno or 0) if call == "clone3" else None
        raise errors.from_os(exc, f"start init: {call}", hint=hint) from exc
    finally:
        for fd in owned:
            posix.close(fd)


def _end_child(pid: int) -> None:
    """Kill and reap a child of ours that has no pidfd."""
    posix.kill(pid, _SIGKILL)
    posix.waitpid(pid, 0)


def wait_readable(fd: int, timeout: float) -> bool:
    """Whether ``fd`` becomes readable within ``timeout`` seconds."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    deadline = _ocisys.monotonic() + timeout
    while True:
        left = deadline - _ocisys.monotonic()
        try:
            if poll.poll(max(0, int(left * 1000) + 1 if left > 0 else 0)):
                return True
        except OSError:  # no memory: it ends all the same
            _ocisys.sleep(0.01)
        if left <= 0:
            return False


def _tag(tag: int) -> str:
    return ops.TAG_NAMES[tag] or "nothing more" if tag < len(ops.TAG_NAMES) else str(tag)


def _text(data: bytes) -> tuple[str, str]:
    """System call and detail of an error or warning."""
    text = data[_HEAD.size :].decode("utf-8", "surrogateescape")
    call, _, detail = text.partition("\0")
    return call, detail


def _attributed(plan: ops.Plan, op: int, number: int, data: bytes) -> errors.Error:
    from ociruntime.plan import attribute

    call, detail = _text(data)
    return attribute.attribute(plan, op, call, number, detail)


def _log(plan: ops.Plan, kind: int, op: int, number: int, data: bytes) -> None:
    from ociruntime import log

    if kind == ops.MSG_WARNING:
        log.warning(_attributed(plan, op, number, data).message)
    elif log.debugging():
        log.debug(_text(data)[0])

"""`start`: let init, which waits at its gate, go on to the user's program.

Hot module. The gate is a SEQPACKET socket in the state directory (native/plan.h, OP_GATE): a connection carries GO to
init and brings back what can still fail; its end means that the program was executed.
"""

from __future__ import annotations

import _socket
import _struct
import posix
import sys

from ociruntime import container as lifecycle
from ociruntime import errors, log, state
from ociruntime.host import normalize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HEAD = _struct.Struct("=IIiI")
_GO, _ERROR, _WARNING, _DEBUG, _LISTENER = 2, 3, 4, 5, 9  # enum plan_msg_type
_TAG_START = 6
_NO_OP = 0xFFFFFFFF
_ENOTCONN = 107
_MESSAGE_MAX = 16 + 3072
_PATIENCE = _struct.pack("ll", 1, 0)  # struct timeval; see host/stuck.py


def start(container: state.Container) -> None:
    """Start a created container, which is locked: startContainer hooks, program, poststart hooks. Raises errors.Error.

    When a poststart hook fails, the container is killed and deleted (runtime-spec 1.3, Lifecycle 9).
    """
    data = container.data
    status = container.status(locked=True)
    if status == state.STOPPED:
        raise _stopped()
    if status == state.RUNNING:
        raise errors.Error("cannot start an already running container")
    if status != state.CREATED:
        raise errors.Error(f"cannot start a container in the {status} state")
    if container.seen and container.seen[0] == "T":
        # Before it is asked: it would execute the program once it goes on.
        _check_stopped(data["pid"])
    if data.get("no_process"):
        raise errors.Error("cannot start a container without a process", pointer="/process")
    caller = normalize.environ("NOTIFY_SOCKET") if data.get("notify") else None
    notify_fd = _listen(container) if caller else -1
    hooks = lifecycle.stored_hooks(container)
    proceed(container, hooks)
    if hooks.get("poststart"):
        poststart(container, hooks["poststart"])
    if caller:
        container.unlock()
        wait_ready(container, notify_fd, caller)


def proceed(container: state.Container, hooks: dict[str, Any]) -> None:
    """Run the startContainer hooks and let init execute the program. Raises errors.Error."""
    if hooks.get("startContainer"):
        _start_container_hooks(container, hooks["startContainer"])
    try:
        _pass(container)
    except OSError as exc:
        if lifecycle.ending(container):
            raise _stopped() from exc
        raise errors.from_os(exc, "start: talk with container init") from exc
    try:
        posix.unlink(state.GATE_FILE, dir_fd=container.fd)
    except OSError as exc:
        # The program runs, and the status is told by init's name as well (state.Container.status).
        log.warning(errors.from_os(exc, f"unlink {container.path}/{state.GATE_FILE}").message)


def wait_ready(container: state.Container, fd: int, caller: str) -> None:
    """Wait until the program says READY=1 on ``fd`` (sd_notify(3)), which is passed on to ``caller``, or ends."""
    try:
        pidfd = lifecycle.open_init(container)
    except errors.Error:
        return
    from ociruntime.host import notify

    try:
        notify.wait_ready(fd, pidfd, caller, container.data["pid"])
    finally:
        posix.close(pidfd)


def _listen(container: state.Container) -> int:
    from ociruntime.host import notify

    return notify.listen(container.fd)


def _check_stopped(pid: int) -> None:
    """Raises errors.Error when init was stopped by a signal: it cannot execute the program."""
    from ociruntime.host import stuck

    stuck.check_stopped(pid, f"kill -CONT {pid} lets it go on; delete --force ends it")


def _stopped() -> errors.Error:
    return errors.Error("cannot start a container that has stopped")


def _pass(container: state.Container) -> None:
    """Through the gate. Raises OSError where init does not answer, errors.Error for what it answers."""
    gate = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        gate.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, _PATIENCE)
        # Through the descriptor: a state directory's path may be longer than a socket address (unix(7)).
        _ask(gate, f"/proc/self/fd/{container.fd}/{state.GATE_FILE}")
        _follow(container, gate)
    finally:
        gate.close()


def _ask(gate: _socket.socket, path: str) -> None:
    """Connect and send GO; OSError.

    CPython takes a connect(2) that a signal has interrupted for one that goes on by itself: on a Unix socket none does.
    """
    while True:
        gate.connect(path)
        try:
            gate.send(_HEAD.pack(_GO, _NO_OP, 0, _TAG_START))
        except OSError as exc:
            if exc.errno != _ENOTCONN:
                raise
        else:
            return


def _follow(container: state.Container, gate: _socket.socket) -> None:
    """Read what init reports until the connection ends with execve. Raises errors.Error for its failure."""
    control_size = _socket.CMSG_SPACE(4)
    while True:
        try:
            message, control, _, _ = gate.recvmsg(
                _MESSAGE_MAX, control_size, _socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            message = b""
        except BlockingIOError:  # silent for a while
            _check_stopped(container.data["pid"])
            continue
        if not message:
            _check_executed(container)
            return
        fds = _descriptors(control)
        if len(message) < _HEAD.size or len(fds) > 1:
            for fd in fds:
                posix.close(fd)
            raise errors.Error(f"start: init sent {len(message)} bytes, {len(fds)} descriptors")
        kind, _, number, _ = _HEAD.unpack_from(message)
        text = message[_HEAD.size :].decode("utf-8", "surrogateescape")
        call, _, detail = text.partition("\0")
        if fds:
            if kind == _LISTENER and container.data.get("listener"):
                _send_listener(container, fds[0])
            else:
                posix.close(fds[0])
        if kind == _ERROR:
            raise _failure(call, number, detail)
        if kind == _WARNING:
            log.warning(_failure(call, number, detail).message)
        elif kind == _DEBUG:
            log.debug(call)


def _descriptors(control: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came with a message (unix(7), SCM_RIGHTS)."""
    return [
        int.from_bytes(data[at : at + 4], sys.byteorder)
        for level, kind, data in control
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
        for at in range(0, len(data) - len(data) % 4, 4)
    ]


def _check_executed(container: state.Container) -> None:
    """Raise errors.Error when the connection ended because init did: the kernel keeps its name until execve."""
    pid, name = container.data["pid"], container.data.get("comm")
    found = state.process_stat(pid)
    if found is None or found[2] != name:
        return
    from ociruntime.host import procfs

    if procfs.last_words(pid) == (name, True):
        raise errors.Error("container init died before it executed the program")


def _failure(call: str, number: int, detail: str) -> errors.Error:
    """An error of init's after the gate: the plan is gone, but only seccomp, capabilities and execve are left in it."""
    if call.startswith("execve"):
        from ociruntime.plan import attribute, ops

        plan = ops.Plan()
        plan.add("/process/args", ops.EXEC, (), 0, (), 0, "")
        return attribute.attribute(plan, 0, call, number, detail)
    more = f" ({detail})" if detail else ""
    return errors.Error(
        f"unable to start container process: {call}: {errors.strerror(number)}{more}"
    )


def _send_listener(container: state.Container, fd: int) -> None:
    from ociruntime.host import seccomp

    listener = container.data["listener"]
    document = container.document(state.CREATED)
    seccomp.send_listener(
        listener["path"], listener.get("metadata", ""), document, container.data["pid"], fd
    )


def _start_container_hooks(container: state.Container, hooks: list[dict[str, Any]]) -> None:
    """Run in the container's namespaces, before the user's program; a failure stops the container."""
    from ociruntime import lifecycle_hooks

    template = state.load_template(container)
    pidfd = lifecycle.open_init(container)
    try:
        lifecycle_hooks.run_inside(
            "startContainer",
            hooks,
            lifecycle.state_document(container, state.CREATED),
            pidfd,
            bundle=container.data["bundle"],
            namespaces=template["namespaces"],
            users=template.get("users"),
            attach=lifecycle.cgroup(container).attach,
        )
    except (errors.Error, OSError):
        lifecycle.kill_and_wait(container)
        raise
    finally:
        posix.close(pidfd)


def poststart(container: state.Container, hooks: list[dict[str, Any]]) -> None:
    """Run the poststart hooks; after a failure the container is killed and deleted, and the error raised."""
    from ociruntime.host import hooks as runner

    try:
        document = lifecycle.state_document(container, state.RUNNING)
        runner.run("poststart", hooks, document, cwd=container.data["bundle"])
    except (errors.Error, OSError):
        lifecycle.kill_and_wait(container)
        lifecycle.destroy(container)
        raise

"""Starting init and talking with it: real inits, a made-up one that misbehaves, and runtimes that are killed."""

from __future__ import annotations

import os
import posix
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ociruntime import errors
from ociruntime.plan import encode, ops

pytestmark = pytest.mark.usefixtures("native", "no_leaks")

NEWUSER = 0x10000000


def exec_plan(*argv: str) -> ops.Plan:
    plan = ops.Plan()
    plan.add("/process", ops.EXEC, tuple(argv), len(argv), (), 0, argv[0])
    return plan


def sync_plan(*tags: int) -> ops.Plan:
    plan = ops.Plan()
    for tag in tags:
        plan.add("", ops.SYNC, tag)
    plan.syncs = list(tags)
    plan.add("/process", ops.EXEC, ("/bin/true",), 1, (), 0, "/bin/true")
    return plan


def gate_plan(*tags: int) -> ops.Plan:
    plan = ops.Plan()
    gate = plan.fd("gate")
    for tag in tags:
        plan.add("", ops.SYNC, tag)
    plan.syncs = list(tags)
    plan.add("", ops.GATE, gate)
    plan.add("/process", ops.EXEC, ("/bin/true",), 1, (), 0, "/bin/true")
    return plan


def start(plan: ops.Plan, fds: list[int] | None = None, **more: object):  # type: ignore[no-untyped-def]
    from ociruntime.host import launch

    first_fd = 3 + int(str(more.get("preserve_fds", 0)))
    return launch.launch(plan, encode.encode(plan, first_fd), fds or [], **more)  # type: ignore[arg-type]


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[int]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "gate"))
        listener.listen()
        yield listener.fileno()


def gone(pid: int) -> bool:
    """Whether a process that is no child of ours ends soon."""
    for _ in range(300):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


# -- how it goes well ------------------------------------------------------------------------------


def test_exec_and_stdio(tmp_path: Path) -> None:
    out = os.open(tmp_path / "out", os.O_CREAT | os.O_WRONLY)
    init = start(exec_plan("/bin/echo", "hello"), stdio=(0, out, 2))
    os.close(out)
    assert init.serve({}) == "exec"
    assert init.wait() == 0
    init.close()
    assert (tmp_path / "out").read_text() == "hello\n"


def test_exit_status_and_signal() -> None:
    init = start(exec_plan("/bin/sh", "-c", "exit 7"))
    assert init.serve({}) == "exec"
    assert posix.WEXITSTATUS(init.wait()) == 7
    init.close()
    init = start(exec_plan("/bin/sh", "-c", "kill -TERM $$"))
    assert init.serve({}) == "exec"
    assert posix.WTERMSIG(init.wait()) == signal.SIGTERM
    init.kill_and_reap()


@pytest.mark.parametrize("name", ["4711", "memfd:program"])
def test_a_program_with_a_name_like_inits_is_not_taken_for_it(tmp_path: Path, name: str) -> None:
    """The command name of a dead process is all that tells its ends apart."""
    path = tmp_path / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    for _ in range(10):
        init = start(exec_plan(str(path)))
        assert init.serve({}) == "exec"
        init.kill_and_reap()


def test_syncs_in_order_and_gate(gate: int) -> None:
    calls: list[str] = []
    init = start(gate_plan(ops.TAG_CGROUP, ops.TAG_NETWORK, ops.TAG_HOOKS), [gate])
    outcome = init.serve(
        {
            ops.TAG_HOOKS: lambda init: calls.append(f"hooks {init.pid}"),
            ops.TAG_CGROUP: lambda init: calls.append(f"cgroup {init.pid}"),
            ops.TAG_NETWORK: lambda init: calls.append(f"network {init.pid}"),
        }
    )
    assert outcome == "ready"
    assert calls == [f"{word} {init.pid}" for word in ("cgroup", "network", "hooks")]
    assert init.channel == -1
    assert init.wait(0.05) is None
    init.kill_and_reap()
    assert init.pidfd == -1
    assert init.status == signal.SIGKILL


def test_clone_changes_the_process(gate: int) -> None:
    plan = ops.Plan()
    slot = plan.fd("gate")
    plan.add("", ops.SYNC, ops.TAG_CGROUP)
    plan.add("", ops.CLONE, 0)
    plan.add("", ops.SYNC, ops.TAG_HOOKS)
    plan.syncs = [ops.TAG_CGROUP, ops.TAG_HOOKS]
    plan.add("", ops.GATE, slot)
    plan.add("/process", ops.EXEC, ("/bin/true",), 1, (), 0, "/bin/true")
    pids: list[int] = []
    init = start(plan, [gate])
    handlers = {tag: lambda init: pids.append(init.pid) for tag in plan.syncs}
    assert init.serve(handlers) == "ready"
    assert len(set(pids)) == 2
    assert init.pid == pids[1]
    assert not Path(f"/proc/{pids[0]}").exists()  # reaped
    stat = Path(f"/proc/{init.pid}/stat").read_text().rpartition(")")[2].split()
    assert int(stat[1]) == os.getpid()  # a child of the runtime, not of the first process
    init.kill_and_reap()


def test_preserved_descriptors(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    saved = {number: os.dup(number) for number in (3,) if Path(f"/proc/self/fd/{number}").exists()}
    plan = exec_plan("/bin/sh", "-c", "echo through >&3")
    try:
        os.dup2(writer, 3)
        init = start(plan, preserve_fds=1)
        assert init.serve({}) == "exec"
        assert init.wait() == 0
        init.close()
        assert os.read(reader, 100) == b"through\n"
    finally:
        for number, fd in saved.items():
            os.dup2(fd, number, inheritable=False)
            os.close(fd)
        os.close(writer)
        if 3 not in (reader, writer) and 3 not in saved:
            os.close(3)
        os.close(reader)


# -- init is stopped by a signal -------------------------------------------------------------------


def test_a_stopped_init_is_given_up() -> None:
    init = start(sync_plan(ops.TAG_CGROUP))
    before = time.monotonic()
    with pytest.raises(errors.Error, match=rf"init \(pid {init.pid}\) is stopped"):
        init.serve({ops.TAG_CGROUP: lambda init: os.kill(init.pid, signal.SIGSTOP)})
    assert time.monotonic() - before < 5
    assert gone(init.pid)


def test_one_that_is_only_slow_is_waited_for() -> None:
    """Stopped when it is looked at, but not for the whole of a second; then silent, but not stopped."""
    init = start(sync_plan(ops.TAG_CGROUP))

    def hold(init: object) -> None:
        pid = init.pid  # type: ignore[attr-defined]
        os.kill(pid, signal.SIGSTOP)
        if os.fork() == 0:
            time.sleep(1.4)
            os.kill(pid, signal.SIGCONT)
            os._exit(0)

    assert init.serve({ops.TAG_CGROUP: hold}) == "exec"
    assert init.wait() == 0
    init.close()
    os.wait()


def test_a_stopped_clone_is_found() -> None:
    """The process that the first one has made beside itself, before it has said so."""
    from ociruntime.host import stuck

    first, second = os.fork(), 0
    if first:
        second = os.fork()
    if not first:
        os._exit(0)
    if not second:
        time.sleep(60)
        os._exit(0)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    stuck.check_clone(first)
    os.kill(second, signal.SIGSTOP)
    os.waitid(os.P_PID, second, os.WSTOPPED)
    with pytest.raises(errors.Error, match=rf"init \(pid {second}\) is stopped"):
        stuck.check_clone(first)
    os.waitpid(first, 0)
    assert not Path(f"/proc/{second}").exists()


def clone_plan() -> ops.Plan:
    plan = sync_plan(ops.TAG_CGROUP)
    plan.ops.insert(0, (ops.CLONE, 0, 0, (0,)))
    return plan


def test_a_clone_that_nobody_was_told_of_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The init of its pid namespace would wait for it. Children that a shell has left to us live on."""
    stranger = os.fork()
    if stranger == 0:
        time.sleep(60)
        os._exit(0)
    init = start(clone_plan())

    def receive(channel: int) -> object:
        os.waitid(os.P_PID, init.pid, os.WEXITED | os.WNOWAIT)  # it has cloned
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("ociruntime.host.native.channel_recv", receive)
        with pytest.raises(errors.Error, match="receive from init: too many open files"):
            init.serve({})
    assert os.waitpid(-1, os.WNOHANG) == (0, 0)  # the stranger alone
    os.kill(stranger, signal.SIGKILL)
    os.waitpid(stranger, 0)


def test_a_clone_whose_adoption_fails_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    init = start(clone_plan())

    def refuse(*args: object) -> object:
        raise OSError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr("posix.waitid", refuse)
        with pytest.raises((errors.Error, OSError)):
            init.serve({})


# -- what init reports -----------------------------------------------------------------------------


def test_failed_operation_is_attributed() -> None:
    plan = ops.Plan()
    plan.add("/process/cwd", ops.FIND_EXE, "nonexistent", "/bin:/usr/bin")
    plan.add("/process", ops.EXEC, ("nonexistent",), 1, (), 0, ops.NONE)
    init = start(plan)
    with pytest.raises(errors.Error, match=r"executable file not found in \$PATH") as caught:
        init.serve({})
    assert caught.value.pointer == "/process/cwd"
    assert init.pidfd == init.channel == -1


def test_broken_plan_is_refused() -> None:
    from ociruntime.host import launch

    plan = exec_plan("/bin/true")
    init = launch.launch(plan, encode.encode(plan, 3)[:-4], [])
    with pytest.raises(errors.Error):
        init.serve({})


def test_warnings_and_debug_lines_go_to_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    from ociruntime import log

    lines: list[str] = []
    monkeypatch.setattr(log, "warning", lines.append)
    plan = ops.Plan()
    plan.add("/linux/sysctl", ops.FSMOUNT, plan.slot(), "nosuchfs", ops.NONE, (), 0, 0,
             flags=ops.F_WARN, errnos=ops.errno_set(19))  # fmt: skip
    plan.add("/process", ops.EXEC, ("/bin/true",), 1, (), 0, "/bin/true")
    init = start(plan)
    assert init.serve({}) == "exec"
    init.kill_and_reap()
    assert len(lines) == 1
    assert "nosuchfs" in lines[0]


# -- an init that dies -----------------------------------------------------------------------------


def kill(init: object) -> None:
    os.kill(init.pid, signal.SIGKILL)  # type: ignore[attr-defined]


def test_death_before_it_is_ready(gate: int) -> None:
    init = start(gate_plan(ops.TAG_CGROUP), [gate])
    with pytest.raises(errors.Error, match="was killed by signal 9, out of memory"):
        init.serve({ops.TAG_CGROUP: kill})


def test_death_before_the_program_is_executed() -> None:
    init = start(sync_plan(ops.TAG_CGROUP))
    with pytest.raises(errors.Error, match=r"signal 9.* before it executed the program"):
        init.serve({ops.TAG_CGROUP: kill})


def test_death_in_mid_operation_of_the_next_sync() -> None:
    init = start(sync_plan(ops.TAG_CGROUP, ops.TAG_HOOKS))
    with pytest.raises(errors.Error, match="signal 9"):
        init.serve({ops.TAG_CGROUP: lambda init: None, ops.TAG_HOOKS: kill})


# -- a host side that fails ------------------------------------------------------------------------


def test_handler_that_fails_leaves_nothing(gate: int) -> None:
    def fail(init: object) -> None:
        raise errors.Error("the host says no")

    init = start(gate_plan(ops.TAG_CGROUP), [gate])
    pid = init.pid
    with pytest.raises(errors.Error, match="the host says no"):
        init.serve({ops.TAG_CGROUP: fail})
    assert not Path(f"/proc/{pid}").exists()


def test_interrupted_handler_leaves_nothing(gate: int) -> None:
    def interrupt(init: object) -> None:
        raise KeyboardInterrupt

    init = start(gate_plan(ops.TAG_CGROUP), [gate])
    with pytest.raises(KeyboardInterrupt):
        init.serve({ops.TAG_CGROUP: interrupt})
    assert init.pidfd == -1


def test_sync_without_handler(gate: int) -> None:
    init = start(gate_plan(ops.TAG_CGROUP), [gate])
    with pytest.raises(errors.Error, match="init asked for cgroup and nothing is prepared"):
        init.serve({})


@pytest.mark.parametrize(
    ("planned", "text"),
    [
        ([], "asked for cgroup where the plan has nothing more"),
        ([ops.TAG_HOOKS], "asked for cgroup where the plan has hooks"),
    ],
)
def test_sync_that_the_plan_does_not_have(gate: int, planned: list[int], text: str) -> None:
    plan = gate_plan(ops.TAG_CGROUP)
    plan.syncs = planned
    init = start(plan, [gate])
    with pytest.raises(errors.Error, match=text):
        init.serve({ops.TAG_CGROUP: lambda _: None, ops.TAG_HOOKS: lambda _: None})


def test_wrong_number_of_descriptors() -> None:
    with pytest.raises(errors.Error, match="the plan needs 1 descriptors, not 0"):
        start(gate_plan(), [])


def test_failed_spawn_leaves_nothing() -> None:
    with pytest.raises(errors.Error, match=r"start init: .*bad file descriptor"):
        start(exec_plan("/bin/true"), cgroup_fd=9999)
    plan = exec_plan("/bin/true")
    plan.clone_flags = 0x1  # no such flag
    with pytest.raises(errors.Error, match="start init: clone3: invalid argument") as caught:
        start(plan)
    assert caught.value.hint == "the kernel may lack one of the namespaces"


def test_init_joins_cgroups_by_itself(tmp_path: Path) -> None:
    """Each file gets one write of "0" before init runs, as a cgroup's tasks need it."""
    files = [tmp_path / name for name in ("one", "two")]
    fds = [os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600) for path in files]
    init = start(sync_plan(ops.TAG_CGROUP), join_fds=fds)
    assert init.serve({ops.TAG_CGROUP: lambda _: None}) == "exec"
    init.kill_and_reap()
    for fd in fds:
        os.close(fd)
    assert [path.read_text() for path in files] == ["0", "0"]
    with pytest.raises(errors.Error, match="start init: write to the tasks of a cgroup: bad file"):
        start(exec_plan("/bin/true"), join_fds=[9999])


def test_missing_init(monkeypatch: pytest.MonkeyPatch) -> None:
    from ociruntime import hotpath

    monkeypatch.setattr(hotpath, "package_dir", lambda: "/nonexistent")
    with pytest.raises(errors.Error, match="start init: /nonexistent/init: no such file"):
        start(exec_plan("/bin/true"))


# -- an init that misbehaves -----------------------------------------------------------------------


def made_up(behave: Callable[[socket.socket], object], plan: ops.Plan | None = None):  # type: ignore[no-untyped-def]
    """An Init whose process runs ``behave`` on its end of the channel and then waits for the other's."""
    from ociruntime.host import launch, native

    ours, theirs = native.channel_pair()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ours)
            channel = socket.socket(fileno=theirs)
            behave(channel)
            channel.recv(1)
        finally:
            os._exit(0)
    os.close(theirs)
    return launch.Init(plan or gate_plan(), pid, os.pidfd_open(pid), ours)


def message(kind: int, value: int = 0, text: bytes = b"", op: int = 0, error: int = 0) -> bytes:
    return struct.pack("=IIiI", kind, op, error, value) + text


@pytest.mark.parametrize(
    ("packet", "text"),
    [
        (b"x", "init sent a message of 1 bytes"),
        (message(ops.MSG_READY)[:15], "init sent a message of 15 bytes"),
        (message(ops.MSG_DEBUG, text=b"x" * 3073), "init sent a message of 3089 bytes"),
        (message(ops.MSG_DEBUG, text=b"x" * 5000), "receive from init: message too long"),
        (message(0), "unknown message 0"),
        (message(77), "unknown message 77"),
        (message(ops.MSG_GO), "unknown message 2"),
        (message(ops.MSG_SYNC, 0), "asked for nothing more where the plan has nothing more"),
        (message(ops.MSG_SYNC, 999), "asked for 999 where"),
        (message(ops.MSG_CONSOLE), "init sent 0 descriptors in message 7"),
        (message(ops.MSG_LISTENER), "init sent 0 descriptors in message 9"),
        (message(ops.MSG_ERROR, op=12345, text=b"mount\0x", error=22), "mount: invalid argument"),
        (message(ops.MSG_ERROR, op=0xFFFFFFFF, text=b"", error=0), "init"),
    ],
)
def test_garbage(packet: bytes, text: str) -> None:
    init = made_up(lambda channel: channel.send(packet))
    with pytest.raises(errors.Error, match=text):
        init.serve({}, on_console=os.close, on_listener=os.close)
    assert init.pidfd == -1


@pytest.mark.parametrize("kind", [ops.MSG_READY, ops.MSG_CONSOLE, ops.MSG_LISTENER, 55])
def test_unexpected_descriptors_are_closed(kind: int) -> None:
    init = made_up(lambda channel: socket.send_fds(channel, [message(kind)], [0, 1, 2]))
    if kind == ops.MSG_READY:
        assert init.serve({}) == "ready"
        init.kill_and_reap()
    else:
        with pytest.raises(errors.Error):
            init.serve({}, on_console=os.close, on_listener=os.close)


def test_console_and_listener_are_handed_over() -> None:
    def behave(channel: socket.socket) -> None:
        for kind in (ops.MSG_CONSOLE, ops.MSG_LISTENER):
            fd = os.open("/dev/null", os.O_RDONLY)
            socket.send_fds(channel, [message(kind)], [fd])
        channel.send(message(ops.MSG_READY))

    got: list[int] = []
    init = made_up(behave)
    assert init.serve({}, on_console=got.append, on_listener=got.append) == "ready"
    for fd in got:
        assert os.readlink(f"/proc/self/fd/{fd}") == "/dev/null"
        assert not os.get_inheritable(fd)
        os.close(fd)
    assert len(got) == 2
    init.kill_and_reap()


def test_error_after_our_answer_was_refused() -> None:
    """init may die between its SYNC and our GO: what it said last is the error, not a broken pipe."""

    def behave(channel: socket.socket) -> None:
        channel.send(message(ops.MSG_SYNC, ops.TAG_CGROUP))
        channel.send(message(ops.MSG_ERROR, op=99, error=12, text=b"mmap\0"))
        os._exit(1)

    init = made_up(behave, gate_plan(ops.TAG_CGROUP))
    with pytest.raises(errors.Error, match="mmap: cannot allocate memory"):
        init.serve({ops.TAG_CGROUP: lambda init: gone(init.pid)})


# -- a runtime that is killed ----------------------------------------------------------------------


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_init_dies_with_the_runtime(gate: int, at: int, staged: bool) -> None:
    """kill -9 of the runtime at each rendezvous: init must not be left (it holds the engine's stderr).

    ``staged``: from the second on it is the child of a process that is gone.
    """
    tags = (ops.TAG_CGROUP, ops.TAG_NETWORK, ops.TAG_HOOKS)
    plan = gate_plan(*tags)
    if staged:
        plan.ops.insert(1, (ops.CLONE, 0, 0, (0,)))
        plan.origins.insert(1, "")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            init = start(plan, [gate])

            def die(init: object) -> None:
                os.write(writer, str(init.pid).encode())  # type: ignore[attr-defined]
                os.kill(os.getpid(), signal.SIGKILL)

            handlers: dict[int, Callable[[object], None]] = {tag: lambda _: None for tag in tags}
            handlers[tags[at]] = die
            init.serve(handlers)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    pid = int(os.read(reader, 20))
    os.close(reader)
    os.close(writer)
    assert gone(pid)


def test_many_launches_leak_nothing() -> None:
    for _ in range(50):
        init = start(exec_plan("/bin/true"))
        assert init.serve({}) == "exec"
        init.wait()
        init.close()

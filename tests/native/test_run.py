"""Whole plans: what the program inherits, how init and its parent talk, what a failure says."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from ociruntime.plan import ops
from ociruntime.plan.encode import encode
from ociruntime.plan.ops import NONE, Plan
from tests.native.kit import (
    HEAD,
    NEWPID,
    NR,
    Machine,
    Running,
    shell,
    until,
    waiting,
)

CLOEXEC = 0x80000


def fails(plan: Plan) -> Plan:
    """An operation that always fails with EINVAL: umount2 with unknown flags."""
    number = 166 if NR["umask"] == 95 else 39
    plan.add("", ops.SYSCALL, number, "/", 0x40000000)
    return plan


# -- what the program gets -------------------------------------------------------------------------


def test_environment_and_exit_status(machine: Machine) -> None:
    plan = shell(Plan(), "echo $0 $A $B; exit 7", "A=1", "B=two words")
    result = machine.run(plan)
    assert (result.output, result.status, result.messages) == ("sh 1 two words\n", 7, [])


def test_descriptors(machine: Machine) -> None:
    """stdio and the preserved ones, and none of those that only the plan has (CVE-2016-9962, CVE-2024-21626)."""
    plan = Plan()
    plan.fd("procfs")
    plan.fd("gate")
    tree = plan.slot()
    plan.add("", ops.OPEN, tree, NONE, "/", os.O_RDONLY, 0, 0, 0)
    shell(plan, "ls /proc/self/fd | tr '\\n' ' '; cat <&3; cat <&4")
    pipes = []
    for text in (b"three", b"four"):
        reader, writer = os.pipe()
        os.write(writer, text)
        os.close(writer)
        pipes.append(reader)
    extra = os.open("/", os.O_RDONLY)
    os.set_inheritable(extra, True)
    saved = {fd: os.dup(fd) for fd in (3, 4) if os.path.exists(f"/proc/self/fd/{fd}")}
    proc = os.open("/proc", os.O_RDONLY)
    high = [os.dup(proc), os.dup(proc)]
    try:
        for target, reader in zip((3, 4), pipes, strict=True):
            copy = os.dup(reader)
            os.close(reader)
            os.dup2(copy, target)
            os.close(copy)
        result = machine.run(plan, high, preserve=2)
    finally:
        for fd in (3, 4):
            if fd in saved:
                os.dup2(saved[fd], fd, inheritable=False)
                os.close(saved[fd])
            else:
                os.close(fd)
        for fd in (extra, proc, *high):
            if fd not in (3, 4):
                os.close(fd)
    # 5 is what ls itself reads the directory with
    assert result.output == "0 1 2 3 4 5 threefour"


def test_signals(machine: Machine) -> None:
    """Ignored and blocked signals of the caller do not reach the program (CPython ignores SIGPIPE)."""
    numbers = [signal.SIGPIPE, signal.SIGHUP, signal.SIGUSR1, signal.SIGRTMIN + 3]
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    try:
        result = machine.run(shell(Plan(), "exec grep -E 'Sig(Blk|Ign)' /proc/self/status"))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
    assert [int(line.split()[1], 16) for line in result.output.splitlines()] == [0, 0]


def test_umask_is_the_plans(machine: Machine) -> None:
    old = os.umask(0o077)
    try:
        assert machine.run(shell(Plan(), "umask")).output == "0000\n"
        plan = Plan()
        plan.add("", ops.SYSCALL, NR["umask"], 0o027)
        assert machine.run(shell(plan, "umask")).output == "0027\n"
    finally:
        os.umask(old)


@pytest.mark.root
def test_waiting_init_is_closed(machine: Machine, native_user: int) -> None:
    """Not dumpable: its files in /proc are root's and closed, and nobody of its own user may look (CVE-2016-9962)."""
    plan = Plan()
    plan.add("", ops.IDS, native_user, native_user, NONE, 0)
    running = waiting(machine, plan)
    try:
        assert f"Uid:\t{native_user}\t" in running.proc("status")
        proc = f"/proc/{running.pid}"
        for name in ("fd", "exe", "mem", "environ", "maps"):
            assert os.lstat(f"{proc}/{name}").st_uid == 0
        child = os.fork()
        if child == 0:
            os.setresgid(native_user, native_user, native_user)
            os.setresuid(native_user, native_user, native_user)
            denied = 0
            for name in ("mem", "environ", "maps"):
                try:
                    os.open(f"{proc}/{name}", os.O_RDONLY)
                except PermissionError:
                    denied += 1
            try:
                os.listdir(f"{proc}/fd")
            except PermissionError:
                denied += 1
            try:
                os.readlink(f"{proc}/exe")
            except PermissionError:
                denied += 1
            os._exit(denied)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    finally:
        running.kill()


@pytest.fixture
def native_user() -> int:
    return 65533


def test_waiting_init_is_small_and_alone(machine: Machine) -> None:
    """A throw-away copy of itself, an empty environment, no host file mapped, little memory (CVE-2019-5736)."""
    running = waiting(machine)
    try:
        assert os.readlink(f"/proc/{running.pid}/exe").startswith("/memfd:init")
        assert running.proc("environ") == ""
        mapped = {line.split()[5] for line in running.proc("maps").splitlines() if "/" in line}
        assert all(path.startswith("/memfd:") for path in mapped)
        fds = os.listdir(f"/proc/{running.pid}/fd")
        assert sorted(map(int, fds)) == [0, 1, 2, 3]
        memory = int(running.proc("smaps_rollup").split("Rss:")[1].split()[0])
        assert memory <= 150  # KiB
    finally:
        running.kill()


def test_init_cannot_be_written(machine: Machine) -> None:
    running = waiting(machine)
    try:
        with pytest.raises(OSError) as caught:
            os.open(f"/proc/{running.pid}/exe", os.O_WRONLY)
        assert caught.value.errno in (errno.ETXTBSY, errno.EPERM, errno.EACCES)
    finally:
        running.kill()
    fd = machine.native.init_memfd(machine.program)
    try:
        for attempt in (os.O_WRONLY, os.O_RDWR):
            copy = os.open(f"/proc/self/fd/{fd}", attempt)
            with pytest.raises(PermissionError):
                os.write(copy, b"x")
            with pytest.raises(PermissionError):
                os.ftruncate(copy, 0)
            os.close(copy)
    finally:
        os.close(fd)


# -- the conversation ------------------------------------------------------------------------------


def test_sync_waits_for_its_answer(machine: Machine) -> None:
    plan = Plan()
    plan.add("", ops.SYNC, ops.TAG_CGROUP)
    plan.add("", ops.SYNC, ops.TAG_HOOKS)
    asked = []
    result = machine.run(shell(plan, "echo done"), answer=lambda _, tag: asked.append(tag))
    assert asked == [ops.TAG_CGROUP, ops.TAG_HOOKS]
    assert [message.op for message in result.messages] == [0, 1]
    assert result.output == "done\n"


@pytest.mark.parametrize(
    "answer",
    [
        HEAD.pack(ops.MSG_GO, 0, 0, ops.TAG_CGROUP),
        HEAD.pack(ops.MSG_SYNC, 0, 0, ops.TAG_HOOKS),
        b"short",
        b"x" * 4000,
    ],
    ids=["another tag", "another message", "too short", "too long"],
)
def test_a_wrong_answer_ends_init(machine: Machine, answer: bytes) -> None:
    running = waiting(machine)
    machine.native.channel_send(running.channel, answer)
    assert running.receive() is None
    running.close_channel()
    assert running.wait() == 1


def test_init_gives_up_without_its_parent(machine: Machine) -> None:
    running = waiting(machine)
    running.close_channel()
    assert running.wait() == 1


def test_init_gives_up_when_it_speaks_to_nobody(machine: Machine, tmp_path: Path) -> None:
    """The channel's end is found out by the next message as well: SIGPIPE does not kill, nothing is run."""
    plan = Plan()
    fails(plan)
    plan.ops[-1] = (plan.ops[-1][0], ops.F_WARN, errno.EINVAL, plan.ops[-1][3])
    running = machine.start(shell(plan, f"touch {tmp_path}/made"))
    running.close_channel()
    status = running.wait()
    assert status == 1 or (tmp_path / "made").exists()  # the warning may have been quicker


def test_clone_is_a_child_of_ours(machine: Machine) -> None:
    """CLONE_PARENT: the second process is the runtime's child, and the kernel tells its pid."""
    plan = Plan()
    plan.add("", ops.UNSHARE, NEWPID)
    plan.add("", ops.CLONE, 0)
    result = machine.run(shell(plan, "echo $$ $PPID"))
    assert result.output == "1 0\n"
    assert result.kinds() == [ops.MSG_CHILD]
    assert result.messages[0].pid > 1


def gate(tmp_path: Path) -> tuple[socket.socket, str]:
    path = str(tmp_path / "gate")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen()
    return listener, path


def at_gate(machine: Machine, listener: socket.socket, plan: Plan) -> Running:
    running = machine.start(plan, [listener.fileno()])
    messages = running.serve()
    assert messages[-1].kind == ops.MSG_READY
    return running


def connect(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.settimeout(20)
    try:
        client.connect(path)
    except OSError:
        client.close()
        raise
    return client


GO = HEAD.pack(ops.MSG_GO, 0, 0, ops.TAG_START)


def test_gate(machine: Machine, tmp_path: Path) -> None:
    """Nothing is run before GO; neither a visitor nor garbage opens; the end says that exec has succeeded."""
    plan = Plan()
    slot = plan.fd("gate")
    plan.add("", ops.FIND_EXE, "sh", "/bin")
    plan.add("", ops.GATE, slot)
    argv = ("sh", "-c", f"echo $$ > {tmp_path}/ran; exec sleep 60")
    plan.add("", ops.EXEC, argv, 3, ("PATH=/bin:/usr/bin",), 1, NONE)
    with gate(tmp_path)[0] as listener:
        running = at_gate(machine, listener, plan)
    path = str(tmp_path / "gate")
    try:
        connect(path).close()
        with connect(path) as client:
            client.send(b"garbage")
            assert client.recv(100) == b""
        with connect(path) as client:
            client.send(HEAD.pack(ops.MSG_GO, 0, 0, ops.TAG_HOOKS))
            assert client.recv(100) == b""
        time.sleep(0.05)
        assert not (tmp_path / "ran").exists()
        with connect(path) as client:
            client.send(GO)
            assert client.recv(4000) == b""
        until(lambda: (tmp_path / "ran").exists() and (tmp_path / "ran").read_text() != "")
        assert int((tmp_path / "ran").read_text()) == running.pid
        with pytest.raises(ConnectionRefusedError):
            connect(path)
    finally:
        running.kill()


def test_failure_after_the_gate_reaches_start(machine: Machine, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    plan = Plan()
    slot = plan.fd("gate")
    plan.add("", ops.FIND_EXE, str(program), NONE)
    plan.add("", ops.GATE, slot)
    plan.add("", ops.EXEC, ("program",), 1, (), 0, NONE)
    with gate(tmp_path)[0] as listener:
        running = at_gate(machine, listener, plan)
    program.unlink()
    with connect(str(tmp_path / "gate")) as client:
        client.send(GO)
        answer = client.recv(4000)
    assert HEAD.unpack_from(answer)[:3] == (ops.MSG_ERROR, 2, errno.ENOENT)
    assert answer[HEAD.size :] == b"execve\0" + os.fsencode(program)
    assert running.wait() == 1


# -- failures --------------------------------------------------------------------------------------


def test_errors_name_operation_and_call(machine: Machine) -> None:
    plan = Plan()
    plan.add("", ops.LOOPBACK, flags=ops.F_IGNORE, errnos=errno.EPERM)
    fails(plan)
    result = machine.run(shell(plan, "echo never"))
    assert result.failure == (1, "EINVAL", "umount2", "")
    assert (result.status, result.output) == (1, "")


def test_ignored_and_warned_failures(machine: Machine) -> None:
    plan = Plan()
    for flag, errnos in ((ops.F_IGNORE, ops.errno_set(1, 22)), (ops.F_WARN, 22)):
        fails(plan)
        plan.ops[-1] = (ops.SYSCALL, flag, errnos, plan.ops[-1][3])
    result = machine.run(shell(plan, "echo on"))
    assert result.output == "on\n"
    assert [(m.kind, m.op, m.error, m.call) for m in result.messages] == [
        (ops.MSG_WARNING, 1, errno.EINVAL, "umount2")
    ]


def test_only_listed_errnos_are_ignored(machine: Machine) -> None:
    plan = Plan()
    fails(plan)
    plan.ops[-1] = (ops.SYSCALL, ops.F_IGNORE, ops.errno_set(1, 2, 13, 38), plan.ops[-1][3])
    assert machine.run(shell(plan, "echo on")).failure == (0, "EINVAL", "umount2", "")


@pytest.mark.parametrize(
    ("good", "expected"),
    [((), "0777"), ((2,), "0022"), ((1,), "0011"), ((1, 2), "0011"), ((0,), "0000")],
)
def test_alternatives(machine: Machine, good: tuple[int, ...], expected: str) -> None:
    """A chain of alternatives: the first that succeeds ends it."""
    plan = Plan()
    for step in range(3):
        if step in good or step == 2:
            plan.add(
                "", ops.SYSCALL, NR["umask"], {0: 0, 1: 0o11, 2: 0o22 if good else 0o777}[step]
            )
        else:
            fails(plan)
        if step < 2:
            plan.ops[-1] = (ops.SYSCALL, ops.F_ALT, errno.EINVAL, plan.ops[-1][3])
    assert machine.run(shell(plan, "umask")).output == expected + "\n"


def test_broken_plan_is_reported_and_not_run(machine: Machine, tmp_path: Path) -> None:
    plan = Plan()
    shell(plan, f"touch {tmp_path}/made")
    encoded = bytearray(encode(plan, 3))
    encoded[64 + 8 + 8] = 9  # argc
    result = machine.run(plan, encoded=bytes(encoded))
    assert result.failure is not None
    assert result.failure[1:3] == ("EINVAL", "check_plan")
    assert "strings" in result.failure[3]
    assert not (tmp_path / "made").exists()


def test_plan_for_other_descriptors(machine: Machine) -> None:
    result = machine.run(Plan(), encoded=encode(shell(Plan(), "true"), 7))
    assert result.failure is not None
    assert result.failure[1:3] == ("EINVAL", "check_plan")
    assert result.messages[0].op == 0xFFFFFFFF


def test_unsealed_plan(machine: Machine) -> None:
    """A plan that could still be changed after the check is not even read."""
    memory = os.memfd_create("plan", os.MFD_ALLOW_SEALING)
    os.write(memory, encode(shell(Plan(), "true"), 3))
    ours, theirs = machine.native.channel_pair()
    program = machine.native.init_memfd(machine.program)
    pid, pidfd = machine.native.spawn(program, 3, [theirs, memory])
    for fd in (theirs, memory, program):
        os.close(fd)
    running = Running(machine.native, pid, pidfd, ours)
    message = running.receive()
    assert message is not None
    assert (message.kind, message.error, message.detail) == (
        ops.MSG_ERROR,
        errno.EPERM,
        "the plan is not sealed",
    )
    running.close_channel()
    assert running.wait() == 1

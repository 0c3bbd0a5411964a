"""Ids, capabilities, loopback, terminal, standard streams and seccomp of the process that becomes the program."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
import termios
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from ociruntime.plan import ops
from ociruntime.plan.ops import NONE, Plan
from tests.native.kit import (
    NEWNET,
    NEWPID,
    NEWUSER,
    NR,
    Machine,
    Result,
    Running,
    mount_new,
    rooted,
    shell,
    until,
)

SHOW = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs)' /proc/self/status"
SETPCAP, SYS_ADMIN, NET_RAW, KILL, CHOWN, SETUID = 8, 21, 13, 5, 0, 7
KEEP = ops.IDS_KEEPCAPS
ALL = ops.CAPS_DROP_BOUNDING | ops.CAPS_SET | ops.CAPS_AMBIENT


def bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)


def status(result: Result) -> dict[str, str]:
    assert result.failure is None
    return {
        name: " ".join(value.split())
        for name, _, value in (line.partition(":") for line in result.output.splitlines())
    }


def bounding() -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split("CapBnd:")[1].split()[0], 16)


# -- ids and capabilities --------------------------------------------------------------------------


@pytest.mark.root
def test_ids(machine: Machine) -> None:
    plan = Plan()
    plan.add("", ops.IDS, 1000, 2000, struct.pack("=3I", 5, 7, 4294967294), 0)
    got = status(machine.run(shell(plan, SHOW)))
    assert got["Uid"] == "1000 1000 1000 1000"
    assert got["Gid"] == "2000 2000 2000 2000"
    assert got["Groups"] == "5 7 4294967294"
    assert int(got["CapPrm"], 16) == int(got["CapEff"], 16) == 0


@pytest.mark.root
def test_ids_that_are_left_alone(machine: Machine, subtests: SubTests) -> None:
    groups = struct.pack("=1I", 5)
    cases: list[tuple[tuple[int, int, int | bytes, int], str]] = [
        ((NONE, 7, b"", 0), "0 7 "),
        ((7, NONE, groups, 0), "7 0 5"),
        ((4294967294, 4294967294, b"", 0), "4294967294 4294967294 "),
    ]
    for arguments, expected in cases:
        with subtests.test(str(arguments)):
            plan = Plan()
            plan.add("", ops.IDS, *arguments)
            got = status(machine.run(shell(plan, SHOW)))
            assert f"{got['Uid'].split()[0]} {got['Gid'].split()[0]} {got['Groups']}" == expected
    old = os.getgroups()
    os.setgroups([77])
    try:
        plan = Plan()
        plan.add("", ops.IDS, 7, 7, groups, ops.IDS_NO_SETGROUPS)
        assert status(machine.run(shell(plan, SHOW)))["Groups"] == "77"
    finally:
        os.setgroups(old)


@pytest.mark.root
def test_capabilities(machine: Machine) -> None:
    """All five sets, kept over the change of user, at most what the sets say (CVE-2022-29162)."""
    plan = Plan()
    plan.add("", ops.CAPS, bits(KILL, NET_RAW, CHOWN), 0, 0, 0, 0, ops.CAPS_DROP_BOUNDING)
    plan.add("", ops.IDS, 1000, 1000, b"", KEEP)
    sets = (bits(KILL, NET_RAW), bits(KILL, NET_RAW, CHOWN), bits(KILL), bits(KILL))
    plan.add("", ops.CAPS, 0, *sets, ops.CAPS_SET | ops.CAPS_AMBIENT)
    argv = ("grep", "Cap", "/proc/self/status")
    plan.add("", ops.EXEC, argv, 3, (), 0, "/bin/grep")
    got = {name: int(value, 16) for name, value in status(machine.run(plan)).items()}
    assert got == {
        "CapInh": bits(KILL),
        "CapPrm": bits(KILL),  # execve by another user than root leaves the ambient ones
        "CapEff": bits(KILL),
        "CapBnd": bits(KILL, NET_RAW, CHOWN),
        "CapAmb": bits(KILL),
    }


@pytest.mark.root
def test_capabilities_of_root(machine: Machine) -> None:
    sets = (bits(CHOWN, KILL), bits(CHOWN), bits(CHOWN, KILL), 0, 0)
    plan = Plan()
    plan.add("", ops.CAPS, *sets, ALL)
    got = status(machine.run(shell(plan, SHOW)))
    assert [int(got[name], 16) for name in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb")] == [
        *(bits(CHOWN, KILL),) * 3,
        0,
        0,
    ]


@pytest.mark.root
def test_no_capabilities_at_all(machine: Machine) -> None:
    plan = Plan()
    plan.add("", ops.CAPS, 0, 0, 0, 0, 0, ALL)
    got = status(machine.run(shell(plan, SHOW)))
    assert {int(value, 16) for name, value in got.items() if name.startswith("Cap")} == {0}


@pytest.mark.root
def test_ambient_failures_are_warnings(machine: Machine) -> None:
    """A capability that is not inheritable cannot be ambient: the specification wants a warning."""
    plan = Plan()
    sets = (bounding(), bits(KILL, CHOWN), bits(KILL, CHOWN), bits(KILL), bits(KILL, CHOWN))
    plan.add("", ops.CAPS, *sets, ops.CAPS_SET | ops.CAPS_AMBIENT)
    result = machine.run(shell(plan, SHOW))
    warnings = [(m.kind, m.error, m.call, m.detail) for m in result.messages]
    assert warnings == [(ops.MSG_WARNING, errno.EPERM, "prctl", "ambient capability 00")]
    assert int(status(result)["CapAmb"], 16) == bits(KILL)


@pytest.mark.root
def test_bounding_set_that_is_dropped_already(machine: Machine) -> None:
    """Without CAP_SETPCAP what is gone already is no error, and what is left is one."""
    for keep, expected in ((bits(CHOWN), None), (0, (1, "EPERM", "prctl", ""))):
        plan = Plan()
        plan.add("", ops.CAPS, bits(CHOWN), bits(CHOWN), bits(CHOWN), 0, 0, ALL)
        plan.add("", ops.CAPS, keep, 0, 0, 0, 0, ops.CAPS_DROP_BOUNDING)
        assert machine.run(shell(plan, "true")).failure == expected


@pytest.mark.root
def test_capset_beyond_ones_own(machine: Machine) -> None:
    plan = Plan()
    plan.add("", ops.CAPS, 0, 0, 0, 0, 0, ops.CAPS_SET)
    plan.add("", ops.CAPS, 0, bits(CHOWN), bits(CHOWN), 0, 0, ops.CAPS_SET)
    assert machine.run(shell(plan, "true")).failure == (1, "EPERM", "capset", "")


def test_no_new_privileges(machine: Machine) -> None:
    plan = Plan()
    plan.add("", ops.SYSCALL, NR["prctl"], 38, 1, 0, 0, 0)
    assert status(machine.run(shell(plan, SHOW)))["NoNewPrivs"] == "1"


@pytest.mark.root
def test_user_namespace(machine: Machine) -> None:
    """The staged start: maps by the parent, ids inside, files of its own in /proc although not dumpable."""

    def answer(running: Running, tag: int) -> None:
        if tag == ops.TAG_USERNS:
            for kind in ("uid", "gid"):
                Path(f"/proc/{running.pid}/{kind}_map").write_text("0 100000 65536")

    proc = os.open("/proc", os.O_PATH)
    plan = Plan()
    procfs = plan.fd("procfs")
    plan.add("", ops.UNSHARE, NEWUSER)
    plan.add("", ops.SYNC, ops.TAG_USERNS)
    plan.add("", ops.IDS, 0, 0, b"", 0)
    plan.add("", ops.UNSHARE, NEWPID | NEWNET | 0x80)
    offsets = "monotonic 1000000 0\n"
    flags = ops.WRITE_PROCFS | ops.WRITE_DUMPABLE
    plan.add("", ops.WRITE, procfs, "self/timens_offsets", offsets, flags)
    plan.add("", ops.CLONE, 0)
    plan.add("", ops.LOOPBACK)
    plan.add("", ops.IDS, 5, 6, b"", KEEP)
    plan.add("", ops.CAPS, bits(KILL), 0, 0, 0, 0, ops.CAPS_SET)
    try:
        result = machine.run(
            shell(plan, "echo $$; id; cut -d. -f1 /proc/uptime"), [proc], answer=answer
        )
    finally:
        os.close(proc)
    assert result.failure is None
    pid, ids, _ = result.output.splitlines()
    assert pid == "1"
    assert ids.startswith("uid=5") and "gid=6" in ids


@pytest.mark.root
def test_loopback(machine: Machine) -> None:
    plan = Plan()
    plan.clone_flags = NEWNET
    plan.add("", ops.LOOPBACK)
    assert "UP,LOWER_UP" in machine.run(shell(plan, "ip link show lo", "PATH=/bin:/sbin")).output


# -- terminal and streams --------------------------------------------------------------------------


@pytest.mark.root
def test_console(machine: Machine, rootfs: Path) -> None:
    """The container's own pty is stdio, controlling terminal and /dev/console; the master comes to the parent."""
    plan, root = rooted(rootfs)
    plan.clone_flags |= NEWPID
    mount_new(plan, root, "proc", "/proc")
    mount_new(plan, root, "tmpfs", "/dev", "mode=755")
    mount_new(plan, root, "devpts", "/dev/pts", "newinstance", "ptmxmode=0666", "mode=620")
    slave = plan.slot()
    plan.add("", ops.CONSOLE, slave, root, 33, 99, 1000, ops.CONSOLE_MOUNT)
    plan.add("", ops.PIVOT, root, ops.PIVOT_ROOT)
    plan.add("", ops.SYSCALL, NR["setsid"])
    plan.add("", ops.STDIO, root, slave, NONE)
    script = (
        "tty=$(readlink /proc/self/fd/0); echo $tty; stat -c %u $tty; stty size; ls /proc/self/fd | tr '\\n' ' '; "
        "echo; grep -o '/dev/console devpts' /proc/mounts; read line; echo got $line; exec sleep 60"
    )
    (rootfs / "bin/stty").symlink_to("busybox")
    (rootfs / "bin/tr").symlink_to("busybox")
    running = machine.start(shell(plan, script))
    messages = running.serve()
    assert [message.kind for message in messages] == [ops.MSG_CONSOLE]
    (master,) = messages[0].fds
    try:
        assert struct.unpack("4H", fcntl.ioctl(master, termios.TIOCGWINSZ, bytes(8)))[:2] == (
            33,
            99,
        )
        os.write(master, b"hello\n")
        seen = bytearray()

        def complete() -> bool:
            seen.extend(os.read(master, 4096))
            return b"got hello" in seen

        until(complete)
        lines = seen.decode().replace("\r", "").splitlines()
        assert lines[:3] == ["/dev/pts/0", "1000", "33 99"] or "hello" in lines[:3]
        assert "0 1 2 3" in " ".join(lines)
        assert "/dev/console devpts" in lines
        stat_fields = running.proc("stat").rpartition(")")[2].split()
        assert int(stat_fields[4]) != 0  # a controlling terminal
    finally:
        os.close(master)
        running.kill()


@pytest.mark.root
def test_console_without_a_session(machine: Machine, rootfs: Path) -> None:
    """A process that leads no session cannot have a controlling terminal: said, not ignored."""
    plan, root = rooted(rootfs)
    mount_new(plan, root, "devpts", "/dev/pts", "newinstance", "ptmxmode=0666")
    slave = plan.slot()
    plan.add("", ops.CONSOLE, slave, root, 0, 0, NONE, 0)
    plan.add("", ops.STDIO, root, slave, NONE)
    running = machine.start(shell(plan, "true"))
    messages = running.serve()
    for fd in messages[0].fds:
        os.close(fd)
    assert (messages[-1].kind, messages[-1].error, messages[-1].call) == (
        ops.MSG_ERROR,
        errno.EPERM,
        "ioctl",
    )
    assert running.wait() == 1


@pytest.mark.root
def test_streams_are_owned(machine: Machine, tmp_path: Path, subtests: SubTests) -> None:
    """Pipes, sockets and files go to the user, so that /dev/stdout can be opened again; the null device does not."""
    left, right = socket.socketpair()
    reader, writer = os.pipe()
    file = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    plan = Plan()
    plan.add("", ops.STDIO, NONE, NONE, 1234)
    running = machine.start(shell(plan, "true"), stdio=(right.fileno(), writer, file))
    assert running.serve() == []
    assert running.wait() == 0
    for fd in (right.fileno(), writer, file):
        with subtests.test(os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]):
            about = os.fstat(fd)
            assert (about.st_uid, about.st_gid) == (1234, 0)
    for fd in (reader, writer, file):
        os.close(fd)
    left.close()
    right.close()


@pytest.mark.root
def test_streams_that_cannot_be_owned(machine: Machine) -> None:
    """An id that the user namespace does not map, a file that belongs to others: left as it is."""
    reader, writer = os.pipe()
    plan = Plan()
    plan.add("", ops.UNSHARE, NEWUSER)
    plan.add("", ops.STDIO, NONE, NONE, 1234)
    running = machine.start(shell(plan, "echo on"), stdio=(reader, writer, writer))
    assert running.serve() == []
    assert running.wait() == 0
    assert os.read(reader, 10) == b"on\n"
    assert os.fstat(reader).st_uid == 0
    os.close(reader)
    os.close(writer)


# -- seccomp ---------------------------------------------------------------------------------------

LD_NR = struct.pack("=HBBI", 0x20, 0, 0, 0)
ALLOW, ERRNO, KILL_PROCESS, NOTIFY = 0x7FFF0000, 0x50000, 0x80000000, 0x7FC00000
NNP = 38
MKDIR = {"x86_64": (83, 258), "aarch64": (34, 34)}[os.uname().machine]
EXECVE = {"x86_64": 59, "aarch64": 221}[os.uname().machine]
NEW_LISTENER, TSYNC, TSYNC_ESRCH = 8, 1, 16


def returns(value: int) -> bytes:
    return struct.pack("=HBBI", 6, 0, 0, value)


def filter_for(numbers: tuple[int, ...], action: int, default: int = ALLOW) -> bytes:
    """A filter with one action for a few system calls and another for all others."""
    code = LD_NR
    for index, number in enumerate(numbers):
        code += struct.pack("=HBBI", 0x15, len(numbers) - index, 0, number)
    return code + returns(default) + returns(action)


def filtered(code: bytes, flags: int, script: str) -> Plan:
    plan = Plan()
    plan.add("", ops.SYSCALL, NR["prctl"], NNP, 1, 0, 0, 0)
    plan.add("", ops.SECCOMP, code, flags)
    return shell(plan, script, "PATH=/bin")


def test_filter(machine: Machine, tmp_path: Path) -> None:
    code = filter_for(MKDIR, ERRNO | 99)
    result = machine.run(filtered(code, 0, f"mkdir {tmp_path}/x; grep Seccomp: /proc/self/status"))
    assert os.strerror(99) in result.output
    assert result.output.split()[-1] == "2"
    assert not (tmp_path / "x").exists()


def test_filters_that_are_refused(machine: Machine, subtests: SubTests) -> None:
    for name, code, flags in (
        ("no return", LD_NR, 0),
        ("jump out", struct.pack("=HBBI", 5, 0, 0, 99) + returns(ALLOW), 0),
        ("unknown flag", returns(ALLOW), 1 << 20),
    ):
        with subtests.test(name):
            failure = machine.run(filtered(code, flags, "true")).failure
            assert failure == (1, "EINVAL", "seccomp", "")


def test_filter_that_refuses_execve(machine: Machine) -> None:
    """The failure of the execve itself still reaches the parent."""
    result = machine.run(filtered(filter_for((EXECVE,), ERRNO | 13), 0, "true"))
    assert result.failure == (2, "EACCES", "execve", "/bin/sh")


@pytest.mark.parametrize("flags", [NEW_LISTENER, NEW_LISTENER | TSYNC | TSYNC_ESRCH])
def test_listener(machine: Machine, tmp_path: Path, flags: int) -> None:
    """The listener comes to the parent although every call after the filter asks it first."""
    plan = filtered(filter_for((), ALLOW, NOTIFY), flags, "exit 3")
    running = machine.start(plan)
    message = running.receive()
    assert message is not None
    assert message.kind == ops.MSG_LISTENER
    (listener,) = message.fds
    calls = answer_all(listener)
    os.close(listener)
    assert running.receive() is None
    running.close_channel()
    assert running.wait() == 3
    assert calls[0] == EXECVE  # nothing but the execve is done under the filter
    assert len(calls) > 5


def answer_all(listener: int) -> list[int]:
    """Let every call go on, until nobody is left; the numbers of the calls."""
    import select

    calls: list[int] = []
    receive, send, continue_flag = 0xC0502100, 0xC0182101, 1
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        events = poll.poll(20000)
        if not events or not events[0][1] & select.POLLIN:
            return calls
        request = bytearray(80)
        try:
            fcntl.ioctl(listener, receive, request)
            identity, _, _, number = struct.unpack_from("=QIIi", request)
            calls.append(number)
            fcntl.ioctl(listener, send, struct.pack("=QqiI", identity, 0, 0, continue_flag))
        except FileNotFoundError:
            continue  # killed meanwhile


@pytest.mark.root
def test_listener_in_a_pid_namespace(machine: Machine, rootfs: Path) -> None:
    """The process stays number 1 and has no child or thread left by the way the listener is sent."""
    plan, root = rooted(rootfs)
    plan.clone_flags |= NEWPID
    mount_new(plan, root, "proc", "/proc")
    plan.add("", ops.PIVOT, root, ops.PIVOT_ROOT)
    plan.add("", ops.CHDIR, root, "/bin")
    plan.add("", ops.SECCOMP, filter_for(MKDIR, NOTIFY), NEW_LISTENER)
    plan.add("", ops.CAPS, bits(CHOWN), bits(CHOWN), bits(CHOWN), 0, 0, ops.CAPS_SET)
    program = ("sh", "-c", "echo $$ $(pwd); ls /proc/self/task | wc -l; ls -d /proc/[0-9]* | wc -l")
    plan.add("", ops.EXEC, program, 3, ("PATH=/bin",), 1, "/bin/sh")
    result = machine.run(plan)
    assert result.kinds() == [ops.MSG_LISTENER]
    for fd in result.messages[0].fds:
        os.close(fd)
    assert result.output.splitlines() == ["1 /bin", "1", "3"]  # sh, ls and wc


def test_listener_that_cannot_be(machine: Machine) -> None:
    """Errors of the thread that loads the filter are reported as any other."""
    result = machine.run(filtered(LD_NR, NEW_LISTENER, "true"))
    assert result.failure == (1, "EINVAL", "seccomp", "")
    assert result.status == 1


def test_failure_after_a_listener(machine: Machine) -> None:
    """An operation that fails under the filter ends both threads."""
    plan = filtered(filter_for(MKDIR, NOTIFY), NEW_LISTENER, "true")
    plan.ops[-1] = (ops.EXEC, 0, 0, (("x",), 1, (), 0, "/missing"))
    result = machine.run(plan)
    for message in result.messages:
        for fd in message.fds:
            os.close(fd)
    assert result.kinds() == [ops.MSG_LISTENER, ops.MSG_ERROR]
    assert result.failure == (2, "ENOENT", "execve", "/missing")
    assert result.status == 1


def test_descriptor_numbers_of_messages(machine: Machine) -> None:
    """SCM_RIGHTS of the channel: several descriptors arrive, more than there is room for are refused and closed."""
    native = machine.native
    left, right = native.channel_pair()
    try:
        native.channel_send(right, b"three", [left, right, left])
        data, fds, pid = native.channel_recv(left)
        assert (data, len(fds), pid) == (b"three", 3, os.getpid())
        for fd in fds:
            assert not os.get_inheritable(fd)
            os.close(fd)
        before = len(os.listdir("/proc/self/fd"))
        with socket.socket(fileno=os.dup(right)) as raw:
            many = array.array("i", [left] * 20)
            raw.sendmsg([b"many"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, many)])
        with pytest.raises(OSError) as caught:
            native.channel_recv(left)
        assert caught.value.errno == errno.EMSGSIZE
        assert len(os.listdir("/proc/self/fd")) == before
        native.channel_send(right, b"x" * 5000)
        with pytest.raises(OSError) as caught:
            native.channel_recv(left)
        assert caught.value.errno == errno.EMSGSIZE
    finally:
        os.close(left)
        os.close(right)

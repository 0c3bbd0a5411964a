"""Hostile bytes on the channel between the runtime and init, from both sides: an error, in time, nothing left open."""

from __future__ import annotations

import array
import contextlib
import os
import random
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ociruntime import errors, lifecycle_start, state
from ociruntime.host import launch
from ociruntime.plan import ops
from ociruntime.plan.encode import encode
from ociruntime.plan.ops import Plan
from tests.leaks import nothing_left
from tests.native.conftest import compiler, init_program, native  # noqa: F401 (fixtures)
from tests.native.kit import Machine, Running, shell

HEAD = struct.Struct("=IIiI")
LONG = "FUZZ_SECONDS" in os.environ
ROUNDS = 2000 if LONG else 120
DICE = random.Random(os.environ.get("FUZZ_SEED", "1"))
LIMIT = 5.0  # seconds; a machine may be busy


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    with nothing_left():
        yield


def packet(dice: random.Random) -> bytes:
    """One packet: of a known kind, of any, cut short, too long."""
    numbers = (0, 1, 2, 3, 6, 7, 99, 0xFFFFFFFF)
    kind, op, value = (dice.choice((*numbers, *range(10))) for _ in range(3))
    error = dice.choice((0, 1, 2, 22, -1, 133, 2**31 - 1, -(2**31)))
    text = dice.choice((b"", b"open\0path", b"\xff\0\xfe\n", b"x" * 3072, b"x" * 9000, b"a\0b\0c"))
    whole = HEAD.pack(kind, op, error, value) + text
    return dice.choice((whole, whole, whole, whole[: dice.randrange(1, 16)], dice.randbytes(16)))


def send(sock: socket.socket, data: bytes, fds: int) -> None:
    """Send a packet with so many descriptors."""
    try:
        if fds:
            null = os.open("/dev/null", os.O_RDONLY)
            numbers = array.array("i", [null] * fds)
            try:
                sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])
            finally:
                os.close(null)
        else:
            sock.send(data)
    except (BrokenPipeError, ConnectionResetError, BlockingIOError):
        return


def plans(dice: random.Random) -> Plan:
    plan = Plan()
    if dice.random() < 0.5:
        plan.fd("gate")
        plan.add("", ops.GATE, plan.fds.index("gate"))
    for _ in range(dice.randrange(3)):
        tag = dice.choice((1, 2, 3))
        plan.syncs.append(tag)
        plan.add("", ops.SYNC, tag)
    if dice.random() < 0.5:
        plan.add("", ops.EXEC, ("a",), 1, (), 0, "/a")
    return plan


def test_runtime(native: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """The runtime's side: packets that no init would send."""
    monkeypatch.setattr(launch, "_KILL_TIMEOUT", 0.05)
    monkeypatch.setattr("ociruntime.log._write_all", lambda fd, text: None)
    ends = {"refused": 0, "served": 0}
    for _ in range(ROUNDS):
        ours, theirs = native.channel_pair()
        pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
        init = launch.Init(plans(DICE), pid, os.pidfd_open(pid), ours)
        peer = socket.socket(fileno=theirs)
        for _ in range(DICE.randrange(5)):
            send(peer, packet(DICE), DICE.choice((0, 0, 0, 1, 2, 17, 250)))
        peer.close()
        taken: list[int] = []
        started = time.monotonic()
        try:
            init.serve(
                dict.fromkeys((1, 2, 3), lambda init: None),
                on_console=taken.append,
                on_listener=taken.append,
            )
            ends["served"] += 1
        except errors.Error as exc:
            assert exc.message
            ends["refused"] += 1
        assert time.monotonic() - started < LIMIT
        for fd in taken:
            os.close(fd)
        init.kill_and_reap()
        with contextlib.suppress(ChildProcessError):  # killed, but not within that short time
            os.waitpid(pid, 0)
    print(f"runtime: {ends}")
    assert ends["refused"] > ROUNDS // 4


def test_strangers_are_not_adopted(native: Any) -> None:  # noqa: F811
    """MSG_CHILD from a process that is no child of the runtime: it is never taken for init, nor killed as such."""
    ours, theirs = native.channel_pair()
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    init = launch.Init(Plan(), pid, os.pidfd_open(pid), ours)
    with socket.socket(fileno=theirs) as peer:  # the credentials are those of this very process
        peer.send(HEAD.pack(ops.MSG_CHILD, 0, 0, 0))
        with pytest.raises(
            errors.Error, match=f"sent process {os.getpid()}, which is not its child"
        ):
            init.serve({})


def test_start(native: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """What `start` reads over the gate."""
    monkeypatch.setattr("ociruntime.log._write_all", lambda fd, text: None)
    container: Any = SimpleNamespace(data={"pid": os.getpid()}, document=lambda status: {})
    for _ in range(ROUNDS):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            for _ in range(DICE.randrange(4)):
                send(theirs, packet(DICE), DICE.choice((0, 0, 1, 2, 30)))
            theirs.close()
            try:
                lifecycle_start._follow(container, ours)  # type: ignore[arg-type]
            except errors.Error as exc:
                assert exc.message


def start(machine: Machine, plan: Plan, *fds: int) -> tuple[Running, int]:
    """A running init, and what it prints."""
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        return machine.start(plan, fds, stdio=(null, writer, writer)), reader
    finally:
        os.close(writer)
        os.close(null)


def printed(reader: int) -> bytes:
    with os.fdopen(reader, "rb") as pipe:
        return pipe.read()


ANSWERS = (
    (b"", 0), (HEAD.pack(ops.MSG_GO, 0, 0, 2)[:15], 0), (HEAD.pack(ops.MSG_GO, 0, 0, 2) + b"x", 0),
    (HEAD.pack(ops.MSG_GO, 0, 0, 3), 0), (HEAD.pack(ops.MSG_SYNC, 0, 0, 2), 0), (b"\xff" * 16, 0),
    (HEAD.pack(ops.MSG_GO, 0, 0, 6), 0), (b"\0" * 60000, 0), (b"\0" * 16, 250),
)  # fmt: skip


@pytest.mark.parametrize("answer", range(len(ANSWERS)))
def test_init(native: Any, init_program: str, answer: int) -> None:  # noqa: F811
    """init's side: whatever is no GO for its tag ends it, and the program is never executed."""
    plan = Plan()
    plan.add("", ops.SYNC, 2)
    running, reader = start(Machine(native, init_program), shell(plan, "echo executed"))
    message = running.receive()
    assert message is not None and message.kind == ops.MSG_SYNC
    data, fds = ANSWERS[answer]
    if data:
        peer = socket.socket(fileno=os.dup(running.channel))
        send(peer, data, fds)
        peer.close()
    else:
        running.close_channel()
    started = time.monotonic()
    assert running.wait() == 1
    assert time.monotonic() - started < LIMIT
    running.close_channel()
    assert printed(reader) == b""


def test_init_takes_descriptors_of_nobody(native: Any, init_program: str) -> None:  # noqa: F811
    """A GO with descriptors: none of them is in the program."""
    plan = Plan()
    plan.add("", ops.SYNC, 2)
    script = "echo /proc/self/fd/*"
    running, reader = start(Machine(native, init_program), shell(plan, script))
    assert running.receive() is not None
    peer = socket.socket(fileno=os.dup(running.channel))
    send(peer, HEAD.pack(ops.MSG_GO, 0, 0, 2), 250)
    peer.close()
    running.serve()
    assert running.wait() == 0
    found = {word.rpartition(b"/")[2] for word in printed(reader).split()}
    assert {b"0", b"1", b"2"} <= found and len(found) <= 4  # and the shell's own for the directory


def test_gate(native: Any, init_program: str, tmp_path: Path) -> None:  # noqa: F811
    """At the gate init waits for the one GO that starts it, whoever knocks before."""
    plan = Plan()
    gate = plan.fd("gate")
    plan.add("", ops.GATE, gate)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path = str(tmp_path / state.GATE_FILE)
    listening.bind(path)
    listening.listen(8)
    running, reader = start(
        Machine(native, init_program), shell(plan, "echo executed"), listening.fileno()
    )
    listening.close()
    assert running.serve()[-1].kind == ops.MSG_READY
    for data, fds in ANSWERS:
        if data == HEAD.pack(ops.MSG_GO, 0, 0, ops.TAG_START):
            continue
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
            caller.settimeout(LIMIT)
            caller.connect(path)
            if data:
                send(caller, data, fds)
                assert caller.recv(16) == b""  # hung up
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
        caller.connect(path)
        caller.send(HEAD.pack(ops.MSG_GO, 0, 0, ops.TAG_START))
        assert running.wait() == 0
    assert printed(reader) == b"executed\n"
    assert encode(plan, 3)

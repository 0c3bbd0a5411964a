"""Running whole plans with the init of this source tree, and looking at what comes back."""

from __future__ import annotations

import errno
import os
import select
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from ociruntime.plan import ops
from ociruntime.plan.encode import encode
from ociruntime.plan.ops import Plan

HEAD = struct.Struct("=IIiI")
NEWNS, NEWUTS, NEWIPC, NEWUSER = 0x20000, 0x4000000, 0x8000000, 0x10000000
NEWPID, NEWNET = 0x20000000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
NR = {
    "x86_64": {
        "mount": 165,
        "prctl": 157,
        "setsid": 112,
        "umask": 95,
        "sethostname": 170,
        "statx": 332,
        "fstatfs": 138,
    },
    "aarch64": {
        "mount": 40,
        "prctl": 167,
        "setsid": 157,
        "umask": 166,
        "sethostname": 161,
        "statx": 291,
        "fstatfs": 44,
    },
}[os.uname().machine]
BUSYBOX = "/bin/busybox"
TIMEOUT = 30.0


@dataclass
class Message:
    """One packet from init."""

    kind: int
    op: int
    error: int
    value: int
    text: bytes
    fds: list[int]
    pid: int

    @property
    def call(self) -> str:
        return self.text.partition(b"\0")[0].decode()

    @property
    def detail(self) -> str:
        return self.text.partition(b"\0")[2].decode("utf-8", "replace")


@dataclass
class Result:
    """How a plan ended."""

    messages: list[Message] = field(default_factory=list)
    status: int = -1
    output: str = ""

    @property
    def failure(self) -> tuple[int, str, str, str] | None:
        """(operation, errno's name, system call, detail) of the error message."""
        for message in self.messages:
            if message.kind == ops.MSG_ERROR:
                name = errno.errorcode[message.error]
                return message.op, name, message.call, message.detail
        return None

    def kinds(self) -> list[int]:
        return [message.kind for message in self.messages]


class Machine:
    """Starts init; ``native`` is ociruntime.host.native, ``program`` the path of init."""

    def __init__(self, native: ModuleType, program: str) -> None:
        self.native = native
        self.program = program

    def start(
        self,
        plan: Plan,
        fds: Sequence[int] = (),
        *,
        stdio: tuple[int, int, int] | None = None,
        preserve: int = 0,
        cgroup: int = -1,
        encoded: bytes | None = None,
    ) -> Running:
        """Start init with a plan; ``fds`` are for the plan's descriptors after channel and plan itself."""
        data = encode(plan, 3 + preserve) if encoded is None else encoded
        if encoded is None:
            assert self.native.check_plan(data) is None
        ours, theirs = self.native.channel_pair()
        memory = self.native.memfd_sealed(data)
        program = self.native.init_memfd(self.program)
        try:
            pid, pidfd = self.native.spawn(
                program,
                3 + preserve,
                [theirs, memory, *fds],
                clone_flags=plan.clone_flags,
                cgroup_fd=cgroup,
                stdio=stdio,
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            for fd in (theirs, memory, program):
                os.close(fd)
        return Running(self.native, pid, pidfd, ours)

    def run(
        self,
        plan: Plan,
        fds: Sequence[int] = (),
        *,
        preserve: int = 0,
        answer: Callable[[Running, int], None] | None = None,
        encoded: bytes | None = None,
    ) -> Result:
        """Run a plan to its end; what the program prints is in the result's ``output``."""
        reader, writer = os.pipe()
        null = os.open("/dev/null", os.O_RDONLY)
        try:
            running = self.start(
                plan, fds, stdio=(null, writer, writer), preserve=preserve, encoded=encoded
            )
        finally:
            os.close(writer)
            os.close(null)
        with os.fdopen(reader, "rb") as pipe:
            messages = running.serve(answer)
            output = pipe.read()
        return Result(messages, running.wait(), output.decode("utf-8", "replace"))


class Running:
    """A process that runs a plan."""

    def __init__(self, native: ModuleType, pid: int, pidfd: int, channel: int) -> None:
        self.native = native
        self.pid = pid
        self.pidfd = pidfd
        self.channel = channel

    def receive(self) -> Message | None:
        """The next message, None at the end of the channel."""
        if not select.select([self.channel], [], [], TIMEOUT)[0]:
            self.kill()
            raise TimeoutError("init says nothing")
        try:
            data, fds, pid = self.native.channel_recv(self.channel)
        except ConnectionResetError:
            return None
        if not data:
            return None
        kind, op, error, value = HEAD.unpack_from(data)
        return Message(kind, op, error, value, data[HEAD.size :], fds, pid)

    def go(self, tag: int) -> None:
        self.native.channel_send(self.channel, HEAD.pack(ops.MSG_GO, 0, 0, tag))

    def serve(self, answer: Callable[[Running, int], None] | None = None) -> list[Message]:
        """Answer every SYNC until the channel ends or init waits at its gate; closes the channel."""
        messages = []
        while (message := self.receive()) is not None:
            messages.append(message)
            if message.kind == ops.MSG_CHILD:
                os.waitpid(self.pid, 0)
                os.close(self.pidfd)
                self.pid, self.pidfd = message.pid, os.pidfd_open(message.pid)
            elif message.kind == ops.MSG_SYNC:
                if answer is not None:
                    answer(self, message.value)
                self.go(message.value)
            elif message.kind == ops.MSG_READY:
                break
        self.close_channel()
        return messages

    def close_channel(self) -> None:
        if self.channel >= 0:
            os.close(self.channel)
            self.channel = -1

    def wait(self) -> int:
        """The exit status, negative for a signal; kills what does not end."""
        if not select.select([self.pidfd], [], [], TIMEOUT)[0]:
            self.native.pidfd_send_signal(self.pidfd, 9)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.pidfd)
        return status

    def kill(self) -> None:
        self.native.pidfd_send_signal(self.pidfd, 9)
        self.close_channel()
        self.wait()

    def proc(self, name: str) -> str:
        return Path(f"/proc/{self.pid}/{name}").read_text(errors="surrogateescape")


def shell(plan: Plan, script: str, *env: str) -> Plan:
    """End the plan with busybox's shell of the host (before a new root) or the root's /bin/sh."""
    argv = ("sh", "-c", script)
    plan.add("", ops.EXEC, argv, len(argv), env, len(env), "/bin/sh")
    return plan


def private_mounts(plan: Plan) -> None:
    """A mount namespace of its own, from which nothing reaches the host."""
    plan.clone_flags |= NEWNS
    number = NR["mount"]
    plan.add("", ops.SYSCALL, number, 0, "/", 0, MS_REC | MS_PRIVATE, 0, 0)


def waiting(machine: Machine, plan: Plan | None = None) -> Running:
    """An init that waits for an answer."""
    plan = plan or Plan()
    plan.add("", ops.SYNC, ops.TAG_HOOKS)
    running = machine.start(shell(plan, "true"))
    message = running.receive()
    assert message is not None and message.kind == ops.MSG_SYNC
    return running


def rooted(rootfs: Path | str, *fds: str) -> tuple[Plan, int]:
    """A plan that has attached the root's tree: (plan, root slot)."""
    plan = Plan()
    for name in fds:
        plan.fd(name)
    root = plan.slot()
    private_mounts(plan)
    plan.add("", ops.ROOT, root, ops.NONE, str(rootfs), ops.ROOT_RECURSIVE)
    return plan, root


def mount_new(plan: Plan, root: int, fstype: str, path: str, *options: str) -> None:
    """A new file system at a path that is made where it is missing."""
    tree = plan.slot()
    plan.add("", ops.FSMOUNT, tree, fstype, fstype, options, len(options), 0)
    plan.add("", ops.ATTACH, tree, root, path, ops.TARGET_DIR, 0, ops.NONE)


def in_root(plan: Plan, root: int, script: str) -> Plan:
    """Enter the root and run its shell."""
    plan.add("", ops.PIVOT, root, ops.PIVOT_ROOT)
    return shell(plan, script)


def snapshot(top: Path) -> list[tuple[str, int, int, int, str]]:
    """Everything below a directory: path, mode, owner, inode, link target; to see that nothing has changed."""
    found = []
    for directory, names, files in os.walk(top):
        for name in [".", *names, *files]:
            path = os.path.join(directory, name)
            about = os.lstat(path)
            target = os.readlink(path) if os.path.islink(path) else ""
            found.append((path, about.st_mode, about.st_uid, about.st_ino, target))
    return sorted(found)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens in another process."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)

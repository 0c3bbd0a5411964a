"""Plans of an ordinary user, and what processes of a user namespace may see of an init that joins it."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from ociruntime.plan import ops
from ociruntime.plan.ops import NONE, Plan
from tests.native.kit import (
    NEWIPC,
    NEWNET,
    NEWNS,
    NEWPID,
    NEWUSER,
    NEWUTS,
    NR,
    Machine,
    Running,
    mount_new,
    shell,
)

pytestmark = pytest.mark.root

USER = 65533


def as_user(machine: Machine, work: Callable[[], object]) -> None:
    """Do something as an ordinary user in a process of its own; assertions there are assertions here."""
    program = os.open(machine.program, os.O_RDONLY)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            machine.program = f"/proc/self/fd/{program}"
            os.setgroups([])
            os.setresgid(USER, USER, USER)
            os.setresuid(USER, USER, USER)
            ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
            work()
            code = 0
        except BaseException:
            os.write(writer, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(program)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said


def write_maps(running: Running, tag: int) -> None:
    if tag == ops.TAG_USERNS:
        Path(f"/proc/{running.pid}/setgroups").write_text("deny")
        for kind in ("uid", "gid"):
            Path(f"/proc/{running.pid}/{kind}_map").write_text(f"0 {USER} 1")


def user_plan() -> Plan:
    plan = Plan()
    plan.add("", ops.UNSHARE, NEWUSER)
    plan.add("", ops.SYNC, ops.TAG_USERNS)
    plan.add("", ops.IDS, 0, 0, NONE, ops.IDS_NO_SETGROUPS)
    return plan


def test_maps_are_written_by_the_user(machine: Machine) -> None:
    """The files of a process that is not dumpable are root's: it is dumpable while its user needs them."""
    owners: list[int] = []

    def answer(running: Running, tag: int) -> None:
        owners.append(os.stat(f"/proc/{running.pid}/uid_map").st_uid)
        write_maps(running, tag)

    def work() -> None:
        plan = user_plan()
        plan.add("", ops.SYNC, ops.TAG_CGROUP)  # oom_score_adj
        plan.add("", ops.SYNC, ops.TAG_NETWORK)
        result = machine.run(shell(plan, "id -u"), answer=answer)
        assert (result.failure, result.output) == (None, "0\n")
        assert owners == [USER, USER, 0]

    as_user(machine, work)


def test_a_whole_root(machine: Machine, rootfs: Path) -> None:
    """Namespaces, mounts, masks, devices bound from the host and the new root, with no privilege at all."""
    top = tempfile.mkdtemp(
        prefix="ociruntime-", dir="/tmp"
    )  # pytest's directories are closed to others
    os.chmod(top, 0o755)
    shutil.move(rootfs, top)
    rootfs = Path(top) / rootfs.name
    shutil.chown(rootfs, USER, USER)

    def work() -> None:
        plan = user_plan()
        root = plan.slot()
        plan.add("", ops.UNSHARE, NEWNS | NEWUTS | NEWIPC | NEWNET | NEWPID)
        plan.add("", ops.CLONE, 0)
        plan.add("", ops.LOOPBACK)
        plan.add("", ops.SYSCALL, NR["mount"], 0, "/", 0, 0x4000 | 1 << 19, 0, 0)
        null, empty = plan.slot(), plan.slot()
        plan.add("", ops.OPEN, null, NONE, "/dev/null", os.O_PATH, 0, 0o20000, os.makedev(1, 3))
        plan.add("", ops.ROOT, root, NONE, str(rootfs), ops.ROOT_RECURSIVE)
        mount_new(plan, root, "proc", "/proc")
        plan.ops[-2] = (*plan.ops[-2][:1], ops.F_ALT, 1, plan.ops[-2][3])
        proc = plan.ops[-2][3][0]
        plan.ops.insert(-1, (ops.TREE, 0, 0, (proc, NONE, "/proc", 0x8000, 0)))
        plan.origins.append("")
        mount_new(plan, root, "tmpfs", "/dev", "mode=755", "size=64k")
        mount_new(plan, root, "devpts", "/dev/pts", "newinstance", "ptmxmode=0666")
        mount_new(plan, root, "mqueue", "/dev/mqueue")
        tree = plan.slot()
        plan.add("", ops.TREE, tree, NONE, "/dev/zero", 0, 0)
        plan.add("", ops.ATTACH, tree, root, "/dev/zero", ops.TARGET_FILE, 0, NONE)
        plan.add("", ops.MKNOD, root, "/dev/mine", 0o20666, 0x103, NONE, NONE)
        plan.ops[-1] = (*plan.ops[-1][:1], ops.F_IGNORE, 1, plan.ops[-1][3])
        plan.add("", ops.SYMLINK, root, "/dev/fd", "/proc/self/fd")
        plan.add("", ops.FSMOUNT, empty, "tmpfs", "tmpfs", ("nr_inodes=1",), 1, 1)
        for path in ("/dev/zero", "/proc/scsi", "/proc/kcore"):
            plan.add("", ops.MASK, root, path, null, empty)
        plan.add("", ops.READONLY, root, "/proc/sys")
        plan.add("", ops.PIVOT, root, ops.PIVOT_ROOT)
        plan.add("", ops.SYSCALL, NR["sethostname"], "rootless", 8)
        plan.add("", ops.CAPS, 0, 0, 0, 0, 0, ops.CAPS_DROP_BOUNDING | ops.CAPS_SET)
        script = "echo $$; stat -c %t:%T /dev/zero; ls /dev; cat /proc/sys/kernel/hostname; id -u"
        result = machine.run(shell(plan, script), answer=write_maps)
        assert result.failure is None
        lines = result.output.split()
        assert lines[:2] == ["1", "1:3"]
        assert lines[2:-2] == ["fd", "mqueue", "pts", "zero"]
        assert lines[-2:] == ["rootless", "0"]

    try:
        as_user(machine, work)
    finally:
        shutil.rmtree(top)


def test_hooks_may_join(machine: Machine) -> None:
    """The user's own runtime joins the namespaces of an init that waits for hooks or at its gate."""

    def join(running: Running) -> str:
        plan = Plan()
        slot = plan.fd("pidfd")
        plan.add("", ops.SETNS, slot, NEWUSER | NEWUTS)
        return machine.run(shell(plan, "hostname"), [running.pidfd]).output

    def answer(running: Running, tag: int) -> None:
        write_maps(running, tag)
        if tag == ops.TAG_HOOKS:
            assert join(running) == "inside\n"

    def work() -> None:
        import socket

        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(f"\0ociruntime-test-{os.getpid()}")
        listener.listen()
        plan = Plan()
        gate = plan.fd("gate")
        plan.add("", ops.UNSHARE, NEWUSER)
        plan.add("", ops.SYNC, ops.TAG_USERNS)
        plan.add("", ops.UNSHARE, NEWUTS)
        plan.add("", ops.SYSCALL, NR["sethostname"], "inside", 6)
        plan.add("", ops.SYNC, ops.TAG_HOOKS)
        plan.add("", ops.GATE, gate)
        running = machine.start(shell(plan, "true"), [listener.fileno()])
        messages = running.serve(answer)
        assert messages[-1].kind == ops.MSG_READY
        assert join(running) == "inside\n"
        running.kill()

    as_user(machine, work)


def look_at(machine: Machine, target: int, namespace: int) -> str:
    """What root of a user namespace can read of a process, and whether it can trace it."""
    plan = Plan()
    slot = plan.fd("ns:user")
    plan.add("", ops.SETNS, slot, NEWUSER)
    plan.add("", ops.IDS, 0, 0, b"", 0)
    script = (
        f"cd /proc/{target}; for f in environ maps auxv; do cat $f >/dev/null 2>&1 && echo $f; done; "
        "ls fd >/dev/null 2>&1 && echo fd; readlink exe; readlink root; readlink ns/uts; "
        f"strace -qq -p {target} -o /dev/null true 2>&1 | grep -c 'not permitted'; "
        "id -u"
    )
    return machine.run(shell(plan, script, "PATH=/bin:/usr/bin"), [namespace]).output


@pytest.mark.parametrize("joined", [False, True])
def test_joining_init_is_closed_to_the_namespace(machine: Machine, joined: bool) -> None:
    """Root of the namespace that init joins, with every capability there, sees nothing of it (CVE-2016-9962)."""
    owner_plan = Plan()
    owner_plan.add("", ops.UNSHARE, NEWUSER)
    owner_plan.add("", ops.SYNC, ops.TAG_USERNS)
    owner_plan.add("", ops.SYNC, ops.TAG_HOOKS)
    owner = machine.start(owner_plan)
    assert owner.receive() is not None
    for kind in ("uid", "gid"):
        Path(f"/proc/{owner.pid}/{kind}_map").write_text("0 100000 65536")
    owner.go(ops.TAG_USERNS)
    assert owner.receive() is not None
    namespace = os.open(f"/proc/{owner.pid}/ns/user", os.O_RDONLY)
    try:
        plan = Plan()
        slot = plan.fd("ns:user")
        if joined:
            plan.add("", ops.SETNS, slot, NEWUSER)
            plan.add("", ops.IDS, 0, 0, b"", ops.IDS_KEEPCAPS)
            plan.add("", ops.CAPS, 0, 1 << 21, 1 << 21, 0, 0, ops.CAPS_SET)
        plan.add("", ops.SYNC, ops.TAG_HOOKS)
        joiner = machine.start(plan, [namespace])
        assert joiner.receive() is not None
        try:
            assert look_at(machine, joiner.pid, namespace) == "1\n0\n"
        finally:
            joiner.kill()
    finally:
        os.close(namespace)
        owner.kill()

"""Kernels that lack a call (Linux 5.10), or refuse one: a filter at the start of the plan answers as they do."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from ociruntime.plan import ops
from ociruntime.plan.ops import NONE, Plan
from tests.native.kit import NR, Machine, in_root, mount_new, private_mounts, rooted, shell

pytestmark = pytest.mark.root

MOUNT_SETATTR = 442
CLOSE_RANGE = 436
RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8


def statement(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def old_kernel(rootfs: Path) -> tuple[Plan, int]:
    """A plan that goes on without mount_setattr(2) and without CLOSE_RANGE_CLOEXEC: (plan, root slot)."""
    load, equal, give = 0x20, 0x15, 6
    code = (
        statement(load, 0)
        + statement(equal, MOUNT_SETATTR, 4, 0)
        + statement(equal, CLOSE_RANGE, 0, 2)
        + statement(load, 32)
        + statement(equal, 4, 2, 0)
        + statement(give, 0x7FFF0000)
        + statement(give, 0x50000 | errno.ENOSYS)
        + statement(give, 0x50000 | errno.EINVAL)
    )
    plan = Plan()
    root = plan.slot()
    private_mounts(plan)
    plan.add("", ops.SECCOMP, code, 0)
    plan.add("", ops.ROOT, root, NONE, str(rootfs), ops.ROOT_RECURSIVE)
    mount_new(plan, root, "proc", "/proc")
    return plan, root


def attributes(plan: Plan, root: int, *arguments: int) -> Plan:
    """Set attributes of a tmpfs on /mnt that is nodev and noatime; its flags are printed."""
    tree = plan.slot()
    plan.add("", ops.FSMOUNT, tree, "tmpfs", "tmpfs", (), 0, NODEV | 0x10)
    plan.add("", ops.ATTACH, tree, root, "/mnt", ops.TARGET_DIR, 0, tree)
    plan.add("", ops.SETATTR, tree, *arguments, NONE)
    return in_root(plan, root, "grep ' /mnt ' /proc/self/mountinfo")


def test_attributes_by_mount(machine: Machine, rootfs: Path, subtests: SubTests) -> None:
    cases: list[tuple[tuple[int, int, int, int], set[str]]] = [
        ((RDONLY | NOSUID, 0, 0, 0), {"ro", "nosuid", "nodev", "noatime"}),
        ((NOEXEC, NODEV, 0, 0), {"rw", "noexec", "noatime"}),
        ((0, 0x70, 0, 0), {"rw", "nodev", "relatime"}),
        ((0x20, 0x70, 0, 0), {"rw", "nodev"}),
        ((0x80, 0, 0, 0), {"rw", "nodev", "noatime", "nodiratime"}),
        ((0, 0, 1 << 20, 0), {"rw", "nodev", "noatime", "shared"}),
    ]
    for arguments, expected in cases:
        with subtests.test(str(arguments)):
            plan, root = old_kernel(rootfs)
            result = machine.run(attributes(plan, root, *arguments))
            assert result.failure is None
            words = result.output.split()
            flags = {*words[5].split(","), *(["shared"] if "shared:" in result.output else [])}
            assert flags == expected


def test_what_has_no_fallback_is_said(machine: Machine, rootfs: Path, subtests: SubTests) -> None:
    for name, arguments in {
        "recursive": (1, 0, 0, 0x8000),
        "nosymfollow": (0x200000, 0, 0, 0),
    }.items():
        with subtests.test(name):
            plan, root = old_kernel(rootfs)
            failure = machine.run(attributes(plan, root, *arguments)).failure
            assert failure is not None
            assert failure[1:] == ("ENOSYS", "mount_setattr", "needs Linux 5.12")


def test_a_detached_tree_has_no_fallback(machine: Machine, rootfs: Path) -> None:
    """mount(2) would answer that its arguments are invalid."""
    plan, root = old_kernel(rootfs)
    tree = plan.slot()
    plan.add("", ops.FSMOUNT, tree, "tmpfs", "tmpfs", (), 0, 0)
    plan.add("", ops.SETATTR, tree, RDONLY, 0, 0, 0, NONE)
    plan.add("", ops.ATTACH, tree, root, "/mnt", ops.TARGET_DIR, 0, tree)
    failure = machine.run(plan).failure
    assert failure is not None
    assert failure[1:] == ("ENOSYS", "mount_setattr", "needs Linux 5.12")


def test_readonly_by_mount(machine: Machine, rootfs: Path) -> None:
    (rootfs / "dir").mkdir()
    (rootfs / "file").write_text("")
    plan, root = old_kernel(rootfs)
    for path in ("/dir", "/file", "/missing"):
        plan.add("", ops.READONLY, root, path)
    script = "touch /dir/x; echo x > /file; touch /y && echo writable"
    lines = machine.run(in_root(plan, root, script)).output.splitlines()
    assert [line.endswith("Read-only file system") for line in lines] == [True, True, False]


def test_descriptors_without_close_range_cloexec(machine: Machine) -> None:
    """Each descriptor is marked by itself, those that operations have opened included."""
    plan, _ = old_kernel(Path("/"))
    del plan.ops[2:], plan.origins[2:]
    plan.add("", ops.OPEN, 2, NONE, "/", os.O_RDONLY, 0, 0, 0)
    assert machine.run(shell(plan, "ls /proc/self/fd | tr '\\n' ' '")).output == "0 1 2 3 "
    assert NR


def refuse(plan: Plan, call: str, second: int | None = None) -> None:
    """From here on ``call`` is EPERM, with ``second`` only where that is its second argument."""
    load, equal, give = 0x20, 0x15, 6
    code = statement(load, 0) + statement(equal, NR[call], 0, 3 if second is not None else 1)
    if second is not None:
        code += statement(load, 24) + statement(equal, second, 0, 1)
    code += statement(give, 0x50000 | errno.EPERM) + statement(give, 0x7FFF0000)
    plan.add("", ops.SECCOMP, code, 0)


def test_what_cannot_be_looked_at_is_not_taken_for_another(
    machine: Machine, rootfs: Path, subtests: SubTests
) -> None:
    """Why it cannot is said: a device would be called a wrong one, a procfs none."""
    node = (0o020666, os.makedev(1, 3))
    for name, call, operation in (
        ("made", "statx", lambda root: (ops.MKNOD, root, "/null", *node, NONE, NONE)),
        ("opened", "statx", lambda root: (ops.OPEN, root, NONE, "/dev/null", os.O_PATH, 0, *node)),
        ("console", "statx", lambda root: (ops.CONSOLE, root, root, 0, 0, NONE, 0)),
        ("masked", "statx", lambda root: (ops.MASK, root, "/file", root, root)),
        ("written", "fstatfs", lambda root: (ops.WRITE, root, "file", "x", ops.WRITE_PROCFS)),
    ):
        with subtests.test(name):
            (rootfs / "file").touch()
            plan, root = rooted(rootfs)
            mount_new(plan, root, "devpts", "/dev/pts", "newinstance", "ptmxmode=0666")
            refuse(plan, call)
            plan.add("", *operation(root))
            failure = machine.run(plan).failure
            assert failure is not None and failure[1:3] == ("EPERM", call)
            assert failure[3] == ("/dev/pts/ptmx" if name == "console" else "")
    with subtests.test("attached"):
        plan, root = rooted(rootfs)
        tree = plan.slot()
        plan.add("", ops.FSMOUNT, tree, "proc", "proc", (), 0, 0)
        refuse(plan, "fstatfs")
        plan.add("", ops.ATTACH, tree, root, "/proc", ops.TARGET_PROCFS, 0, NONE)
        failure = machine.run(plan).failure
        assert failure is not None and failure[1:] == ("EPERM", "fstatfs", "")


def test_being_made_dumpable_is_refused(machine: Machine, tmp_path: Path) -> None:
    """Said as what it is, and not as the file that cannot be opened then."""
    (tmp_path / "file").touch()
    plan = Plan()
    root = plan.slot()
    plan.add("", ops.OPEN, root, NONE, str(tmp_path), os.O_PATH, 0, 0, 0)
    refuse(plan, "prctl", 1)
    plan.add("", ops.WRITE, root, "file", "x", ops.WRITE_DUMPABLE)
    failure = machine.run(plan).failure
    assert failure is not None and failure[1:] == ("EPERM", "prctl PR_SET_DUMPABLE", "")


def test_a_fallback_that_is_refused_says_what_it_stands_for(machine: Machine, rootfs: Path) -> None:
    plan, root = old_kernel(rootfs)
    refuse(plan, "mount")
    failure = machine.run(attributes(plan, root, RDONLY, 0, 0, 0)).failure
    assert failure is not None
    expected = "in place of mount_setattr: function not implemented"
    assert failure[1:] == ("EPERM", "mount", expected)

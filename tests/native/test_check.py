"""check_plan: nothing of a broken plan is ever run."""

from __future__ import annotations

import random
import struct
from types import ModuleType

import pytest
from pytest_subtests import SubTests

from ociruntime.plan import ops
from ociruntime.plan.encode import encode
from ociruntime.plan.ops import NONE, Plan
from tests.native.kit import NR

HEADER = struct.Struct("=IHHIIHHHH40x")
OPERATION = struct.Struct("=HHI7Q")
BIG = 1 << 32


def raw(
    *operations: tuple[int, ...],
    data: bytes = b"word\0/\0a\0b\0\0\0",
    fds: int = 3,
    slots: int = 6,
    first: int = 3,
    flags: int = 0,
    errnos: int = 0,
    **header: int,
) -> bytes:
    """A plan of (code, arguments …) that may be as wrong as it likes."""
    body = b"".join(
        OPERATION.pack(code, flags, errnos, *args, *(0,) * (7 - len(args)))
        for code, *args in operations
    )
    values = {
        "magic": ops.MAGIC,
        "version": ops.VERSION,
        "header_size": 64,
        "op_count": len(operations),
        "data_size": len(data),
    } | header
    return HEADER.pack(*values.values(), fds, first, slots, 0) + body + data


def blob(offset: int, length: int) -> int:
    return length << 32 | offset


WORD, ROOT, VECTOR, EMPTY = blob(0, 4), blob(5, 1), blob(7, 4), blob(11, 0)
GOOD_EXEC = (ops.EXEC, VECTOR, 2, EMPTY, 0, ROOT)


def everything() -> Plan:
    """One of each operation, with all that is optional and without."""
    plan = Plan()
    gate, proc = plan.fd("gate"), plan.fd("procfs")
    root, tree, other, empty = (plan.slot() for _ in range(4))
    null, console = plan.slot(), plan.slot()
    add = plan.add
    add("", ops.SETNS, proc, 0, flags=ops.F_IGNORE | ops.F_RETRY, errnos=ops.errno_set(1, 22))
    add("", ops.UNSHARE, 0x20000)
    add("", ops.CLONE, 0)
    add("", ops.SYNC, ops.TAG_CGROUP)
    add("", ops.SYSCALL, NR["mount"], "none", "/", NONE, 0x4000, NONE)
    add("", ops.WRITE, proc, "sys/kernel/hostname", "x", ops.WRITE_PROCFS | ops.WRITE_SKIP_SAME)
    add("", ops.OPEN, null, NONE, "/dev/null", 0o10000000, 0, 0o20000, 0x103)
    add("", ops.ROOT, root, NONE, "/srv/root", ops.ROOT_RECURSIVE)
    add("", ops.MKDIR, root, "/proc", 0o755, NONE, NONE)
    add("", ops.MKFILE, root, "/etc/hosts", 0o644, 0, 0)
    add("", ops.SYMLINK, root, "/dev/fd", "/proc/self/fd")
    add("", ops.MKNOD, root, "/dev/null", 0o20666, 0x103, 0, 5)
    options = ("size=1m", "mode=755")
    add("", ops.FSMOUNT, tree, "tmpfs", "tmpfs", options, 2, 6, flags=ops.F_ALT, errnos=1)
    add("", ops.TREE, tree, NONE, "/sys", 0x8000, 0)
    add("", ops.SETATTR, tree, 1, 0, 1 << 18, 0x8000, NONE)
    add("", ops.COPYUP, tree, root, "/run", 0)
    add("", ops.ATTACH, tree, root, "/run", ops.TARGET_DIR, 4, other)
    add("", ops.FSMOUNT, empty, "tmpfs", NONE, (), 0, 0)
    add("", ops.MASK, root, "/proc/kcore", null, empty)
    add("", ops.READONLY, root, "/proc/sys")
    add("", ops.CONSOLE, console, root, 24, 80, 1000, ops.CONSOLE_MOUNT)
    add("", ops.PIVOT, root, ops.PIVOT_ROOT)
    add("", ops.UNMOUNT, proc, root, "/mnt", NONE)
    add("", ops.LOOPBACK)
    add("", ops.STDIO, root, console, 1000)
    add("", ops.HOME, root, 1000)
    add("", ops.CAPS, 1, 2, 3, 4, 5, 7)
    add("", ops.IDS, 1000, 1000, struct.pack("=2I", 5, 6), ops.IDS_KEEPCAPS)
    add("", ops.CHDIR, root, "/")
    add("", ops.CLOSE, other)
    add("", ops.FIND_EXE, "sh", "/bin")
    add("", ops.GATE, gate)
    add("", ops.SECCOMP, bytes(8), 0)
    add("", ops.EXEC, ("sh", "-c"), 2, ("A=1",), 1, NONE)
    return plan


def test_everything_is_accepted(native: ModuleType) -> None:
    plan = everything()
    used = {operation[0] for operation in plan.ops}
    assert used == {*range(1, 13), *range(16, 21), *range(24, 33), *range(40, 47)}
    assert native.check_plan(encode(plan, 3)) is None


# (what, plan, (operation, argument)) of plans that must be refused
BROKEN: list[tuple[str, bytes, tuple[int, int]]] = [
    ("nothing", b"", (-1, -1)),
    ("half a header", raw()[:30], (-1, -1)),
    ("no operations", raw(), (-1, -1)),
    ("magic", raw(GOOD_EXEC, magic=1), (-1, -1)),
    ("version", raw(GOOD_EXEC, version=2), (-1, -1)),
    ("header size", raw(GOOD_EXEC, header_size=72), (-1, -1)),
    ("more operations than bytes", raw(GOOD_EXEC, op_count=2), (-1, -1)),
    ("operations without end", raw(GOOD_EXEC, op_count=0xFFFFFFFF), (-1, -1)),
    ("data without end", raw(GOOD_EXEC, data_size=0xFFFFFFFF), (-1, -1)),
    ("a byte too few", raw(GOOD_EXEC)[:-1], (-1, -1)),
    ("a byte too many", raw(GOOD_EXEC) + b"\0", (-1, -1)),
    ("more descriptors than slots", raw(GOOD_EXEC, fds=7), (-1, -1)),
    ("no channel", raw(GOOD_EXEC, fds=0), (-1, -1)),
    ("too many slots", raw(GOOD_EXEC, slots=1025), (-1, -1)),
    ("first descriptor is stdio", raw(GOOD_EXEC, first=2), (-1, -1)),
    ("code 0", raw((0,)), (0, -1)),
    ("unknown code", raw((47,)), (0, -1)),
    ("a hole between the codes", raw((13,)), (0, -1)),
    ("last code of all", raw((0xFFFF,)), (0, -1)),
    ("unknown flag", raw((ops.LOOPBACK,), flags=16), (0, -1)),
    ("retry elsewhere", raw((ops.LOOPBACK,), flags=ops.F_RETRY), (0, -1)),
    ("a flag without errnos", raw((ops.LOOPBACK,), flags=ops.F_IGNORE), (0, -1)),
    ("errnos without a flag", raw((ops.LOOPBACK,), errnos=1), (0, -1)),
    ("no such errno", raw((ops.LOOPBACK,), flags=ops.F_IGNORE, errnos=200), (0, -1)),
    ("alternative at the end", raw((ops.LOOPBACK,), flags=ops.F_ALT, errnos=1), (0, -1)),
    ("one argument too many", raw((ops.LOOPBACK, 1)), (0, 0)),
    ("argument after the last", raw((ops.PIVOT, 2, 0, 0, 0, 0, 0, 9)), (0, 6)),
    ("the channel as a slot", raw((ops.PIVOT, 0, 0)), (0, 0)),
    ("the plan as a slot", raw((ops.PIVOT, 1, 0)), (0, 0)),
    ("a slot beyond the last", raw((ops.PIVOT, 6, 0)), (0, 0)),
    ("a slot of 64 bits", raw((ops.PIVOT, BIG | 2, 0)), (0, 0)),
    ("an empty slot", raw((ops.PIVOT, 3, 0)), (0, 0)),
    ("no slot where one must be", raw((ops.PIVOT, NONE, 0)), (0, 0)),
    ("a slot filled too late", raw((ops.CLOSE, 3), (ops.TREE, 3, NONE, ROOT, 0, 0)), (0, 0)),
    ("the channel filled", raw((ops.TREE, 0, NONE, ROOT, 0, 0)), (0, 0)),
    ("a slot filled beyond", raw((ops.TREE, 6, NONE, ROOT, 0, 0)), (0, 0)),
    ("method", raw((ops.PIVOT, 2, 3)), (0, -1)),
    ("33 bits of flags", raw((ops.UNSHARE, BIG)), (0, 0)),
    ("tag 0", raw((ops.SYNC, 0)), (0, -1)),
    ("tag of the gate", raw((ops.SYNC, ops.TAG_START)), (0, -1)),
    ("uid -1", raw((ops.IDS, 0xFFFFFFFF, 0, NONE, 0)), (0, 0)),
    ("uid of 33 bits", raw((ops.IDS, BIG, 0, NONE, 0)), (0, 0)),
    ("gid of 33 bits", raw((ops.IDS, 0, BIG, NONE, 0)), (0, 1)),
    ("half a group", raw((ops.IDS, 0, 0, blob(0, 2), 0), data=bytes(3)), (0, -1)),
    ("flags of ids", raw((ops.IDS, 0, 0, NONE, 4)), (0, -1)),
    ("flags of capabilities", raw((ops.CAPS, 0, 0, 0, 0, 0, 8)), (0, -1)),
    ("mode", raw((ops.MKDIR, 2, ROOT, 0o200000, NONE, NONE)), (0, 2)),
    ("owner of a file", raw((ops.MKFILE, 2, ROOT, 0, BIG, NONE)), (0, 3)),
    ("device number", raw((ops.MKNOD, 2, ROOT, 0, BIG, 0, 0)), (0, 3)),
    ("target", raw((ops.ATTACH, 2, 2, ROOT, 5, 0, NONE)), (0, -1)),
    ("flags of a write", raw((ops.WRITE, 2, WORD, WORD, 8)), (0, -1)),
    ("rows", raw((ops.CONSOLE, 3, 2, 65536, 0, NONE, 0)), (0, -1)),
    ("filter of 7 bytes", raw((ops.SECCOMP, blob(0, 7), 0), data=bytes(8)), (0, -1)),
    ("filter of no bytes", raw((ops.SECCOMP, EMPTY, 0)), (0, -1)),
    ("filter too long", raw((ops.SECCOMP, blob(0, 32776), 0), data=bytes(32777)), (0, -1)),
    ("a path outside", raw((ops.READONLY, 2, blob(13, 1))), (0, 1)),
    ("a path at the end", raw((ops.READONLY, 2, blob(12, 1))), (0, 1)),
    ("an offset that wraps", raw((ops.READONLY, 2, blob(0xFFFFFFFF, 2))), (0, 1)),
    ("a length that wraps", raw((ops.READONLY, 2, blob(2, 0xFFFFFFFF))), (0, 1)),
    ("a path without its NUL", raw((ops.READONLY, 2, blob(0, 3))), (0, 1)),
    ("a NUL in a path", raw((ops.READONLY, 2, blob(0, 6))), (0, 1)),
    ("an empty path", raw((ops.READONLY, 2, EMPTY)), (0, 1)),
    ("no path", raw((ops.READONLY, 2, NONE)), (0, 1)),
    ("a long path", raw((ops.READONLY, 2, blob(0, 4096)), data=b"a" * 4096 + b"\0"), (0, 1)),
    ("more strings than said", raw((ops.EXEC, VECTOR, 1, EMPTY, 0, ROOT)), (0, 0)),
    ("fewer strings than said", raw((ops.EXEC, VECTOR, 3, EMPTY, 0, ROOT)), (0, 0)),
    ("a number of strings that wraps", raw((ops.EXEC, VECTOR, BIG | 2, EMPTY, 0, ROOT)), (0, 0)),
    ("a string without end", raw((ops.EXEC, blob(7, 3), 1, EMPTY, 0, ROOT)), (0, 0)),
    ("strings of nothing", raw((ops.EXEC, VECTOR, 2, EMPTY, 1, ROOT)), (0, 2)),
    ("no argv[0]", raw((ops.EXEC, EMPTY, 0, EMPTY, 0, ROOT)), (0, -1)),
    ("exec of nothing", raw((ops.EXEC, VECTOR, 2, EMPTY, 0, NONE)), (0, -1)),
    ("exec before the end", raw(GOOD_EXEC, (ops.LOOPBACK,)), (0, -1)),
    ("two gates", raw((ops.GATE, 2), (ops.GATE, 2), GOOD_EXEC), (1, 0)),
    ("sync after the gate", raw((ops.GATE, 2), (ops.SYNC, 1), GOOD_EXEC), (1, -1)),
    ("clone after the gate", raw((ops.GATE, 2), (ops.CLONE, 0), GOOD_EXEC), (1, -1)),
    ("slot after the gate", raw((ops.GATE, 2), (ops.CLOSE, 1), GOOD_EXEC), (1, 0)),
    (
        "home after the filter",
        raw((ops.SECCOMP, blob(0, 8), 0), (ops.HOME, NONE, 0), data=bytes(9)),
        (1, -1),
    ),
    ("a NUL in a name", raw((ops.FIND_EXE, blob(0, 6), NONE)), (0, -1)),
    ("a NUL in PATH", raw((ops.FIND_EXE, WORD, blob(0, 6))), (0, -1)),
    ("execve by hand", raw((ops.SYSCALL, 59 if NR["umask"] == 95 else 221)), (0, 0)),
    ("no system call", raw((ops.SYSCALL, BIG | NR["umask"])), (0, 0)),
    ("a dumpable init", raw((ops.SYSCALL, NR["prctl"], 4, 1)), (0, 1)),
    ("kind of an argument", raw((ops.SYSCALL, NR["umask"], 0), flags=3 << 4), (0, 1)),
    ("a blob outside", raw((ops.SYSCALL, NR["umask"], blob(99, 1)), flags=1 << 4), (0, 1)),
    ("a slot that is none", raw((ops.SYSCALL, NR["umask"], 0, 1), flags=2 << 6), (0, 2)),
]


def test_what_is_broken_is_refused(native: ModuleType, subtests: SubTests) -> None:
    assert native.check_plan(raw(GOOD_EXEC)) is None
    for what, plan, where in BROKEN:
        with subtests.test(what):
            fault = native.check_plan(plan)
            assert fault is not None
            assert fault[:2] == where
            assert fault[2]


@pytest.mark.parametrize("field", range(5))
def test_reserved_fields_are_zero(native: ModuleType, field: int) -> None:
    plan = bytearray(raw(GOOD_EXEC))
    plan[24 + 8 * field] = 1
    assert native.check_plan(bytes(plan)) is not None


def test_any_change_is_survived(native: ModuleType) -> None:
    """Flipped bytes and cut ends are refused or harmless; what the check reads it has checked before."""
    plan = encode(everything(), 3)
    chance = random.Random(20261124)
    refused = 0
    for _ in range(20000):
        changed = bytearray(plan)
        for _ in range(chance.randrange(1, 4)):
            changed[chance.randrange(len(changed))] = chance.choice((0, 1, 2, 127, 128, 254, 255))
        end = len(changed) if chance.random() < 0.8 else chance.randrange(len(changed))
        refused += native.check_plan(bytes(changed[:end])) is not None
    assert 5000 < refused < 20000


def test_large_numbers_survive(native: ModuleType) -> None:
    """10,000 strings, a string of 1 MiB and a path of 4,095 bytes are neither cut nor shifted (CVE-2021-43784)."""
    plan = Plan()
    plan.add("", ops.FIND_EXE, "x" * 4095, "y" * 100000)
    env = ("A=" + "x" * (1 << 20), *(f"V{i}={i}" for i in range(10000)))
    plan.add("", ops.EXEC, ("a",), 1, env, len(env), NONE)
    encoded = encode(plan, 3)
    assert native.check_plan(encoded) is None
    assert b"V9999=9999\0" in encoded

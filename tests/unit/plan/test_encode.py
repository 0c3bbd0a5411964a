"""The bytes of a plan: layout, shared blobs, and everything that does not fit."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from ociruntime import errors
from ociruntime.plan import ops
from ociruntime.plan.encode import encode

HEADER = struct.Struct("=IHHIIHHHH5Q")
OPERATION = struct.Struct("=HHI7Q")


def decode(data: bytes) -> tuple[tuple[Any, ...], list[tuple[Any, ...]], bytes]:
    """Header, operations and data area."""
    head = HEADER.unpack_from(data)
    operations = [
        OPERATION.unpack_from(data, HEADER.size + index * OPERATION.size)
        for index in range(head[3])
    ]
    return head, operations, data[HEADER.size + head[3] * OPERATION.size :]


def blob(area: bytes, reference: int) -> bytes:
    offset, length = reference & 0xFFFFFFFF, reference >> 32
    assert area[offset + length] == 0
    return area[offset : offset + length]


def plan(*operations: tuple[int, Any]) -> ops.Plan:
    made = ops.Plan()
    for code, arguments in operations:
        made.add("/origin", code, *arguments)
    return made


def test_header() -> None:
    made = plan((ops.LOOPBACK, ()))
    made.fd("procfs")
    made.slot()
    head, operations, area = decode(encode(made, 5))
    assert head[:3] == (ops.MAGIC, ops.VERSION, HEADER.size)
    assert head[3:9] == (1, 0, 3, 5, 4, 0)
    assert head[9:] == (0,) * 5
    assert operations == [(ops.LOOPBACK, 0, 0, *(0,) * 7)]
    assert area == b""


def test_arguments() -> None:
    made = plan(
        (ops.WRITE, (ops.NONE, "pâth\udcff", b"a\0b", -3)),
        (ops.EXEC, (("x", ""), 2, (), 0, ops.NONE)),
    )
    _, (write, run), area = decode(encode(made, 3))
    assert write[3] == ops.NONE
    assert blob(area, write[4]) == "pâth".encode() + b"\xff"
    assert blob(area, write[5]) == b"a\0b"
    assert write[6] == 2**64 - 3
    assert blob(area, run[3]) == b"x\0\0"
    assert run[4] == 2
    assert blob(area, run[5]) == b""
    assert run[6] == 0


def test_equal_blobs_are_stored_once() -> None:
    made = plan((ops.MKDIR, (2, "/same", 0, 0, 0)), (ops.MKDIR, (2, "/same", 0, 0, 0)))
    _, (first, second), area = decode(encode(made, 3))
    assert first[4] == second[4]
    assert area == b"/same\0"


def test_system_call_kinds() -> None:
    made = plan((ops.SYSCALL, (165, "src", 0, b"x", 1, "data")))
    _, (call,), _ = decode(encode(made, 3))
    assert call[1] == 1 << 4 | 1 << 8 | 1 << 12


def test_flags_and_errnos() -> None:
    made = ops.Plan()
    made.add("", ops.LOOPBACK, flags=ops.F_ALT, errnos=ops.errno_set(1, 2, 22))
    _, (operation,), _ = decode(encode(made, 3))
    assert operation[1:3] == (ops.F_ALT, 1 | 2 << 8 | 22 << 16)


@pytest.mark.parametrize(
    "arguments",
    [(2, "a\0b"), (2, ("ok", "a\0")), (2, (b"\0",))],
)
def test_nul_names_its_origin(arguments: Any) -> None:
    with pytest.raises(errors.Error, match="NUL byte") as caught:
        encode(plan((ops.LOOPBACK, ()), (ops.CHDIR, arguments)), 3)
    assert caught.value.pointer == "/origin"


def test_too_many_operations() -> None:
    made = ops.Plan()
    made.ops = [(ops.LOOPBACK, 0, 0, ())] * 65537
    with pytest.raises(errors.Error, match="65537 operations"):
        encode(made, 3)


def test_too_many_slots() -> None:
    made = ops.Plan()
    made.slots = 1025
    with pytest.raises(errors.Error, match="1025 descriptors"):
        encode(made, 3)


@pytest.mark.parametrize("first_fd", [0, 2, 65536])
def test_first_descriptor(first_fd: int) -> None:
    with pytest.raises(errors.Error, match="preserve"):
        encode(plan((ops.LOOPBACK, ())), first_fd)


def test_too_much_data() -> None:
    big = "x" * (33 << 20)
    with pytest.raises(errors.Error, match="longer than") as caught:
        encode(plan((ops.SYMLINK, (2, big, big + "y"))), 3)
    assert caught.value.pointer == "/origin"


def test_a_megabyte_of_environment_is_kept_whole() -> None:
    entries = tuple(f"K{number}={'v' * 1000}" for number in range(1000))
    made = plan((ops.EXEC, (("x",), 1, entries, len(entries), ops.NONE)))
    _, (run,), area = decode(encode(made, 3))
    assert blob(area, run[5]) == b"".join(entry.encode() + b"\0" for entry in entries)

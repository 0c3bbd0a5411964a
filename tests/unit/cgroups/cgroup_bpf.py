"""The part of eBPF that device filters use: an interpreter, and the real bpf(2) by ctypes."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

MASK = 0xFFFFFFFF


def run(program: bytes, kind: int, access: int, major: int, minor: int) -> int:
    """What a program answers to one question (struct bpf_cgroup_dev_ctx); raises on anything odd."""
    context = {0: kind | access << 16, 4: major, 8: minor}
    registers: dict[int, int] = {}
    code = [program[i : i + 8] for i in range(0, len(program), 8)]
    at = 0
    for _ in range(len(code)):
        opcode, pair, offset, value = struct.unpack("<BBhi", code[at])
        target, source = pair & 15, pair >> 4
        at += 1
        match opcode:
            case 0x61:
                assert source == 1
                assert source not in registers, "the context pointer was overwritten"
                registers[target] = context[offset]
            case 0xBC:
                registers[target] = registers[source]
            case 0x54:
                registers[target] &= value & MASK
            case 0x74:
                registers[target] >>= value
            case 0xB7:
                registers[target] = value
            case 0x56 | 0x16:
                equal = registers[target] == value & MASK
                if equal == (opcode == 0x16):
                    assert offset >= 0
                    at += offset
            case 0x95:
                return registers[0]
            case _:
                raise AssertionError(f"unknown opcode {opcode:#x}")
    raise AssertionError("the program does not end")


_SYS_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_CGROUP_DEVICE_PROG, _CGROUP_DEVICE_ATTACH = 15, 6
_F_ALLOW_MULTI, _F_REPLACE = 2, 4
_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    buffer = ctypes.create_string_buffer(attributes, 128)
    result = _libc.syscall(_SYS_BPF, command, buffer, 128)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result, buffer.raw


def load(program: bytes) -> int:
    """BPF_PROG_LOAD; the verifier's log goes into the error."""
    text = ctypes.create_string_buffer(program)
    licence = ctypes.create_string_buffer(b"GPL")
    head = struct.pack(
        "=IIQQ",
        _CGROUP_DEVICE_PROG,
        len(program) // 8,
        ctypes.addressof(text),
        ctypes.addressof(licence),
    )
    try:
        return _bpf(_PROG_LOAD, head)[0]
    except OSError as exc:
        if exc.errno == errno.EPERM:
            raise
        log = ctypes.create_string_buffer(1 << 20)
        _bpf(_PROG_LOAD, head + struct.pack("=IIQ", 1, len(log), ctypes.addressof(log)))
        raise AssertionError(log.value.decode()) from exc


def attach(cgroup: int, program: int, replaced: int | None) -> None:
    """BPF_PROG_ATTACH, in the place of another program if one is given."""
    flags = _F_ALLOW_MULTI | (_F_REPLACE if replaced is not None else 0)
    _bpf(
        _PROG_ATTACH,
        struct.pack("=IIIII", cgroup, program, _CGROUP_DEVICE_ATTACH, flags, replaced or 0),
    )


def ids(cgroup: int) -> list[int]:
    """Identifiers of the device programs of a cgroup."""
    found = (ctypes.c_uint32 * 64)()
    _, out = _bpf(
        _PROG_QUERY,
        struct.pack(
            "=IIIIQI", cgroup, _CGROUP_DEVICE_ATTACH, 0, 0, ctypes.addressof(found), len(found)
        ),
    )
    return list(found[: struct.unpack_from("=I", out, 24)[0]])


def attached(cgroup: int) -> int | None:
    """Descriptor of the program that is on a cgroup."""
    for number in ids(cgroup):
        return _bpf(_GET_FD_BY_ID, struct.pack("=I", number))[0]
    return None

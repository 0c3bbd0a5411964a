"""An interpreter for the classic BPF that seccomp(2) takes, to judge filters without loading them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

_U32 = 0xFFFFFFFF


def run(code: bytes, arch: int, number: int, args: Sequence[int] = ()) -> int:
    """What a filter returns for one system call; raises ValueError for code that the kernel would refuse."""
    values = (list(args) + [0] * 6)[:6]
    data = struct.pack("=IIQ6Q", number & _U32, arch, 0, *values)
    program = list(struct.iter_unpack("=HBBI", code))
    accumulator = index = 0
    memory = [0] * 16
    position = 0
    while True:
        if position >= len(program):
            raise ValueError(f"ran off the end at {position}")
        operation, true, false, k = program[position]
        position += 1
        kind = operation & 7
        if operation == 0x20:  # ld word
            if k % 4 or k + 4 > len(data):
                raise ValueError(f"load from {k}")
            accumulator = struct.unpack_from("=I", data, k)[0]
        elif operation == 0x00:
            accumulator = k
        elif operation == 0x01:
            index = k
        elif operation == 0x60:
            accumulator = memory[k]
        elif operation == 0x61:
            index = memory[k]
        elif operation == 0x02:
            memory[k] = accumulator
        elif operation == 0x03:
            memory[k] = index
        elif operation == 0x07:
            index = accumulator
        elif operation == 0x87:
            accumulator = index
        elif operation == 0x06:
            return k
        elif operation == 0x16:
            return accumulator
        elif operation == 0x05:
            position += k
        elif kind == 5:
            operand = index if operation & 8 else k
            holds = {
                0x10: accumulator == operand,
                0x20: accumulator > operand,
                0x30: accumulator >= operand,
                0x40: bool(accumulator & operand),
            }[operation & 0xF0]
            position += true if holds else false
        elif kind == 4:
            operand = index if operation & 8 else k
            accumulator = {
                0x00: lambda a, b: a + b,
                0x10: lambda a, b: a - b,
                0x20: lambda a, b: a * b,
                0x40: lambda a, b: a | b,
                0x50: lambda a, b: a & b,
                0x60: lambda a, b: a << b,
                0x70: lambda a, b: a >> b,
                0xA0: lambda a, b: a ^ b,
            }[operation & 0xF0](accumulator, operand) & _U32
        else:
            raise ValueError(f"instruction {operation:#x}")

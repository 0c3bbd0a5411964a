"""Builds `init`, the static executable that runs plans: no libc, no relocations, no writable code."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
if HERE not in sys.path:  # native/ is no package
    sys.path.insert(0, HERE)

from hardening import compile_flags, knows

SOURCES = ("main.c", "exec.c", "path.c", "mount.c", "copy.c", "process.c", "stdio.c", "check.c")
"""Relative to this file."""

CFLAGS = (
    "-std=gnu11",
    "-Os",
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Werror",
    "-ffreestanding",
    "-fno-builtin",
    "-fno-asynchronous-unwind-tables",
    "-fno-jump-tables",  # nor tables of pointers, which would have to be relocated
    "-fPIE",
    "-fvisibility=hidden",
    "-fno-plt",
    "-ffunction-sections",
)
LDFLAGS = (
    "-nostdlib",
    "-static-pie",
    "-Wl,-e,_start",
    "-Wl,--gc-sections",
    "-Wl,--build-id=none",
    "-Wl,-z,noexecstack,-z,now,-z,norelro",
    "-Wl,--no-dynamic-linker",
    "-s",
)


def flags_for(cc: list[str]) -> list[str]:
    """What only some compilers need, or know.

    The canary is a global variable, as there is no thread-local storage to keep it in (only x86 has the choice); clang
    would reach it through a table that has to be relocated.
    """
    flags = {
        "-mstack-protector-guard=global": "x86_64",
        "-fdirect-access-external-data": "",
    }
    target = subprocess.run([*cc, "-dumpmachine"], stdout=subprocess.PIPE, check=True, text=True)
    return [
        flag
        for flag, machine in flags.items()
        if target.stdout.startswith(machine) and knows(cc, flag)
    ]


def build_init(cc: str, out: str) -> None:
    """Compile and link `init` to the file ``out`` with the C compiler ``cc``.

    Raises subprocess.CalledProcessError where the compiler fails, RuntimeError where the result would need a
    dynamic linker.
    """
    compiler = shlex.split(cc)
    sources = [os.path.join(HERE, name) for name in SOURCES]
    with tempfile.TemporaryDirectory() as work:
        program = os.path.join(work, "init")
        subprocess.run(
            [
                *(*compiler, *CFLAGS, *compile_flags(compiler, libc=False), *flags_for(compiler)),
                *(*sources, *LDFLAGS, "-o", program),
            ],
            check=True,
        )
        with open(program, "rb") as file:
            image = file.read()
    if relocations(image):
        raise RuntimeError("init has relocations, and nothing that applies them")
    with open(out, "wb") as file:
        file.write(image)
    os.chmod(out, 0o755)


def relocations(image: bytes) -> int:
    """The bytes of relocations that the 64-bit little-endian ELF file ``image`` asks for (DT_RELASZ, DT_RELSZ)."""
    total = 0
    header_offset = int.from_bytes(image[32:40], "little")
    size = int.from_bytes(image[54:56], "little")
    for index in range(int.from_bytes(image[56:58], "little")):
        header = image[header_offset + index * size :][:size]
        if int.from_bytes(header[:4], "little") != 2:  # PT_DYNAMIC
            continue
        offset = int.from_bytes(header[8:16], "little")
        end = offset + int.from_bytes(header[32:40], "little")
        for entry in range(offset, end, 16):
            tag = int.from_bytes(image[entry : entry + 8], "little")
            if tag in (2, 8, 18, 35):  # PLTRELSZ, RELASZ, RELSZ, RELRSZ
                total += int.from_bytes(image[entry + 8 : entry + 16], "little")
    return total

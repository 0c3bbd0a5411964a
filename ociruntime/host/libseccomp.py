"""The words of profiles, and what libseccomp's file says of it, without loading it: that costs half a millisecond.

Hot module.
"""

from __future__ import annotations

import posix

ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
# AUDIT_ARCH_* numbers, and x32's, which is libseccomp's own.
ARCHITECTURES = {
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_ARM": 0x40000028,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_MIPS": 0x00000008,
    "SCMP_ARCH_MIPS64": 0x80000008,
    "SCMP_ARCH_MIPS64N32": 0xA0000008,
    "SCMP_ARCH_MIPSEL": 0x40000008,
    "SCMP_ARCH_MIPSEL64": 0xC0000008,
    "SCMP_ARCH_MIPSEL64N32": 0xE0000008,
    "SCMP_ARCH_PPC": 0x00000014,
    "SCMP_ARCH_PPC64": 0x80000015,
    "SCMP_ARCH_PPC64LE": 0xC0000015,
    "SCMP_ARCH_S390": 0x00000016,
    "SCMP_ARCH_S390X": 0x80000016,
    "SCMP_ARCH_PARISC": 0x0000000F,
    "SCMP_ARCH_PARISC64": 0x8000000F,
    "SCMP_ARCH_RISCV64": 0xC00000F3,
    "SCMP_ARCH_LOONGARCH64": 0xC0000102,
    "SCMP_ARCH_M68K": 0x00000004,
    "SCMP_ARCH_SH": 0x4000002A,
    "SCMP_ARCH_SHEB": 0x0000002A,
}
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}
"""The words of linux.seccomp.flags; seccomp(2)."""

_NAME = "libseccomp.so.2"


def _places(machine: str) -> tuple[str, ...]:
    return f"/usr/lib/{machine}-linux-gnu/{_NAME}", f"/usr/lib64/{_NAME}", f"/usr/lib/{_NAME}"


def stamp(machine: str) -> tuple[int, ...]:
    """What tells one build of the library from another; ``machine`` as in uname(2). Raises ImportError, OSError."""
    for path in _places(machine):
        try:
            stat = posix.stat(path)
        except OSError:
            continue
        return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
    from ociruntime.host import native

    return native.seccomp_version()


def version(machine: str) -> str:
    """The library's version, ``2.5.4``: from the name that its link points to, else its own word.

    Raises ImportError, OSError.
    """
    for path in _places(machine):
        try:
            found = posix.readlink(path).rpartition(".so.")[2]
        except OSError:
            continue
        if found.count(".") == 2 and found.replace(".", "").isdecimal():
            return found
    from ociruntime.host import native

    return ".".join([str(part) for part in native.seccomp_version()])

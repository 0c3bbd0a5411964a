"""The cffi extension ``ociruntime._native``: shim.h declared to Python, the C behind it compiled and linked."""

from __future__ import annotations

import os
import re

from cffi import FFI

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCES = ("shim.c", "foreground.c", "seccomp.c", "check.c")

CALLS = (
    "bpf",
    "chroot",
    "close_range",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fstatfs",
    "keyctl",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "openat2",
    "pidfd_getfd",
    "pidfd_open",
    "pidfd_send_signal",
    "pivot_root",
    "prctl",
    "prlimit64",
    "sched_setaffinity",
    "setns",
    "statx",
    "umount2",
    "unshare",
)
"""System calls whose numbers Python needs (__NR_*)."""


def declarations() -> str:
    """What Python may use: shim.h, the checker from check.h, and numbers of system calls."""
    with open(os.path.join(HERE, "shim.h"), encoding="ascii") as file:
        shim = file.read()
    with open(os.path.join(HERE, "check.h"), encoding="ascii") as file:
        check = re.sub(r"^#.*$", "", file.read(), flags=re.MULTILINE)
    numbers = "".join(f"\n#define __NR_{name} ..." for name in CALLS)
    return shim + check + numbers + "\n"


def builder(root: str = os.path.dirname(HERE)) -> FFI:
    """The extension's builder; the paths of the sources are relative to ``root``."""
    ffi = FFI()
    ffi.cdef(declarations())
    here = os.path.relpath(HERE, root)
    ffi.set_source(
        "ociruntime._native",
        '#include "native.h"\n#include "sys.h"',
        sources=[os.path.join(here, name) for name in SOURCES],
        include_dirs=[here],
        py_limited_api=False,  # one name of the file for the launcher to find
        depends=[
            os.path.join(here, name)
            for name in ("shim.h", "check.h", "native.h", "sys.h", "plan.h")
        ],
        extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
    )
    return ffi


ffibuilder = builder()

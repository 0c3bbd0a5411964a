"""The cffi extension ``ociruntime._native``: shim.h declared to Python, the C behind it compiled and linked."""

from __future__ import annotations

import os
import re

from cffi import FFI

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCES = ("shim.c", "foreground.c", "seccomp.c", "check.c")


def declarations() -> str:
    """What Python may call: shim.h, and the checker from check.h."""
    with open(os.path.join(HERE, "shim.h"), encoding="ascii") as file:
        shim = file.read()
    with open(os.path.join(HERE, "check.h"), encoding="ascii") as file:
        check = re.sub(r"^#.*$", "", file.read(), flags=re.MULTILINE)
    return shim + check


def builder(root: str = os.path.dirname(HERE)) -> FFI:
    """The extension's builder; the paths of the sources are relative to ``root``."""
    ffi = FFI()
    ffi.cdef(declarations())
    here = os.path.relpath(HERE, root)
    ffi.set_source(
        "ociruntime._native",
        '#include "native.h"',
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

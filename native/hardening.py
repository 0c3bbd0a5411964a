"""What every compilation and link of the C parts has in common: hardening, and no trace of where it was done."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

REPRODUCIBLE = ("-g0", f"-ffile-prefix-map={ROOT}=.")
"""Neither debugging information nor __FILE__ tell the directory of the build."""


def knows(cc: Sequence[str], flag: str) -> bool:
    """Whether a compiler takes an option."""
    command = [*cc, "-Werror", flag, "-fsyntax-only", "-x", "c", "/dev/null"]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


HARDENED = (
    "-fstack-protector-strong",
    "-fstack-clash-protection",
    "-fcf-protection=full",  # CET, x86
    "-mbranch-protection=standard",  # BTI and PAC, arm64
)
FORTIFIED = ("-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2")
LINKED = ("-Wl,-z,relro,-z,now,-z,noexecstack", "-s")


def compile_flags(cc: Sequence[str], *, libc: bool = True) -> list[str]:
    """For the compilation of any C file; ``libc``: whether it is linked with one."""
    known = [flag for flag in (*REPRODUCIBLE, *HARDENED) if knows(cc, flag)]
    return known + list(FORTIFIED) * libc

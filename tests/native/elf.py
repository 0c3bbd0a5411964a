"""How programs are hardened, as their files show it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

RULES = {
    "position independent": r"Type: +DYN",
    "full RELRO": r"GNU_RELRO(?s:.*)BIND_NOW",
    "no executable stack": r"GNU_STACK(?: +0x\w+){5} RW ",
    "no segment both writable and executable": r"\A(?!(?s:.*)LOAD(?: +0x\w+){5} RWE)",
    "stack protector": r"__stack_chk_fail",
    "FORTIFY": r"__\w+_chk@",
}
"""What `readelf` shows of a program that has it."""


def readelf(path: Path) -> str:
    if shutil.which("readelf") is None:
        pytest.skip("no readelf")
    command = ["readelf", "-W", "--file-header", "--program-headers", "--dynamic", "--dyn-syms"]
    return subprocess.run([*command, path], capture_output=True, text=True, check=True).stdout


def missing(path: Path, but: Iterable[str] = ()) -> list[str]:
    """The rules that a program breaks."""
    text = readelf(path)
    return [
        name for name, wanted in RULES.items() if name not in but and not re.search(wanted, text)
    ]

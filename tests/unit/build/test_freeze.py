"""native/freeze.py: what it leaves out, and that nothing else changes."""

from __future__ import annotations

import ast
import marshal
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_subtests import SubTests

SOURCE = '''"""Docstring."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from no.such import Thing

LIMIT: int = 3
"""What it says."""
unset: Thing


class Box:
    """Docstring."""

    size: Thing
    __slots__ = ("value",)

    def __init__(self, value: Thing, *more: Thing, key: Thing = None, **rest: Thing) -> None:
        """Docstring."""
        inner: Thing = value
        self.value = inner
        assert value is None


def nested(outer: Thing) -> Thing:
    def inside(x: Thing = 1) -> Thing:
        return x + outer

    if TYPE_CHECKING:
        from no.such import Other
    return inside()
'''


@pytest.fixture
def frozen(repository: Path, tmp_path: Path) -> tuple[bytes, str]:
    """The blob and the table made of a package with one module."""
    package = tmp_path / "ociruntime"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "sample.py").write_text(SOURCE)
    extra = tmp_path / "somewhere.py"
    extra.write_text("")
    command = [sys.executable, "-IS", "-X", "no_debug_ranges", str(repository / "native/freeze.py")]
    subprocess.run(
        [*command, tmp_path, tmp_path, "ociruntime", "ociruntime.sample", f"extra={extra}"],
        check=True,
    )
    return (tmp_path / "frozen.bin").read_bytes(), (tmp_path / "frozen_modules.h").read_text()


def test_strips_what_nobody_reads(frozen: tuple[bytes, str]) -> None:
    blob, table = frozen
    rows = re.findall(r'FROZEN\("([\w.]+)", (\d+), (\d+), ([01])\)', table)
    assert [(row[0], row[3]) for row in rows] == [
        ("ociruntime", "1"),
        ("ociruntime.sample", "0"),
        ("extra", "0"),
    ]
    offset, length = int(rows[1][1]), int(rows[1][2])
    code = marshal.loads(blob[offset : offset + length])
    assert code.co_filename == "ociruntime/sample.py"
    for gone in (b"Thing", b"Docstring", b"__future__", b"no.such", b"What it says"):
        assert gone not in blob
    namespace: dict[str, object] = {"__name__": "sample"}
    exec(code, namespace)
    assert namespace["LIMIT"] == 3
    assert "__annotations__" not in namespace
    box = namespace["Box"](5)  # type: ignore[operator]  # the assertion is gone
    assert box.value == 5
    assert box.__slots__ == ("value",)
    assert namespace["nested"](2) == 3  # type: ignore[operator]
    assert namespace["nested"].__annotations__ == {}


def test_names_a_missing_module(repository: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-IS",
        str(repository / "native/freeze.py"),
        tmp_path,
        tmp_path,
        "ociruntime.nothing",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "freeze: no source for the hot module ociruntime.nothing"


def test_bitmap_has_every_upper_case_name(
    repository: Path, tmp_path: Path, frozen: tuple[bytes, str]
) -> None:
    """No constant of a built-in module that a frozen module names is left out; most others are."""
    namespace = runpy.run_path(str(repository / "native/freeze.py"))
    code = compile(
        "import posix\ndef f(x=('E_NESTED',)):\n  return lambda: (posix.O_PATH, 'SC_TEXT', x in {'S_SET'})",
        "x",
        "exec",
    )
    names = namespace["names_in"](code)
    assert {"O_PATH", "SC_TEXT", "S_SET", "E_NESTED"} <= names
    bits = namespace["NAME_BITS"]
    data = namespace["bitmap"]({"O_PATH", "SC_TEXT"}, bits)
    assert sum(byte.bit_count() for byte in data) == 2
    # FNV-1a of "a" is 0xe40c292c.
    number = 0xE40C292C >> 32 - bits
    assert namespace["bitmap"]({"a"}, bits)[number // 8] == 1 << number % 8
    _, table = frozen
    header = re.search(r"#define NAMES ([\d, ]+)\n", table)
    assert header is not None
    written = bytes(map(int, header[1].split(", ")))
    expected = namespace["bitmap"]({"LIMIT", "TYPE_CHECKING"}, bits)
    assert written == expected


def test_no_hot_module_computes_names_of_constants(repository: Path, subtests: SubTests) -> None:
    """The launcher's built-in modules have only the constants that a frozen module spells out."""
    hotpath = runpy.run_path(str(repository / "ociruntime/hotpath.py"))
    builtin = {"posix", "_socket", "select", "fcntl", "errno"}
    for module in hotpath["HOT_MODULES"]:
        base = repository.joinpath(*module.split("."))
        path = base.with_suffix(".py") if base.with_suffix(".py").exists() else base / "__init__.py"
        if not path.exists():
            continue  # the generated validator, before it is built
        with subtests.test(module=module):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                    continue
                names = {item.id for item in node.args if isinstance(item, ast.Name)}
                if node.func.id in ("getattr", "hasattr", "vars", "dir") and names & builtin:
                    assert len(node.args) > 1
                    assert isinstance(node.args[1], ast.Constant)

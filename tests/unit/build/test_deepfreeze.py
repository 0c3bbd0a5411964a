"""native/deepfreeze.py: code as static data is the code that the compiler made, and outlives whoever uses it.

That every hot module is equal to its marshalled code, before and after it has run, is part of each build's smoke test.
"""

from __future__ import annotations

import marshal
import os
import runpy
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from pytest_subtests import SubTests

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11) or sys.implementation.name != "cpython",
    reason="objects are deep-frozen for CPython 3.11 alone",
)

ODD = '''
import sys

LIMIT = 2**31, -(2**64), 2**90 + 1, -6, 257, -5, 256, 0, 1.5, -0.0, 0.0, 1e300, True, 1, None, ...
TEXT = "", "a", "\\xe9", "\\xe9\\xe8", "\\u20ac", "x\\U0001f600", 'quote "\\\\ ??/ \\0 end'
BYTES = b"", b"x", b"\\x00\\xff01", bytes(range(256))
NESTED = ((1, (2, ("three", b"4"))), ())


class Base:
    """Gone."""

    __slots__ = ("value",)

    def __init__(self, value, /, more=(1, "x"), *rest, key=NESTED, **others):
        self.value = value

    def method(self):
        return __class__, super().__str__


class Other(Base):
    pass


def closure(first, second):
    third = 1

    def inside(*, factor=2):
        nonlocal third
        third += first
        return third * factor + second

    return inside


def generator(n):
    try:
        for i in range(n):
            yield i
    finally:
        NESTED


def contains(x):
    return x in {"one", "two", 3}, x in {(1, 2), b"b"}


def hot(n):
    total = 0
    for i in range(n):
        total += i if i % 2 else -1
    return total


def fails():
    raise ValueError("on purpose")


def everything():
    box = Other(1, 2, 3, key=4, spare=5)
    try:
        fails()
    except ValueError as exc:
        trace = exc.__traceback__
        lines = []
        while trace is not None:
            lines.append((trace.tb_frame.f_code.co_name, trace.tb_lineno))
            trace = trace.tb_next
    return repr([
        LIMIT, TEXT, BYTES, NESTED, box.value, box.method()[0].__qualname__, closure(2, 3)(), closure(1, 1)(factor=9),
        list(generator(3)), [x * y for x in (1, 2) for y in (3, 4)], contains("two"), contains((1, 2)), contains(0),
        hot(100), lines, {**{"a": 1}, "b": f"{box.value!r:>4}"}, sys.intern("".join(["LI", "MIT"])) in globals(),
    ])
'''

CHECK = """
import _imp, gc, marshal, odd, posix, sys

def same(one, other, seen=()):
    assert type(one) is type(other), (one, other)
    if isinstance(one, tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other):
            same(a, b)
    elif type(one) is type(same.__code__):
        for name in dir(one):
            if name[:3] == "co_" and name not in ("co_lines", "co_positions"):
                same(getattr(one, name), getattr(other, name))
        assert list(one.co_lines()) == list(other.co_lines())
        assert sys.getrefcount(one) > 900000000
    else:
        assert one == other and repr(one) == repr(other), (one, other)

def main(argv):
    fd = posix.open(argv[0], posix.O_RDONLY)
    codes = marshal.loads(posix.read(fd, 1000000))
    texts = []
    for _ in range(50):
        same(_imp.get_frozen_object("odd"), codes["odd"])
        texts.append(odd.everything())
        gc.enable()
        gc.collect()
    namespace = {"__name__": "odd"}
    exec(codes["odd"], namespace)
    assert texts == [namespace["everything"]()] * 50, (texts[0], namespace["everything"]())
    # Every reference to what is static can go, and it can all come again.
    del sys.modules["odd"]
    odd.__dict__.clear()
    gc.collect()
    again = {"__name__": "odd"}
    exec(_imp.get_frozen_object("odd"), again)
    assert again["everything"]() == texts[0]
    posix.write(1, ascii(texts[0]).encode())
    return 0
"""


@pytest.fixture(scope="module")
def native(repository: Path) -> dict[str, Any]:
    """What native/deepfreeze.py defines."""
    return runpy.run_path(str(repository / "native/deepfreeze.py"))


def write(native: dict[str, Any], source: str) -> str:
    """The C source for a module with the source text ``source``."""
    text = native["Writer"]([("sample", compile(source, "sample.py", "exec"))]).text()
    assert isinstance(text, str)
    return text


def test_odd_constants_run_as_compiled(repository: Path, tmp_path: Path) -> None:
    """A program with this one module: equal code, equal results, nothing freed, traceback lines kept."""
    archive = Path(*map(str, sysconfig.get_config_vars("LIBPL", "LIBRARY")))
    if not archive.exists():
        pytest.skip(f"no static libpython at {archive}")
    builder = runpy.run_path(str(repository / "native/build_launcher.py"))
    (tmp_path / "odd.py").write_text(ODD)
    (tmp_path / "check.py").write_text(CHECK)
    build = builder["LauncherBuild"](
        cc=os.environ.get("CC") or "cc",
        root=str(tmp_path),
        work=str(tmp_path / "work"),
        site="../lib",
        python=sys.executable,
        extra_sites=[],
        modules=["odd"],
        extensions={},
    )
    (tmp_path / "work").mkdir()
    build._config("static", "check", [f"check={tmp_path}/check.py"], True)
    source = str(tmp_path / "work/deep_frozen.c")
    build._link_static(str(tmp_path / "run"), [build._compile(source, builder["DEEP_FLAGS"])])
    done = subprocess.run(
        [tmp_path / "run", tmp_path / "work/codes.bin"],
        env={},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    # The data is complete when it is linked: loading it is mapping it.
    table = subprocess.run(
        ["readelf", "-rW", tmp_path / "run"], capture_output=True, text=True, check=True
    ).stdout
    assert "_RELATIV" not in table
    namespace: dict[str, Any] = {"__name__": "odd"}
    exec(compile(ODD, "odd.py", "exec", optimize=2), namespace)
    assert done.stdout == ascii(namespace["everything"]())


def test_equal_strings_are_one_object(native: dict[str, Any]) -> None:
    one = compile("shared_name = 'the text'", "one.py", "exec")
    two = compile("def f(): return shared_name, 'the text'", "two.py", "exec")
    text = native["Writer"]([("one", one), ("two", two)]).text()
    assert text.count('"shared_name"') == 1
    assert text.count('"the text"') == 1
    for index in (0, 1):
        assert f"PyObject *deep_frozen_{index}(void) {{" in text


def test_keys_tell_constants_apart(native: dict[str, Any], subtests: SubTests) -> None:
    key_of = native["key_of"]
    values = [1, True, 1.0, 0.0, -0.0, "1", b"1", (1,), (True,), (1.0,), ((1,),), ("1",), (b"1",)]
    keys = [key_of(value) for value in values]
    for index, key in enumerate(keys):
        with subtests.test(value=repr(values[index])):
            assert keys.index(key) == index
            assert key == key_of(marshal.loads(marshal.dumps(values[index])))


def test_refuses_what_it_cannot_write(native: dict[str, Any], subtests: SubTests) -> None:
    for source in ("x = 1j", "x = 1e999", "x = (1, -1e999 * 2)"):
        with subtests.test(source=source), pytest.raises(native["Unsupported"], match="constant"):
            write(native, source)


def test_refused_constant_falls_back(repository: Path, tmp_path: Path) -> None:
    """freeze.py --deep ends with one line, which makes the build marshal."""
    (tmp_path / "sample.py").write_text("x = 1j\n")
    command = [sys.executable, "-IS", repository / "native/freeze.py", "--deep"]
    done = subprocess.run(
        [*command, tmp_path, tmp_path, "sample"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "freeze: no static data for the constant 1j\n"

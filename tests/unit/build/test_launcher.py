"""The installed command: which variant was built, and that neither variant can be led astray by its caller."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from pytest_subtests import SubTests

COLD = ("--help", "spec --help")
HOT = (
    "--version",
    "state nonexistent",
    "kill nonexistent 9",
    "start",
    "delete --nonsense x",
    "nonsense",
    "",
    "features",
)


@pytest.fixture(scope="session")
def launcher(repository: Path) -> Path:
    """The command in .venv, whatever variant it is."""
    path = repository / ".venv/bin/ociruntime"
    if not path.exists():
        pytest.skip("not installed: make venv")
    return path


@pytest.fixture(scope="session")
def script(repository: Path) -> Path:
    """The script variant in .venv."""
    path = repository / ".venv/script/ociruntime"
    if not path.exists():
        pytest.skip("not installed: make venv")
    return path


def call(
    command: Path, *args: str | bytes, env: dict[str, str] | None = None, cwd: Path | None = None
) -> tuple[int, bytes, bytes]:
    """Exit code, standard output and standard error."""
    done = subprocess.run(
        [command, *args], env=env or {}, cwd=cwd, capture_output=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_variant(launcher: Path, script: Path) -> None:
    """Debian's static libpython is used where it is installed; the version says so."""
    assert b"(script)" in call(script, "--version")[1]
    archive = Path(*map(str, sysconfig.get_config_vars("LIBPL", "LIBRARY")))
    if not archive.exists():
        pytest.skip(f"no static libpython at {archive}")
    deep = b", deep-frozen" if sys.version_info[:2] == (3, 11) else b""
    assert b"(launcher, static libpython" + deep + b")" in call(launcher, "--version")[1]


def test_worlds_agree(launcher: Path, script: Path, tmp_path: Path, subtests: SubTests) -> None:
    for line in (*HOT, *COLD):
        with subtests.test(args=line):
            args = ["--root", str(tmp_path), *line.split()] if line in HOT[1:4] else line.split()
            one, other = call(launcher, *args), call(script, *args)
            if line == "--version":
                one, other = [
                    (r, re.sub(rb"\(launcher, [^)]*\)", b"(script)", o), e)
                    for r, o, e in (one, other)
                ]
            assert one == other


def test_callers_python_settings_have_no_effect(
    launcher: Path, script: Path, tmp_path: Path, subtests: SubTests
) -> None:
    """Neither environment nor current directory put code into the runtime (it often runs as root)."""
    mark = tmp_path / "mark"
    for name in (
        "sitecustomize",
        "usercustomize",
        "posix",
        "os",
        "errno",
        "json",
        "encodings",
        "ociruntime",
    ):
        (tmp_path / f"{name}.py").write_text(f"open({str(mark)!r}, 'w')\nraise SystemExit(77)\n")
    hostile = {
        "HOME": str(tmp_path),
        "PYTHONPATH": str(tmp_path),
        "PYTHONHOME": str(tmp_path),
        "PYTHONSTARTUP": str(tmp_path / "os.py"),
        "PYTHONINSPECT": "1",
        "PYTHONVERBOSE": "1",
        "PYTHONWARNINGS": "error",
        "PYTHONBREAKPOINT": "os.system",
        "PYTHONPLATLIBDIR": str(tmp_path),
        "PYTHONUSERBASE": str(tmp_path),
        "PYTHONMALLOC": "debug",
        "LANG": "tr_TR.ISO-8859-9",
    }
    for command in (launcher, script):
        for line in (*HOT, *COLD):
            with subtests.test(command=command.parent.name, args=line):
                args = (
                    ["--root", str(tmp_path / "state"), *line.split()]
                    if line in HOT[1:4]
                    else line.split()
                )
                assert call(command, *args, env=hostile, cwd=tmp_path) == call(command, *args)
                assert not mark.exists()


def test_arguments_that_are_not_utf8(launcher: Path, script: Path, tmp_path: Path) -> None:
    args = (b"--root", os.fsencode(tmp_path), b"state", b"\xff\xfe")
    assert call(launcher, *args) == call(script, *args)
    assert call(launcher, *args)[0] == 1


def test_closed_standard_streams(launcher: Path, script: Path, subtests: SubTests) -> None:
    """Output that nobody can read is no crash."""
    for command in (launcher, script):
        with subtests.test(command=command.parent.name):
            shell = f"exec {command} --version <&- >&- 2>&-"
            code = subprocess.run(["sh", "-c", shell], timeout=60, check=False).returncode
            assert code in (0, 1)


def test_moved(launcher: Path, tmp_path: Path) -> None:
    """The package is found relative to the command, where that was built for another place too."""
    moved = tmp_path / "bin/ociruntime"
    moved.parent.mkdir()
    shutil.copy(launcher, moved)
    code, _, error = call(moved, "--help")
    assert code != 0
    assert str(tmp_path / "lib").encode() in error
    (tmp_path / "lib").symlink_to(launcher.parent.parent / "lib")
    for line in ("--version", "--help"):
        assert call(moved, line) == call(launcher, line)


def test_hot_verb_reads_no_python_file(launcher: Path, tmp_path: Path) -> None:
    """`state` opens nothing of Python's nor of the package's."""
    if shutil.which("strace") is None:
        pytest.skip("no strace")
    log = tmp_path / "log"
    trace = ["strace", "-f", "-e", "trace=file,execve", "-o", str(log)]
    command = [*trace, str(launcher), "--root", str(tmp_path), "state", "nonexistent"]
    subprocess.run(command, capture_output=True, timeout=60, check=False)
    text = log.read_text()
    assert text.count("execve(") == 1
    for pattern in (".py", "site-packages", "_native", "_cffi_backend"):
        assert pattern not in text.replace(str(launcher), "").replace("libpython", "")

"""Each variant of the command can be built on purpose, says what it is, and does the same."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.native.elf import missing

SAID = {
    "static": "(launcher, static libpython, deep-frozen)"
    if sys.version_info[:2] == (3, 11)
    else "(launcher, static libpython)",
    "shared": "(launcher, shared libpython)",
    "script": "(script)",
}


def build(repository: Path, base: Path, variant: str) -> subprocess.CompletedProcess[str]:
    """Build everything below ``base``, with the command in bin/."""
    pytest.importorskip("cffi", reason="no cffi in this environment")
    return subprocess.run(
        [
            *(sys.executable, "setup.py", "build", "--build-base", base / "build"),
            *("--build-scripts", base / "bin"),
            *("egg_info", "--egg-base", base),
        ],
        cwd=repository,
        env=dict(os.environ, OCIRUNTIME_LAUNCHER=variant),
        capture_output=True,
        text=True,
        check=False,
    )


def installed(repository: Path) -> Path:
    """The environment that has the package."""
    path = repository / ".venv"
    if not (path / "bin/ociruntime").exists():
        pytest.skip("not installed: make venv")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("variant", SAID)
def test_builds_and_says_so(repository: Path, tmp_path: Path, variant: str) -> None:
    environment = installed(repository)
    if variant == "static":
        archive = Path(*map(str, sysconfig.get_config_vars("LIBPL", "LIBRARY")))
        if not archive.exists():
            pytest.skip(f"no static libpython at {archive}")
    elif variant == "shared" and not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        pytest.skip("this python has no shared libpython")
    done = build(repository, tmp_path, variant)
    assert done.returncode == 0, done.stderr
    assert f"ociruntime: built the command as: {variant}" in done.stderr.splitlines()
    (tmp_path / "lib").symlink_to(environment / "lib")
    if variant == "shared":  # nothing of it is at a fixed address
        assert missing(tmp_path / "bin/ociruntime") == []
    outputs = []
    for command in (tmp_path / "bin/ociruntime", environment / "bin/ociruntime"):
        for args in (["--version"], ["features"], ["state", "nonexistent"], ["nonsense"]):
            ran = subprocess.run(
                [command, *args], env={}, capture_output=True, text=True, timeout=60, check=False
            )
            said = ran.stdout
            if args == ["--version"] and command.parent.parent == tmp_path:
                assert SAID[variant] in said
            for text in SAID.values():
                said = said.replace(text, "")
            outputs.append((ran.returncode, said, ran.stderr))
    assert outputs[:4] == outputs[4:]


@pytest.mark.slow
def test_unknown_variant_is_refused(repository: Path, tmp_path: Path) -> None:
    done = build(repository, tmp_path, "quick")
    assert done.returncode != 0
    said = done.stderr.splitlines()
    assert said[-1] == "ociruntime: the command could not be built"
    assert said[-2] == (
        "ociruntime: no quick launcher: there is no such variant, only static, shared, script"
    )

"""The same sources give the same bytes: wherever, whenever and in whatever order of a hash they are built."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def contents(wheel: Path) -> dict[str, bytes]:
    """Every file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_two_builds_are_equal(repository: Path, wheel: Path, tmp_path: Path) -> None:
    """The wheel of `make build` and one from a copy of the sources elsewhere: init, extensions, launcher, all else."""
    sources = tmp_path / "elsewhere"
    sdist = tmp_path / "sdist"
    run = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run([*run, "sdist", "--formats", "tar", "-d", sdist], cwd=repository, check=True)
    sources.mkdir()
    archive = next(sdist.iterdir())
    subprocess.run(
        ["tar", "-xf", archive, "-C", sources, "--strip-components", "1", "--touch"], check=True
    )
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    env = dict(os.environ, PYTHONHASHSEED="4711", TZ="Asia/Kolkata", LC_ALL="C")
    done = subprocess.run(
        [*command, "-w", tmp_path / "wheel", sources],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ours, theirs = contents(wheel), contents(next((tmp_path / "wheel").glob("*.whl")))
    assert set(ours) == set(theirs)
    assert [name for name in sorted(ours) if ours[name] != theirs[name]] == []

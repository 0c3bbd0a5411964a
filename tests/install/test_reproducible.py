"""The same sources give the same bytes: wherever, whenever and in whatever order of a hash they are built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
OTHER = {"PYTHONHASHSEED": "4711", "TZ": "Asia/Kolkata", "LC_ALL": "C"}


def build(*command: str | Path, cwd: Path) -> None:
    """Run a build with other settings than `make` has."""
    env = {k: v for k, v in os.environ.items() if k != "SOURCE_DATE_EPOCH"} | OTHER
    done = subprocess.run(
        command, cwd=cwd, env=env, umask=0o027, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def archive(sources: Path, base: Path) -> Path:
    """The source distribution of a tree, made below ``base``."""
    base.mkdir()
    egg = (sys.executable, "setup.py", "-q", "egg_info", "--egg-base", base)
    build(*egg, "sdist", "--formats", "gztar", "-d", base, cwd=sources)
    return next(base.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def first(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(repository, tmp_path_factory.mktemp("first") / "sdist")


@pytest.fixture(scope="module")
def elsewhere(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources in another directory, all of this moment."""
    sources = tmp_path_factory.mktemp("elsewhere") / "tree"
    sources.mkdir()
    unpack = ["tar", "-xf", first, "-C", sources, "--strip-components", "1", "--touch"]
    subprocess.run(unpack, check=True)
    return sources


def contents(wheel: Path) -> dict[str, bytes]:
    """Every file of a wheel."""
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_wheel(wheel: Path, elsewhere: Path, tmp_path: Path) -> None:
    """The one of `make build` and one of other sources: init, extensions, launcher, all else."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    build(*command, "-w", tmp_path / "wheel", elsewhere, cwd=tmp_path)
    other = next((tmp_path / "wheel").glob("*.whl"))
    ours, theirs = contents(wheel), contents(other)
    assert set(ours) == set(theirs)
    assert [name for name in sorted(ours) if ours[name] != theirs[name]] == []
    assert wheel.read_bytes() == other.read_bytes()


def test_source_distribution(first: Path, elsewhere: Path, tmp_path: Path) -> None:
    second = archive(elsewhere, tmp_path / "sdist")
    assert (second.name, second.read_bytes()) == (first.name, first.read_bytes())


def test_debian_package(repository: Path, elsewhere: Path, tmp_path: Path) -> None:
    """The one of `make deb` and one of other sources."""
    found = sorted((repository / "dist").glob("ociruntime_*.deb"))
    if not found or shutil.which("dpkg-deb") is None:
        pytest.skip("no Debian package in dist: make deb")
    build(sys.executable, "install/deb.py", tmp_path, cwd=elsewhere)
    (other,) = tmp_path.glob("*.deb")
    assert (other.name, other.read_bytes()) == (found[-1].name, found[-1].read_bytes())

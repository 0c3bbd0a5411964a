"""The wheel, the source distribution and pipx: other ways to install than `make install`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """The output of a command that succeeds."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=dict(os.environ, **(env or {})),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_contents(wheel: Path) -> None:
    """All that the runtime needs, and nothing of the build."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        modes = {info.filename: info.external_attr >> 16 for info in archive.infolist()}
    data = wheel.name.split("-cp")[0] + ".data"
    suffix = wheel.name.split("-")[2].replace("cp", "cpython-")
    for wanted in (
        "ociruntime/init",
        "ociruntime/launch_script.py",
        "ociruntime/spec/_validator.py",
        "ociruntime/schemas/config-schema.json",
        f"{data}/scripts/ociruntime",
        f"{data}/data/share/man/man8/ociruntime.8",
        f"{data}/data/share/bash-completion/completions/ociruntime",
    ):
        assert wanted in names
    for extension in ("ociruntime/_native", "_ocisys", "_ocijson"):
        assert any(name.startswith(f"{extension}.{suffix}") for name in names)
    assert modes["ociruntime/init"] & 0o111
    assert {name.split("/")[0].split(".")[0].split("-")[0] for name in names} == {
        *("ociruntime", "_ocisys", "_ocijson")
    }
    assert not [name for name in names if name.endswith((".c", ".h", ".pyc", ".o"))]


def test_wheel_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    """`pip install FILE` brings what it depends on; the command works without activation."""
    fresh = tmp_path / "fresh"
    run(sys.executable, "-m", "venv", "--without-pip", fresh)
    pip = (sys.executable, "-m", "pip", "--python", fresh / "bin/python", "install", "-q")
    run(*pip, wheel, cwd=tmp_path)
    command = fresh / "bin/ociruntime"
    empty = ("env", "-i", command)
    assert run(*empty, "--version").startswith("ociruntime version")
    assert "ociVersionMax" in run(*empty, "features")
    assert (fresh / "share/man/man8/ociruntime-run.8").exists()
    bundle = tmp_path / "bundle"
    (bundle / "rootfs").mkdir(parents=True)
    run(*empty, "spec", "--bundle", bundle)
    assert "pivot" in run(*empty, "plan", "--bundle", bundle)


@pytest.fixture(scope="module")
def sdist(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of the tree."""
    out = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(out)]
    run(*command, "sdist", "--dist-dir", out, cwd=repository)
    return next(out.glob("*.tar.gz"))


def test_sources_are_complete(repository: Path, sdist: Path) -> None:
    """Whatever git knows is in it: it builds, and its tests run."""
    if not (repository / ".git").exists():
        pytest.skip("no git checkout")
    known = set(run("git", "ls-files", cwd=repository).splitlines())
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        n for n in known - names if not n.startswith(".") and (repository / n).exists()
    } == set()
    assert not [n for n in names if n.endswith((".so", ".o", ".pyc")) or ".venv" in n]


def test_pipx_builds_and_installs_the_sources(sdist: Path, tmp_path: Path) -> None:
    """In an isolated build environment, as for a user who has nothing but pipx and a compiler."""
    if shutil.which("pipx") is None:
        pytest.skip("pipx is not installed: make build")
    places = {
        "PIPX_HOME": str(tmp_path / "home"),
        "PIPX_BIN_DIR": str(tmp_path / "bin"),
        "PIPX_MAN_DIR": str(tmp_path / "man"),
        "PIPX_DEFAULT_PYTHON": str(Path(sys.executable).resolve()),
        "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
    }
    run("pipx", "install", sdist, env=places, cwd=tmp_path)
    command = tmp_path / "bin/ociruntime"
    assert run("env", "-i", command, "--version").startswith("ociruntime version")
    assert "ociVersionMax" in run("env", "-i", command, "features")
    run("pipx", "uninstall", "ociruntime", env=places)
    assert not command.exists()

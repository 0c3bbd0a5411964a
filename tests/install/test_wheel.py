"""The wheel, the source distribution and pipx: other ways to install than `make install`."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from conformance.kit import poll

pytestmark = pytest.mark.slow


def run(
    *command: str | Path,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    out: Path | None = None,
) -> str:
    """The output of a command that succeeds; with ``out`` it goes there, as others may go on writing."""
    if out is not None:
        with out.open("wb") as stream:
            code = subprocess.call(
                command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
            )
        assert code == 0, out.read_text()
        return ""
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


@dataclass(frozen=True)
class Built:
    """What `python -m build` makes of the tree: the sources, and a wheel of these."""

    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """In an isolated environment; with the script, as the launcher is compiled elsewhere and takes longest."""
    if importlib.util.find_spec("build") is None:
        pytest.skip("not installed: build (make build)")
    out = tmp_path_factory.mktemp("built")
    script = {"OCIRUNTIME_LAUNCHER": "script"}
    run(sys.executable, "-m", "build", "--outdir", out, ".", cwd=repository, env=script)
    return Built(next(out.glob("*.tar.gz")), next(out.glob("*.whl")))


def test_build_makes_the_same_wheel(wheel: Path, built: Built) -> None:
    """From the sources alone: every file of the wheel that `make build` makes, and no path of the place of building."""
    names = []
    for path in (wheel, built.wheel):
        with zipfile.ZipFile(path) as archive:
            names.append(set(archive.namelist()))
            facts = archive.read("ociruntime/_build_info.py").decode()
            assert tempfile.gettempdir() not in facts, facts
    assert names[0] == names[1]


def test_sources_are_complete(repository: Path, built: Built) -> None:
    """Whatever git knows is in it: it builds, and its tests run."""
    if not (repository / ".git").exists():
        pytest.skip("no git checkout")
    known = set(run("git", "ls-files", cwd=repository).splitlines())
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        n for n in known - names if not n.startswith(".") and (repository / n).exists()
    } == set()
    assert not [n for n in names if n.endswith((".so", ".o", ".pyc")) or ".venv" in n]


def test_pipx_installs_the_tree(built: Built, tmp_path: Path) -> None:
    """`pipx install .`, as for a user who has nothing but pipx and a compiler; it works as engines call it."""
    if shutil.which("pipx") is None:
        pytest.skip("not installed: pipx (make build)")
    places = {
        "PIPX_HOME": str(tmp_path / "home"),
        "PIPX_BIN_DIR": str(tmp_path / "bin"),
        "PIPX_MAN_DIR": str(tmp_path / "man"),
        "PIPX_DEFAULT_PYTHON": str(Path(sys.executable).resolve()),
        "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
    }
    (tmp_path / "sources").mkdir()
    run("tar", "xf", built.sdist, cwd=tmp_path / "sources")
    [tree] = (tmp_path / "sources").iterdir()
    run("pipx", "install", ".", env=places, cwd=tree)
    shutil.rmtree(tree)
    command = tmp_path / "bin/ociruntime"
    empty = ("env", "-i", command)
    assert run(*empty, "--version").startswith("ociruntime version")
    assert "ociVersionMax" in run(*empty, "features")
    if os.geteuid() == 0:
        assert hello(tmp_path, *empty) == "hello\n"
    run("pipx", "uninstall", "ociruntime", env=places)
    assert not command.exists()


def hello(place: Path, *command: str | Path) -> str:
    """What a container of this command says: a program of busybox alone in its root."""
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        pytest.skip("not installed: busybox-static (make build)")
    bundle = place / "hello"
    (bundle / "rootfs/bin").mkdir(parents=True)
    shutil.copy(busybox, bundle / "rootfs/bin/echo")
    run(*command, "spec", "--bundle", bundle)
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["/bin/echo", "hello"]}
    (bundle / "config.json").write_text(json.dumps(config))
    # At once, then by the verbs of an engine, with another directory than the bundle as the working directory.
    root = ("--root", place / "state")
    said = run(*command, *root, "run", "--bundle", bundle, "hello-run")
    run(*command, *root, "create", "--bundle", bundle, "hello", out=place / "out")
    try:
        run(*command, *root, "start", "hello", cwd=Path("/"))
        poll(lambda: (place / "out").read_text() == said, "the second says something else")
    finally:
        run(*command, *root, "delete", "--force", "hello", cwd=Path("/"))
    return said

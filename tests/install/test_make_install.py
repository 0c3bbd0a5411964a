"""`make install` and `make uninstall`: what engines find, and that nothing stays behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_subtests import SubTests

sys.path.insert(0, str(Path(__file__).parent))
from conftest import Installed, listing, make

from ociruntime import cli_options

pytestmark = pytest.mark.slow


def call(
    command: Path, *args: str, env: dict[str, str] | None = None, cwd: str = "/"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [command, *args],
        env=env or {},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_files(installed: Installed) -> None:
    """The command, a manual page for each verb, completion for three shells."""
    found = set(listing(installed.root / "usr/local"))
    share = {
        *(f"share/man/man8/ociruntime-{verb}.8" for verb in cli_options.VERBS),
        "share/man/man8/ociruntime.8",
        "share/man/man7/ociruntime-errors.7",
        "share/bash-completion/completions/ociruntime",
        "share/zsh/site-functions/_ociruntime",
        "share/fish/vendor_completions.d/ociruntime.fish",
    }
    assert {n for n in found if n.startswith("share/") and "ociruntime" in n} == share
    assert {n for n in found if n.startswith(("bin/", "sbin/"))} == {"bin/ociruntime"}
    assert {n.split("/")[1] for n in found if n.startswith("lib/")} == {"ociruntime"}


def test_works_as_engines_call_it(installed: Installed, tmp_path: Path, subtests: SubTests) -> None:
    """Without any environment, from any directory, by a link; verbs of the launcher and of the full interpreter."""
    link = tmp_path / "runc"
    link.symlink_to(installed.command)
    root = ("--root", str(tmp_path / "state"))
    environments: list[dict[str, str]] = [{}, {"XDG_RUNTIME_DIR": "", "PATH": "", "HOME": "/none"}]
    for command in (installed.command, link):
        for env in environments:
            with subtests.test(command=command.name, env=env):
                said = call(command, "--version", env=env)
                assert (said.returncode, said.stderr) == (0, "")
                assert said.stdout.startswith("ociruntime version ")
                said = call(command, "features", env=env)
                assert (said.returncode, said.stderr) == (0, "")
                assert "ociVersionMax" in json.loads(said.stdout)
                said = call(command, *root, "list", "--format", "json", env=env, cwd="/proc")
                assert (said.returncode, json.loads(said.stdout)) == (0, [])
                said = call(command, *root, "state", "x", env=env)
                assert (said.returncode, said.stderr) == (1, "container does not exist\n")


def test_explains_a_refused_config(installed: Installed, tmp_path: Path) -> None:
    """The dependencies are there: jsonschema writes this message, prctl serves `plan`."""
    bundle = tmp_path / "bundle"
    (bundle / "rootfs").mkdir(parents=True)
    assert call(installed.command, "spec", "--bundle", str(bundle)).returncode == 0
    assert call(installed.command, "plan", "--bundle", str(bundle)).returncode == 0
    path = bundle / "config.json"
    path.write_text(path.read_text().replace('"destination": "/proc"', '"destination": 5'))
    said = call(installed.command, "plan", "--bundle", str(bundle))
    assert said.returncode == 1
    assert "mounts[0].destination" in said.stderr


@pytest.mark.root
def test_runs_a_container(installed: Installed, tmp_path: Path) -> None:
    """A read-only root of busybox alone."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox")
    bundle = tmp_path / "bundle"
    (bundle / "rootfs/bin").mkdir(parents=True)
    shutil.copy(busybox, bundle / "rootfs/bin/sh")
    call(installed.command, "spec", "--bundle", str(bundle))
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(terminal=False, args=["sh", "-c", "echo hello; exit 7"])
    (bundle / "config.json").write_text(json.dumps(config))
    name = f"install{os.getpid()}"
    root = ("--root", str(tmp_path / "state"))
    said = call(installed.command, *root, "run", "--bundle", str(bundle), name)
    assert (said.returncode, said.stdout, said.stderr) == (7, "hello\n", "")


def test_open_to_everybody(installed: Installed) -> None:
    """Installed with umask 077, and still readable: ordinary users run containers, too."""
    closed = [
        name
        for name in listing(installed.root)
        if name not in installed.before and (installed.root / name).lstat().st_mode & 0o444 != 0o444
    ]
    assert closed == []


def test_bundles_the_pinned_versions(installed: Installed, repository: Path) -> None:
    """Of every dependency, with those of the dependencies: none is left to chance."""
    lines = (repository / "install/requirements.txt").read_text().splitlines()
    pins = dict(line.split()[0].split("==") for line in lines if "==" in line)
    site = next(installed.root.glob("usr/local/lib/ociruntime/lib/python3*/site-packages"))
    found = dict(
        path.name.removesuffix(".dist-info").split("-") for path in site.glob("*.dist-info")
    )
    del found["ociruntime"]
    assert {name.lower().replace("_", "-"): v for name, v in found.items()}.items() <= pins.items()
    assert "jsonschema" in found


def test_no_trace_of_the_build(installed: Installed, repository: Path) -> None:
    """No installed file depends on the source tree or on DESTDIR."""
    found = [
        path
        for path in sorted(installed.root.rglob("*"))
        if path.is_file()
        and path.name != "direct_url.json"  # pip's note where a wheel came from
        and any(os.fsencode(place) in path.read_bytes() for place in (repository, installed.root))
    ]
    assert found == []


def test_uninstall(installed: Installed, repository: Path, tmp_path: Path) -> None:
    """Twice the same files; then the root is as it was before, byte code written since included."""
    root = tmp_path / "root"
    shutil.copytree(installed.root, root, symlinks=True)
    before = listing(root)
    stale = root / "usr/local/share/man/man8/ociruntime-stale.8"
    stale.touch()
    manifest = root / "usr/local/lib/ociruntime/manifest"
    manifest.write_text(manifest.read_text() + "f share/man/man8/ociruntime-stale.8\n")
    make(repository, "install", root)
    assert listing(root) == before
    (root / "usr/local/lib/ociruntime/lib/more.pyc").touch()
    make(repository, "uninstall", root)
    assert listing(root) == installed.before
    make(repository, "uninstall", root)
    assert listing(root) == installed.before

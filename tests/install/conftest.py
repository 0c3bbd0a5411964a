"""Fixtures of the installation tests: the one wheel of `make build`, and what `make install` makes of it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def wheel(repository: Path) -> Path:
    """The wheel that `make build` has left; skips if there is none."""
    found = sorted((repository / ".venv/wheel").glob("ociruntime-*.whl"))
    if not found:
        pytest.skip("no wheel: make build")
    return found[-1]


@dataclass(frozen=True)
class Installed:
    """An installation below ``root`` (DESTDIR), with the listing of ``root`` before it."""

    root: Path
    before: list[str]

    @property
    def command(self) -> Path:
        return self.root / "usr/local/bin/ociruntime"


def listing(root: Path) -> list[str]:
    """Every file below a directory."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def make(repository: Path, target: str, root: Path) -> str:
    """Run `make install` or `make uninstall` for DESTDIR ``root``, as the tests were started: without variables."""
    kept = {
        k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_", "http", "no_proxy"))
    }
    done = subprocess.run(
        ["make", "--no-print-directory", target, f"DESTDIR={root}"],
        cwd=repository,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **kept},
        umask=0o077,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def installed(repository: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """`make install` into a root that has an empty share/man and a file of somebody else."""
    root = tmp_path_factory.mktemp("destdir")
    (root / "usr/local/share/man").mkdir(parents=True)
    (root / "usr/local/share/other").touch()
    before = listing(root)
    make(repository, "install", root)
    return Installed(root, before)

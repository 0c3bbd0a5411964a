"""setup.py and the Makefile: what they say when something is missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


def build_parts(repository: Path, cc: str) -> str:
    """What setup.py says when it builds nothing, because the compiler is ``cc``."""
    pytest.importorskip("setuptools", reason="no setuptools in this environment")
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_parts"],
        cwd=repository,
        env=dict(os.environ, CC=cc),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    return done.stderr.strip().splitlines()[-1]


def test_missing_compiler_is_named(repository: Path) -> None:
    said = build_parts(repository, "/nonexistent/cc")
    assert (
        said == "ociruntime: no C compiler (/nonexistent/cc): apt install gcc libc6-dev, or set CC"
    )


def test_missing_headers_are_named_with_their_packages(repository: Path, tmp_path: Path) -> None:
    """All at once, so that one apt call mends it."""
    fake = tmp_path / "cc"
    fake.write_text(
        '#!/bin/sh\nfor last; do :; done\n! grep -q -e seccomp.h -e capability.h "$last"\n'
    )
    fake.chmod(0o755)
    said = build_parts(repository, str(fake))
    assert (
        said
        == "ociruntime: missing seccomp.h, sys/capability.h: apt install libseccomp-dev libcap-dev"
    )


def test_make_help_lists_every_target(repository: Path) -> None:
    makefile = (repository / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    internal = {"apt", "test-apt"}
    said = subprocess.run(
        ["make", "--no-print-directory", "help"],  # which says so under `make test`
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert {line.split()[1] for line in said.splitlines()} == set(phony[1].split()) - internal


@pytest.mark.root
def test_ordinary_user_is_told_what_to_install(repository: Path) -> None:
    """apt-install names the command and fails when it may not install."""
    done = subprocess.run(
        ["/bin/sh", "-s", "no-such-package", "gcc", "another-one"],
        input=(repository / ".ci/apt-install").read_text(),
        user=65534,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "missing packages; as root: apt install --no-install-recommends no-such-package another-one\n"
    )

"""What a build takes from an index: exact versions, of which pip accepts exactly the known files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PIN = re.compile(
    r"^([a-z0-9-]+)==(\S+)(?: ; [^\\]+)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.M
)


def entries(file: Path) -> dict[str, str]:
    """The requirements in a file: name → entry; nothing else may be in it."""
    text = re.sub(r"^#.*\n", "", file.read_text(), flags=re.M)
    found = {match[1]: match[0] for match in PIN.finditer(text)}
    assert "".join(found.values()) == text
    return found


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9_-]", line)[0].lower().replace("_", "-") for line in requirements}


def test_everything_is_pinned(repository: Path) -> None:
    """All that pyproject.toml asks for, to build, to run and to test."""
    project = tomllib.loads((repository / "pyproject.toml").read_text())
    build = entries(repository / "install/build.txt")
    run = entries(repository / "install/requirements.txt")
    assert names(project["build-system"]["requires"]) <= build.keys() | run.keys()
    assert names(project["project"]["dependencies"]) <= run.keys()
    lines = (repository / "tests/constraints.txt").read_text().splitlines()
    tests = [line for line in lines if not line.startswith("#")]
    assert all("==" in line for line in tests)
    assert names(project["project"]["optional-dependencies"]["test"]) <= names(tests)


def test_another_file_is_refused(repository: Path, tmp_path: Path) -> None:
    """Offline, or from an index that lies: the version is right, one byte is not."""
    wheels = sorted((repository / ".venv/dependencies").glob("attrs-*.whl"))
    if not wheels:
        pytest.skip("no dependencies: make build")
    wanted = tmp_path / "wanted.txt"
    wanted.write_text(entries(repository / "install/requirements.txt")["attrs"])
    index = tmp_path / "index"
    index.mkdir()
    copy = Path(shutil.copy(wheels[0], index))
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-index", "--no-deps"]
    command += ["--require-hashes", "--no-cache-dir", "-r", str(wanted)]
    results = []
    for name in ("right", "wrong"):
        options = ["--find-links", str(index), "-d", str(tmp_path / name)]
        results.append(
            subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        )
        with copy.open("ab") as file:
            file.write(b"\0")
    assert results[0].returncode == 0, results[0].stderr
    assert results[1].returncode != 0
    assert "DO NOT MATCH THE HASHES" in results[1].stderr
    assert not list((tmp_path / "wrong").glob("*.whl"))

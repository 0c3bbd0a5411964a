"""Linters and type checks as tests, so that there is one command for everything."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_subtests import SubTests

SKIPPED_DIRS = {".git", ".venv", "build", "dist", "demo-bundle"}
GENERATED = {"_validator.py", "_build_info.py"}
MAX_LINES = 550
MAX_TEST_LINES = 700


def tool(name: str) -> str:
    """The path of a linter: beside this Python or on PATH; a developer's machine may lack it, CI may not."""
    path = Path(sys.executable).parent / name
    found = str(path) if path.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: make build")
    return found


def sources(repository: Path, *suffixes: str) -> list[Path]:
    """The project's own files that end in one of ``suffixes``, generated ones left out."""
    found = []
    for path in sorted(repository.rglob("*")):
        parts = set(path.relative_to(repository).parts)
        if parts & (SKIPPED_DIRS | GENERATED) or any(
            part.endswith(("_cache", ".egg-info")) for part in parts
        ):
            continue
        if (
            path.suffix in suffixes
            and path.is_file()
            and not re.match(r"native/_.*\.c$", str(path))
        ):
            found.append(path)
    assert found
    return found


def check(command: list[str | Path], cwd: Path) -> None:
    """Fail when the tool finds something; what it found is printed, the failure is one line."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stdout + done.stderr)
        pytest.fail(f"{Path(command[0]).name} has complaints", pytrace=False)


def test_ruff_check(repository: Path) -> None:
    check([tool("ruff"), "check", "."], repository)


def test_ruff_format(repository: Path) -> None:
    check([tool("ruff"), "format", "--check", "."], repository)


@pytest.mark.slow
def test_mypy(repository: Path) -> None:
    check([tool("mypy")], repository)


def test_clang_format(repository: Path) -> None:
    files = [path for path in sources(repository, ".c", ".h") if not path.name.startswith("_")]
    check([tool("clang-format"), "--dry-run", "--Werror", *files], repository)


def test_no_file_is_too_long(repository: Path, subtests: SubTests) -> None:
    """A file is read in one sitting."""
    for path in sources(repository, ".py", ".c", ".h"):
        with subtests.test(file=str(path.relative_to(repository))):
            limit = MAX_TEST_LINES if path.name.startswith("test_") else MAX_LINES
            assert len(path.read_text().splitlines()) <= limit


def test_no_machine_paths_and_no_loose_ends(repository: Path, subtests: SubTests) -> None:
    """Nothing names the place where it was written, and nothing is left for later."""
    # Spelt so that this file does not find itself.
    banned = re.compile("/wor[k]/(main|shared|\\.l)|/far[m]/|TOD[O]|FIXM[E]")
    for path in sources(repository, ".py", ".c", ".h", ".md", ".toml", ".json"):
        with subtests.test(file=str(path.relative_to(repository))):
            text = path.read_text()
            found = [text.count("\n", 0, match.start()) + 1 for match in banned.finditer(text)]
            assert not found, f"lines {found}"


def test_shell_scripts_parse(repository: Path) -> None:
    for script in ("run", "apt-install"):
        check(["/bin/sh", "-n", repository / ".ci" / script], repository)

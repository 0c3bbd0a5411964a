"""The manual pages: complete, true to the tables of the command line, and without complaints of mandoc and man."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from ociruntime import cli_options


@pytest.fixture(scope="module")
def pages(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A share/man with every page."""
    out = tmp_path_factory.mktemp("man")
    command = [sys.executable, "install/manual.py", str(out)]
    subprocess.run(command, cwd=repository, check=True)
    return out


def rendered(page: Path) -> str:
    """The page as people read it, without overstriking and line breaks."""
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed: make build")
    command = ["mandoc", "-T", "utf8", "-O", "width=200", str(page)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return re.sub(".\b", "", text)


def test_mandoc_has_no_complaints(pages: Path, subtests: SubTests) -> None:
    """No date is given, so that the pages are the same whenever they are made."""
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed: make build")
    for page in sorted(pages.rglob("*.[78]")):
        with subtests.test(page=page.name):
            command = ["mandoc", "-T", "lint", "-W", "warning", str(page)]
            said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            assert [line for line in said.splitlines() if "missing date" not in line] == []


def test_every_option_is_there(pages: Path, subtests: SubTests) -> None:
    for verb in ("", *cli_options.VERBS):
        with subtests.test(verb=verb):
            words = cli_options.VERBS[verb] if verb else cli_options.GLOBAL
            text = rendered(pages / f"man8/ociruntime{'-' * bool(verb)}{verb}.8")
            names = {long for long, _ in cli_options.table(words).values()}
            assert set(re.findall(r"^ +(?:-\w, )?--([a-z0-9-]+)", text, re.M)) >= names


def test_every_verb_is_named_with_its_page(pages: Path) -> None:
    text = rendered(pages / "man8/ociruntime.8")
    for verb in cli_options.VERBS:
        assert re.search(rf"^ +{verb}(?: |$)", text, re.M), verb
        assert f"ociruntime-{verb}(8)" in text


def test_pages_that_are_named_exist(pages: Path) -> None:
    """See also: our own pages; nothing is left of the marks of the hand-written parts."""
    names = {page.name for page in pages.rglob("*.[78]")}
    for page in pages.rglob("*.[78]"):
        text = rendered(page)
        for name, section in re.findall(r"\b(ociruntime[a-z-]*)\((\d)\)", text):
            assert f"{name}.{section}" in names
        assert not re.search(r"@[A-Z_]+@", text)


def test_man_finds_them(pages: Path) -> None:
    """man(1), as users call it."""
    if shutil.which("man") is None:
        pytest.skip("man is not installed")
    command = ["man", "-M", str(pages), "--warnings=w", "ociruntime-exec"]
    env = {"PATH": "/usr/bin:/bin", "MANWIDTH": "80", "LANG": "C.UTF-8"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "ociruntime exec" in done.stdout


def test_texts_survive_roff(pages: Path) -> None:
    """Hyphens stay hyphens, backslashes and leading dots are no requests."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "install"))
    try:
        import manual  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    assert manual.escape(".so x") == "\\&.so x"
    assert manual.escape("'a") == "\\&'a"
    assert manual.escape("a\\b --c") == "a\\eb \\-\\-c"

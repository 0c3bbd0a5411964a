"""pytest finds each file of tests: its defaults leave out folders by their names, `build` among them."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest


def test_no_folder_is_left_out(pytestconfig: pytest.Config, repository: Path) -> None:
    patterns = pytestconfig.getini("norecursedirs")
    assert patterns
    files = list((repository / "tests").rglob("test_*.py"))
    parts = {part for file in files for part in file.relative_to(repository).parent.parts}
    left_out = {part for part in parts for pattern in patterns if fnmatch(part, pattern)}
    assert files and not left_out

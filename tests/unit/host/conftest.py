"""What the tests of the host side share: the compiled parts, and a count of what is left behind."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ociruntime import hotpath
from tests.leaks import nothing_left

sys.path.insert(0, str(Path(__file__).parent))  # for what several tests share


@pytest.fixture
def native() -> None:
    """For tests that make calls of the shim or start init."""
    if importlib.util.find_spec("ociruntime._native") is None:
        pytest.skip("the native part is not built (make build)")
    if not os.path.exists(f"{hotpath.package_dir()}/init"):
        pytest.skip("init is not built (make build)")


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """No descriptor and no child is left."""
    with nothing_left():
        yield

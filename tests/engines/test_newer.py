"""The same flows among the engines of Debian 13; minutes long, so not part of `make test`."""

from __future__ import annotations

import os

import pytest

from tests import newer_debian

COMMAND = "make test-engines-newer"


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """No engine of this machine is used."""


def test_debian_13() -> None:
    """No flow fails with ociruntime alone."""
    if "OCIRUNTIME_NEWER" in os.environ:
        pytest.skip("this is the newer Debian")
    if "OCIRUNTIME_TEST_NEWER" not in os.environ:
        pytest.skip(f"takes 15 minutes: {COMMAND}, or OCIRUNTIME_TEST_NEWER=1")
    assert newer_debian.main([]) == 0

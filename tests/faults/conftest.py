"""The fixtures of the integration tests, for the faults that are played by hand."""

from __future__ import annotations

import pytest

from tests.integration import harness
from tests.integration.conftest import bundle, machine, make_bundle, place, program, rt

__all__ = ["bundle", "machine", "make_bundle", "ours_only", "place", "program", "rt"]


@pytest.fixture(autouse=True)
def ours_only() -> None:
    path = harness.runtime_path()
    if path is None or not harness.Runtime.describe(path).startswith("ociruntime "):
        pytest.skip("the peers do not promise it: they wait for ever, or leave something")

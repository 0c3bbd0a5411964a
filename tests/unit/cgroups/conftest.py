"""Settings for the cgroup tests."""

from __future__ import annotations

import pytest

from ociruntime.cgroups import hierarchy


@pytest.fixture(autouse=True)
def fresh_survey(monkeypatch: pytest.MonkeyPatch) -> None:
    """Controllers may be moved between hierarchies while tests run: every test looks for itself."""
    monkeypatch.setattr(hierarchy, "_found", None)

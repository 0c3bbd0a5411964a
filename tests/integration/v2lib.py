"""cgroup v2 alone, as the tests of it look at it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cgrouplib import ROOT
from tests.integration.harness import Bundle, Runtime

DENY = {"allow": False, "access": "rwm"}  # every device

needs_v2 = pytest.mark.skipif(
    not (ROOT / "cgroup.controllers").exists(), reason="needs cgroup v2 alone: make test-vm"
)


def leaf(rt: Runtime) -> Path:
    return ROOT / rt.root.name / "c"


def value(rt: Runtime, name: str) -> str:
    return (leaf(rt) / name).read_text().strip()


def refused(rt: Runtime, bundle: Bundle, *parts: str) -> None:
    """`create` fails, naming each of `parts`, and leaves no cgroup."""
    result = rt.try_create(bundle).result.failed()
    if rt.kind == "ociruntime":
        result.failed(*parts)
        assert not leaf(rt).exists()


def said(rt: Runtime, bundle: Bundle) -> list[str]:
    """The words that the program says, errors among them (they end the program)."""
    result = rt.run(bundle)
    return (result.out + result.err).split()

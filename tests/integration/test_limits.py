"""Limits bite, whichever version of cgroups has them."""

from __future__ import annotations

import pytest

from tests.integration.cgrouplib import MIB, ROOT, limits
from tests.integration.harness import Bundle, Runtime

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        not (ROOT / "memory").is_dir() and not (ROOT / "cgroup.controllers").exists(),
        reason="needs a memory controller",
    ),
]


@pytest.fixture(autouse=True)
def place_of_the_cgroup(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["cgroupsPath"] = f"/{rt.root.name}/c"


def test_out_of_memory(rt: Runtime, bundle: Bundle) -> None:
    limits(bundle, memory={"limit": 32 * MIB, "swap": 32 * MIB})
    bundle.args("spawn", "memhog", str(96 * MIB))
    result = rt.run(bundle)
    assert result.out == "killed 9\n"
    assert result.code == 137


def test_pids_limit(rt: Runtime, bundle: Bundle) -> None:
    limits(bundle, pids={"limit": 6})
    assert rt.run(bundle.args("fork", "20")).out == "forked 5 EAGAIN\n"


@pytest.mark.parametrize("limit", [1, 2])
def test_smallest_pids_limit(rt: Runtime, bundle: Bundle, limit: int) -> None:
    """What the runtime itself needs must not count (crun's README claims 1)."""
    result = rt.run(limits(bundle, pids={"limit": limit}).args("echo", "x"))
    if rt.kind == "runc":
        # Go's threads count.
        return
    assert result.ok().out == "x\n"


def test_two_mebibytes_of_memory_are_enough_to_start(rt: Runtime, bundle: Bundle) -> None:
    if rt.kind == "runc":
        pytest.skip("runc needs some 2 MiB for itself: it works by chance")
    limits(bundle, memory={"limit": 2 * MIB, "swap": 2 * MIB})
    assert rt.run(bundle.args("echo", "x")).ok().out == "x\n"

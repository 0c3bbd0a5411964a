"""Limits of cgroups, as the tests of every version set them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.integration.harness import Bundle

ROOT = Path("/sys/fs/cgroup")
MIB = 1024 * 1024


def limits(bundle: Bundle, **resources: Any) -> Bundle:
    """The bundle with these members of linux.resources, and a program that sleeps."""
    bundle.linux.setdefault("resources", {}).update(resources)
    return bundle.args("sleep")

"""`checkpoint`: save a running container with CRIU. Cold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ociruntime.criu import dump

if TYPE_CHECKING:
    from ociruntime.cli import Call


def run(call: Call) -> int:
    """Save; prints nothing."""
    dump.checkpoint(call)
    return 0

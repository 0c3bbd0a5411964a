"""`restore`: a container from what `checkpoint` has saved. Cold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ociruntime.criu import restore

if TYPE_CHECKING:
    from ociruntime.cli import Call


def run(call: Call) -> int:
    """Restore; the program's exit code, 0 with --detach."""
    return restore.restore(call)

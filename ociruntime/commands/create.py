"""`create`: make a container from a bundle; its program waits for `start`. Hot module."""

from __future__ import annotations

from ociruntime import lifecycle_create

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ociruntime.cli import Call


def run(call: Call) -> int:
    """Create; prints nothing."""
    lifecycle_create.create(lifecycle_create.Creation(call, start_later=True, detach=True))
    return 0

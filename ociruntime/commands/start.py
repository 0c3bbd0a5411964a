"""`start`: execute the user's program in a created container. Hot module."""

from __future__ import annotations

from ociruntime import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ociruntime.cli import Call


def run(call: Call) -> int:
    """Start; prints nothing."""
    from ociruntime import lifecycle_start

    lifecycle_start.start(state.load(call.root(), call.args[0], lock=True))
    return 0

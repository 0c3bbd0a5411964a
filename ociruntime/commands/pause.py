"""`pause`: freeze all processes of a container. Hot module."""

from __future__ import annotations

from ociruntime import container, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ociruntime.cli import Call


def run(call: Call) -> int:
    """Pause; prints nothing."""
    container.pause(state.load(call.root(), call.args[0], lock=True))
    return 0

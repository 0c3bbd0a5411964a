"""`kill`: send a signal to a container. Hot module."""

from __future__ import annotations

from ociruntime import container, signals, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ociruntime.cli import Call


def run(call: Call) -> int:
    """Send SIGTERM or the signal named; prints nothing."""
    target = state.load(call.root(), call.args[0])
    signum = signals.number(call.args[1]) if len(call.args) > 1 else signals.SIGTERM
    container.kill(target, signum, everything=call.switch("all"))
    return 0

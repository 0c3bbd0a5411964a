"""`kill`: send a signal to a container. Hot module."""

from __future__ import annotations

from ociruntime import container, signals, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ociruntime.cli import Call


STOP_SIGNAL = "org.opencontainers.image.stopSignal"


def _default(call: Call, target: state.Container) -> int:
    """SIGTERM, or with --strict the signal that the image asks for (runtime-spec config.md, Annotations)."""
    word = (target.data.get("annotations") or {}).get(STOP_SIGNAL)
    return signals.number(word) if word and call.globals.get("strict") is True else signals.SIGTERM


def run(call: Call) -> int:
    """Send SIGTERM or the signal named; prints nothing."""
    target = state.load(call.root(), call.args[0])
    if len(call.args) > 1:
        signum = signals.number(call.args[1])
    else:
        signum = _default(call, target)
    container.kill(target, signum, everything=call.switch("all"))
    return 0

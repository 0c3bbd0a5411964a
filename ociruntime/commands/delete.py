"""`delete`: remove what create made. Hot module."""

from __future__ import annotations

from ociruntime import container, errors, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ociruntime.cli import Call


def run(call: Call) -> int:
    """Delete; with --force an unknown id is silently fine."""
    force = call.switch("force")
    try:
        if force:
            container.end_creation(state.load(call.root(), call.args[0], unclaimed=0))
            target = state.load(call.root(), call.args[0], lock=True, unclaimed=0)
        else:
            target = state.load(call.root(), call.args[0], lock=True)
        container.delete(target, force=force, strict=call.globals.get("strict") is True)
    except errors.Error as exc:
        if force and exc.message == state.NOT_FOUND:
            return 0
        raise
    return 0

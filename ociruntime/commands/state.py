"""`state`: print a container's state as JSON. Hot module."""

from __future__ import annotations

from ociruntime import log, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ociruntime.cli import Call


def run(call: Call) -> int:
    """Print the state document, indented by two spaces and without a final newline, as runc does."""
    from ociruntime.spec import json_reader

    container = state.load(call.root(), call.args[0])
    log.out(json_reader.dumps(container.document(container.status()), 2))
    return 0

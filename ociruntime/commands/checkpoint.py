"""`checkpoint` and `restore`: CRIU is not supported; engines ask by `checkpoint --help` and look at the exit code."""

from __future__ import annotations

from ociruntime import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ociruntime.cli import Call


def run(call: Call) -> int:
    """Always raises errors.Error."""
    raise errors.Error(f"{call.verb} is not supported: this runtime has no CRIU support")

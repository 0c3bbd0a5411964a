"""`exec`: execute another program in a container. Hot module."""

from __future__ import annotations

from ociruntime import errors, foreground, lifecycle_exec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ociruntime.cli import Call

FAILED = 255
"""Exit code when the program could not be executed, beside the program's own (runc's choice)."""


def run(call: Call) -> int:
    """Execute; the program's exit code, 0 with --detach."""
    try:
        execution = lifecycle_exec.Execution(call)
        lifecycle_exec.execute(execution)
        return 0 if execution.detach else foreground.wait(execution.init, execution.master)
    except errors.Error as exc:
        exc.exit_code = FAILED
        raise

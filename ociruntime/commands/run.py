"""`run`: create a container, run its program and, in the foreground, delete it in the end. Hot module."""

from __future__ import annotations

from ociruntime import container as lifecycle
from ociruntime import errors, foreground, lifecycle_create, log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ociruntime.cli import Call


def run(call: Call) -> int:
    """Run; the program's exit code, 0 with --detach."""
    detach = call.switch("detach")
    creation = lifecycle_create.Creation(call, gate=False, detach=detach)
    if not detach and not call.switch("no-subreaper"):
        foreground.become_subreaper()
    lifecycle_create.create(creation)
    container = creation.container
    if creation.hooks.get("poststart"):
        from ociruntime import lifecycle_start

        lifecycle_start.poststart(container, creation.hooks["poststart"])
    container.unlock()
    if detach:
        return 0
    code = foreground.wait(creation.init, creation.master)
    if not call.switch("keep"):
        try:
            container.lock()
            lifecycle.destroy(container)
        except errors.Error as exc:
            # The program's end is what the caller asks for; somebody may have deleted the container already.
            log.debug(f"delete: {exc.message}")
    return code

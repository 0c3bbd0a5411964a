"""`run`: create a container, run its program and, in the foreground, delete it in the end. Hot module."""

from __future__ import annotations

import posix

from ociruntime import container as lifecycle
from ociruntime import errors, foreground, lifecycle_create, log, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ociruntime.cli import Call
    from ociruntime.lifecycle_create import Creation


def run(call: Call) -> int:
    """Run; the program's exit code, 0 with --detach."""
    detach = call.switch("detach")
    creation = lifecycle_create.Creation(call, start_later=False, detach=detach)
    if not detach and not call.switch("no-subreaper"):
        foreground.become_subreaper()
    lifecycle_create.create(creation)
    container = creation.container
    hooks = creation.hooks
    if creation.gate or hooks.get("poststart"):
        from ociruntime import lifecycle_start

        if creation.gate:
            try:
                lifecycle_start.proceed(container, hooks)
            except (errors.Error, OSError):
                lifecycle.kill_and_wait(container)
                lifecycle.destroy(container)
                raise
        if hooks.get("poststart"):
            lifecycle_start.poststart(container, hooks["poststart"])
    container.unlock()
    if creation.notify_fd >= 0:
        _notify(creation, detach)
    if detach:
        return 0
    try:
        code = foreground.wait(creation.init, creation.master)
    except errors.Error:
        lifecycle.kill_and_wait(container)  # nobody would be told of its end
        if not call.switch("keep"):
            _delete(creation)
        raise
    if not call.switch("keep"):
        _delete(creation)
    return code


def _delete(creation: Creation) -> None:
    try:
        creation.container.lock()
        lifecycle.destroy(creation.container)
    except errors.Error as exc:
        # The program's end is what the caller asks for; and somebody may have deleted the container already.
        if exc.message != state.NOT_FOUND:
            log.warning(f"delete container: {exc.message}")


def _notify(creation: Creation, detach: bool) -> None:
    """Pass readiness on (sd_notify(3)): before this process goes, or beside it while it waits for the program."""
    from ociruntime import lifecycle_start

    caller = creation.notify_caller or ""
    if detach:
        lifecycle_start.wait_ready(creation.container, creation.notify_fd, caller)
        return
    if posix.fork() == 0:
        try:
            lifecycle_start.wait_ready(creation.container, creation.notify_fd, caller)
        except errors.Error as exc:
            log.warning(exc.message)
        finally:
            posix._exit(0)
    posix.close(creation.notify_fd)

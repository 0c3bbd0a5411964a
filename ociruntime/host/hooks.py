"""Hooks: programs that the config asks for at fixed points of a container's life.

Hot module, imported only when there are hooks. config.md "POSIX-platform Hooks".

* cwd: the bundle. stdin: the state, as a file. stdout and stderr: captured, the end of them shown on failure.
* env: exactly the hook's ``env`` where it has entries; else, on the host, the runtime's own as it is with runc.
  The environment of the *container* never reaches a program of the host (CVE-2025-23266).
* A hook of create or start ends with the runtime, even one that is killed: what it prepares has no container then. A
  poststop hook goes on, as what it cleans up is there all the same.
* A hook is over when its process ends, not when its pipes close: what it leaves behind may keep them.
"""

from __future__ import annotations

import posix
import select

import _ocisys

from ociruntime import errors
from ociruntime.host import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ociruntime.host import launch
    from ociruntime.plan.ops import Plan

    Hooks = Sequence[dict[str, Any]]
    CompileOne = Callable[[dict[str, Any]], tuple[Plan, bytes, Sequence[int]]]

_SIGKILL = 9
_KEPT = 4096  # bytes of output kept for the error message
_SHOWN = 512  # characters of the line shown
_FOREVER = 1 << 30


def run(
    kind: str,
    hooks: Hooks,
    state: bytes,
    *,
    cwd: str,
    keep_going: bool = False,
) -> None:
    """Run the hooks of one kind in the runtime's namespaces, in order.

    ``kind``: prestart, createRuntime, poststart or poststop. ``state``: the state JSON. ``cwd``: the bundle; when it is
    gone (poststop), ``/``. ``keep_going``: a failure is a warning and the rest run (poststop); else errors.Error.
    """
    try:
        back = posix.open(".", posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    except OSError as exc:
        raise errors.from_os(exc, f"run {kind} hooks: open the working directory") from exc
    try:
        try:
            posix.chdir(cwd)
        except OSError:
            posix.chdir("/")
        for index, hook in enumerate(hooks):
            try:
                _run_one(hook, state, with_runtime=kind != "poststop")
            except errors.Error as exc:
                error = named(kind, index, hook, exc)
                if not keep_going:
                    raise error from exc
                from ociruntime import log

                log.warning(error.message)
    finally:
        posix.fchdir(back)
        posix.close(back)


def run_inside(
    kind: str,
    hooks: Hooks,
    state: bytes,
    compile_one: CompileOne,
    handlers: launch.Handlers | None = None,
) -> None:
    """Run the createContainer or startContainer hooks inside the container's namespaces, in order.

    ``compile_one(hook)`` gives the plan of one, its bytes for first_fd 3, and its descriptors (closed here);
    ``handlers`` as for Init.serve(). Raises errors.Error.
    """
    from ociruntime.host import launch

    for index, hook in enumerate(hooks):
        fds: Sequence[int] = ()
        try:
            output = _Output(state)
            try:
                plan, encoded, fds = compile_one(hook)
                init = launch.launch(plan, encoded, fds, stdio=output.stdio)
                output.close_child_ends()
                try:
                    init.serve(handlers or {})
                    status = _wait(init.pidfd, hook, output, init.kill, init.wait)
                finally:
                    init.kill_and_reap()
            finally:
                output.close()
                for fd in fds:
                    posix.close(fd)
            _judge(status, output)
        except errors.Error as exc:
            raise named(kind, index, hook, exc) from exc


def named(kind: str, index: int, hook: dict[str, Any], exc: errors.Error) -> errors.Error:
    """The error of one hook, with its place in front: ``hooks.createRuntime[0] (/path): exit status 1``."""
    return errors.Error(
        f"hooks.{kind}[{index}] ({hook['path']}): {exc.message}",
        hint=exc.hint,
        pointer=f"/hooks/{kind}/{index}",
    )


class _Output:
    """stdin for a hook and the pipes that take what it says.

    ``stdio``: the child's three descriptors. ``texts``: the last bytes of stdout and stderr.
    """

    __slots__ = ("readers", "stdio", "texts")

    def __init__(self, state: bytes) -> None:
        fds: list[int] = []
        try:
            fds.append(posix.memfd_create("state", posix.MFD_CLOEXEC))
            view = state
            while view:
                view = view[posix.write(fds[0], view) :]
            posix.lseek(fds[0], 0, 0)
            fds += posix.pipe2(posix.O_CLOEXEC)
            fds += posix.pipe2(posix.O_CLOEXEC)
        except OSError as exc:
            for fd in fds:
                posix.close(fd)
            raise errors.from_os(exc, "prepare the hook's stdio") from exc
        self.stdio = (fds[0], fds[2], fds[4])
        self.readers = {fds[1]: 0, fds[3]: 1}
        self.texts = [b"", b""]
        for fd in self.readers:
            posix.set_blocking(fd, False)

    def close_child_ends(self) -> None:
        for fd in self.stdio:
            if fd >= 0:
                posix.close(fd)
        self.stdio = (-1, -1, -1)

    def read(self, fd: int) -> bool:
        """Take what a pipe has; False at its end."""
        try:
            data = posix.read(fd, 65536)
        except BlockingIOError:
            return True
        index = self.readers[fd]
        self.texts[index] = (self.texts[index] + data)[-_KEPT:]
        return bool(data)

    def close(self) -> None:
        self.close_child_ends()
        for fd in self.readers:
            posix.close(fd)
        self.readers = {}

    def last_line(self) -> str:
        """The last line that says something, of stderr or else of stdout."""
        for text in (self.texts[1], self.texts[0]):
            for line in reversed(text.decode("utf-8", "replace").splitlines()):
                if line.strip():
                    return line.strip()[:_SHOWN]
        return ""


def _run_one(hook: dict[str, Any], state: bytes, with_runtime: bool) -> None:
    path = hook["path"]
    output = _Output(state)
    try:
        try:
            pid, pidfd = native.spawn(
                path,
                3,
                (),
                stdio=output.stdio,
                argv=hook.get("args") or [path],
                env=_environment(hook.get("env")),
                parent_death=_SIGKILL if with_runtime else 0,
            )
        except OSError as exc:
            if exc.filename == "execve":
                raise errors.Error(errors.strerror(exc.errno or 0)) from exc
            raise errors.from_os(exc, str(exc.filename)) from exc
        output.close_child_ends()
        try:
            status = _wait(
                pidfd,
                hook,
                output,
                lambda: posix.killpg(pid, _SIGKILL),
                lambda: posix.waitpid(pid, 0)[1],
            )
        finally:
            posix.close(pidfd)
    finally:
        output.close()
    _judge(status, output)


def _environment(entries: Sequence[str] | None) -> list[str | bytes]:
    """The environment of a hook: its own, else the runtime's; the last of entries of one name counts."""
    if not entries:
        return [name + b"=" + value for name, value in posix.environ.items()]
    variables: dict[str, str | bytes] = {}
    for entry in entries:
        name, separator, _ = entry.partition("=")
        if not separator:
            raise errors.Error(f"env: {entry!r} has no '='")
        variables[name] = entry
    return list(variables.values())


def _wait(
    pidfd: int,
    hook: dict[str, Any],
    output: _Output,
    kill: Callable[[], None],
    reap: Callable[[], int | None],
) -> int:
    """Collect output until the process ends, killed when its time is over; its wait status."""
    timeout = hook.get("timeout")
    deadline = None if timeout is None else _ocisys.monotonic() + timeout
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    for fd in output.readers:
        poll.register(fd, select.POLLIN)
    expired = False
    ended = False
    while not ended:
        left = _FOREVER
        if deadline is not None:
            left = min(max(int((deadline - _ocisys.monotonic()) * 1000) + 1, 0), _FOREVER)
        events = poll.poll(left)
        for fd, _ in events:
            if fd == pidfd:
                ended = True
            elif not output.read(fd):
                poll.unregister(fd)
        if deadline is not None and not ended and _ocisys.monotonic() >= deadline:
            expired, deadline = True, None
            kill()
    for fd in output.readers:
        output.read(fd)
    status = reap() or 0
    if expired:
        raise errors.Error(f"timed out after {timeout} s")
    return status


def _judge(status: int, output: _Output) -> None:
    """Raise errors.Error unless the hook has ended with exit status 0."""
    if status == 0:
        return
    if posix.WIFSIGNALED(status):
        message = f"killed by signal {posix.WTERMSIG(status)}"
    else:
        message = f"exit status {posix.WEXITSTATUS(status)}"
    line = output.last_line()
    raise errors.Error(f"{message}: {line}" if line else message)

"""File systems in user space whose server does not answer: found out by a process that can be left behind.

Whoever has asked such a file system cannot be killed until it answers or is given up (fuse(4)): a runtime that opened
a bind source there would hang with its engine. Imported only where the kernel serves fuse at all.
"""

from __future__ import annotations

import posix

from ociruntime import errors, signals
from ociruntime.host import launch, native, probe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NoReturn

PATIENCE = 4.0  # seconds for each path
_KINDS = ("fuse", "fuseblk")
_LINKS = 40  # the kernel's own limit, path_resolution(7)


def check(paths: Iterable[tuple[str, str]]) -> None:
    """Raises errors.Error for the first of (path, pointer into config.json) in a fuse mount that nobody answers for."""
    points = {point: kind for point, kind in probe.mount_table() if kind.split(".")[0] in _KINDS}
    asked = []
    for path, pointer in paths:
        point = _point_of(path, points) if points else None
        if point is not None:
            asked.append((path, pointer, point))
    if not asked:
        return
    reader, writer = posix.pipe2(posix.O_CLOEXEC)
    try:
        pid = posix.fork()
        if pid == 0:
            _ask([path for path, *_ in asked], writer)
        posix.close(writer)
        writer = -1
        for path, pointer, point in asked:
            if not launch.wait_readable(reader, PATIENCE):
                # It ends when the file system is given up, at the latest.
                posix.kill(pid, signals.SIGKILL)
                message = f"open {path}: the {points[point]} file system at {point} does not answer"
                hint = "end its server, or abort its connection in /sys/fs/fuse/connections"
                raise errors.Error(message, pointer=pointer, hint=hint)
            posix.read(reader, 1)
        posix.waitpid(pid, 0)
    except OSError as exc:
        raise errors.from_os(exc, "ask fuse file systems") from exc
    finally:
        posix.close(reader)
        if writer >= 0:
            posix.close(writer)


def _point_of(path: str, points: dict[str, str]) -> str | None:
    """The first mount point on an absolute path's way, symlinks followed; nothing beyond it is looked at."""
    if "/" in points:
        return "/"
    names, at, links = path.split("/")[::-1], "", 0
    while names:
        name = names.pop()
        if name == "..":
            at = at.rpartition("/")[0]
        elif name not in ("", "."):
            at += "/" + name
            if at in points:
                return at
            try:
                target = posix.readlink(at)
            except OSError:  # no link, or nothing there
                continue
            links += 1
            if links > _LINKS:
                return None
            at = "" if target[:1] == "/" else at.rpartition("/")[0]
            names += target.split("/")[::-1]
    return None


def _ask(paths: list[str], writer: int) -> NoReturn:
    """Look at each path and say so. Nothing of the runtime's, locks and standard error above all, is kept open."""
    try:
        posix.dup2(writer, 0)
        native.close_range(1)
        posix.chdir("/")
        for path in paths:
            try:
                posix.stat(path)
            except OSError:
                pass
            posix.write(0, b".")
    finally:
        posix._exit(0)

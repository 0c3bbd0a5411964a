"""Directories of a cgroup hierarchy: made, looked at, removed. Hot module."""

from __future__ import annotations

import posix
from errno import EACCES, EBUSY, EEXIST, ELOOP, ENODEV, ENOENT, ENOTDIR, ENOTEMPTY

import _ocisys

from ociruntime import errors, log, paths
from ociruntime.cgroups import files

_DIR = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC

REMOVE_TIMEOUT = 10.0  # seconds; the kernel lets go of dead processes in its own time


def clean_path(path: str, *, what: str = "linux.cgroupsPath") -> str:
    """A cgroup path, absolute and normalised; ``..`` cannot climb above the root (no I/O)."""
    if "\0" in path or "\n" in path:
        raise errors.Error(
            f"{what}: control character in cgroup path", pointer="/linux/cgroupsPath"
        )
    return paths.clean(path)


def missing_parents(mount: str, path: str) -> int:
    """How many directories between the mount point and the leaf do not exist yet."""
    count = 0
    path = path.rpartition("/")[0]
    while path and not files.exists(mount + path):
        count += 1
        path = path.rpartition("/")[0]
    return count


def make(mount: str, path: str) -> bool:
    """Make a cgroup with its parents; False when it was there already. OSError otherwise."""
    try:
        posix.mkdir(mount + path, 0o755)
    except OSError as exc:
        if exc.errno == EEXIST:
            return False
        if exc.errno != ENOENT:
            raise
        parent = path.rpartition("/")[0]
        if not parent:
            raise
        make(mount, parent)
        return make(mount, path)
    return True


def children(path: str) -> list[str]:
    """Names of the sub-cgroups, [] when it is gone, no directory, or closed to this user. Raises errors.Error."""
    try:
        fd = posix.open(path, _DIR)
    except OSError as exc:
        if exc.errno in (ENOENT, ENODEV, ENOTDIR, ELOOP, EACCES):
            return []
        raise errors.from_os(exc, f"cgroup: open {path}") from exc
    try:
        with posix.scandir(fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as exc:
        raise errors.from_os(exc, f"cgroup: read {path}") from exc
    finally:
        posix.close(fd)


def walk(path: str) -> list[str]:
    """The cgroup and all below it, parents first."""
    found = [path]
    for place in found:
        found += [f"{place}/{name}" for name in children(place)]
    return found


def pids(path: str, *, recursive: bool = True) -> list[int]:
    """Processes of a cgroup, those below included; 0 (not visible from this pid namespace) left out."""
    found: set[int] = set()
    for place in walk(path) if recursive else [path]:
        text = files.read_or_none(place + "/cgroup.procs")
        if text:
            found.update(files.numbers(text))
    found.discard(0)
    return sorted(found)


def remove(mount: str, path: str, made_parents: int, deadline: float) -> None:
    """Remove a cgroup with what is below it, then the parents that were made for it, when empty.

    A cgroup that is still busy is tried again until ``deadline`` (_ocisys.monotonic()); one that is gone is fine.
    """
    place = mount + path
    delay = 0.0001
    while True:
        error = _remove_once(place)
        if error is None:
            break
        now = _ocisys.monotonic()
        if now >= deadline:
            left = pids(place)
            hint = f"processes still in it: {' '.join(map(str, left[:10]))}" if left else None
            raise errors.from_os(error, f"cgroup: remove {place}", hint=hint)
        _ocisys.sleep(min(delay, deadline - now))
        delay = min(delay * 2, 0.05)
    for _ in range(made_parents):
        path = path.rpartition("/")[0]
        try:
            posix.rmdir(mount + path)
        except OSError as exc:
            if exc.errno in (EBUSY, ENOTEMPTY):
                return  # another container lives there
            if exc.errno != ENOENT:
                what = f"cgroup: {mount}{path} is left behind: rmdir"
                log.warning(errors.from_os(exc, what).message)
                return


def _remove_once(place: str) -> OSError | None:
    """rmdir(2), sub-cgroups first where there are any; the error when something is busy."""
    error = _rmdir(place)
    if error is None:
        return None
    for sub in reversed(walk(place)):
        error = _rmdir(sub)
    return error


def _rmdir(place: str) -> OSError | None:
    try:
        posix.rmdir(place)
    except OSError as exc:
        if exc.errno == ENOENT:
            return None
        if exc.errno in (EBUSY, ENOTEMPTY):
            return exc
        raise errors.from_os(exc, f"cgroup: remove {place}") from None
    return None

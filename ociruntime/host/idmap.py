"""User namespace id maps: who may write them, and how.

Hot module; user_namespaces(7), newuidmap(1).
"""

from __future__ import annotations

import posix

from ociruntime import errors
from ociruntime.host import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Mappings = Sequence[dict[str, Any]]

MAX_LINES = 340  # UID_GID_MAP_MAX_EXTENTS
_MAX_BYTES = 4095  # the kernel takes less than one page, in one write
# PATH may be empty or the caller's: the set-uid helpers are looked for where distributions put them.
_HELPER_DIRS = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin", "/run/wrappers/bin")
_HELPER_LIMIT = 4096  # bytes of a helper's output that are of interest
_POSIX_SPAWN_OPEN, _POSIX_SPAWN_DUP2 = posix.POSIX_SPAWN_OPEN, posix.POSIX_SPAWN_DUP2


def render(mappings: Mappings, pointer: str) -> bytes:
    """The text of a uid_map or gid_map file for ``mappings`` (containerID, hostID, size).

    Raises errors.Error for more than the kernel takes: a map is never cut short.
    """
    if len(mappings) > MAX_LINES:
        raise errors.Error(f"{len(mappings)} id mappings, Linux takes {MAX_LINES}", pointer=pointer)
    text = b"".join(
        b"%d %d %d\n" % (entry["containerID"], entry["hostID"], entry["size"]) for entry in mappings
    )
    if len(text) > _MAX_BYTES:
        raise errors.Error(
            f"id mappings of {len(text)} bytes, Linux takes {_MAX_BYTES}",
            hint="merge adjoining ranges",
            pointer=pointer,
        )
    return text


def write_maps(
    pid: int,
    uid_mappings: Mappings,
    gid_mappings: Mappings,
    *,
    privileged: bool,
    pointer: str = "/linux",
) -> None:
    """Give the user namespace of process ``pid`` its maps.

    ``privileged``: facts.privileged; the files are then written directly, as they are for a single mapping of the
    caller's own id. Anything else needs newuidmap(1) and newgidmap(1), which go by /etc/subuid and /etc/subgid.
    Raises errors.Error.
    """
    try:
        directory = procfs.open_pid(pid)
    except OSError as exc:
        raise errors.from_os(exc, f"open /proc/{pid}") from exc
    try:
        # gid_map first: its single-id form needs setgroups denied, which the uid_map must not depend on.
        for name, mappings, own in (
            ("gid", gid_mappings, posix.getegid()),
            ("uid", uid_mappings, posix.geteuid()),
        ):
            if not mappings:
                continue
            where = f"{pointer}/{name}Mappings"
            text = render(mappings, where)
            single = _is_own_id(mappings, own)
            helper = None if privileged or single else find_helper(f"new{name}map")
            if helper is not None:
                _run_helper(helper, pid, name, text, where)
            else:
                _write_map(directory, pid, name, text, where, privileged, single)
    finally:
        posix.close(directory)


def _is_own_id(mappings: Mappings, own: int) -> bool:
    return len(mappings) == 1 and mappings[0]["size"] == 1 and mappings[0]["hostID"] == own


def _write_map(
    directory: int, pid: int, name: str, text: bytes, where: str, privileged: bool, single: bool
) -> None:
    try:
        if name == "gid" and not privileged:
            # Without privilege a gid_map is accepted only where setgroups(2) is denied for good.
            procfs.write(directory, "setgroups", b"deny")
        procfs.write(directory, f"{name}_map", text)
    except OSError as exc:
        hint = None
        if not privileged and not single:
            hint = f"new{name}map is not installed (package uidmap)"
        elif exc.errno == 1:
            hint = "an id of the mapping is not mapped in the runtime's own user namespace"
        raise errors.from_os(
            exc, f"write /proc/{pid}/{name}_map", pointer=where, hint=hint
        ) from exc


def find_helper(name: str) -> str | None:
    """The absolute path of newuidmap or newgidmap; None when it is not installed."""
    for directory in _HELPER_DIRS:
        path = f"{directory}/{name}"
        if posix.access(path, posix.X_OK):
            return path
    return None


def _run_helper(helper: str, pid: int, name: str, text: bytes, where: str) -> None:
    """Run newuidmap or newgidmap; its complaint becomes the error."""
    reader, writer = posix.pipe2(posix.O_CLOEXEC)
    try:
        actions = (
            (_POSIX_SPAWN_OPEN, 0, "/dev/null", posix.O_RDONLY, 0),
            (_POSIX_SPAWN_OPEN, 1, "/dev/null", posix.O_WRONLY, 0),
            (_POSIX_SPAWN_DUP2, writer, 2),
        )
        argv = [helper, str(pid), *text.decode().split()]
        child = posix.posix_spawn(helper, argv, {"PATH": "/usr/bin:/bin"}, file_actions=actions)
        posix.close(writer)
        writer = -1
        complaint = b""
        while chunk := posix.read(reader, _HELPER_LIMIT):
            complaint = (complaint + chunk)[:_HELPER_LIMIT]
        status = posix.waitpid(child, 0)[1]
    except OSError as exc:
        raise errors.from_os(exc, f"run {helper}", pointer=where) from exc
    finally:
        posix.close(reader)
        if writer >= 0:
            posix.close(writer)
    if status:
        lines = complaint.decode("utf-8", "replace").strip().splitlines()
        reason = lines[-1] if lines else f"wait status {status}"
        raise errors.Error(
            f"{name} mapping {_words(text)}: {reason}", hint=subid_hint(name), pointer=where
        )


def _words(text: bytes) -> str:
    return text.decode().strip().replace("\n", ", ")


def subid_hint(name: str) -> str:
    """What the caller's line in /etc/subuid or /etc/subgid allows, or that there is none."""
    table = f"/etc/sub{name}"
    uid = posix.getuid()
    user = user_name(uid)
    try:
        lines = procfs.read_file(table).decode("utf-8", "replace").splitlines()
    except OSError:
        return f"{table} is missing: it needs a line such as {user}:100000:65536"
    own = [line for line in lines if line.partition(":")[0] in (user, str(uid))]
    if not own:
        return f"{table} has no line for user {user}: it needs one such as {user}:100000:65536"
    return f"{table} allows {user} only: {', '.join(own)}"


def user_name(uid: int) -> str:
    """The host's name of a user, its number when /etc/passwd has none (no NSS: it would load libraries)."""
    try:
        lines = procfs.read_file("/etc/passwd").decode("utf-8", "replace").splitlines()
    except OSError:
        return str(uid)
    for line in lines:
        fields = line.split(":")
        if len(fields) > 3 and fields[2] == str(uid):
            return fields[0]
    return str(uid)


def userns_fd(uid_mappings: Mappings, gid_mappings: Mappings, pointer: str = "/linux") -> int:
    """A descriptor of a new user namespace with the given maps, for idmapped mounts (mount_setattr(2)).

    Needs privilege. The namespace is made by an init that only waits, and lives by the descriptor.
    Raises errors.Error.
    """
    from ociruntime.host import launch
    from ociruntime.plan import encode, ops

    plan = ops.Plan()
    plan.clone_flags = 0x10000000  # CLONE_NEWUSER
    plan.add(pointer, ops.SYNC, ops.TAG_USERNS)
    plan.syncs.append(ops.TAG_USERNS)
    init = launch.launch(plan, encode.encode(plan, 3), [])
    try:
        write_maps(init.pid, uid_mappings, gid_mappings, privileged=True, pointer=pointer)
        return posix.open(f"/proc/{init.pid}/ns/user", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError as exc:
        raise errors.from_os(exc, "open the user namespace of a mount", pointer=pointer) from exc
    finally:
        init.kill_and_reap()

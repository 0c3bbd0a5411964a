"""What CRIU is told about a container: from the command line, config.json and the kernel."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from ociruntime import errors, state
from ociruntime.criu import wire
from ociruntime.host import native
from ociruntime.plan import mount_options, words

if TYPE_CHECKING:
    from ociruntime.cgroups.base import Manager
    from ociruntime.cli import Call

CONFIG_ANNOTATION = "org.criu.config"
CONFIG_FILE = "/etc/criu/runc.conf"
DESCRIPTORS = "descriptors.json"
"""In the image directory: what 0, 1 and 2 were, a JSON array of three texts, as runc writes it."""

GIVEN_NAMESPACES = {"network": ("net", "extRootNetNS"), "pid": ("pid", "extRootPidNS")}
"""Namespaces that may come from outside: CRIU's word for the type, and the key that stands for one in an image."""

_INVENTORY = "inventory.img"  # criu writes it last
_MODES = {"ignore": 0, "soft": 3, "full": 4, "strict": 5}
_LOCKS = {"iptables": 1, "nftables": 2, "skip": 3}
_SWITCHES = (
    "leave-running tcp-established ext-unix-sk shell-job file-locks lazy-pages auto-dedup"
    " tcp-skip-in-flight link-remap tcp-close"
)
_PATH = os.O_PATH | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
RESOLVE_IN_ROOT = 0x10  # openat2(2)


def from_call(call: Call) -> wire.Message:
    """The options of the command line that CRIU has as well. Raises errors.Error."""
    opts: wire.Message = {
        name.replace("-", "_"): True for name in _SWITCHES.split() if call.switch(name)
    }
    mode = call.text("manage-cgroups-mode") or "soft"
    if mode not in _MODES:
        raise errors.Error("Invalid manage-cgroups-mode", hint=f"one of {', '.join(_MODES)}")
    opts["manage_cgroups"] = True
    opts["manage_cgroups_mode"] = _MODES[mode]
    lock = call.text("network-lock")
    if lock:
        if lock not in _LOCKS:
            raise errors.Error(f"invalid network-lock {lock!r}", hint=f"one of {', '.join(_LOCKS)}")
        opts["network_lock"] = _LOCKS[lock]
    empty = 0
    for kind in call.words("empty-ns"):
        if kind not in words.NAMESPACES:
            raise errors.Error(f"namespace {kind!r} is not supported")
        empty |= words.NAMESPACES[kind]
    if empty:
        opts["empty_ns"] = empty
    for name in ("lsm-profile", "lsm-mount-context"):
        if call.text(name):
            opts[name.replace("-", "_")] = call.text(name)
    return opts


def page_server(call: Call) -> wire.Message | None:
    """--page-server ADDRESS:PORT. Raises errors.Error."""
    text = call.text("page-server")
    if text is None:
        return None
    address, colon, port = text.rpartition(":")
    if not (colon and address and port.isdecimal() and 0 < int(port) < 65536):
        raise errors.Error("Use --page-server ADDRESS:PORT to specify page server")
    return {"address": address, "port": int(port)}


def config_file(spec: dict[str, Any]) -> str | None:
    """CRIU's config file: the annotation's, or the default one where it exists."""
    given = (spec.get("annotations") or {}).get(CONFIG_ANNOTATION)
    if given is not None:
        return str(given) or None
    return CONFIG_FILE if os.path.exists(CONFIG_FILE) else None


class Directories:
    """The image directory and the directory of CRIU's log: ``image`` and ``work``, paths; ``*_fd``, open."""

    def __init__(self, call: Call, *, make: bool) -> None:
        self.image = state.absolute(call.text("image-path") or "checkpoint")
        self.work = state.absolute(call.text("work-path") or self.image)
        self.image_fd = _open_directory(self.image, make)
        try:
            if not (make or os.path.exists(f"/proc/self/fd/{self.image_fd}/{_INVENTORY}")):
                raise errors.Error(f"no checkpoint in {self.image}: it has no {_INVENTORY}")
            self.work_fd = _open_directory(self.work, True)
        except errors.Error:
            os.close(self.image_fd)
            raise

    def options(self) -> wire.Message:
        """Both, for CRIU."""
        return {"images_dir_fd": self.image_fd, "work_dir_fd": self.work_fd}

    def reopen_work(self, pid: int) -> None:
        """Take the work directory of the mount namespace of the process ``pid``. Raises errors.Error.

        CRIU mounts in it, which the kernel allows in its own namespace only, and it takes both directories from the
        descriptors of the process at the other end of its socket.
        """
        try:
            # Free of links: an absolute one (containerd's `work`) would lead back into the namespace of the caller.
            path = os.readlink(f"/proc/self/fd/{self.work_fd}")
            fd = os.open(f"/proc/{pid}/root{path}", _DIRECTORY)
        except OSError as exc:
            raise errors.from_os(exc, f"open {self.work} for criu") from exc
        same = os.path.samestat(os.fstat(fd), os.fstat(self.work_fd))
        os.close(self.work_fd)
        self.work_fd = fd
        if not same:
            raise errors.Error(f"{self.work} was exchanged meanwhile")

    def close(self) -> None:
        """Close them."""
        os.close(self.image_fd)
        os.close(self.work_fd)


def _open_directory(path: str, make: bool) -> int:
    try:
        if make:
            os.makedirs(path, 0o700, exist_ok=True)
        return os.open(path, _DIRECTORY)
    except OSError as exc:
        raise errors.from_os(exc, f"open {path}") from exc


def bind_mounts(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The mounts of config.json whose source is the host's."""
    found = []
    for mount in spec.get("mounts") or ():
        options = mount_options.parse(mount.get("options") or [])
        if (mount.get("type") == "bind" or options.bind is not None) and not options.remount:
            found.append(mount)
    return found


def cgroup_mounts(spec: dict[str, Any], manager: Manager | None) -> list[tuple[str, str]]:
    """(destination, directory of the host) of each hierarchy of cgroup v1 that the container sees.

    CRIU does not save hierarchies of the host. cgroup2 is one file system, which it mounts anew.
    """
    if manager is None or manager.mode not in ("v1", "hybrid"):
        return []
    return [
        (f"{mount['destination'].rstrip('/')}/{name}", place + path)
        for mount in spec.get("mounts") or ()
        if mount.get("type") == "cgroup"
        for name, place, _, path in manager.mount_facts()
    ]


def dumped_mounts(
    spec: dict[str, Any], root: int, manager: Manager | None = None
) -> list[wire.Message]:
    """Mounts that CRIU finds in the container and must not save: where each is, and the key that stands for it.

    ``root``: the container's root directory, open. The key is the destination; of masked files ``/dev/null``.
    """
    found = []
    destinations = [mount["destination"] for mount in bind_mounts(spec)]
    destinations += [destination for destination, _ in cgroup_mounts(spec, manager)]
    for destination in destinations:
        place = _resolve(root, destination)
        if place is not None:
            found.append({"key": place[0], "val": destination})
    for path in (spec.get("linux") or {}).get("maskedPaths") or ():
        place = _resolve(root, path)
        if place is not None and not stat.S_ISDIR(place[1]):
            found.append({"key": place[0], "val": "/dev/null"})
    return found


def restored_mounts(
    spec: dict[str, Any], bundle: str, manager: Manager | None = None
) -> list[wire.Message]:
    """By key, what takes the place of the mounts above."""
    found = [
        {"key": mount["destination"], "val": os.path.join(bundle, mount.get("source") or "")}
        for mount in bind_mounts(spec)
    ]
    found += [{"key": key, "val": place} for key, place in cgroup_mounts(spec, manager)]
    if (spec.get("linux") or {}).get("maskedPaths"):
        found.append({"key": "/dev/null", "val": "/dev/null"})
    return found


def _resolve(root: int, path: str) -> tuple[str, int] | None:
    """Where a path leads inside of the container, and the mode of what is there; None for nothing."""
    try:
        fd = native.openat2(root, path, _PATH, RESOLVE_IN_ROOT)
    except OSError:
        return None
    try:
        return os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_mode
    finally:
        os.close(fd)


def cgroup_roots(manager: Manager) -> list[wire.Message]:
    """Where the container's cgroups are to be restored."""
    if manager.mode == "v2":
        return [{"path": place} for _, _, _, place in manager.mount_facts()]
    return [
        {"ctrl": options or name, "path": place}
        for name, _, options, place in manager.mount_facts()
    ]


def given_namespaces(spec: dict[str, Any]) -> dict[str, str]:
    """Type → path of the namespaces that the container joined."""
    return {
        entry["type"]: entry["path"]
        for entry in (spec.get("linux") or {}).get("namespaces") or ()
        if entry.get("path")
    }

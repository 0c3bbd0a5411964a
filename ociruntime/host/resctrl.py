"""linux.intelRdt: classes of service and monitoring groups in the resctrl file system.

Hot module, imported only when the config has intelRdt. config-linux.md "IntelRdt"; kernel:
Documentation/filesystems/resctrl.rst. A group is decided on (``decide``: only looking), written into the state
(``Group.to_state``), then made; ``from_state(...).delete()`` finds what was made however early the runtime died.
"""

from __future__ import annotations

import posix

from ociruntime import errors
from ociruntime.cgroups import files
from ociruntime.cgroups.hierarchy import mount_point as hierarchy_mount_point

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

BASE = "/linux/intelRdt"
_SCHEMAS = ("l3CacheSchema", "memBwSchema", "schemata")
_EEXIST, _ENOENT, _ESRCH = 17, 2, 3


def mount_point(proc: str = "/proc") -> str:
    """Where resctrl is mounted, proc_pid_mountinfo(5). Raises errors.Error where it is not (MUST)."""
    for line in files.read(f"{proc}/self/mountinfo").split("\n"):
        left, _, right = line.partition(" - ")
        if right.partition(" ")[0] == "resctrl":
            return hierarchy_mount_point(left)
    raise errors.Error(
        "intelRdt: no resctrl file system is mounted",
        pointer=BASE,
        hint="mount -t resctrl resctrl /sys/fs/resctrl; the processor needs Intel RDT",
    )


class Group:
    """A container's class of service, and its monitoring group where it has one.

    ``path``: the directory of the class; ``made``: create makes it; ``monitor``: the directory of the monitoring
    group or ``""``, always the container's own.
    """

    __slots__ = ("made", "monitor", "path")

    def __init__(self, path: str, made: bool, monitor: str) -> None:
        self.path = path
        self.made = made
        self.monitor = monitor

    def to_state(self) -> dict[str, Any]:
        """Small JSON object from which ``from_state`` rebuilds the group."""
        return {"path": self.path, "made": self.made, "monitor": self.monitor}

    def create(self, rdt: Mapping[str, Any]) -> None:
        """Make what is missing and write the schemata; an existing class with others is refused.

        Raises errors.Error.
        """
        if self.made:
            self.made = _make(self.path, BASE)
        if self.made:
            self.write(rdt)
        else:
            self._compare(rdt)
        if self.monitor and not _make(self.monitor, BASE + "/enableMonitoring"):
            taken, self.monitor = self.monitor, ""  # somebody else's: not to be removed
            raise errors.Error(
                f"intelRdt: monitoring group {taken} exists already",
                pointer=BASE + "/enableMonitoring",
            )

    def write(self, rdt: Mapping[str, Any], pointer: str = BASE) -> None:
        """Write l3CacheSchema and memBwSchema together, then schemata; nothing where none is set.

        Raises errors.Error.
        """
        for lines in _writes(rdt):
            try:
                files.write(self.path + "/schemata", "".join(f"{line}\n" for line in lines))
            except OSError as exc:
                raise errors.from_os(
                    exc,
                    f"intelRdt: write {' '.join(lines)} to {self.path}/schemata",
                    pointer=pointer or None,
                    hint=self._last_status(),
                ) from exc

    def _compare(self, rdt: Mapping[str, Any]) -> None:
        """The class is there: its schemata must be the wanted ones (MUST). Raises errors.Error."""
        wanted = [line for lines in _writes(rdt) for line in lines]
        if not wanted:
            return
        found: dict[str, dict[str, str]] = {}
        for line in (files.read_or_none(self.path + "/schemata") or "").splitlines():
            name, domains = parse(line)
            found[name] = domains
        for line in wanted:
            name, domains = parse(line)
            there = found.get(name, {})
            for domain, value in domains.items():
                if there.get(domain) != value:
                    raise errors.Error(
                        f"intelRdt: class {self.path} exists with other schemata: wanted {line},"
                        f" found {name}:{';'.join(f'{k}={v}' for k, v in there.items())}",
                        pointer=BASE,
                        hint="give another closID, or leave out the schemata to use the class as it is",
                    )

    def assign(self, pids: Iterable[int]) -> None:
        """Put processes (single threads, or every thread of theirs) into the class and the monitoring group.

        Raises errors.Error.
        """
        for place in (self.path, self.monitor):
            if not place:
                continue
            for pid in pids:
                try:
                    files.write(place + "/tasks", str(pid))
                except OSError as exc:
                    if exc.errno == _ESRCH:
                        continue
                    raise errors.from_os(
                        exc,
                        f"intelRdt: write {pid} to {place}/tasks",
                        pointer=BASE,
                        hint=self._last_status(),
                    ) from exc

    def _last_status(self) -> str | None:
        """The kernel's explanation of the last failure."""
        top = self.path
        for _ in range(2):  # of the root, or of a class below it
            text = files.read_or_none(top + "/info/last_cmd_status")
            if text is not None:
                return text.strip() if text.strip() not in ("", "ok") else None
            top = top.rpartition("/")[0]
        return None

    def delete(self) -> None:
        """Remove what create made. A class that others use meanwhile stays: its tasks would lose their limits."""
        _remove(self.monitor)
        if self.made and not (files.read_or_none(self.path + "/tasks") or "").split():
            _remove(self.path)


def decide(rdt: Mapping[str, Any], container_id: str, proc: str = "/proc") -> Group:
    """The group of a new container; makes nothing. Raises errors.Error."""
    top = mount_point(proc)
    name = rdt.get("closID")
    path = top if name == "/" else f"{top}/{name or container_id}"
    there = files.exists(path)
    asked = any(rdt.get(key) for key in _SCHEMAS)
    if name and not asked and not there:
        raise errors.Error(
            f"intelRdt: class {name} does not exist in {top}",
            pointer=BASE + "/closID",
            hint="make it beforehand, or give l3CacheSchema, memBwSchema or schemata",
        )
    if not name and there:
        raise errors.Error(
            f"intelRdt: class {path} exists already", pointer=BASE, hint="name it by closID"
        )
    monitor = f"{path}/mon_groups/{container_id}" if rdt.get("enableMonitoring") else ""
    return Group(path, not there, monitor)


def from_state(recorded: Mapping[str, Any]) -> Group:
    """The group that ``Group.to_state`` described."""
    return Group(recorded["path"], recorded["made"], recorded["monitor"])


def _writes(rdt: Mapping[str, Any]) -> list[list[str]]:
    """The lines of each write(2). schemata comes apart: the kernel refuses two lines on one resource in one write."""
    l3_cache, bandwidth = rdt.get("l3CacheSchema"), rdt.get("memBwSchema")
    first = []
    if l3_cache and not (bandwidth and l3_cache.startswith("MB:")):
        first.append(l3_cache)
    if bandwidth:
        first.append(bandwidth)
    found: Sequence[list[str]] = (first, list(rdt.get("schemata") or ()))
    return [lines for lines in found if lines]


def parse(line: str) -> tuple[str, dict[str, str]]:
    """``L3:0=00ff;1=f`` → ``("L3", {"0": "ff", "1": "f"})``: values as the kernel prints and reads them alike."""
    name, _, rest = line.strip().partition(":")
    domains = {}
    for part in rest.split(";"):
        domain, equals, value = part.partition("=")
        if equals:
            domains[domain.strip().lstrip("0") or "0"] = value.strip().lower().lstrip("0") or "0"
    return name.strip(), domains


def _make(path: str, pointer: str) -> bool:
    """mkdir(2); False when it is there already. Raises errors.Error."""
    try:
        posix.mkdir(path, 0o755)
    except OSError as exc:
        if exc.errno == _EEXIST:
            return False
        hint = None
        if exc.errno == 28:  # ENOSPC
            hint = "the processor has no free class of service or monitoring id left"
        raise errors.from_os(exc, f"intelRdt: mkdir {path}", pointer=pointer, hint=hint) from exc
    return True


def _remove(path: str) -> None:
    """rmdir(2) of a group or of none. Raises errors.Error."""
    if not path:
        return
    try:
        posix.rmdir(path)
    except OSError as exc:
        if exc.errno != _ENOENT:
            raise errors.from_os(exc, f"intelRdt: remove {path}") from exc

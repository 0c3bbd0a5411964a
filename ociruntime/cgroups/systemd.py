"""The systemd cgroup driver: which unit a container is, and the managers of that unit's cgroup. Hot module.

A container is a transient scope (systemd.scope(5), org.freedesktop.systemd1(5) StartTransientUnit): systemd makes the
cgroup and moves init, which waits at TAG_CGROUP, into it. Limits go to systemd as properties of the unit, so that it
does not undo them (systemctl daemon-reload), and to the kernel's files, which are exact and know more.
"""

from __future__ import annotations

import _ocisys

from ociruntime import errors
from ociruntime.cgroups import files, hierarchy, tree
from ociruntime.cgroups.systemd_unit import Unit, guess_root, is_user
from ociruntime.cgroups.v1 import Place, V1Manager
from ociruntime.cgroups.v2 import V2Manager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ociruntime.cgroups.base import Manager, Target
    from ociruntime.cgroups.systemd_unit import Property

_POINTER = "/linux/cgroupsPath"
_NAME_MAX = 255  # of a unit, systemd.unit(5)
_NAME_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:-_.\\@")
_EMPTY_TIMEOUT = 2.0  # seconds that the init of a half-made container may take to die


def parse_systemd_path(path: str, container_id: str, *, user: bool = False) -> tuple[str, str, str]:
    """linux.cgroupsPath ``slice:prefix:name`` → (slice, unit, cgroup path from the root of the manager).

    Absent parts: slice ``system.slice`` (``user.slice`` of a user's manager), prefix ``ociruntime``, name the id.
    The unit is ``<prefix>-<name>.scope``. systemd.slice(5): ``a-b.slice`` lies in ``a.slice``, ``-.slice`` is the root.
    """
    default = "user.slice" if user else "system.slice"
    if not path:
        parts = ["", "", ""]
    else:
        parts = path.split(":")
        if len(parts) != 3:
            raise errors.Error(
                f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got {path!r}',
                pointer=_POINTER,
            )
    slice_name = parts[0] or default
    prefix = parts[1] if path else "ociruntime"
    name = parts[2] or container_id
    if name.endswith(".slice"):
        raise errors.Error(
            f"{name}: a slice holds no processes: a container is a scope",
            pointer=_POINTER,
            hint="slice:prefix:name, of which only the first is a slice",
        )
    unit = f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    for word in (slice_name, unit):
        if not _NAME_CHARS.issuperset(word) or len(word) > _NAME_MAX:
            raise errors.Error(
                f"invalid systemd unit name {word!r}",
                pointer=_POINTER,
                hint="letters, digits and : - _ . \\ @, at most 255 of them",
            )
    return slice_name, unit, f"{expand_slice(slice_name)}/{unit}"


def expand_slice(name: str) -> str:
    """Directory of a slice: ``a-b.slice`` → ``/a.slice/a-b.slice``; ``-.slice`` → ``""``."""
    if not name.endswith(".slice") or "/" in name or len(name) <= len(".slice"):
        raise errors.Error(f"invalid slice name: {name}", pointer=_POINTER)
    stem = name[: -len(".slice")]
    if stem == "-":
        return ""
    if stem.startswith("-") or stem.endswith("-") or "--" in stem:
        raise errors.Error(f"invalid slice name: {name}", pointer=_POINTER)
    path = ""
    prefix = ""
    for word in stem.split("-"):
        prefix = f"{prefix}-{word}" if prefix else word
        path += f"/{prefix}.slice"
    return path


def manager(
    path: str,
    container_id: str,
    *,
    rootless: bool | None,
    annotations: Mapping[str, str],
    euid: int | None,
    root: str,
    proc: str,
) -> Manager:
    """Decide on the unit of a new container; talks to nobody yet. Raises errors.Error.

    ``annotations``: those of the config, for ``org.systemd.property.*``.
    """
    user = is_user(euid)
    slice_name, name, below = parse_systemd_path(path, container_id, user=user)
    unit = Unit(name, slice_name, user)
    if annotations:
        from ociruntime.cgroups.systemd_annotations import properties

        unit.extra = properties(annotations)
    place = guess_root(user, proc) + below
    mode, places = hierarchy.survey(root, proc)
    if mode == "v2":
        found = V2Manager.plan(root, place, rootless, beside=False, proc=proc)
        return SystemdV2(unit, root, found.path, rootless)
    if mode == "none":
        raise errors.Error("the host has no cgroup file system mounted")
    return SystemdV1(unit, V1Manager.plan(places, place, rootless)._places, place, rootless)


def from_state(state: Mapping[str, Any]) -> Manager:
    """The manager that ``to_state`` described."""
    unit = Unit(state["unit"], state["slice"], state["user"])
    unit.socket = state.get("socket")
    # what had only been planned may have been asked for since
    unit.started = "yes" if state["started"] == "yes" else "asked"
    path, rootless = state["path"], state.get("rootless")
    if state["mode"] == "v2":
        return SystemdV2(unit, state["mount"], path, rootless)
    return SystemdV1(unit, [Place(c, m, path, n) for c, m, n in state["at"]], path, rootless)


class _Scope:
    """What the managers of both versions have in common; mixed into V2Manager and V1Manager.

    ``unit``; ``warnings``: of limits that were applied late, when the unit was there.
    """

    __slots__ = ()

    unit: Unit

    def _write_down(self, plain: dict[str, Any]) -> dict[str, Any]:
        unit = self.unit
        return {
            **plain,
            "driver": "systemd",
            "unit": unit.name,
            "slice": unit.slice,
            "user": unit.user,
            "socket": unit.socket,
            "started": unit.started,
        }

    def _start(self, pid: int, controllers: str, properties: list[Property]) -> str:
        """Let systemd make the unit around a process; the cgroup's path as the kernel tells it."""
        self.unit.start(pid, properties, "BlockIO" if controllers else "IO")
        path = dict(hierarchy.membership(pid)).get(controllers, "")
        if path.rpartition("/")[2] != self.unit.name:
            raise errors.Error(
                f"systemd did not move container init into {self.unit.name}: it is in {path or 'no cgroup'}"
            )
        return path

    def _may_remove(self, leaf: str, pids: Sequence[int]) -> bool:
        """Stop the unit; whether its cgroup may be removed.

        Of a unit that a killed runtime may never have started: who lives there is somebody else.
        """
        unit = self.unit
        if unit.started == "no":
            return False
        if unit.started == "asked":
            deadline = _ocisys.monotonic() + _EMPTY_TIMEOUT
            while pids and _ocisys.monotonic() < deadline:
                _ocisys.sleep(0.01)
                pids = tree.pids(leaf)
            if pids:
                return False
        # systemd removes the cgroup of a unit when that has ended, and forgets the unit (CollectMode=) at once
        if files.exists(leaf) or unit.started == "asked":
            unit.stop()
        return True


class SystemdV2(_Scope, V2Manager):
    """A scope on cgroup v2."""

    __slots__ = ("_delegate_uid", "_resources", "unit", "warnings")

    def __init__(self, unit: Unit, mount: str, path: str, rootless: bool | None) -> None:
        V2Manager.__init__(self, mount, path, 0, rootless)
        self.unit = unit
        self.warnings: list[str] = []
        self._resources: Mapping[str, Any] = {}
        self._delegate_uid: int | None = None

    def to_state(self) -> dict[str, Any]:
        return self._write_down(V2Manager.to_state(self))

    def create(
        self, resources: Mapping[str, Any] | None = None, *, delegate_uid: int | None = None
    ) -> None:
        self._resources = resources or {}
        self._delegate_uid = delegate_uid
        self.unit.connect()

    def must_attach(self) -> bool:
        if self.unit.started == "no":
            return True
        return self.unit.user and not self._reachable()

    def _reachable(self) -> bool:
        """Whether this process may move one of its own there: the nearest cgroup above both must be its
        (cgroup-v2.rst "Delegation Containment")."""
        own = dict(hierarchy.membership()).get("", "/").split("/")
        common = ""
        for mine, theirs in zip(own[1:], self.path.split("/")[1:], strict=False):
            if mine != theirs:
                break
            common += "/" + mine
        return files.writable(f"{self._mount}{common}/cgroup.procs")

    def attach(self, pid: int) -> None:
        if self.unit.started == "no":
            self._begin(pid)
            return
        try:
            files.write(self._leaf + "/cgroup.procs", str(pid))
        except OSError:
            base = self.path.find(self.unit.name)
            below = self.path[base + len(self.unit.name) :]
            self.unit.attach(pid, below or "/")

    def _begin(self, pid: int) -> None:
        from ociruntime.cgroups import systemd_properties as conversion

        resources = self._resources
        properties = conversion.for_new_v2(resources)
        self.path = self._start(pid, "", properties)
        self._leaf = self._mount + self.path
        needed = self.needed(resources)
        if needed:
            have = (files.read_or_none(self._leaf + "/cgroup.controllers") or "").split()
            missing = {name: pointer for name, pointer in needed.items() if name not in have}
            if missing:
                self.enable(missing, every=False)
        if "IOWeight" in {key for key, _, _ in properties} and self._read("io.bfq.weight"):
            # systemd makes BFQ's weight of the property; which of the two there is could not be seen before
            block = {"blockIO": resources.get("blockIO"), "unified": resources.get("unified")}
            self.unit.set(conversion.of_v2(conversion.update_v2(block, self._read)))
        self.warnings = V2Manager.apply(self, resources)
        if self._delegate_uid is not None:
            self._delegate(self._delegate_uid)

    def for_exec(self, subs: Sequence[str] = (), init_pid: int = 0) -> Manager:
        path = V2Manager.for_exec(self, subs, init_pid).path
        return SystemdV2(self.unit, self._mount, path, self.rootless)

    def apply(self, resources: Mapping[str, Any] | None, *, update: bool = False) -> list[str]:
        if not update:
            return []  # when the unit is there
        from ociruntime.cgroups import systemd_properties as conversion

        writes = conversion.update_v2(resources or {}, self._read)
        self.unit.check_reachable()
        try:
            warnings = V2Manager.apply(self, resources, update=True)
            for name, word, pointer in writes:
                if name == "cpu.idle" and word.strip() == "0":
                    # CPUWeight= 0 was what systemd knew of it
                    writes.append(("cpu.weight", self._read("cpu.weight") or "", pointer))
                    break
            before = [(name, self._read(name)) for name in conversion.REWRITTEN]
            self.unit.set(conversion.of_v2(writes))
            for name, exact in before:
                if exact is not None and self._read(name) != exact:
                    files.put(f"{self._leaf}/{name}", exact.strip())
        except errors.Error:
            if self.exists():
                raise
            # Below what is in use memory.max kills, and a scope without processes is no more.
            return ["the container ended while it was updated"]
        return warnings

    def _failure(self, exc: OSError, target: Target) -> errors.Error:
        error = V2Manager._failure(self, exc, target)
        controller = target[0].rpartition("/")[2].partition(".")[0]
        have = (files.read_or_none(self._leaf + "/cgroup.controllers") or "").split()
        if self.unit.user and controller not in have:
            error.hint = (
                f"systemd has not delegated {controller} to this user's manager: put Delegate={controller} "
                f"{' '.join(have)} into [Service] of a drop-in for user@.service, daemon-reload, log in again"
            )
        return error

    def delete(self) -> None:
        if self._ours and self._may_remove(self._leaf, self.pids()):
            V2Manager.delete(self)

    def kill_all(self, sig: int = 9) -> None:
        if self.unit.started == "yes":
            V2Manager.kill_all(self, sig)


class SystemdV1(_Scope, V1Manager):
    """A scope on cgroup v1, alone or hybrid: systemd makes it in its own hierarchies, we in all others."""

    __slots__ = ("_resources", "unit", "warnings")

    def __init__(self, unit: Unit, places: list[Place], path: str, rootless: bool | None) -> None:
        V1Manager.__init__(self, path, places, rootless)
        self.unit = unit
        self.warnings: list[str] = []
        self._resources: Mapping[str, Any] = {}

    def to_state(self) -> dict[str, Any]:
        return self._write_down(V1Manager.to_state(self))

    def create(
        self, resources: Mapping[str, Any] | None = None, *, delegate_uid: int | None = None
    ) -> None:
        self._resources = resources or {}
        self.unit.connect()

    def must_attach(self) -> bool:
        return self.unit.started == "no"

    def attach(self, pid: int) -> None:
        if self.unit.started == "no":
            self._begin(pid)
            return
        V1Manager.attach(self, pid)

    def _begin(self, pid: int) -> None:
        from ociruntime.cgroups import systemd_properties as conversion

        properties = conversion.for_new_v1(self._resources)
        path = self._start(pid, "name=systemd", properties)
        if path != self.path:
            self.path = path
            self._places = [
                Place(p.controllers, p.mount, path, tree.missing_parents(p.mount, path))
                for p in self._places
            ]
        self._create(adopt=True)
        V1Manager.attach(self, pid)
        bfq = self._read("blkio", "blkio.bfq.weight")
        if bfq and "BlockIOWeight" in {key for key, _, _ in properties}:
            block = {"blockIO": self._resources["blockIO"]}  # as for v2
            self.unit.set(conversion.of_v1(conversion.update_v1(block, self._read)))
        self.warnings = V1Manager.apply(self, self._resources)

    def for_exec(self, subs: Sequence[str] = (), init_pid: int = 0) -> Manager:
        return V1Manager.for_exec(self, subs, init_pid)

    def apply(self, resources: Mapping[str, Any] | None, *, update: bool = False) -> list[str]:
        if not update:
            return []  # when the unit is there
        from ociruntime.cgroups import systemd_properties as conversion

        writes = conversion.update_v1(resources or {}, self._read)
        self.unit.check_reachable()
        warnings = V1Manager.apply(self, resources, update=True)
        before = [(*where, self._read(*where)) for where in conversion.REWRITTEN_V1]
        self.unit.set(conversion.of_v1(writes))
        for controller, name, exact in before:
            place = self._place(controller)
            if place is not None and exact is not None and self._read(controller, name) != exact:
                files.put(f"{place.leaf}/{name}", exact.strip())
        return warnings

    def delete(self) -> None:
        leaf = next((p.leaf for p in self._places if p.controllers == "name=systemd"), "")
        if self._may_remove(leaf, self.pids()):
            V1Manager.delete(self)

    def kill_all(self, sig: int = 9) -> None:
        if self.unit.started == "yes":
            V1Manager.kill_all(self, sig)

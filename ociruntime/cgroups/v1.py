"""cgroup v1 hierarchies (cgroups(7), Documentation/admin-guide/cgroup-v1), with a cgroup2 tree beside them. Hot module.

The container has a cgroup of the same path in every mounted hierarchy, named ones and the cgroup2 tree included.
"""

from __future__ import annotations

import posix
from errno import EBUSY, ENODEV, ENOENT

import _ocisys

from ociruntime import errors
from ociruntime.cgroups import files, hierarchy, tree
from ociruntime.cgroups.base import FREEZE_TIMEOUT, LACKING, Manager, check_unused, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ociruntime.cgroups.base import Target

_WRITE = posix.O_WRONLY | posix.O_CLOEXEC


class Place:
    """One hierarchy: ``controllers`` (``""``: the cgroup2 tree), ``mount`` point, ``leaf`` directory,
    ``made``: how many parents of the leaf are made by this container."""

    __slots__ = ("controllers", "leaf", "made", "mount")

    def __init__(self, controllers: str, mount: str, path: str, made: int) -> None:
        self.controllers = controllers
        self.mount = mount
        self.leaf = mount + path
        self.made = made


class V1Manager(Manager):
    """cgroup v1, alone or hybrid."""

    __slots__ = ("_places",)

    def __init__(self, path: str, places: list[Place], rootless: bool | None) -> None:
        super().__init__(path, rootless)
        self._places = places
        self.mode = "v1" if self._unified() is None else "hybrid"

    @classmethod
    def plan(cls, mounts: list[tuple[str, str]], path: str, rootless: bool | None) -> V1Manager:
        """Decide on the directories; refuses those that somebody uses. Only looks."""
        places = []
        for controllers, mount in mounts:
            leaf = mount + path
            if files.exists(leaf):
                freezer = controllers == "freezer" or "freezer" in controllers.split(",")
                check_unused(leaf, freezer and _state(leaf) != "THAWED")
                made = 0
            else:
                made = tree.missing_parents(mount, path)
            places.append(Place(controllers, mount, path, made))
        return cls(path, places, rootless)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> V1Manager:
        """The manager that ``to_state`` described."""
        path = state["path"]
        return cls(path, [Place(c, m, path, n) for c, m, n in state["at"]], state.get("rootless"))

    def to_state(self) -> dict[str, Any]:
        return {
            "driver": "cgroupfs",
            "mode": "v1",
            "path": self.path,
            "rootless": self.rootless,
            "at": [[place.controllers, place.mount, place.made] for place in self._places],
        }

    # -- making and joining ------------------------------------------------------------------------

    def create(
        self, resources: Mapping[str, Any] | None = None, *, delegate_uid: int | None = None
    ) -> None:
        self._create(adopt=False)

    def _create(self, *, adopt: bool) -> None:
        """``adopt``: what is there already is ours, and in use."""
        kept: list[Place] = []
        for place in self._places:
            try:
                if not tree.make(place.mount, self.path) and not adopt:
                    try:
                        check_unused(place.leaf, False)
                    except errors.Error:
                        self._places = kept  # what is not ours must not be killed or removed
                        raise
                if place.controllers == "cpuset" or "cpuset" in place.controllers.split(","):
                    _init_cpuset(place.mount, self.path)
            except OSError as exc:
                if not self.tolerates(exc):
                    raise errors.from_os(
                        exc, f"cgroup: make {place.leaf}", pointer="/linux/cgroupsPath"
                    ) from None
                continue
            kept.append(place)
        self._places = kept

    def open_for_clone(self) -> int:
        place = self._unified()
        if place is None:
            return -1
        try:
            return posix.open(place.leaf, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
        except OSError as exc:
            raise errors.from_os(exc, f"cgroup: open {place.leaf}") from None

    def open_for_join(self) -> list[int]:
        fds: list[int] = []
        for place in self._places:
            if not place.controllers:
                continue
            try:
                fds.append(posix.open(place.leaf + "/tasks", _WRITE))
            except OSError as exc:
                if self.tolerates(exc):
                    continue
                for fd in fds:
                    posix.close(fd)
                raise errors.from_os(exc, f"cgroup: open {place.leaf}/tasks") from None
        return fds

    def attach(self, pid: int) -> None:
        for place in self._places:
            name = place.leaf + "/cgroup.procs"
            try:
                files.write(name, str(pid))
            except OSError as exc:
                if not self.tolerates(exc):
                    raise files.write_error(exc, name, str(pid), None) from None

    def for_exec(self, subs: Sequence[str] = (), init_pid: int = 0) -> Manager:
        paths = dict.fromkeys((place.controllers for place in self._places), self.path)
        for sub in subs:
            names, colon, path = sub.partition(":")
            path = path if colon else names
            below = tree.clean_path(f"{self.path}/{path}", what="--cgroup")
            if below != self.path and not below.startswith(self.path + "/"):
                raise errors.Error(f"--cgroup {sub}: not below the container's cgroup")
            if not colon:
                paths = dict.fromkeys(paths, below)
                continue
            for name in names.split(","):
                hit = [c for c in paths if name == c or name in c.split(",")]
                if not hit:
                    raise errors.Error(f"--cgroup {sub}: no cgroup controller {name}")
                paths[hit[0]] = below
        places = []
        for place in self._places:
            at = Place(place.controllers, place.mount, paths[place.controllers], 0)
            if subs and not files.exists(at.leaf + "/cgroup.procs"):
                raise errors.Error(f"--cgroup: {at.leaf}: no such file or directory")
            places.append(at)
        return V1Manager(self.path, places, self.rootless)

    def mount_facts(self) -> list[tuple[str, str, str, str]]:
        return [
            (
                hierarchy.dir_name(place.controllers),
                place.mount,
                hierarchy.mount_options(place.controllers),
                place.leaf[len(place.mount) :],
            )
            for place in self._places
        ]

    # -- limits ------------------------------------------------------------------------------------

    def apply(self, resources: Mapping[str, Any] | None, *, update: bool = False) -> list[str]:
        warnings: list[str] = []
        if resources:
            from ociruntime.cgroups import resources as conversion

            ours, theirs = self._split(resources)
            writes = conversion.v1_writes(ours, self._read, update=update, warnings=warnings)
            targets = [
                (f"{self._dir(controller, name, pointer)}/{name}", value, pointer)
                for controller, name, value, pointer in writes
            ]
            write_all(targets, _failure)
            unified = self._unified()
            if theirs and unified is not None:
                from ociruntime.cgroups.v2 import V2Manager

                manager = V2Manager(unified.mount, self.path, 0, self.rootless)
                manager.enable(manager.needed(theirs), every=False)
                manager.apply_limits(theirs, update, warnings)
        if not update:
            self.set_devices((resources or {}).get("devices") or ())
        return warnings

    def _split(self, resources: Mapping[str, Any]) -> tuple[Mapping[str, Any], dict[str, Any]]:
        """What v1 controllers do, and what a controller of the cgroup2 tree has to do instead."""
        from ociruntime.cgroups.resources import CONTROLLERS, asks

        unified = self._unified()
        missing = [
            key
            for key, (controller, _) in CONTROLLERS.items()
            if asks(key, resources) and self._place(controller) is None
        ]
        if not missing or unified is None:
            return resources, {}
        there = (files.read_or_none(unified.mount + "/cgroup.controllers") or "").split()
        theirs = {key: resources[key] for key in missing if CONTROLLERS[key][1] in there}
        ours = {key: value for key, value in resources.items() if key not in theirs}
        return ours, theirs

    def set_devices(self, rules: Sequence[Mapping[str, Any]], *, update: bool = False) -> None:
        place = self._place("devices")
        if place is None:
            self._set_devices_unified(rules, update)
            return
        from ociruntime.cgroups import devices

        current = None
        if update:
            listing = files.read_or_none(place.leaf + "/devices.list") or ""
            current = devices.parse_v1_list(listing)
        fds: dict[str, int] = {}
        try:
            for allow, text, pointer in devices.v1_writes(rules, current):
                name = "devices.allow" if allow else "devices.deny"
                try:
                    if name not in fds:
                        fds[name] = posix.open(f"{place.leaf}/{name}", _WRITE)
                    posix.write(fds[name], text.encode())
                except OSError as exc:
                    if not self.tolerates(exc):
                        raise files.write_error(exc, name, text, pointer) from None
                    return
        finally:
            for fd in fds.values():
                posix.close(fd)

    def _set_devices_unified(self, rules: Sequence[Mapping[str, Any]], update: bool) -> None:
        """Without a v1 devices hierarchy the filter goes to the cgroup2 tree."""
        if self.rootless:
            return
        unified = self._unified()
        if unified is None:
            raise errors.Error(
                "cannot restrict devices: the host has no devices cgroup",
                pointer="/linux/resources/devices",
            )
        from ociruntime.cgroups.v2 import V2Manager

        manager = V2Manager(unified.mount, self.path, 0, self.rootless)
        manager.set_devices(rules, update=update)

    # -- processes ---------------------------------------------------------------------------------

    def freezer_file(self) -> str:
        place = self._place("freezer")
        return place.leaf + "/freezer.state" if place else ""

    def _freezer(self) -> str:
        place = self._place("freezer")
        if place is None:
            raise errors.Error("cgroup: the container has no freezer cgroup", hint=LACKING)
        return place.leaf

    def freeze(self, timeout: float = FREEZE_TIMEOUT) -> None:
        leaf = self._freezer()
        start = _ocisys.monotonic()
        delay = 0.00005
        rounds = 0
        try:
            while True:
                files.write(leaf + "/freezer.state", "FROZEN")
                if _state(leaf) == "FROZEN":
                    return
                if _ocisys.monotonic() - start > timeout:
                    break
                rounds += 1
                if rounds % 16 == 0:
                    # two processes may wait for each other, one of them frozen already: let go, try again
                    files.write(leaf + "/freezer.state", "THAWED")
                _ocisys.sleep(delay)
                delay = min(delay * 2, 0.01)
            files.write(leaf + "/freezer.state", "THAWED")
        except OSError as exc:
            raise files.write_error(exc, "freezer.state", "FROZEN", None) from None
        raise errors.Error("cgroup: unable to freeze: a process does not stop in time")

    def thaw(self) -> None:
        leaf = self._freezer()
        try:
            files.write(leaf + "/freezer.state", "THAWED")
        except OSError as exc:
            if exc.errno != ENOENT:
                raise files.write_error(exc, "freezer.state", "THAWED", None) from None

    def forbid_forks(self) -> None:
        place = self._place("pids")
        if place is not None:
            try:
                files.write(place.leaf + "/pids.max", "0")
            except OSError:
                return

    def pids(self, recursive: bool = True) -> list[int]:
        place = self._place("freezer") or (self._places[0] if self._places else None)
        return [] if place is None else tree.pids(place.leaf, recursive=recursive)

    def exists(self) -> bool:
        return any(files.exists(place.leaf) for place in self._places)

    # -- figures and the end -----------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        from ociruntime.cgroups import stats

        leaves: dict[str, str] = {}
        for place in self._places:
            for controller in place.controllers.split(","):
                leaves[controller] = place.leaf
        return stats.v1(leaves)

    def oom_kills(self) -> int:
        place = self._place("memory")
        text = files.read_or_none(place.leaf + "/memory.oom_control") if place else None
        for line in (text or "").splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
        return 0

    def oom_file(self) -> str:
        place = self._place("memory")
        return place.leaf + "/memory.oom_control" if place else ""

    def delete(self) -> None:
        deadline = _ocisys.monotonic() + tree.REMOVE_TIMEOUT
        for place in self._places:
            tree.remove(place.mount, self.path, place.made, deadline)

    # -- look-up -----------------------------------------------------------------------------------

    def _place(self, controller: str) -> Place | None:
        for place in self._places:
            if place.controllers == controller or controller in place.controllers.split(","):
                return place
        return None

    def _unified(self) -> Place | None:
        for place in self._places:
            if not place.controllers:
                return place
        return None

    def _dir(self, controller: str, name: str, pointer: str) -> str:
        place = self._place(controller)
        if place is None:
            raise errors.Error(
                f"cannot set {name}: the container has no {controller} cgroup",
                pointer=pointer,
                hint=LACKING,
            )
        return place.leaf

    def _read(self, controller: str, name: str) -> str | None:
        place = self._place(controller)
        return None if place is None else files.read_or_none(f"{place.leaf}/{name}")


def _state(leaf: str) -> str:
    """THAWED, FREEZING or FROZEN; THAWED when there is no such cgroup."""
    return (files.read_or_none(leaf + "/freezer.state") or "THAWED").strip()


def _init_cpuset(mount: str, path: str) -> None:
    """A v1 cpuset takes no process before it has cpus and memory nodes: copy the parent's (cpuset(7))."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        _inherit(mount, path, name)


def _inherit(mount: str, path: str, name: str) -> None:
    parent = path.rpartition("/")[0]
    value = files.read(f"{mount}{parent}/{name}").strip()
    if not value and parent:
        _inherit(mount, parent, name)
        value = files.read(f"{mount}{parent}/{name}").strip()
    files.write(f"{mount}{path}/{name}", value)


def _failure(exc: OSError, target: Target) -> errors.Error:
    place, value, pointer = target
    leaf, _, name = place.rpartition("/")
    hint = None
    if exc.errno == EBUSY and name == "memory.limit_in_bytes":
        usage = (files.read_or_none(leaf + "/memory.usage_in_bytes") or "?").strip()
        peak = (files.read_or_none(leaf + "/memory.max_usage_in_bytes") or "?").strip()
        hint = f"current usage {usage}, peak usage {peak}"
    elif exc.errno == ENOENT:
        hint = "this kernel does not offer the limit"
    elif exc.errno == ENODEV:
        from ociruntime.cgroups.resources_io import missing_device

        hint = missing_device(name)
    return files.write_error(exc, name, value, pointer, hint)

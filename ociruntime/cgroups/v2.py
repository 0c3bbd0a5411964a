"""cgroup v2 (Documentation/admin-guide/cgroup-v2.rst). Hot module."""

from __future__ import annotations

import posix
from errno import EBUSY, ENODEV, ENOENT, EOPNOTSUPP

import _ocisys

from ociruntime import errors
from ociruntime.cgroups import files, hierarchy, tree
from ociruntime.cgroups.base import (
    FREEZE_TIMEOUT,
    LACKING,
    SIGKILL,
    Manager,
    check_unused,
    write_all,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from ociruntime.cgroups.base import Target

DELEGATE = "/sys/kernel/cgroup/delegate"
# what the kernel's list has had from the beginning, for kernels without it
_DELEGATE_DEFAULT = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")


class V2Manager(Manager):
    """The unified hierarchy. ``mount``: its root; ``made``: parents of the leaf that are made by this container."""

    __slots__ = ("_leaf", "_made", "_mount", "_ours")

    def __init__(self, mount: str, path: str, made: int, rootless: bool | None) -> None:
        super().__init__(path, rootless)
        self.mode = "v2"
        self._mount = mount
        self._made = made
        self._leaf = mount + path
        self._ours = True

    @classmethod
    def plan(
        cls, mount: str, path: str, rootless: bool | None, *, beside: bool, proc: str
    ) -> V2Manager:
        """Decide on the directory; refuses one that somebody uses. Only looks.

        ``beside``: nothing was configured, or a relative path. Then an ordinary user's container lies beside the
        caller's own cgroup, the only place where one may have been delegated to that user.
        """
        manager = cls(mount, path, 0, rootless)
        if beside and manager._ordinary():
            own = dict(hierarchy.membership(None, proc)).get("", "/")
            manager = cls(mount, own.rpartition("/")[0] + path, 0, rootless)
        if files.exists(manager._leaf):
            manager._refuse_threads()
            check_unused(manager._leaf, _event(manager._leaf, "frozen") == 1)
        else:
            manager._made = tree.missing_parents(mount, manager.path)
        return manager

    def _ordinary(self) -> bool:
        """Whether an ordinary user makes the container."""
        return posix.geteuid() != 0 if self.rootless is None else self.rootless

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> V2Manager:
        """The manager that ``to_state`` described."""
        return cls(state["mount"], state["path"], state["made"], state.get("rootless"))

    def to_state(self) -> dict[str, Any]:
        return {
            "driver": "cgroupfs",
            "mode": "v2",
            "path": self.path,
            "rootless": self.rootless,
            "mount": self._mount,
            "made": self._made,
        }

    # -- making and joining ------------------------------------------------------------------------

    def create(
        self, resources: Mapping[str, Any] | None = None, *, delegate_uid: int | None = None
    ) -> None:
        try:
            if not tree.make(self._mount, self.path):
                try:
                    check_unused(self._leaf, False)
                except errors.Error:
                    self._ours = False  # so it must not be killed or removed
                    raise
        except OSError as exc:
            if self.tolerates(exc):
                return
            raise errors.from_os(
                exc, f"cgroup: make {self._leaf}", pointer="/linux/cgroupsPath"
            ) from None
        self._refuse_threads()
        self.enable(self.needed(resources or {}))
        if delegate_uid is not None:
            self._delegate(delegate_uid)

    def _refuse_threads(self) -> None:
        """Refuse a place in a threaded subtree: its cgroups hold threads, and list no processes to signal."""
        kind = (files.read_or_none(self._leaf + "/cgroup.type") or "").strip()
        if kind in ("threaded", "domain invalid"):
            raise errors.Error(
                f"cgroup: {self._leaf} is in a threaded subtree (cgroup.type is {kind!r})",
                pointer="/linux/cgroupsPath",
                hint="a container needs a domain cgroup: name one outside the subtree",
            )

    def needed(self, resources: Mapping[str, Any]) -> dict[str, str]:
        """Controllers that the resources cannot do without, with the JSON pointer of what asks for each."""
        from ociruntime.cgroups.resources import CONTROLLERS, asks

        out = {}
        for key, (_, controller) in CONTROLLERS.items():
            if asks(key, resources):
                out[controller] = f"/linux/resources/{key}"
        cpu = resources.get("cpu") or {}
        for key, value in cpu.items():
            if value:
                out["cpuset" if key in ("cpus", "mems") else "cpu"] = f"/linux/resources/cpu/{key}"
        for key in resources.get("unified") or {}:
            controller = key.partition(".")[0]
            if controller != "cgroup":
                pointer = "/linux/resources/unified/" + errors.pointer_step(key)
                out[controller] = pointer
        return out

    def enable(self, needed: Mapping[str, str], *, every: bool = True) -> None:
        """Enable controllers from the root down to the leaf: those in ``needed``, which must not be missing, or with
        ``every`` all that there are (for the figures that they keep)."""
        place = self._mount
        for part in self.path.split("/")[1:]:
            try:
                self._enable_at(place, needed, every)
            except OSError as exc:
                if needed and not self.tolerates(exc):
                    raise errors.from_os(
                        exc,
                        f"cgroup: write to {place}/cgroup.subtree_control",
                        pointer=next(iter(needed.values())),
                    ) from None
            place += "/" + part

    def _enable_at(self, place: str, needed: Mapping[str, str], every: bool) -> None:
        """Children of ``place`` get its controllers (cgroup-v2.rst "Enabling and Disabling")."""
        have = files.read(place + "/cgroup.controllers").split()
        on = files.read(place + "/cgroup.subtree_control").split()
        missing = [name for name in have if name not in on and (every or name in needed)]
        if not missing:
            return
        name = place + "/cgroup.subtree_control"
        try:
            files.write(name, " ".join("+" + controller for controller in missing))
            return
        except OSError as exc:
            if exc.errno == EBUSY:
                # Controllers of threads could be had one by one, which would make the place a threaded subtree.
                for controller in missing:
                    if controller in needed:
                        raise files.write_error(
                            exc,
                            name,
                            "+" + controller,
                            needed[controller],
                            f"{place} holds processes of its own: only one without may have sub-cgroups with limits",
                        ) from None
                return
        # one that cannot be enabled here keeps none from the others
        for controller in missing:
            try:
                files.write(name, "+" + controller)
            except OSError as exc:
                if controller in needed and not self.tolerates(exc):
                    raise files.write_error(
                        exc, name, "+" + controller, needed[controller]
                    ) from None

    def _delegate(self, uid: int) -> None:
        """Give the cgroup to the container's user, as cgroup-v2.rst "Delegation" says; the group stays."""
        listed = files.read_or_none(DELEGATE)
        names = tuple(listed.split()) if listed is not None else _DELEGATE_DEFAULT
        for name in ("", *names):
            try:
                posix.chown(f"{self._leaf}/{name}", uid, -1)
            except OSError as exc:
                if exc.errno == ENOENT and name:
                    continue
                if not self.tolerates(exc):
                    raise errors.from_os(exc, f"cgroup: chown {self._leaf}/{name}") from None

    def open_for_clone(self) -> int:
        try:
            return posix.open(self._leaf, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
        except OSError as exc:
            if self.rootless and exc.errno == ENOENT:
                return -1
            raise errors.from_os(exc, f"cgroup: open {self._leaf}") from None

    def attach(self, pid: int) -> None:
        name = self._leaf + "/cgroup.procs"
        try:
            files.write(name, str(pid))
        except OSError as exc:
            if self.tolerates(exc) or (self.rootless and exc.errno == ENOENT):
                return
            hint = None
            if exc.errno == EOPNOTSUPP:
                hint = "the cgroup is threaded, or lies below a threaded one"
            raise files.write_error(exc, name, str(pid), None, hint) from None

    def for_exec(self, subs: Sequence[str] = (), init_pid: int = 0) -> Manager:
        path = self.path
        if len(subs) > 1 or (subs and ":" in subs[0]):
            raise errors.Error(f"--cgroup {subs[-1]}: cgroup v2 has one hierarchy, give one path")
        if subs:
            path = tree.clean_path(f"{path}/{subs[0]}", what="--cgroup")
            if path != self.path and not path.startswith(self.path + "/"):
                raise errors.Error(f"--cgroup {subs[0]}: not below the container's cgroup")
            if not files.exists(f"{self._mount}{path}/cgroup.procs"):
                raise errors.Error(f"--cgroup: {self._mount}{path}: no such file or directory")
        elif (
            init_pid and (files.read_or_none(self._leaf + "/cgroup.subtree_control") or "").strip()
        ):
            # a manager of sub-cgroups runs in the container; its cgroup itself may hold no process any more
            own = dict(hierarchy.membership(init_pid)).get("", "")
            if own.startswith(path + "/"):
                path = own
        return V2Manager(self._mount, path, 0, self.rootless)

    def mount_facts(self) -> list[tuple[str, str, str, str]]:
        return [("", self._mount, "", self.path)]

    # -- limits ------------------------------------------------------------------------------------

    def apply(self, resources: Mapping[str, Any] | None, *, update: bool = False) -> list[str]:
        warnings: list[str] = []
        if resources:
            self.apply_limits(resources, update, warnings)
        if not update:
            self.set_devices((resources or {}).get("devices") or ())
        return warnings

    def apply_limits(self, resources: Mapping[str, Any], update: bool, warnings: list[str]) -> None:
        """All of the resources but the devices."""
        from ociruntime.cgroups.resources import v2_writes

        writes = v2_writes(resources, self._read, update=update, warnings=warnings)
        if writes and not files.exists(self._leaf):
            raise errors.Error(
                f"cannot set {writes[0][0]}: the container has no cgroup: {self._leaf} does not exist",
                pointer=writes[0][2],
                hint="no permission to make cgroups here: an ordinary user needs a delegated one",
            )
        write_all(
            [(f"{self._leaf}/{name}", value, pointer) for name, value, pointer in writes],
            self._failure,
        )

    def _read(self, name: str) -> str | None:
        return files.read_or_none(f"{self._leaf}/{name}")

    def _failure(self, exc: OSError, target: Target) -> errors.Error:
        path, value, pointer = target
        name = path.rpartition("/")[2]
        hint = None
        if exc.errno == ENOENT:
            controller = name.partition(".")[0]
            enabled = (files.read_or_none(self._leaf + "/cgroup.controllers") or "").split()
            if controller in enabled:
                hint = "this kernel does not offer the limit"
            else:
                hint = f"controller {controller} is not available here (there are: {' '.join(enabled)})"
        elif exc.errno == ENODEV:
            from ociruntime.cgroups.resources_io import missing_device

            hint = missing_device(name)
        return files.write_error(exc, name, value, pointer, hint)

    def set_devices(
        self,
        rules: Sequence[Mapping[str, Any]],
        *,
        update: bool = False,
        load: Callable[[bytes], int] | None = None,
        attach: Callable[[int, int, int | None], None] | None = None,
        attached: Callable[[int], int | None] | None = None,
    ) -> None:
        """Load the device filter and put it on the cgroup.

        ``load(program) -> fd``, ``attach(cgroup_fd, program_fd, replaced_fd)``, ``attached(cgroup_fd) -> fd`` of the
        program that is there: host.native's, or a test's. With ``update`` the kernel exchanges the program at once
        (BPF_F_REPLACE), so there is no moment without a filter or with two.
        """
        if self._ordinary() or not files.exists(self._leaf):
            return
        from ociruntime.cgroups import bpf, devices

        if load is None or attach is None:
            from ociruntime.host import native

            load = native.bpf_prog_load
            attach = native.bpf_prog_attach
            attached = attached or getattr(native, "bpf_prog_attached", None)
        text = bpf.program([*devices.parse_rules(rules), *devices.DEFAULT_RULES])
        fds: list[int] = []
        try:
            fds.append(posix.open(self._leaf, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC))
            fds.append(load(text))
            old = attached(fds[0]) if update and attached is not None else None
            if old is not None:
                fds.append(old)
            attach(fds[0], fds[1], old)
        except OSError as exc:
            if not self.tolerates(exc):
                raise errors.from_os(
                    exc, "cgroup: device filter (bpf)", pointer="/linux/resources/devices"
                ) from None
        finally:
            for fd in fds:
                posix.close(fd)

    # -- processes ---------------------------------------------------------------------------------

    def freezer_file(self) -> str:
        return self._leaf + "/cgroup.freeze"

    def freeze(self, timeout: float = FREEZE_TIMEOUT) -> None:
        self._write_freeze("1")
        deadline = _ocisys.monotonic() + timeout
        delay = 0.00005
        while _event(self._leaf, "frozen") != 1:
            if _ocisys.monotonic() > deadline:
                self._write_freeze("0")
                raise errors.Error("cgroup: unable to freeze: a process does not stop in time")
            _ocisys.sleep(delay)
            delay = min(delay * 2, 0.01)

    def thaw(self) -> None:
        if files.exists(self._leaf):
            self._write_freeze("0")

    def _write_freeze(self, value: str) -> None:
        if not files.exists(self._leaf):  # an ordinary user's container may do without
            raise errors.Error(
                f"cannot freeze: the container has no cgroup: {self._leaf} does not exist",
                hint=LACKING,
            )
        files.put(self._leaf + "/cgroup.freeze", value)

    def forbid_forks(self) -> None:
        try:
            files.write(self._leaf + "/pids.max", "0")
        except OSError:
            return

    def pids(self, recursive: bool = True) -> list[int]:
        return tree.pids(self._leaf, recursive=recursive)

    def exists(self) -> bool:
        return files.exists(self._leaf)

    def kill_all(self, sig: int = SIGKILL) -> None:
        if not self._ours:
            return
        if sig == SIGKILL and self.path.strip("/"):
            found = self.pids()
            if not found:
                return
            try:
                if posix.getpid() not in found:
                    files.write(self._leaf + "/cgroup.kill", "1")  # Linux 5.14
                    return
            except OSError as exc:
                if exc.errno != ENOENT and not self.tolerates(exc):
                    raise files.write_error(exc, "cgroup.kill", "1", None) from None
        super().kill_all(sig)

    # -- figures and the end -----------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        from ociruntime.cgroups import stats

        return stats.v2(self._leaf)

    def oom_kills(self) -> int:
        return _keyed(self._leaf + "/memory.events", "oom_kill")

    def oom_file(self) -> str:
        return self._leaf + "/memory.events"

    def delete(self) -> None:
        if self._ours:
            deadline = _ocisys.monotonic() + tree.REMOVE_TIMEOUT
            tree.remove(self._mount, self.path, self._made, deadline)


def owner(spec: Mapping[str, Any]) -> int | None:
    """Host uid that gets the container's cgroup, None for nobody (config-linux.md "Cgroup ownership").

    Only a container that sees nothing else of the hierarchy, and may write there, can use it: it has a new cgroup
    namespace and a writable mount. The uid is that of process.user, as the host sees it.
    """
    linux = spec.get("linux") or {}
    kinds = {item["type"]: item.get("path") for item in linux.get("namespaces") or ()}
    if kinds.get("cgroup", "") is not None:
        return None
    writable = False
    for mount in spec.get("mounts") or ():
        if mount.get("type") in ("cgroup", "cgroup2"):
            words = [
                word for word in mount.get("options") or () if word in ("ro", "rw", "rro", "rrw")
            ]
            writable = not words or words[-1] in ("rw", "rrw")
    uid: int | None = ((spec.get("process") or {}).get("user") or {}).get("uid")
    if not writable or uid is None:
        return None
    if "user" not in kinds:
        return uid or None
    maps = [
        (item["containerID"], item["hostID"], item["size"])
        for item in linux.get("uidMappings") or _maps_of(kinds["user"] or "")
    ]
    return next(
        (uid - inner + outer for inner, outer, size in maps if 0 <= uid - inner < size), None
    )


def _maps_of(path: str) -> list[dict[str, int]]:
    """The uid map of a joined user namespace, where its path tells a process of it; else []."""
    words = path.split("/")
    if len(words) != 5 or words[1] != "proc" or words[3:] != ["ns", "user"]:
        return []
    numbers = files.numbers(files.read_or_none(f"/proc/{words[2]}/uid_map") or "")
    return [
        {"containerID": numbers[i], "hostID": numbers[i + 1], "size": numbers[i + 2]}
        for i in range(0, len(numbers) - 2, 3)
    ]


def _event(leaf: str, key: str) -> int:
    return _keyed(leaf + "/cgroup.events", key)


def _keyed(path: str, key: str) -> int:
    """A value of a flat keyed file; 0 when it is not there."""
    for line in (files.read_or_none(path) or "").splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0

"""cgroups: one interface over v1, hybrid, v2 and no cgroup at all. Hot package.

``manager`` decides where a container's cgroup is (only looking), ``Manager.to_state`` is written down, then
``create`` makes it; ``from_state`` gives the manager back to every later verb.
"""

from __future__ import annotations

from ociruntime import errors
from ociruntime.cgroups import hierarchy, tree
from ociruntime.cgroups.hierarchy import detect, mount_facts, mount_links

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ociruntime.cgroups.base import Manager

__all__ = ["detect", "from_state", "manager", "mount_facts", "mount_links"]


def manager(
    kind: str,
    path: str | None,
    container_id: str,
    *,
    rootless: bool | None = None,
    annotations: Mapping[str, str] | None = None,
    euid: int | None = None,
    root: str = hierarchy.ROOT,
    proc: str = "/proc",
) -> Manager:
    """Decide on the cgroup of a new container; makes nothing.

    ``kind``: ``cgroupfs``, ``systemd`` or ``disabled``. ``path``: linux.cgroupsPath or None. Absolute paths start at
    the root of each hierarchy, relative ones as well, so one value always names one place;
    absent: ``/<container_id>``. For an ordinary user on v2, both lie beside the caller's own cgroup.
    With systemd it is ``slice:prefix:name``; ``annotations`` are the config's, for ``org.systemd.property.*``.
    ``euid``: for whom this is, when that is not the caller. ``root`` and ``proc`` are for tests.
    Raises ``errors.Error`` for a path that cannot be used.
    """
    if kind == "systemd":
        from ociruntime.cgroups import systemd

        return systemd.manager(
            path or "",
            container_id,
            rootless=rootless,
            annotations=annotations or {},
            euid=euid,
            root=root,
            proc=proc,
        )
    if kind == "disabled":
        from ociruntime.cgroups.disabled import DisabledManager

        return DisabledManager("the cgroup manager is disabled", chosen=True)
    if kind != "cgroupfs":
        raise errors.Error(f"unknown cgroup manager {kind!r}")
    place = tree.clean_path(path or container_id)
    if place == "/":
        raise errors.Error("the root cgroup cannot be a container's", pointer="/linux/cgroupsPath")
    mode, places = hierarchy.survey(root, proc)
    if mode == "v2":
        from ociruntime.cgroups.v2 import V2Manager

        beside = not path or path[0] != "/"
        return V2Manager.plan(root, place, rootless, beside=beside, proc=proc)
    if mode == "none":
        from ociruntime.cgroups.disabled import DisabledManager

        return DisabledManager("the host has no cgroup file system mounted", chosen=False)
    from ociruntime.cgroups.v1 import V1Manager

    return V1Manager.plan(places, place, rootless)


def from_state(state: Mapping[str, Any]) -> Manager:
    """The manager that ``Manager.to_state`` described."""
    if state.get("driver") == "disabled":
        from ociruntime.cgroups.disabled import DisabledManager

        return DisabledManager(state["why"], state["chosen"])
    if state.get("driver") == "systemd":
        from ociruntime.cgroups import systemd

        return systemd.from_state(state)
    if state.get("mode") == "v2":
        from ociruntime.cgroups.v2 import V2Manager

        return V2Manager.from_state(state)
    from ociruntime.cgroups.v1 import V1Manager

    return V1Manager.from_state(state)

"""The systemd cgroup driver: its place in the interface, and the paths it takes. Hot module."""

from __future__ import annotations

from ociruntime import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def parse_systemd_path(path: str, container_id: str, *, user: bool = False) -> tuple[str, str, str]:
    """linux.cgroupsPath ``slice:prefix:name`` → (slice, unit, cgroup path from the root of the hierarchy).

    Absent parts: slice ``system.slice`` (``user.slice`` of a user's manager), prefix ``ociruntime``, name the id.
    The unit is ``<prefix>-<name>.scope``, or the name itself when that names a slice. systemd.slice(5):
    ``a-b.slice`` lies in ``a.slice``, ``-.slice`` is the root.
    """
    default = "user.slice" if user else "system.slice"
    if not path:
        parts = ["", "", ""]
    else:
        parts = path.split(":")
        if len(parts) != 3:
            raise errors.Error(
                f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got {path!r}',
                pointer="/linux/cgroupsPath",
            )
    slice_name = parts[0] or default
    prefix = parts[1] if path else "ociruntime"
    name = parts[2] or container_id
    for part in (slice_name, prefix, name):
        if "/" in part or any(char < " " for char in part):
            raise errors.Error(
                f"invalid systemd unit name part {part!r}", pointer="/linux/cgroupsPath"
            )
    if name.endswith(".slice"):
        unit = name
    else:
        unit = f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    return slice_name, unit, f"{expand_slice(slice_name)}/{unit}"


def expand_slice(name: str) -> str:
    """Directory of a slice: ``a-b.slice`` → ``/a.slice/a-b.slice``; ``-.slice`` → ``""``."""
    if not name.endswith(".slice") or "/" in name or len(name) <= len(".slice"):
        raise errors.Error(f"invalid slice name: {name}", pointer="/linux/cgroupsPath")
    stem = name[: -len(".slice")]
    if stem == "-":
        return ""
    if stem.startswith("-") or stem.endswith("-") or "--" in stem:
        raise errors.Error(f"invalid slice name: {name}", pointer="/linux/cgroupsPath")
    path = ""
    prefix = ""
    for word in stem.split("-"):
        prefix = f"{prefix}-{word}" if prefix else word
        path += f"/{prefix}.slice"
    return path


def manager(path: str, container_id: str) -> NoReturn:
    """Check the path, then say that the driver is not there."""
    parse_systemd_path(path, container_id)
    raise errors.Error("systemd cgroup driver not available yet", hint="leave --systemd-cgroup out")

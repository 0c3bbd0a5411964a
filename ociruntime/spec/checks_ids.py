"""Rules on id mappings: of the user namespace, of idmapped mounts, and the ids that the process uses.

Hot module.
"""

from __future__ import annotations

from ociruntime.spec.context import UNMAPPABLE, Context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

MAX_EXTENTS = 340
"""Lines of a uid_map since Linux 4.15 (user_namespaces(7))."""
MAP_SIZE = 4096
"""A map is one write of less than a page (user_namespaces(7)); the smallest page of our architectures."""


def mappings(entries: Sequence[dict[str, Any]], pointer: str, ctx: Context) -> None:
    """What the kernel accepts as a map (user_namespaces(7)); never truncated to fit."""
    if len(entries) > MAX_EXTENTS:
        ctx.error(
            "map-size",
            pointer,
            f"too many ranges (got {len(entries)}), the kernel takes {MAX_EXTENTS}",
        )
        return
    for index, entry in enumerate(entries):
        size = entry["size"]
        if not size:
            ctx.error(
                "map-range", f"{pointer}/{index}/size", "empty range (got 0), expected at least 1"
            )
        for name in ("containerID", "hostID"):
            if entry[name] + size > UNMAPPABLE:
                ctx.error(
                    "map-range",
                    f"{pointer}/{index}/{name}",
                    f"range beyond the last id (got {entry[name]} + {size}), expected at most {UNMAPPABLE}",
                )
    for name in ("containerID", "hostID"):
        ordered = sorted(range(len(entries)), key=lambda index: (entries[index][name], index))
        for position in range(1, len(ordered)):
            before, after = ordered[position - 1], ordered[position]
            if entries[before][name] + entries[before]["size"] > entries[after][name]:
                ctx.error(
                    "map-overlap",
                    f"{pointer}/{max(before, after)}/{name}",
                    f"overlaps the range of entry {min(before, after)}",
                )
    text = sum(
        len(f"{entry['containerID']} {entry['hostID']} {entry['size']}\n") for entry in entries
    )
    if text >= MAP_SIZE:
        ctx.error(
            "map-size", pointer, f"map of {text} bytes, the kernel takes less than {MAP_SIZE}"
        )


def user_namespace(spec: dict[str, Any], ctx: Context) -> None:
    """config-linux.md, "User namespace mappings": with a user namespace, and a new one needs them."""
    linux = ctx.linux
    if "user" not in ctx.namespaces:
        for name in ("uidMappings", "gidMappings"):
            if linux.get(name):
                ctx.error(
                    "mappings-without-userns",
                    f"/linux/{name}",
                    "user namespace mappings specified, but no user namespace in linux.namespaces",
                    'add {"type": "user"} to linux.namespaces',
                )
        return
    for name, kind in (("uidMappings", "uid"), ("gidMappings", "gid")):
        entries = linux.get(name)
        if entries:
            mappings(entries, f"/linux/{name}", ctx)
        elif not ctx.namespaces["user"]:
            ctx.error(
                "userns-mappings",
                f"/linux/{name}",
                f"user namespaces enabled, but no {kind} mappings found",
            )


def process_user(spec: dict[str, Any], ctx: Context) -> None:
    """The ids in use are mapped in the new user namespace: else the kernel refuses them with EINVAL."""
    if ctx.namespaces.get("user") != "":
        return
    user = ctx.process.get("user") or {}
    groups = user.get("additionalGids") or ()
    used = [
        ("uidMappings", "/linux/uidMappings", 0, "root of the container"),
        ("gidMappings", "/linux/gidMappings", 0, "root of the container"),
        ("uidMappings", "/process/user/uid", user.get("uid", 0), "uid"),
        ("gidMappings", "/process/user/gid", user.get("gid", 0), "gid"),
    ]
    for index, group in enumerate(groups):
        used.append(("gidMappings", f"/process/user/additionalGids/{index}", group, "gid"))
    for name, pointer, number, what in used:
        entries = ctx.linux.get(name)
        if entries and not any(
            entry["containerID"] <= number < entry["containerID"] + entry["size"]
            for entry in entries
        ):
            ctx.error("id-unmapped", pointer, f"{what} {number} is not in linux.{name}")

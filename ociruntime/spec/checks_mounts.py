"""Rules on ``mounts``.

Hot module.
"""

from __future__ import annotations

from ociruntime.paths import clean
from ociruntime.spec.checks_ids import mappings
from ociruntime.spec.context import Context, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BELOW_PROC = frozenset(
    {
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/loadavg",
        "/proc/meminfo",
        "/proc/net/dev",
        "/proc/slabinfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/sys/crypto/fips_enabled",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/uptime",
    }
)
"""What may be mounted over below /proc: files that lxcfs and checkpoints replace, none that a label is written to."""


def check(spec: dict[str, Any], ctx: Context) -> None:
    for index, mount in enumerate(spec.get("mounts") or ()):
        pointer = f"/mounts/{index}"
        options = mount.get("options") or ()
        bind = mount.get("type") == "bind" or "bind" in options or "rbind" in options
        _destination(mount, bind, pointer, ctx)
        if bind and not mount.get("source") and "remount" not in options:
            ctx.error("bind-source", f"{pointer}/source", "missing source of a bind mount")
        if (
            "uidMappings" in mount
            or "gidMappings" in mount
            or "idmap" in options
            or "ridmap" in options
        ):
            _idmap(mount, pointer, ctx)


def _destination(mount: dict[str, Any], bind: bool, pointer: str, ctx: Context) -> None:
    """config.md, "Mounts"; and no mount that hides the procfs files which the runtime or a label relies on
    (CVE-2016-3631, CVE-2019-16884)."""
    destination = mount["destination"]
    if not destination:
        ctx.error("mount-destination", f"{pointer}/destination", "empty destination")
        return
    if destination[0] != "/":
        message = f"not an absolute path (got {shown(destination)})"
        if ctx.strict:
            ctx.error("mount-destination", f"{pointer}/destination", message)
        else:
            ctx.warn(f"{pointer}/destination", f"{message}, taken from /")
    if "proc" not in destination:
        return
    path = clean(destination)
    if path == "/proc":
        if mount.get("type") != "proc" and not bind:
            ctx.error(
                "mount-on-proc",
                f"{pointer}/type",
                f"/proc must be a procfs (got type {shown(mount.get('type'))}), expected proc or a bind of one",
            )
    elif path.startswith("/proc/") and path not in BELOW_PROC:
        ctx.error(
            "mount-on-proc",
            f"{pointer}/destination",
            f"cannot be mounted because it is inside /proc (got {shown(destination)})",
        )


def _idmap(mount: dict[str, Any], pointer: str, ctx: Context) -> None:
    """config.md, "Mounts": both maps or none; with none, those of the container's user namespace."""
    uids, gids = mount.get("uidMappings"), mount.get("gidMappings")
    if bool(uids) != bool(gids):
        missing = "gidMappings" if uids else "uidMappings"
        ctx.error(
            "idmap-pair", f"{pointer}/{missing}", "missing: uidMappings and gidMappings go together"
        )
    elif not uids and "user" not in ctx.namespaces:
        options = mount.get("options") or ()
        if "idmap" in options or "ridmap" in options:
            ctx.error(
                "idmap-mappings",
                f"{pointer}/options",
                "idmapped mount without uidMappings, gidMappings or a user namespace to take them from",
            )
    mappings(uids or (), f"{pointer}/uidMappings", ctx)
    mappings(gids or (), f"{pointer}/gidMappings", ctx)

"""Namespaces: how init gets into them, alone or through its parent's clone flags.

Hot module. See "Process structure" in docs/architecture.md.
"""

from __future__ import annotations

from ociruntime.plan import ops, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ociruntime.plan.context import Context


def read(ctx: Context, linux: dict[str, Any]) -> None:
    """Note which namespaces are new (path ``""``) and which joined, and ask for the latter's descriptors."""
    for index, entry in enumerate(linux.get("namespaces") or ()):
        ctx.namespaces[entry["type"]] = path = entry.get("path") or ""
        if path:
            name = "ns:" + entry["type"]
            ctx.plan.fd(name)
            ctx.plan.paths[name] = (path, f"/linux/namespaces/{index}/path")
    ctx.userns = "user" in ctx.namespaces
    if ctx.userns:
        ctx.uid_maps = linux.get("uidMappings") or []
        ctx.gid_maps = linux.get("gidMappings") or []


def enter(ctx: Context, linux: dict[str, Any]) -> None:
    """Put init into all namespaces and its cgroup."""
    plan = ctx.plan
    origin = "/linux/namespaces"
    new = 0
    joined: list[tuple[int, int]] = []
    for kind, flag in words.NAMESPACES.items():
        path = ctx.namespaces.get(kind)
        if path == "":
            new |= flag
        elif path is not None and kind != "user":
            joined.append((plan.fds.index("ns:" + kind), flag))
    staged = ctx.userns or joined or new & words.NEWTIME
    if staged:
        _enter_staged(ctx, linux, new, joined)
    else:
        plan.clone_flags = new & ~words.NEWCGROUP
    # Only now: in a cgroup that is at its pids limit a process may be moved, but not cloned.
    if ctx.options.cgroup_join == "sync":
        ctx.sync("/linux/cgroupsPath" if linux.get("cgroupsPath") else "", ops.TAG_CGROUP)
    if new & words.NEWCGROUP:
        plan.add(origin, ops.UNSHARE, words.NEWCGROUP)


def _enter_staged(
    ctx: Context, linux: dict[str, Any], new: int, joined: list[tuple[int, int]]
) -> None:
    """What a parent's clone flags cannot say: namespaces to join, a user or time namespace."""
    plan = ctx.plan
    origin = "/linux/namespaces"
    # Namespaces that the host owns have to be joined before the user namespace, those that it owns itself after.
    for slot, flag in joined:
        if ctx.userns:
            plan.add(origin, ops.SETNS, slot, flag, flags=ops.F_IGNORE, errnos=words.EPERM)
        else:
            plan.add(origin, ops.SETNS, slot, flag)
    if ctx.userns:
        _user(ctx, origin, new)
        for slot, flag in joined:
            plan.add(origin, ops.SETNS, slot, flag, flags=ops.F_RETRY)
    rest = new & ~(words.NEWUSER | words.NEWCGROUP)
    if rest:
        plan.add(origin, ops.UNSHARE, rest)
    offsets = linux.get("timeOffsets")
    if offsets and new & words.NEWTIME:
        _offsets(ctx, offsets)
    if new & (words.NEWPID | words.NEWTIME) or ctx.namespaces.get("pid"):
        plan.add(origin, ops.CLONE, 0)


def _user(ctx: Context, origin: str, new: int) -> None:
    """The user namespace, new or joined, and root in it."""
    plan = ctx.plan
    if new & words.NEWUSER:
        plan.add(origin, ops.UNSHARE, words.NEWUSER)
        ctx.sync("/linux/uidMappings", ops.TAG_USERNS)
    else:
        plan.add(origin, ops.SETNS, plan.fds.index("ns:user"), words.NEWUSER)
    become_root(ctx, origin)


def become_root(ctx: Context, origin: str) -> None:
    """User and group 0 of the user namespace, or the first ones that there are; no supplementary groups."""
    uid, gid = first_id(ctx.uid_maps), first_id(ctx.gid_maps)
    if setgroups_denied(ctx):
        ctx.plan.add(origin, ops.IDS, uid, gid, ops.NONE, ops.IDS_NO_SETGROUPS)
    else:
        ctx.plan.add(origin, ops.IDS, uid, gid, b"", 0)


def first_id(mappings: list[dict[str, int]]) -> int:
    """0 where it is mapped (or nothing is known), else the lowest id inside."""
    lowest = min((entry["containerID"] for entry in mappings if entry["size"]), default=0)
    return int(lowest)


def setgroups_denied(ctx: Context) -> bool:
    """Whether setgroups(2) is switched off: by a namespace above, or by an ordinary user's map of its own group alone,
    user_namespaces(7)."""
    facts = ctx.facts
    if facts.no_setgroups:
        return True
    if facts.privileged or facts.euid == 0 or not ctx.userns:
        return False
    maps = ctx.gid_maps
    return len(maps) == 1 and maps[0]["size"] == 1 and maps[0]["hostID"] == facts.egid


def _offsets(ctx: Context, offsets: dict[str, Any]) -> None:
    """linux.timeOffsets: before the first process of the time namespace exists, time_namespaces(7)."""
    for clock, offset in offsets.items():
        seconds, nanoseconds = offset.get("secs") or 0, offset.get("nanosecs") or 0
        ctx.plan.add(
            f"/linux/timeOffsets/{clock}",
            ops.WRITE,
            ctx.procfs,
            "self/timens_offsets",
            f"{clock} {seconds} {nanoseconds}\n",
            ops.WRITE_PROCFS | (ops.WRITE_DUMPABLE if ctx.userns else 0),
        )

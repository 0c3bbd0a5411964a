"""Mounts of type ``cgroup``: cgroup2 alone, or a tmpfs with a directory for each v1 hierarchy.

Hot module. Where the container has no cgroup namespace of its own, its cgroup directory on the host is bound.
"""

from __future__ import annotations

from ociruntime.plan import mounts, ops, words
from ociruntime.plan.mount_options import RDONLY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ociruntime.plan.context import Context
    from ociruntime.plan.mount_options import Options


def add(ctx: Context, origin: str, destination: str, options: Options) -> None:
    """All operations of one cgroup mount. ``ro`` holds for every mount in it (CVE-2023-25809)."""
    facts = ctx.facts
    if facts.cgroup_mode == "none" or not facts.cgroup_mounts:
        ctx.plan.warnings.append(
            f"{destination} is left out: the host has no cgroup file system mounted"
        )
        return
    if facts.cgroup_mode == "v2":
        _unified(ctx, origin, destination, options)
    else:
        _hierarchies(ctx, origin, destination, options)


def _own_namespace(ctx: Context) -> bool:
    return "cgroup" in ctx.namespaces


def _directories(ctx: Context, name: str, place: str, path: str) -> tuple[str, str]:
    """Host directory of the container's cgroup in one hierarchy, and where it may be in its stead.

    An ordinary user cannot always make a cgroup: the container is then in that of the runtime.
    """
    inherited = place if path == "/" else place + path
    own = ctx.options.cgroup_dirs.get(name, inherited)
    return own, inherited if ctx.facts.euid or ctx.facts.in_userns else own


def _unified(ctx: Context, origin: str, destination: str, options: Options) -> None:
    """cgroup2, or a bind of what the host shows where mounting it is not allowed.

    Without a cgroup namespace of its own always the bind: a mount there would set the one hierarchy's flags, such as
    nsdelegate, anew for the whole host.
    """
    plan = ctx.plan
    tree = plan.slot()
    name, place, _, path = ctx.facts.cgroup_mounts[0]
    source = place
    if _own_namespace(ctx):
        source = _directories(ctx, name, place, path)[1]
        plan.add(
            origin,
            ops.FSMOUNT,
            tree,
            "cgroup2",
            "cgroup",
            tuple(options.superblock + options.data),
            len(options.superblock) + len(options.data),
            options.attr_set,
            flags=ops.F_ALT,
            errnos=ops.errno_set(words.EPERM, words.EBUSY),
        )
    plan.add(origin, ops.TREE, tree, ops.NONE, source, words.AT_RECURSIVE, 0)
    mounts.set_attributes(ctx, origin, tree, options)
    plan.add(origin, ops.ATTACH, tree, ctx.root, destination, ops.TARGET_DIR, 0, ops.NONE)


def _hierarchies(ctx: Context, origin: str, destination: str, options: Options) -> None:
    """A tmpfs with the v1 hierarchies, the cgroup2 tree of a hybrid host, and links such as cpu → cpu,cpuacct."""
    plan = ctx.plan
    base, own = plan.slot(), _own_namespace(ctx)
    attributes = options.attr_set & ~RDONLY
    plan.add(origin, ops.FSMOUNT, base, "tmpfs", "tmpfs", ("mode=755",), 1, attributes)
    plan.add(origin, ops.ATTACH, base, ctx.root, destination, ops.TARGET_DIR, 0, base)
    flags, errnos = (ops.F_ALT, ops.errno_set(words.EPERM, words.EBUSY)) if own else (0, 0)
    for name, place, data, path in ctx.facts.cgroup_mounts:
        tree = plan.slot()
        if own:
            kind, items = ("cgroup", tuple(data.split(","))) if data else ("cgroup2", ())
            plan.add(
                origin,
                ops.FSMOUNT,
                tree,
                kind,
                "cgroup",
                items,
                len(items),
                attributes,
                flags=flags,
                errnos=errnos,
            )
        source, other = _directories(ctx, name, place, path)
        if not own and source != other:
            plan.add(
                origin,
                ops.TREE,
                tree,
                ops.NONE,
                source,
                0,
                0,
                flags=ops.F_ALT,
                errnos=words.ENOENT,
            )
        plan.add(origin, ops.TREE, tree, ops.NONE, other, 0, 0)
        plan.add(
            origin, ops.ATTACH, tree, ctx.root, f"{destination}/{name}", ops.TARGET_DIR, 0, ops.NONE
        )
        if "," in name and name == data:
            for controller in name.split(","):
                plan.add(origin, ops.SYMLINK, ctx.root, f"{destination}/{controller}", name)
    # One change of the whole tree gives every mount in it the attributes that were asked for.
    plan.add(
        origin,
        ops.SETATTR,
        base,
        options.attr_set,
        options.attr_clr,
        0,
        words.AT_RECURSIVE,
        ops.NONE,
    )
    if options.rec_set or options.rec_clr:
        plan.add(
            origin,
            ops.SETATTR,
            base,
            options.rec_set,
            options.rec_clr,
            0,
            words.AT_RECURSIVE,
            ops.NONE,
        )
    for flag in options.propagation:
        mounts.set_propagation(ctx, origin, base, flag)

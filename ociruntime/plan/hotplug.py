"""Plans that change the mounts of a running container (`mounts add`, `mounts remove`). Cold module.

Such a plan has neither a gate nor a program: init joins the container's mount namespace, does its work and exits.
"""

from __future__ import annotations

from typing import Any

from ociruntime.paths import clean
from ociruntime.plan import mounts, namespaces, ops, words
from ociruntime.plan.context import Context, Options, refuse
from ociruntime.plan.facts import Facts


def compile_add(entries: list[dict[str, Any]], facts: Facts, options: Options) -> ops.Plan:
    """The plan that attaches bind mounts, in order. ``options.namespaces`` as for exec. Raises errors.Error."""
    if not facts.privileged:
        raise refuse(
            "mounts can only be added by a privileged runtime",
            "",
            hint="run it as root of the host",
        )
    for index, entry in enumerate(entries):
        if not _is_bind(entry):
            raise refuse("only bind mounts can be added to a running container", f"/mounts/{index}")
    ctx = Context(facts, options)
    plan = ctx.plan
    pidfd = plan.fd("pidfd")
    _users(ctx)
    found = mounts.read(ctx, {"mounts": entries})
    _join(ctx, pidfd)
    mounts.add(ctx, found, "")
    return plan


def compile_remove(
    entries: list[dict[str, Any]], known: dict[str, int], facts: Facts, options: Options
) -> ops.Plan:
    """The plan that takes mounts off again, the last one first.

    ``known``: destination → mount id of what `mounts add` has attached: such a path may lead through symlinks, as what
    is there has to be that very mount. Any other one is taken literally, so that no symlink of the container's leads
    to a mask. Raises errors.Error.
    """
    ctx = Context(facts, options)
    plan = ctx.plan
    pidfd = plan.fd("pidfd")
    procfs = plan.fd("procfs")
    _users(ctx)
    _join(ctx, pidfd)
    for index in reversed(range(len(entries))):
        destination = clean(entries[index]["destination"])
        origin = f"/mounts/{index}"
        if destination == "/":
            raise refuse("the root of the container cannot be removed", origin)
        mount_id = known.get(destination, ops.NONE)
        plan.add(origin, ops.UNMOUNT, procfs, ctx.root, destination, mount_id)
    return plan


def _is_bind(entry: dict[str, Any]) -> bool:
    options = entry.get("options") or ()
    remount = "remount" in options
    return not remount and ("bind" in options or "rbind" in options or entry.get("type") == "bind")


def _users(ctx: Context) -> None:
    ctx.userns = bool(ctx.options.namespaces & words.NEWUSER)
    if ctx.userns and ctx.options.users is not None:
        ctx.uid_maps, ctx.gid_maps = ctx.options.users


def _join(ctx: Context, pidfd: int) -> None:
    """Enter the mount namespace, as root of the container's user namespace, who owns what is made below the root."""
    mask = ctx.options.namespaces
    if not mask & words.NEWNS:
        raise refuse("the container has no mount namespace of its own", "")
    ctx.plan.add("", ops.SETNS, pidfd, mask & (words.NEWNS | words.NEWUSER))
    if ctx.userns:
        namespaces.become_root(ctx, "")
    ctx.root = ctx.plan.slot()
    ctx.plan.add("", ops.OPEN, ctx.root, ops.NONE, "/", words.O_PATH_DIRECTORY, 0, 0, 0)

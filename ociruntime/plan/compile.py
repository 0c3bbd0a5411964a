"""spec + facts + options → plan: a pure function.

Hot module. The order of a create plan is stated in docs/architecture.md.
"""

from __future__ import annotations

from ociruntime.errors import pointer_step
from ociruntime.paths import clean
from ociruntime.plan import devices, mounts, namespaces, ops, process, words
from ociruntime.plan.context import Context, Options, refuse
from ociruntime.plan.mount_options import MS_PRIVATE, MS_REC, MS_SLAVE, PROPAGATION, RDONLY
from ociruntime.spec.sysctl import path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ociruntime.plan.facts import Facts
    from ociruntime.plan.ops import Plan

__all__ = ["Options", "compile_create"]


def compile_create(spec: dict[str, Any], facts: Facts, options: Options) -> Plan:
    """The plan that makes a container out of a checked config.json. Raises ``errors.Error``."""
    ctx = Context(facts, options)
    plan = ctx.plan
    linux = spec.get("linux") or {}
    program = spec.get("process")
    # Descriptors first: their slots come before those that operations fill.
    if options.gate:
        plan.fd("gate")
    if process.writes_label(program or {}) or linux.get("sysctl") or linux.get("timeOffsets"):
        ctx.procfs = plan.fd("procfs")
    own_mounts = any(entry["type"] == "mount" for entry in linux.get("namespaces") or ())
    given_root = facts.privileged and own_mounts
    if given_root:
        plan.fd("rootfs")
        plan.paths["rootfs"] = (facts.rootfs, "/root/path")
    namespaces.read(ctx, linux)
    _root_propagation(ctx, linux)
    entries = mounts.read(ctx, spec)
    nodes = devices.read(ctx, linux, entries)
    namespaces.enter(ctx, linux)
    if ctx.namespaces.get("network") == "":
        plan.add("/linux/namespaces", ops.LOOPBACK)
    if linux.get("netDevices"):
        if not facts.privileged:
            hint = "run it as root: a device of the host cannot be moved by anybody else"
            raise refuse("network devices need a privileged runtime", "/linux/netDevices", hint)
        ctx.sync("/linux/netDevices", ops.TAG_NETWORK)
    process.session(ctx, program or {}, create=True)
    if own_mounts:
        _root(ctx, given_root)
    else:
        _plain_root(ctx, spec, linux, entries)
    mounts.add(ctx, entries, linux.get("mountLabel") or "")
    devices.add(ctx, nodes)
    console = ops.NONE
    if program and options.console:
        console = process.terminal(ctx, program, ops.CONSOLE_MOUNT if own_mounts else 0)
    if program:
        _make_cwd(ctx, clean(program["cwd"]))
    hooks = spec.get("hooks") or {}
    if hooks.get("prestart") or hooks.get("createRuntime") or hooks.get("createContainer"):
        ctx.sync("/hooks", ops.TAG_HOOKS)
    devices.hide(ctx, linux)
    for origin, slot in ctx.late_readonly:
        plan.add(origin, ops.SETATTR, slot, RDONLY, 0, 0, 0, ops.NONE)
    if (spec.get("root") or {}).get("readonly"):
        plan.add("/root/readonly", ops.SETATTR, ctx.root, RDONLY, 0, 0, 0, ops.NONE)
    _pivot(ctx, own_mounts)
    _kernel_names(ctx, spec, linux)
    process.memory_and_personality(ctx, linux)
    if program:
        process.become(ctx, program, console, gate=options.gate)
    elif options.gate:
        plan.add("", ops.GATE, plan.fds.index("gate"))
    if not facts.mount_setattr:
        from ociruntime.plan import old_kernel

        old_kernel.rewrite(plan)
    return plan


def _root_propagation(ctx: Context, linux: dict[str, Any]) -> None:
    word = linux.get("rootfsPropagation")
    if not word:
        return
    flag = PROPAGATION.get(word)
    if flag is None:
        raise refuse(f"unknown propagation {word!r}", pointer="/linux/rootfsPropagation")
    if flag & MS_PRIVATE and ctx.options.no_pivot:
        raise refuse(
            "rootfsPropagation private is not possible with --no-pivot",
            pointer="/linux/rootfsPropagation",
        )
    ctx.propagation = flag


def _root(ctx: Context, given: bool) -> None:
    """The root's tree over its own path, in a mount namespace from which nothing propagates back."""
    plan = ctx.plan
    propagation = MS_PRIVATE if ctx.propagation & MS_PRIVATE else MS_SLAVE
    origin = "/linux/rootfsPropagation" if ctx.propagation else ""
    ctx.call(origin, "mount", 0, "/", 0, propagation | MS_REC, 0)
    tree = ops.NONE
    if given:
        tree = plan.fds.index("rootfs")
        # The parent has cloned it in the host's namespace: out of the host's peer groups.
        plan.add("/root/path", ops.SETATTR, tree, 0, 0, propagation, words.AT_RECURSIVE, ops.NONE)
    ctx.root = plan.slot()
    plan.add("/root/path", ops.ROOT, ctx.root, tree, ctx.facts.rootfs, ops.ROOT_RECURSIVE)


def _plain_root(
    ctx: Context, spec: dict[str, Any], linux: dict[str, Any], entries: list[Any]
) -> None:
    """Without a mount namespace of its own the container may change nothing in the host's."""
    asked = (
        ("/mounts", entries),
        ("/linux/maskedPaths", linux.get("maskedPaths")),
        ("/linux/readonlyPaths", linux.get("readonlyPaths")),
        ("/linux/rootfsPropagation", linux.get("rootfsPropagation")),
        ("/root/readonly", (spec.get("root") or {}).get("readonly")),
    )
    for pointer, value in asked:
        if value:
            raise refuse("this needs a mount namespace", pointer)
    ctx.root = ctx.plan.slot()
    ctx.plan.add(
        "/root/path",
        ops.OPEN,
        ctx.root,
        ops.NONE,
        ctx.facts.rootfs,
        words.O_PATH_DIRECTORY,
        0,
        0o040000,
        0,
    )


def _make_cwd(ctx: Context, cwd: str) -> None:
    """process.cwd may be missing; only CHDIR, as the user, says whether it can be used."""
    if cwd != "/":
        errnos = ops.errno_set(words.EACCES, words.EROFS)
        ctx.plan.add(
            "/process/cwd",
            ops.MKDIR,
            ctx.root,
            cwd,
            0o755,
            ops.NONE,
            ops.NONE,
            flags=ops.F_IGNORE,
            errnos=errnos,
        )


def _pivot(ctx: Context, own_mounts: bool) -> None:
    plan, facts = ctx.plan, ctx.facts
    if not own_mounts:
        plan.add("/root/path", ops.PIVOT, ctx.root, ops.PIVOT_CHROOT)
        return
    if not ctx.options.no_pivot:
        plan.add("/root/path", ops.PIVOT, ctx.root, ops.PIVOT_ROOT)
    else:
        # The old root stays reachable from inside: the host's procfs and sysfs must not.
        denied = ops.errno_set(words.EPERM, words.EINVAL, words.ENOENT)
        inside = facts.rootfs.rstrip("/") + "/"
        for point, kind in facts.mounts:
            if (kind == "proc" or kind == "sysfs") and not point.startswith(inside):
                ctx.call("", "umount2", point, 2, flags=ops.F_ALT, errnos=denied)  # MNT_DETACH
                # What lay below another one is gone with it.
                gone = {"flags": ops.F_IGNORE, "errnos": words.ENOENT}
                ctx.call("", "mount", "tmpfs", point, "tmpfs", 0, 0, **gone)
        plan.add("/root/path", ops.PIVOT, ctx.root, ops.PIVOT_MOVE)
    if ctx.propagation:
        ctx.call("/linux/rootfsPropagation", "mount", 0, "/", 0, ctx.propagation, 0)


def _kernel_names(ctx: Context, spec: dict[str, Any], linux: dict[str, Any]) -> None:
    """hostname, domainname, sysctl."""
    for key, call in (("hostname", "sethostname"), ("domainname", "setdomainname")):
        name = spec.get(key)
        if name:
            if "uts" not in ctx.namespaces:
                raise refuse(
                    f"unable to set {key} without a private UTS namespace", pointer=f"/{key}"
                )
            raw = name.encode("utf-8", "surrogateescape")
            ctx.call(f"/{key}", call, raw, len(raw))
    for key, value in (linux.get("sysctl") or {}).items():
        origin = "/linux/sysctl/" + pointer_step(key)
        try:
            path = f"sys/{path_of(key)}"
        except ValueError as exc:
            raise refuse(f"sysctl {key!r}: {exc}", pointer=origin) from exc
        ctx.plan.add(
            origin, ops.WRITE, ctx.procfs, path, value, ops.WRITE_PROCFS | ops.WRITE_SKIP_SAME
        )

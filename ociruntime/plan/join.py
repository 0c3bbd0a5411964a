"""Plans for a container that exists: one more process (`exec`), and the hooks that run inside.

Hot module, apart from compile.py because neither needs what makes a container.
"""

from __future__ import annotations

from ociruntime.plan import namespaces, ops, process, words
from ociruntime.plan.context import Context, bit_mask, number_list, refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ociruntime.plan.context import Options
    from ociruntime.plan.facts import Facts
    from ociruntime.plan.ops import Plan


def compile_exec(program: dict[str, Any], facts: Facts, options: Options) -> Plan:
    """The plan of one more process in a container: ``options.namespaces`` are joined through its init's pidfd.

    ``program``: a process object with user, args, cwd. Raises ``errors.Error``.
    """
    ctx = Context(facts, options)
    plan = ctx.plan
    pidfd = plan.fd("pidfd")
    if process.writes_label(program):
        ctx.procfs = plan.fd("procfs")
    own_mounts = bool(options.namespaces & words.NEWNS)
    if not own_mounts:
        ctx.root = plan.fd("root")
    ctx.userns = bool(options.namespaces & words.NEWUSER)
    if ctx.userns and options.users is not None:
        ctx.uid_maps, ctx.gid_maps = options.users
    affinity = program.get("execCPUAffinity") or {}
    _affinity(ctx, affinity, "initial")
    _join(ctx, pidfd)
    _affinity(ctx, affinity, "final")
    process.session(ctx, program, create=False)
    if own_mounts:
        ctx.root = plan.slot()
        plan.add("", ops.OPEN, ctx.root, ops.NONE, "/", words.O_PATH_DIRECTORY, 0, 0, 0)
    else:
        plan.add("", ops.PIVOT, ctx.root, ops.PIVOT_CHROOT)
    console = process.terminal(ctx, program, 0) if options.console else ops.NONE
    process.memory_and_personality(ctx, options.linux)
    process.become(ctx, program, console, gate=False)
    return plan


def _join(ctx: Context, pidfd: int) -> None:
    """Enter a container's namespaces, and then its cgroup, which may be at its pids limit."""
    mask = ctx.options.namespaces
    if mask:
        ctx.plan.add("", ops.SETNS, pidfd, mask)
    if ctx.userns:
        namespaces.become_root(ctx, "")
    if mask & (words.NEWPID | words.NEWUSER | words.NEWTIME):
        ctx.plan.add("", ops.CLONE, 0)
    if ctx.options.cgroup_join == "sync":
        ctx.sync("", ops.TAG_CGROUP)


def _affinity(ctx: Context, affinity: dict[str, Any], key: str) -> None:
    """execCPUAffinity: sched_setaffinity(2) before and after the move into the cgroup."""
    text = affinity.get(key)
    if text:
        pointer = f"/process/execCPUAffinity/{key}"
        numbers = number_list(text, 1 << 14, pointer)
        if not numbers:
            raise refuse(f"{text!r} names no CPU", pointer=pointer)
        mask = bit_mask(numbers)
        ctx.call(pointer, "sched_setaffinity", 0, len(mask), mask)


def compile_hook(
    hook: dict[str, Any], facts: Facts, options: Options, pointer: str, *, inside: bool
) -> Plan:
    """The plan of a createContainer (``inside`` false: the root is not pivoted yet) or startContainer hook.

    The environment is exactly the hook's (CVE-2025-23266); the working directory is the bundle or, inside, ``/``.
    """
    ctx = Context(facts, options)
    plan = ctx.plan
    pidfd = plan.fd("pidfd")
    ctx.userns = bool(options.namespaces & words.NEWUSER)
    if ctx.userns and options.users is not None:
        ctx.uid_maps, ctx.gid_maps = options.users
    _join(ctx, pidfd)
    ctx.root = plan.slot()
    plan.add("", ops.OPEN, ctx.root, ops.NONE, "/", words.O_PATH_DIRECTORY, 0, 0, 0)
    plan.add("", ops.CHDIR, ctx.root, "/" if inside else options.bundle)
    arguments = tuple(hook.get("args") or (hook["path"],))
    entries = tuple(hook.get("env") or ())
    plan.add(pointer, ops.FIND_EXE, hook["path"], ops.NONE)
    plan.add(pointer, ops.EXEC, arguments, len(arguments), entries, len(entries), ops.NONE)
    return plan

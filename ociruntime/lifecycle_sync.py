"""What the host does at each rendezvous with init (the SYNC operations of a create plan).

Hot module.
"""

from __future__ import annotations

import posix

from ociruntime import container as lifecycle
from ociruntime import errors, state
from ociruntime.host import launch, procfs
from ociruntime.plan import ops, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ociruntime.cgroups.base import Manager
    from ociruntime.host.launch import Handlers, Init
    from ociruntime.lifecycle_create import Creation
    from ociruntime.plan.facts import Facts


def handlers(creation: Creation) -> Handlers:
    """One function for each tag."""
    return {
        ops.TAG_CGROUP: lambda init: creation.at_cgroup(init),
        ops.TAG_USERNS: lambda init: _write_maps(creation, init),
        ops.TAG_RLIMITS: lambda init: set_rlimits(init, creation.process.get("rlimits") or ()),
        ops.TAG_NETWORK: lambda init: _move_devices(creation, init),
        ops.TAG_HOOKS: lambda init: _run_hooks(creation, init),
    }


def must_move(spec: dict[str, Any]) -> bool:
    """Whether init joins its cgroup late: a clone by the first process would count, and the pids limit allows none."""
    resources = (spec.get("linux") or {}).get("resources") or {}
    limit = (resources.get("pids") or {}).get("limit")
    return limit is not None and 0 <= limit < 2


def must_record(spec: dict[str, Any], cgroup_mode: str, facts: Facts) -> bool:
    """Whether state.json has to name init before it goes on: for hooks, and where no cgroup may tell which it is.

    An ordinary user may have none, and init may reach its gate in the moment in which the runtime is killed.
    """
    if cgroup_mode == "none" or facts.euid != 0 or facts.in_userns:
        return True
    return any((spec.get("hooks") or {}).values())


def must_wait(spec: dict[str, Any], cgroup_mode: str, facts: Facts) -> bool:
    """Whether a create plan has TAG_CGROUP, wherever its cgroup is."""
    adjustment = (spec.get("process") or {}).get("oomScoreAdj")
    return (
        adjustment is not None
        or must_move(spec)
        or must_record(spec, cgroup_mode, facts)
        or "intelRdt" in (spec.get("linux") or {})
    )


def start_init(
    plan: ops.Plan,
    encoded: bytes,
    fds: list[int],
    manager: Manager,
    *,
    preserve_fds: int,
    move: bool,
) -> Init:
    """Start init, in its cgroup from birth (see Manager.open_for_join) unless it is to be moved later.

    Raises errors.Error.
    """
    join_fds: list[int] = []
    cgroup_fd = -1
    try:
        if not move:
            cgroup_fd = manager.open_for_clone()
            join_fds = manager.open_for_join()
        return launch.launch(
            plan,
            encoded,
            fds,
            preserve_fds=preserve_fds,
            cgroup_fd=cgroup_fd,
            join_fds=join_fds,
        )
    finally:
        if cgroup_fd >= 0:
            posix.close(cgroup_fd)
        for fd in join_fds:
            posix.close(fd)


def settle(init: Init, manager: Manager, process: dict[str, Any], *, move: bool) -> None:
    """At TAG_CGROUP, when init has its final pid: its cgroup, if it is not there yet, and its oom_score_adj.

    Raises errors.Error.
    """
    if move:
        manager.attach(init.pid)
    if process.get("oomScoreAdj") is not None:
        _set_oom_score(init.pid, process["oomScoreAdj"])


def lend_oom_score(process: dict[str, Any]) -> bytes:
    """Take the process's oomScoreAdj, for a child to inherit; what it was before. Raises errors.Error."""
    own = procfs.read_record("/proc/self/oom_score_adj")
    _set_oom_score(posix.getpid(), process["oomScoreAdj"])
    return own


def take_oom_score_back(own: bytes) -> None:
    """Have the oom_score_adj of before, which the kernel allows to everybody (proc(5))."""
    directory = procfs.open_pid(posix.getpid())
    try:
        procfs.write(directory, "oom_score_adj", own.strip())
    finally:
        posix.close(directory)


def _set_oom_score(pid: int, adjustment: int) -> None:
    """process.oomScoreAdj, by the parent: lowering it takes a privilege that init gives up. Raises errors.Error."""
    try:
        directory = procfs.open_pid(pid)
        try:
            procfs.write(directory, "oom_score_adj", b"%d" % adjustment)
        finally:
            posix.close(directory)
    except OSError as exc:
        what = f"write {adjustment} to oom_score_adj"
        hint = "only with CAP_SYS_RESOURCE may it be lowered" if exc.errno in (1, 13) else None
        raise errors.from_os(exc, what, pointer="/process/oomScoreAdj", hint=hint) from exc


def _write_maps(creation: Creation, init: Init) -> None:
    from ociruntime.host import idmap

    linux = creation.linux
    idmap.write_maps(
        init.pid,
        linux.get("uidMappings") or [],
        linux.get("gidMappings") or [],
        privileged=creation.facts.privileged,
    )


def set_rlimits(init: Init, limits: Sequence[dict[str, Any]]) -> None:
    """process.rlimits from outside: inside a user namespace nobody may raise one. Raises errors.Error."""
    from ociruntime.host import native

    for index, limit in enumerate(limits):
        try:
            native.prlimit(init.pid, words.RLIMITS[limit["type"]], limit["soft"], limit["hard"])
        except OSError as exc:
            hint = None
            if exc.errno == 1:
                hint = "a hard limit can only be raised with CAP_SYS_RESOURCE, or by the login (limits.conf)"
            pointer = f"/process/rlimits/{index}"
            raise errors.from_os(exc, f"set {limit['type']}", pointer=pointer, hint=hint) from exc


def _move_devices(creation: Creation, init: Init) -> None:
    from ociruntime.host import netdev

    # Kept open: should create fail, the namespace has to outlive init until they are back.
    creation.netns = posix.open(f"/proc/{init.pid}/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)
    creation.net_devices = netdev.move(creation.linux["netDevices"], creation.netns)


def return_devices(creation: Creation) -> None:
    """Give the host its network devices back: create has failed. Raises errors.Error."""
    moved, creation.net_devices = creation.net_devices, []
    if moved:
        from ociruntime.host import netdev

        netdev.give_back(moved, creation.netns)


def _run_hooks(creation: Creation, init: Init) -> None:
    """prestart and createRuntime here, createContainer in the container's namespaces, before the root changes."""
    from ociruntime import lifecycle_hooks

    hooks, linux = creation.hooks, creation.linux
    creation.hooks_ran = True
    document = lifecycle.encoded_document(creation.document(state.CREATING))
    for kind in ("prestart", "createRuntime"):
        if hooks.get(kind):
            from ociruntime.host import hooks as runner

            runner.run(kind, hooks[kind], document, cwd=creation.bundle)
    if hooks.get("createContainer"):
        lifecycle_hooks.run_inside(
            "createContainer",
            hooks["createContainer"],
            document,
            init.pidfd,
            bundle=creation.bundle,
            namespaces=creation.container.data["namespaces"],
            users=(linux.get("uidMappings") or [], linux.get("gidMappings") or []),
            attach=creation.manager.attach,
        )


def take_listener(creation: Creation, fd: int) -> None:
    """Hand the seccomp listener to the agent that the profile names."""
    from ociruntime.host import seccomp

    profile = creation.linux["seccomp"]
    seccomp.send_listener(
        profile["listenerPath"],
        profile.get("listenerMetadata", ""),
        creation.document(state.CREATING),
        creation.init.pid,
        fd,
    )

"""createContainer and startContainer hooks: each is a plan of its own that joins the container and executes.

Hot module, imported only when there are such hooks.
"""

from __future__ import annotations

from ociruntime.host import hooks as runner
from ociruntime.host import prepare, probe
from ociruntime.plan import encode, join, ops
from ociruntime.plan.context import Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ociruntime.plan.ops import Plan

    Users = tuple[list[dict[str, int]], list[dict[str, int]]] | None


def run_inside(
    kind: str,
    hooks: list[dict[str, Any]],
    document: bytes,
    pidfd: int,
    *,
    bundle: str,
    namespaces: int,
    users: Users,
    attach: Callable[[int], None],
) -> None:
    """Run hooks in the namespaces of the process behind ``pidfd``; ``document``: the state, for their stdin.

    ``namespaces``: CLONE_NEW* to join; ``users``: (uidMappings, gidMappings) when a user namespace is among them;
    ``attach`` puts a process into the container's cgroup. Raises errors.Error.
    """
    facts = probe.gather(None, bundle)
    options = Options("", bundle)
    options.namespaces = namespaces
    options.users = users
    inside = kind == "startContainer"

    def compile_one(hook: dict[str, Any]) -> tuple[Plan, bytes, list[int]]:
        pointer = f"/hooks/{kind}/{hooks.index(hook)}/path"
        plan = join.compile_hook(hook, facts, options, pointer, inside=inside)
        fds = prepare.open_descriptors(plan, pidfd=pidfd)
        return plan, encode.encode(plan, 3), fds

    handlers = {ops.TAG_CGROUP: lambda init: attach(init.pid)}
    runner.run_inside(kind, hooks, document, compile_one, handlers)

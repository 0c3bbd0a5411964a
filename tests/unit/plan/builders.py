"""Made-up hosts and configs, and ways to look into a plan."""

from __future__ import annotations

from typing import Any

from ociruntime.plan import compile as compiler
from ociruntime.plan import ops, words
from ociruntime.plan.facts import Facts
from ociruntime.plan.ops import Plan

MAPPINGS = [{"containerID": 0, "hostID": 100000, "size": 1000}]
KINDS = ("pid", "network", "ipc", "uts", "mount")


def facts(**changes: Any) -> Facts:
    made = Facts()
    made.rootfs = "/bundle/rootfs"
    made.sources = dict.fromkeys(range(10), "dir")
    made.devices = {path: 0 for path, _, _ in words.DEFAULT_DEVICES}
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def options(**changes: Any) -> compiler.Options:
    made = compiler.Options("demo", "/bundle")
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def config(*kinds: str, **changes: Any) -> dict[str, Any]:
    """A small config with the named namespaces (the usual five when none is named).

    ``process`` and ``linux`` are merged into what is there, other keywords replace.
    """
    spec: dict[str, Any] = {
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/", "env": ["PATH=/bin"]},
        "linux": {"namespaces": [{"type": kind} for kind in kinds or KINDS]},
    }
    for name, value in changes.items():
        if name in ("process", "linux"):
            spec[name].update(value)
        else:
            spec[name] = value
    return spec


def with_users(*kinds: str, **changes: Any) -> dict[str, Any]:
    """The same with a user namespace of 1000 ids."""
    spec = config(*(kinds or KINDS), "user", **changes)
    spec["linux"].setdefault("uidMappings", MAPPINGS)
    spec["linux"].setdefault("gidMappings", MAPPINGS)
    return spec


def create(spec: dict[str, Any], host: Facts | None = None, **chosen: Any) -> Plan:
    return compiler.compile_create(spec, host or facts(), options(**chosen))


def found(plan: Plan, code: int) -> list[tuple[Any, ...]]:
    """The arguments of all operations of one code."""
    return [arguments for other, _, _, arguments in plan.ops if other == code]


def codes(plan: Plan) -> list[int]:
    return [operation[0] for operation in plan.ops]


def calls(plan: Plan, name: str) -> list[tuple[Any, ...]]:
    """The arguments of all system calls of one name."""
    number = words.SYSCALLS[plan.machine][name]
    return [arguments[1:] for arguments in found(plan, ops.SYSCALL) if arguments[0] == number]


def position(plan: Plan, code: int, **wanted: Any) -> int:
    """Index of the first operation of a code whose arguments contain all of ``wanted``'s values."""
    for index, (other, _, _, arguments) in enumerate(plan.ops):
        if other == code and all(value in arguments for value in wanted.values()):
            return index
    raise AssertionError(f"no operation {code} with {wanted}")

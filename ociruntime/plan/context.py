"""What the parts of the compiler share while one plan is made.

Hot module.
"""

from __future__ import annotations

from ociruntime import errors
from ociruntime.plan import ops, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ociruntime.plan.facts import Facts


class Options:
    """What the command line and the lifecycle decide, beside config.json.

    * ``id``: container id; ``bundle``: its absolute path.
    * ``no_pivot``, ``no_new_keyring``: as in ``create``.
    * ``console``: a terminal is wanted (process.terminal).
    * ``gate``: wait for `start` (``create``); without it the program runs at once (``run``).
    * ``cgroup_join``: ``"sync"``: init waits, in its namespaces and with its final pid, until the parent has moved it
      (TAG_CGROUP); ``"clone3"``: it starts in its cgroup; ``"none"``: it has none. execCPUAffinity.initial has its
      meaning only with ``"sync"``.
    * ``cgroup_dirs``: hierarchy name (``""`` on v2) → host directory of the container's cgroup, for mounts of type
      cgroup; an absent one means the cgroup of the runtime.
    * ``seccomp_filter``: array of struct sock_filter or None; ``seccomp_flags``: SECCOMP_FILTER_FLAG_*;
      ``seccomp_listener``: send the notification descriptor.
    * ``notify_dir``: host directory with the sd_notify socket, bound read-only at /run/notify, or None.
    * ``env``: more environment entries (``LISTEN_FDS=1``); they win over process.env.
    * ``umask``: used when process.user.umask is absent.
    * ``namespaces``: CLONE_NEW* mask that ``exec`` and hooks join through the container's pidfd.
    * ``users``: (uidMappings, gidMappings) of a container that ``exec`` joins, or None.
    * ``linux``: the parts of its config.json's linux that hold for each process: personality, memoryPolicy.
    """

    __slots__ = (
        "bundle",
        "cgroup_dirs",
        "cgroup_join",
        "console",
        "env",
        "gate",
        "id",
        "linux",
        "namespaces",
        "no_new_keyring",
        "no_pivot",
        "notify_dir",
        "seccomp_filter",
        "seccomp_flags",
        "seccomp_listener",
        "umask",
        "users",
    )

    def __init__(self, container_id: str = "", bundle: str = "/") -> None:
        self.id = container_id
        self.bundle = bundle
        self.no_pivot = False
        self.no_new_keyring = False
        self.console = False
        self.gate = True
        self.cgroup_join = "sync"
        self.cgroup_dirs: dict[str, str] = {}
        self.seccomp_filter: bytes | None = None
        self.seccomp_flags = 0
        self.seccomp_listener = False
        self.notify_dir: str | None = None
        self.env: list[str] = []
        self.umask = 0o022
        self.namespaces = 0
        self.linux: dict[str, Any] = {}
        self.users: tuple[list[dict[str, int]], list[dict[str, int]]] | None = None


class Context:
    """One compilation: inputs, the plan so far, and the slots that several parts use."""

    __slots__ = (
        "calls",
        "facts",
        "gid_maps",
        "late_limit",
        "late_readonly",
        "namespaces",
        "options",
        "plan",
        "procfs",
        "propagation",
        "root",
        "uid_maps",
        "userns",
    )

    def __init__(self, facts: Facts, options: Options) -> None:
        self.facts = facts
        self.options = options
        self.plan = ops.Plan()
        # Mappings of the user namespace that the container gets, when they are known.
        self.uid_maps: list[dict[str, int]] = []
        self.gid_maps: list[dict[str, int]] = []
        # Namespace type → path, "" for a new one.
        self.namespaces: dict[str, str] = {}
        self.userns = False
        # MS_* that `/` gets at the end, 0: it stays as it is, a slave of the host's.
        self.propagation = 0
        # (origin, slot) of mounts that become read-only after devices and mount points have been made in them.
        self.late_readonly: list[tuple[str, int]] = []
        # RLIMIT_NOFILE that is too small for init itself: (origin, resource, soft, hard), set after the gate.
        self.late_limit: tuple[str, int, int, int] | None = None
        self.procfs = ops.NONE
        self.root = 0
        calls = words.SYSCALLS.get(facts.machine)
        if calls is None:
            raise errors.Error(f"machine {facts.machine} is not supported")
        self.calls = calls
        self.plan.machine = facts.machine

    def call(self, origin: str, name: str, *args: Any, flags: int = 0, errnos: int = 0) -> None:
        """Add one system call by name."""
        self.plan.add(origin, ops.SYSCALL, self.calls[name], *args, flags=flags, errnos=errnos)

    def sync(self, origin: str, tag: int) -> None:
        """Add a rendezvous with the parent."""
        self.plan.syncs.append(tag)
        self.plan.add(origin, ops.SYNC, tag)


def refuse(message: str, pointer: str, hint: str | None = None) -> errors.Error:
    """An error about the value at ``pointer``, whose place begins the message."""
    from ociruntime.plan.attribute import place

    where = place(pointer)
    return errors.Error(
        f"{where}: {message}" if where else message, pointer=pointer or None, hint=hint
    )


def mapped(container_id: int, mappings: list[dict[str, int]]) -> bool:
    """Whether an id inside has one outside."""
    return any(0 <= container_id - entry["containerID"] < entry["size"] for entry in mappings)


def outside(container_id: int, mappings: list[dict[str, int]]) -> int | None:
    """The host's id of a container's, None when it has none or the mappings are not known."""
    for entry in mappings:
        offset = container_id - entry["containerID"]
        if 0 <= offset < entry["size"]:
            return int(entry["hostID"]) + offset
    return None


def number_list(text: str, limit: int, pointer: str) -> set[int]:
    """``0-3,7`` → numbers below ``limit``."""
    numbers: set[int] = set()
    for part in text.split(","):
        part = part.strip()
        if not part:
            continue
        first, dash, last = part.partition("-")
        first, last = first.strip(), last.strip() if dash else first.strip()
        if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit()):
            raise refuse(f"{text!r} is not a list of numbers", pointer=pointer)
        low, high = int(first), int(last)
        if low > high or high >= limit:
            raise refuse(f"{part} in {text!r} is out of range", pointer=pointer)
        numbers.update(range(low, high + 1))
    return numbers


def bit_mask(numbers: set[int]) -> bytes:
    """The kernel's bit mask of unsigned longs, at least one."""
    value = 0
    for number in numbers:
        value |= 1 << number
    return value.to_bytes((max(numbers, default=0) // 64 + 1) * 8, "little")

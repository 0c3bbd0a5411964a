"""The operations of a plan: the Python side of native/plan.h, and the builder that collects them.

Hot module. The numbers are those of native/plan.h; tests/native compares the two files.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Argument: TypeAlias = "int | str | bytes | tuple[str | bytes, ...]"
    Operation: TypeAlias = "tuple[int, int, int, tuple[Argument, ...]]"
    IdMap: TypeAlias = "tuple[bool, list[dict[str, int]] | None, list[dict[str, int]] | None]"
    Bind: TypeAlias = (
        "tuple[str, str, bool, int, int, int, int, tuple[int, ...], IdMap | None, str]"
    )

MAGIC = 0x4E4C504F
VERSION = 1
NONE = 0xFFFFFFFFFFFFFFFF  # absent blob, absent slot, unset id

F_IGNORE, F_WARN, F_ALT, F_RETRY = 1, 2, 4, 8
ARG_INT, ARG_BLOB, ARG_SLOT = 0, 1, 2

SETNS, UNSHARE, CLONE, SYNC, GATE, CHDIR, FIND_EXE, EXEC, CLOSE = 1, 2, 3, 4, 5, 6, 7, 8, 9
SYSCALL, WRITE, OPEN = 10, 11, 12
ROOT, MKDIR, MKFILE, SYMLINK, MKNOD = 16, 17, 18, 19, 20
FSMOUNT, TREE, ATTACH, SETATTR, MASK, READONLY, COPYUP, PIVOT = 24, 25, 26, 27, 28, 29, 30, 31
UNMOUNT = 32
IDS, CAPS, LOOPBACK, CONSOLE, STDIO, SECCOMP, HOME = 40, 41, 42, 43, 44, 45, 46

WRITE_PROCFS, WRITE_SKIP_SAME, WRITE_DUMPABLE = 1, 2, 4
ROOT_RECURSIVE = 1
KEEP_MODE, KEEP_OWNER = 1, 2
TARGET_EXISTS, TARGET_DIR, TARGET_FILE, TARGET_LIKE, TARGET_PROCFS = 0, 1, 2, 3, 4
PIVOT_ROOT, PIVOT_MOVE, PIVOT_CHROOT = 0, 1, 2
IDS_KEEPCAPS, IDS_NO_SETGROUPS = 1, 2
CAPS_DROP_BOUNDING, CAPS_SET, CAPS_AMBIENT = 1, 2, 4
CONSOLE_MOUNT = 1

# Tags of SYNC and GO: words for people, numbers on the wire.
TAG_USERNS, TAG_CGROUP, TAG_NETWORK, TAG_HOOKS, TAG_RLIMITS, TAG_START = 1, 2, 3, 4, 5, 6
TAG_NAMES = ("", "userns", "cgroup", "network", "hooks", "rlimits", "start")

MSG_SYNC, MSG_GO, MSG_ERROR, MSG_WARNING, MSG_DEBUG = 1, 2, 3, 4, 5
MSG_CHILD, MSG_CONSOLE, MSG_READY, MSG_LISTENER = 6, 7, 8, 9

CHANNEL_SLOT, PLAN_SLOT = 0, 1  # the first two descriptors of every plan


class Plan:
    """A list of operations with their origins, and what the host has to provide for them.

    ``ops[i]`` is ``(code, flags, errnos, args)``; ``origins[i]`` the JSON pointer in config.json that caused it.
    ``fds`` names the descriptors handed over, in slot order (slot 0 ``channel``, slot 1 ``plan``): the host opens
    each by its name, see docs/architecture.md. ``clone_flags`` are the CLONE_NEW* flags with which the host starts
    init. ``syncs`` are the tags that init will send, in order.

    ``binds`` says what the descriptors ``mount:<i>`` and ``device:<path>`` are, one tuple each, in slot order:
    (name, absolute host path, recursive, attr_set, attr_clr, recursive attr_set, recursive attr_clr, propagation,
    idmap, JSON pointer). Attributes are MOUNT_ATTR_* for mount_setattr(2), first those of the top mount, then those of
    the whole tree; ``propagation`` holds MS_* numbers (with MS_REC) to be applied one after the other; ``idmap`` is
    None or (recursive, uidMappings, gidMappings), where None mappings mean: those of the user namespace ``ns:user``.
    ``systems``: for each ``fs:<i>``, an id-mapped new file system that the host makes: (type, idmap, JSON pointer,
    source, options, MOUNT_ATTR_*).
    ``nodes``: for ``device:<path>`` that are no device of the host's but a node to be made: (mode with type, device
    number, host uid, host gid); where none can be made the host's of that path is bound.
    ``machine``: of uname, whose system call numbers are used.
    ``paths``: descriptor name → (host path, JSON pointer) of the other descriptors that come from a path
    (``ns:<type>``, ``rootfs``). ``warnings`` are one-line texts for the log: what is
    asked for and cannot be had.
    """

    __slots__ = (
        "binds",
        "clone_flags",
        "fds",
        "machine",
        "nodes",
        "ops",
        "origins",
        "paths",
        "slots",
        "syncs",
        "systems",
        "warnings",
    )

    def __init__(self) -> None:
        self.ops: list[Operation] = []
        self.origins: list[str] = []
        self.fds: list[str] = ["channel", "plan"]
        self.slots = 2
        self.clone_flags = 0
        self.machine = ""
        self.syncs: list[int] = []
        self.binds: list[Bind] = []
        self.systems: dict[str, tuple[Any, ...]] = {}
        self.nodes: dict[str, tuple[int, int, int, int]] = {}
        self.paths: dict[str, tuple[str, str]] = {}
        self.warnings: list[str] = []

    def fd(self, name: str) -> int:
        """Ask the host for a descriptor; returns its slot. Must come before the first call of slot()."""
        self.fds.append(name)
        self.slots += 1
        return self.slots - 1

    def slot(self) -> int:
        """A new empty slot, to be filled by an operation."""
        self.slots += 1
        return self.slots - 1

    def add(self, origin: str, code: int, *args: Argument, flags: int = 0, errnos: int = 0) -> None:
        """Append one operation. ``errnos``: up to four errno numbers packed one a byte (see errno_set)."""
        self.ops.append((code, flags, errnos, args))
        self.origins.append(origin)


def errno_set(*numbers: int) -> int:
    """Pack up to four errno numbers for an operation's ``errnos`` field."""
    packed = 0
    for position, number in enumerate(numbers):
        packed |= number << (8 * position)
    return packed

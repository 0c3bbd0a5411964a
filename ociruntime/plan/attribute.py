"""Which line of config.json a failed operation comes from, and what to say about it.

Hot module, but imported only when something has failed (and by ``explain``).
"""

from __future__ import annotations

from ociruntime import errors
from ociruntime.plan import mount_options, ops, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ociruntime.plan.ops import Plan

_EPERM, _ENOENT, _ENOEXEC, _EACCES, _EINVAL, _EISDIR, _EDQUOT = 1, 2, 8, 13, 22, 21, 122
_ENXIO, _EBUSY, _EEXIST = 6, 16, 17

ATTRIBUTE_NAMES = (
    (mount_options.RDONLY, "ro"),
    (mount_options.NOSUID, "nosuid"),
    (mount_options.NODEV, "nodev"),
    (mount_options.NOEXEC, "noexec"),
    (mount_options.NOATIME, "noatime"),
    (mount_options.STRICTATIME, "strictatime"),
    (mount_options.NODIRATIME, "nodiratime"),
    (mount_options.NOSYMFOLLOW, "nosymfollow"),
    (mount_options.IDMAP, "idmap"),
)
PROPAGATION_NAMES = (
    (mount_options.MS_SHARED, "shared"),
    (mount_options.MS_SLAVE, "slave"),
    (mount_options.MS_PRIVATE, "private"),
    (mount_options.MS_UNBINDABLE, "unbindable"),
)
_NODES = {0o020000: "c", 0o060000: "b", 0o010000: "p"}


def attribute(plan: Plan, index: int, call: str, number: int, detail: str) -> errors.Error:
    """The error of operation ``index``: ``mounts[4]: mount tmpfs on /dev/shm: fsconfig: invalid argument (…)``.

    ``call``: name of the failed system call; ``number``: errno; ``detail``: what init has to say about it, or empty.
    The texts about a program that cannot be executed are those that engines search for.
    """
    if not 0 <= index < len(plan.ops):
        where = f" ({detail})" if detail else ""
        return errors.Error(f"init: {call}: {errors.strerror(number)}{where}")
    operation: Any = plan.ops[index]
    origin = plan.origins[index]
    code = operation[0]
    pointer = origin or None
    if code == ops.FIND_EXE:
        return errors.Error(_not_found(str(operation[3][0]), number, detail), pointer=pointer)
    if code == ops.EXEC:
        text = f"exec {detail or operation[3][4]}: {errors.strerror(number)}"
        path, _, reason = detail.partition(": ")
        if reason:
            text = f"exec {path}: {errors.strerror(number)} ({reason})"
        return errors.Error(text, pointer=pointer, hint=_exec_hint(number))
    parts = [place(origin), describe(plan, index), call, errors.strerror(number)]
    text = ": ".join(part for part in parts if part)
    if detail:
        text += f" ({detail})"
    return errors.Error(text, pointer=pointer, hint=_hint(operation, plan, call, number))


def with_line(error: errors.Error, config: bytes, filename: str) -> errors.Error:
    """Put the line of config.json before an error that has a pointer: ``config.json:87: mounts[4]: …``.

    The texts about a program that is not there stay as they are: engines show them to their users.
    """
    pointer = error.pointer
    if pointer and not pointer.startswith("/process/args"):
        from ociruntime.spec.locate import line_of

        where = place(pointer)
        if where not in error.message:  # engines write config.json as one line
            error.message = f"{where}: {error.message}"
        error.message = f"{filename}:{line_of(config, pointer)}: {error.message}"
        error.args = (error.message,)
    return error


def place(pointer: str) -> str:
    """A JSON pointer as people write it: ``/mounts/4/options`` → ``mounts[4].options``."""
    text = ""
    for part in pointer.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if part.isascii() and part.isdigit():
            text += f"[{part}]"
        elif "." in part or "/" in part:
            text += f'["{part}"]'
        else:
            text += f".{part}" if text else part
    return text


def _not_found(name: str, number: int, detail: str) -> str:
    """Why the program cannot be executed, in Go's words."""
    if number == _ENOENT and "/" not in name:
        return f'exec: "{name}": executable file not found in $PATH'
    if number == _ENOENT:
        return f'exec: "{name}": stat {name}: {errors.strerror(number)}'
    text = f'exec: "{name}": {errors.strerror(number)}'
    if number == _EISDIR:  # dockerd 20.10 knows the second phrase alone
        text += f": {errors.strerror(_EACCES)}"
    return f"{text} ({detail})" if detail and detail != name else text


def _exec_hint(number: int) -> str | None:
    if number == _ENOEXEC:
        return (
            "a script needs a first line #!interpreter, a binary the architecture of this machine"
        )
    if number == _ENOENT:
        return "the file is there: its interpreter or dynamic linker is not"
    return None


def _hint(operation: Any, plan: Plan, call: str, number: int) -> str | None:
    """What may mend a failure that many meet."""
    code, _, _, arguments = operation
    if call == "keyctl" and number == _EDQUOT:
        return (
            "the user's quota of keys is used up (/proc/sys/kernel/keys), or take --no-new-keyring"
        )
    if call == "sched_setattr" and number == _EPERM:
        return (
            "real-time and deadline policies and lower nice values need CAP_SYS_NICE; SCHED_FIFO and SCHED_RR also"
            " resources.cpu.realtimeRuntime in a cpu cgroup of v1"
        )
    if call == "sched_setattr" and number == _EBUSY:
        return "no bandwidth is left for SCHED_DEADLINE, or a cpuset keeps it from all CPUs of its domain"
    if call == "prlimit64" and number == _EPERM:
        return "a hard limit can only be raised with CAP_SYS_RESOURCE"
    if code == ops.CONSOLE and number in (_ENOENT, _ENXIO):
        return "a terminal needs a file system of type devpts mounted on /dev/pts"
    if code == ops.MKNOD and number == _EEXIST and arguments[1][:5] == "/dev/":
        return "what the image has there is in the way: a tmpfs mounted on /dev covers it"
    if code == ops.IDS and number == _EINVAL:
        return "the id is not mapped in the user namespace"
    if code == ops.WRITE and profile_of(arguments):
        return _profile_hint(number)
    if code == ops.FSMOUNT and number == _EPERM and arguments[1] == "proc":
        return "proc needs a pid namespace of its own, and a host whose /proc has nothing mounted over it"
    if code == ops.FSMOUNT and number == _EINVAL and arguments[1] == "devpts":
        return "its gid= and uid= must be mapped in the user namespace"
    if code == ops.PIVOT and number == _EINVAL and call == "pivot_root":
        return "a root on a ramfs cannot be pivoted: take --no-pivot"
    if code == ops.TREE and number == _EINVAL:
        return "in a user namespace only rbind takes a directory with mounts below it"
    if code == ops.SETATTR and number == _EPERM:
        return "the flag is locked by the user namespace that owns the source"
    if code == ops.UNSHARE and number == _EPERM:
        return "an ordinary user needs a user namespace, and a host that allows it"
    return None


def profile_of(arguments: Any) -> str:
    """The AppArmor profile that a WRITE is to set; empty when it does something else."""
    path, value = str(arguments[1]), arguments[2]
    if path[:10] != "self/attr/" or not isinstance(value, str) or value[:5] != "exec ":
        return ""
    return value[5:]


def _profile_hint(number: int) -> str | None:
    """apparmor(7), aa_change_onexec(2)."""
    if number == _ENOENT:
        return (
            "no such profile is loaded: apparmor_parser -r FILE loads it, aa-status lists those that are;"
            " in a policy namespace: &:NAMESPACE:PROFILE"
        )
    if number in (_EACCES, _EPERM):
        return "the runtime's own profile or no_new_privs does not allow the change: &PROFILE stacks the profile on it"
    return None


def flag_names(value: Any, table: tuple[tuple[int, str], ...]) -> str:
    """The names of the bits of ``value``, and the rest in hex."""
    rest = int(value)
    names = []
    for bit, name in table:
        if rest & bit:
            names.append(name)
            rest &= ~bit
    if rest:
        names.append(hex(rest))
    return ",".join(names)


def namespace_names(mask: Any) -> str:
    """``pid,network`` for a mask of CLONE_NEW*."""
    return flag_names(mask, tuple((bit, name) for name, bit in words.NAMESPACES.items()))


def capability_names(mask: Any) -> str:
    """The capabilities of a mask, without their prefix; ``none`` for an empty one."""
    table = tuple((bit, name[4:].lower()) for name, bit in words.CAPABILITY_BITS.items())
    return flag_names(mask, table) or "none"


def slot_name(plan: Plan, slot: Any) -> str:
    """What is known about a slot: the name under which the host gave it, else its number."""
    if slot == ops.NONE:
        return "none"
    if int(slot) < len(plan.fds):
        return plan.fds[int(slot)]
    return f"fd{slot}"


def _tree(plan: Plan, index: int, slot: Any) -> str:
    """What is in a tree slot: the operation that filled it last tells."""
    for code, _, _, arguments in reversed(plan.ops[:index]):
        if code == ops.FSMOUNT and arguments[0] == slot:
            return str(arguments[1])
        if code == ops.TREE and arguments[0] == slot:
            return str(arguments[2])
    for bind in plan.binds:
        if plan.fds.index(bind[0]) == slot:
            return bind[1]
    if slot_name(plan, slot) == "rootfs":
        return "the root"
    return "mount"


def _target(plan: Plan, index: int, slot: Any) -> str:
    """Where the tree in a slot is going to be attached."""
    for code, _, _, arguments in plan.ops[index:]:
        if code == ops.ATTACH and arguments[0] == slot:
            return str(arguments[2])
    return ""


def describe(plan: Plan, index: int) -> str:
    """One operation in words, without its technical arguments."""
    a: Any
    code, _, _, a = plan.ops[index]
    if code == ops.FSMOUNT:
        target = _target(plan, index, a[0])
        return f"mount {a[1]} on {target}" if target else f"make an empty {a[1]}"
    if code == ops.TREE:
        target = _target(plan, index, a[0])
        return f"bind {a[2]} on {target}" if target else f"clone the tree at {a[2]}"
    if code == ops.ATTACH:
        return f"mount {_tree(plan, index, a[0])} on {a[2]}"
    if code == ops.SETATTR:
        target = _target(plan, index, a[0]) or _attached_at(plan, index, a[0])
        return f"set attributes of {_tree(plan, index, a[0])}{' on ' + target if target else ''}"
    if code == ops.SYSCALL:
        return _call(plan, index)
    if code == ops.WRITE and profile_of(a):
        return f"apply AppArmor profile {profile_of(a)}: write {a[1]}"
    simple = _SIMPLE.get(code)
    if simple is not None:
        return simple.format(*a)
    return _special(plan, code, a)


def _attached_at(plan: Plan, index: int, slot: Any) -> str:
    for code, _, _, arguments in reversed(plan.ops[:index]):
        if code == ops.ATTACH and arguments[5] == slot:
            return str(arguments[2])
        if code == ops.ROOT and arguments[0] == slot:
            return "/"
    return ""


_SIMPLE = {
    ops.MKDIR: "make directory {1}",
    ops.MKFILE: "make file {1}",
    ops.SYMLINK: "make symlink {1} to {2}",
    ops.MASK: "mask {1}",
    ops.READONLY: "make {1} read-only",
    ops.UNMOUNT: "unmount {2}",
    ops.COPYUP: "copy {2} into its tmpfs",
    ops.WRITE: "write {1}",
    ops.OPEN: "open {2}",
    ops.ROOT: "set up the root {2}",
    ops.CHDIR: "change directory to {1}",
    ops.LOOPBACK: "bring up the loopback interface",
    ops.CONSOLE: "make the terminal",
    ops.STDIO: "set up the standard streams",
    ops.HOME: "look up HOME of user {1}",
    ops.SECCOMP: "load the seccomp filter",
    ops.CLOSE: "close a descriptor",
    ops.CLONE: "go on in a child",
    ops.GATE: "wait for start",
}


def _special(plan: Plan, code: int, a: Any) -> str:
    """Operations whose arguments need decoding."""
    if code == ops.MKNOD:
        kind = _NODES.get(int(a[2]) & 0o170000, "?")
        number = int(a[3])
        node = (
            f" {number >> 8 & 0xFFF}:{number & 0xFF | number >> 12 & 0xFFF00}"
            if kind != "p"
            else ""
        )
        return f"make device {a[1]} ({kind}{node})"
    if code == ops.SETNS:
        return f"join the {namespace_names(a[1])} namespace"
    if code == ops.UNSHARE:
        return f"make new namespaces ({namespace_names(a[0])})"
    if code == ops.SYNC:
        return f"wait for the runtime ({ops.TAG_NAMES[int(a[0])]})"
    if code == ops.PIVOT:
        return ("enter the root", "enter the root without pivot_root", "chroot")[int(a[1])]
    if code == ops.IDS:
        return f"become user {a[0]}, group {a[1]}"
    if code == ops.CAPS:
        return (
            "drop capabilities from the bounding set"
            if a[5] == ops.CAPS_DROP_BOUNDING
            else "set capabilities"
        )
    if code == ops.FIND_EXE:
        return f"find program {a[0]}"
    if code == ops.EXEC:
        return "execute the program"
    return f"operation {code}"


def call_name(plan: Plan, number: Any) -> str:
    """Name of a system call of a SYSCALL operation."""
    for name, value in words.SYSCALLS.get(plan.machine, {}).items():
        if value == number:
            return name
    return f"system call {number}"


def _call(plan: Plan, index: int) -> str:
    """A SYSCALL operation in words."""
    arguments: Any = plan.ops[index][3]
    name = call_name(plan, arguments[0])
    a = arguments[1:]
    if name == "mount":
        if a[1] == ".":
            target: Any = plan.ops[index - 1][3][1]
            return f"mount {a[0]} on {target}" if a[0] else f"remount {target}"
        if a[0] == 0:
            flags = int(a[3])
            recursive = "r" if flags & mount_options.MS_REC else ""
            return f"make {a[1]} {recursive}{flag_names(flags & ~mount_options.MS_REC, PROPAGATION_NAMES)}"
        return f"cover {a[1]}"
    if name == "umount2":
        return f"unmount {a[0]}"
    if name == "prlimit64":
        return f"set {next((key for key, value in words.RLIMITS.items() if value == a[1]), a[1])}"
    if name in ("sethostname", "setdomainname"):
        return f"set {name[3:]} to {a[0].decode('utf-8', 'replace')}"
    if name == "keyctl":
        joins = a[0] == words.KEYCTL_JOIN_SESSION_KEYRING
        return (
            f"join session keyring {a[1]!s}" if joins else "set the session keyring's permissions"
        )
    return _CALLS.get(name, name)


_CALLS = {
    "setsid": "begin a session",
    "umask": "set the umask",
    "prctl": "set no_new_privs",
    "sched_setattr": "set the scheduler",
    "sched_setaffinity": "set the CPU affinity",
    "ioprio_set": "set the I/O priority",
    "personality": "set the personality",
    "set_mempolicy": "set the memory policy",
}

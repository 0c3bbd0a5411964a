"""Which cgroup hierarchies this host has, and where they are mounted. Hot module.

/proc/self/cgroup names the hierarchies (cgroups(7)); each is then looked for at its customary place
below /sys/fs/cgroup. The mount table, which may be very long on a busy host, is read only for one that is not there.
"""

from __future__ import annotations

from errno import ENOENT

from ociruntime import errors
from ociruntime.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    Membership = list[tuple[str, str]]

ROOT = "/sys/fs/cgroup"
UNIFIED = "unified"  # the name under which a cgroup2 tree beside v1 hierarchies goes

_found: tuple[str, Membership] | None = None  # one verb asks several times


def membership(pid: int | None = None, proc: str = "/proc") -> Membership:
    """(controllers, path) of a process in every hierarchy; ``""`` stands for cgroup2.

    ``controllers`` is as the kernel prints it: ``cpu,cpuacct``, ``name=systemd``.
    """
    text = files.read(f"{proc}/{'self' if pid is None else pid}/cgroup")
    found = []
    for line in text.split("\n"):  # a cgroup's name may hold what splitlines() takes for an end
        _, colon, rest = line.partition(":")
        controllers, second, path = rest.partition(":")
        if colon and second:
            found.append((controllers, path))
    return found


def survey(root: str = ROOT, proc: str = "/proc") -> tuple[str, Membership]:
    """The mode of the host, and (controllers, mount point) of each of its mounted hierarchies.

    ``v2``; ``v1``; ``hybrid``: v1 with a cgroup2 tree, ``""``, beside it; ``none``. A hierarchy that is
    mounted nowhere is left out: its controllers are not available. The answer about the real host is kept.
    """
    global _found
    if root != ROOT or proc != "/proc":
        return _survey(root, proc)
    if _found is None:
        _found = _survey(root, proc)
    return _found


def _survey(root: str, proc: str) -> tuple[str, Membership]:
    if files.exists(root + "/cgroup.controllers"):
        return "v2", [("", root)]
    try:
        lines = membership(None, proc)
    except OSError as exc:
        if exc.errno == ENOENT:  # a kernel without cgroups
            return "none", []
        raise errors.from_os(exc, f"read {proc}/self/cgroup") from exc
    found = []
    table: dict[str, str] | None = None
    for controllers, _ in lines:
        name = dir_name(controllers)
        place = f"{root}/{name}"
        if not files.exists(place + "/cgroup.procs"):
            if table is None:
                table = _mount_table(proc, lines)
            # What is mounted may be covered: a container whose root is the host's, with a /sys of its own.
            if name not in table or not files.exists(table[name] + "/cgroup.procs"):
                continue
            place = table[name]
        found.append((controllers, place))
    if not any(controllers for controllers, _ in found):
        return "none", []
    return ("v1" if all(controllers for controllers, _ in found) else "hybrid"), found


def detect(root: str = ROOT, proc: str = "/proc") -> str:
    """``v2``, ``v1``, ``hybrid`` or ``none``; see ``survey``."""
    return survey(root, proc)[0]


def dir_name(controllers: str) -> str:
    """Directory of a v1 hierarchy below /sys/fs/cgroup: ``name=systemd`` is mounted at ``systemd``."""
    if not controllers:
        return UNIFIED
    return controllers[5:] if controllers.startswith("name=") else controllers


def _mount_table(proc: str, lines: Membership) -> dict[str, str]:
    """Mount point by directory name of each hierarchy, from mountinfo (proc_pid_mountinfo(5))."""
    table: dict[str, str] = {}
    for line in files.read(proc + "/self/mountinfo").split("\n"):
        left, _, right = line.partition(" - ")
        kind, _, rest = right.partition(" ")
        if kind == "cgroup2":
            name = UNIFIED
        elif kind == "cgroup":
            name = _of_options(rest.rpartition(" ")[2].split(","), lines)
        else:
            continue
        table.setdefault(name, mount_point(left))
    return table


def _of_options(options: list[str], lines: Membership) -> str:
    """Directory name of the hierarchy whose controllers stand among a mount's super block options."""
    for controllers, _ in lines:
        if controllers and all(word in options for word in controllers.split(",")):
            return dir_name(controllers)
    return ""


def mount_point(left: str) -> str:
    """The mount point of a line of mountinfo, of which ``left`` is what stands before `` - ``; ``""``: none."""
    fields = left.split(" ")
    return unescape(fields[4]) if len(fields) > 4 else ""


def unescape(text: str) -> str:
    """Undo mountinfo's octal escapes for blank, tab, newline and backslash."""
    if "\\" not in text:
        return text
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def mount_facts(
    pid: int | None = None, root: str = ROOT, proc: str = "/proc"
) -> list[tuple[str, str, str, str]]:
    """What a container's /sys/fs/cgroup is made of: (name, mount point, mount options, cgroup path).

    v1: one entry per hierarchy; ``name`` is the directory, ``options`` the data of a mount of type cgroup
    (``cpu,cpuacct``, ``none,name=systemd``; ``""`` with name ``unified`` means type cgroup2).
    v2: a single entry with an empty name. ``cgroup path`` is that of the process (None: this one) in its hierarchy.
    """
    mode, places = survey(root, proc)
    paths = dict(membership(pid, proc)) if places else {}
    return [
        (
            "" if mode == "v2" else dir_name(controllers),
            place,
            mount_options(controllers),
            paths.get(controllers, "/"),
        )
        for controllers, place in places
    ]


def mount_options(controllers: str) -> str:
    """mount(2) data that selects a v1 hierarchy."""
    return "none," + controllers if controllers.startswith("name=") else controllers


def mount_links(facts: list[tuple[str, str, str, str]]) -> list[tuple[str, str]]:
    """(link, target) for hierarchies of several controllers: ``cpu`` and ``cpuacct`` → ``cpu,cpuacct``."""
    return [
        (controller, name)
        for name, _, options, _ in facts
        if "," in name and name == options
        for controller in name.split(",")
    ]

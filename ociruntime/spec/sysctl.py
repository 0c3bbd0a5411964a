"""Names of kernel parameters, and in which namespace each lives.

Hot module.
"""

from __future__ import annotations

_IPC = frozenset(
    {
        "kernel/auto_msgmni",
        "kernel/msg_next_id",
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/sem_next_id",
        "kernel/shm_next_id",
        "kernel/shm_rmid_forced",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
    }
)


def path_of(name: str) -> str:
    """The path of a parameter below /proc/sys.

    As in sysctl.d(5), the first separator decides: in ``net.ipv4.conf.eth0/100.forwarding`` dots and slashes change
    places, in ``net/ipv4/conf/eth0.100/forwarding`` nothing does. Raises ValueError for a name that could mean
    another file or more than one (CVE-2022-0811).
    """
    dot, slash = name.find("."), name.find("/")
    if dot >= 0 and (slash < 0 or dot < slash):
        name = name.replace(".", "\0").replace("/", ".").replace("\0", "/")
    for part in name.split("/"):
        if part in ("", ".", ".."):
            raise ValueError("empty or relative component in its name")
    for character in name:
        if character <= " " or character in "+=\\\x7f":
            raise ValueError("character in its name that no kernel parameter has")
    return name


def namespace_of(path: str) -> str | None:
    """The namespace type that the parameter at ``path`` below /proc/sys belongs to, None for the whole host's."""
    if path in _IPC or path.startswith("fs/mqueue/"):
        return "ipc"
    if path.startswith("net/"):
        return "network"
    if path == "kernel/domainname":
        return "uts"
    if path.startswith("user/"):
        return "user"
    return None

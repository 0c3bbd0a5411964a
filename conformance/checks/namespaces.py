"""config-linux.md: namespaces, user mappings, time offsets."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from conformance.registry import check
from conformance.trial import Skip, Trial

# The specification's word -> the kernel's name in /proc/PID/ns.
KINDS = {
    "pid": "pid",
    "network": "net",
    "mount": "mnt",
    "ipc": "ipc",
    "uts": "uts",
    "cgroup": "cgroup",
    "time": "time",
}


def own(kind: str) -> str:
    return os.readlink(f"/proc/self/ns/{KINDS[kind]}")


def identities(t: Trial, **kw: object) -> set[str]:
    """The namespaces that the program is in: `pid:[4026…]` and so on."""
    return set(t.output("ns", **kw))


@contextlib.contextmanager
def donor() -> Iterator[int]:
    """A process with namespaces of its own that a container can join."""
    if not shutil.which("unshare"):
        raise Skip("needs unshare(1) to make namespaces")
    flags = ["--net", "--ipc", "--uts", "--cgroup", "--pid", "--fork", "--kill-child"]
    process = subprocess.Popen(["unshare", *flags, "sleep", "60"], stdout=subprocess.DEVNULL)
    try:
        # The child of unshare is in the new pid namespace, unshare itself is not.
        path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        end = time.monotonic() + 5
        while not (child := path.read_text().split()) and time.monotonic() < end:
            time.sleep(0.01)
        yield int(child[0])
    finally:
        process.kill()
        process.wait()


@check("6.1")
def new_namespaces(t: Trial) -> None:
    for kind in ("cgroup", "time"):
        t.bundle.namespace(kind)
    seen = identities(t)
    for kind in KINDS:
        t.claim(own(kind) not in seen, f"a new {kind} namespace", own(kind))
    host = os.readlink("/proc/self/ns/user")
    t.claim(host in seen, "the host's user namespace", seen)
    mapped = t.new_bundle().user_namespace()
    t.claim(host not in identities(t, bundle=mapped), "a new user namespace", host)


@check("6.2")
def relative_path(t: Trial) -> None:
    t.bundle.namespace("ipc", "proc/self/ns/ipc")
    t.refused("a relative namespace path")


@check("6.3")
def joined(t: Trial) -> None:
    with donor() as pid:
        for kind in ("network", "ipc", "uts", "pid"):
            t.bundle.namespace(kind, f"/proc/{pid}/ns/{KINDS[kind]}")
        del t.bundle.config["hostname"]
        seen = identities(t)
        for kind in ("network", "ipc", "uts", "pid"):
            theirs = os.readlink(f"/proc/{pid}/ns/{KINDS[kind]}")
            t.claim(theirs in seen, f"the {kind} namespace of the path", sorted(seen))


@check("6.4")
def wrong_type(t: Trial) -> None:
    with donor() as pid:
        t.bundle.namespace("ipc", f"/proc/{pid}/ns/net")
        t.refused("the path of a network namespace for ipc")
    t.bundle.namespace("ipc", "/etc/passwd")
    t.refused("the path of an ordinary file for ipc")


@check("6.5")
def without_path(t: Trial) -> None:
    first, second = identities(t), identities(t)
    for kind in ("net", "ipc", "uts", "pid", "mnt"):
        ids = [next(x for x in seen if x.startswith(f"{kind}:")) for seen in (first, second)]
        t.claim(ids[0] != ids[1] or ids[0] not in _host(), f"a new {kind} namespace", ids)
        t.claim(ids[0] not in _host(), f"not the host's {kind} namespace", ids[0])


def _host() -> set[str]:
    return {os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}


@check("6.6")
def inherited(t: Trial) -> None:
    del t.bundle.config["hostname"]
    for kind in ("ipc", "uts", "pid"):
        t.bundle.without_namespace(kind)
    seen = identities(t)
    for kind in ("ipc", "uts", "pid", "time", "cgroup"):
        t.claim(own(kind) in seen, f"the {kind} namespace of the runtime", sorted(seen))


@check("6.7")
def twice(t: Trial) -> None:
    t.bundle.linux["namespaces"].append({"type": "ipc"})
    t.refused("ipc twice")


@check("6.8")
def mappings(t: Trial) -> None:
    t.bundle.user_namespace()
    t.bundle.linux["uidMappings"] = [
        {"containerID": 0, "hostID": 100000, "size": 1000},
        {"containerID": 2000, "hostID": 300000, "size": 7},
    ]
    lines = t.output("cat", "/proc/self/uid_map", "/proc/self/gid_map")
    seen = [line.split() for line in lines]
    wanted = [["0", "100000", "1000"], ["2000", "300000", "7"], ["0", "100000", "65536"]]
    t.equal(seen, wanted, "uid_map and gid_map")


@check("6.11")
def no_chown(t: Trial) -> None:
    t.bundle.user_namespace()
    path = t.bundle.rootfs / "owned"
    path.write_text("")
    os.chown(path, 4242, 4243)
    t.output("exit", "0")
    seen = path.stat()
    t.equal((seen.st_uid, seen.st_gid), (4242, 4243), "owner of a file afterwards")


@check("6.12")
def time_offsets(t: Trial) -> None:
    t.bundle.namespace("time")
    t.bundle.linux["timeOffsets"] = {"monotonic": {"secs": 86400}, "boottime": {"secs": 172800}}
    before = time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME)
    seen = t.values("clocks")
    moved = [int(seen["monotonic"]) - before[0], int(seen["boottime"]) - before[1]]
    t.claim(abs(moved[0] - 86400) < 60, "the monotonic clock is moved by 86400 s", moved[0])
    t.claim(abs(moved[1] - 172800) < 60, "the boot-time clock is moved by 172800 s", moved[1])

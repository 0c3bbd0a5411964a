"""config-linux.md: control groups on a host with cgroup v2 alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from conformance.checks.cgroups import MIB, TABLE, V2, Function, both, need, own_path
from conformance.kit import Container
from conformance.registry import register
from conformance.trial import Failure, Skip, Trial
from conformance.world import CGROUPS

DELEGATE = Path("/sys/kernel/cgroup/delegate")
# What cgroup-v2.rst names, for kernels that have no list.
FIRST_DELEGATED = "cgroup.procs cgroup.subtree_control cgroup.threads"


def only(t: Trial) -> None:
    """The check of a row that means something on cgroup v2 only."""
    raise Skip("needs cgroup v2 alone")


def made(t: Trial, resources: dict[str, Any]) -> tuple[Container, Path]:
    """A created container with these resources, and its cgroup."""
    path = CGROUPS / own_path(t)[1:]
    t.bundle.linux["resources"] = resources
    return t.create("sleep"), path


def values(resources: dict[str, Any], *files: tuple[str, str]) -> Function:
    """These resources, and what the files of the container's cgroup then say."""

    def holds(t: Trial) -> None:
        need(files[0][0].partition(".")[0])
        container, path = made(t, resources)
        for name, value in files:
            if not (path / name).exists():
                raise Skip(f"this kernel has no {name}")
            t.equal((path / name).read_text().strip(), value, name)
        t.stop(container)

    return holds


def error(*every: dict[str, Any]) -> Function:
    """Each of these resources has no counterpart on v2."""

    def holds(t: Trial) -> None:
        for resources in every:
            own_path(t)
            t.bundle.linux["resources"] = resources
            t.refused(f"{resources} on cgroup v2")

    return holds


def disk() -> tuple[int, int]:
    for path in sorted(Path("/sys/block").iterdir()):
        if (path / "device").exists():
            major, minor = (path / "dev").read_text().split(":")
            return int(major), int(minor)
    raise Skip("no block device")


def throttle(t: Trial) -> None:
    need("io")
    major, minor = disk()
    entry = {"major": major, "minor": minor, "rate": MIB}
    names = ("throttleReadBpsDevice", "throttleWriteIOPSDevice")
    container, path = made(t, {"blockIO": {name: [entry] for name in names}})
    expected = f"{major}:{minor} rbps={MIB} wbps=max riops=max wiops={MIB}"
    t.equal((path / "io.max").read_text().strip(), expected, "io.max")
    t.stop(container)


def weight(t: Trial) -> None:
    """blockIO.weight: by BFQ as it is, by io.cost in its scale; an error where the kernel has neither."""
    need("io")
    path = CGROUPS / own_path(t)[1:]
    t.bundle.linux["resources"] = {"blockIO": {"weight": 300}}
    container = t.runtime.try_create(t.bundle.args("sleep"))
    if container.result.code != 0:
        raise Skip("no I/O scheduler of this kernel has weights")
    for name, value in (("io.bfq.weight", "default 300"), ("io.weight", "default 2930")):
        if (path / name).exists():
            t.equal((path / name).read_text().split("\n")[0], value, name)
            return
    raise Failure("an error where there is no weight to set", "create succeeds")


def pages(t: Trial) -> None:
    need("hugetlb")
    sizes = Path("/sys/kernel/mm/hugepages")
    if not (sizes / "hugepages-2048kB").exists():
        raise Skip("no huge pages of 2 MB")
    limits = [{"pageSize": "2MB", "limit": 4 * MIB}]
    container, path = made(t, {"hugepageLimits": limits})
    for name in ("hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"):
        if (path / name).exists():
            t.equal((path / name).read_text().strip(), str(4 * MIB), name)
    t.stop(container)


def unified_controllers(t: Trial) -> None:
    need("pids")
    need("memory")
    container, path = made(t, {"unified": {"pids.max": "50", "memory.high": str(64 * MIB)}})
    on = (path / "cgroup.controllers").read_text().split()
    t.claim({"pids", "memory"} <= set(on), "pids and memory in cgroup.controllers", " ".join(on))
    t.stop(container)


def absent_controller(t: Trial) -> None:
    own_path(t)
    t.bundle.linux["resources"] = {"unified": {"nonesuch.max": "1"}}
    t.refused("unified with a key of a controller that does not exist")


def owners(path: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_uid, p.stat().st_gid) for p in [path, *path.iterdir()]}


def given(t: Trial, *mount_options: str) -> tuple[Path, dict[str, tuple[int, int]]]:
    """Owners in the cgroup of a container with a user and a cgroup namespace, whose process is 5:6."""
    if os.geteuid() != 0:
        raise Skip("needs root: an ordinary user cannot give away a cgroup")
    path = CGROUPS / own_path(t)[1:]
    t.bundle.user_namespace().namespace("cgroup")
    t.bundle.mount(
        "/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "nodev", "noexec", *mount_options
    )
    t.bundle.process["user"] = {"uid": 5, "gid": 6}
    container = t.create("sleep")
    found = owners(path)
    t.stop(container)
    t.forget(container)
    return path, found


def delegated(t: Trial) -> None:
    """7.10: given to a container that has its own view of it and may write there, not to others."""
    path, found = given(t)
    t.claim(found[path.name][0] != 0, "the cgroup is not root's any more", "root's")
    t.bundle.config["mounts"].pop()
    path, found = given(t, "ro")
    t.equal(found[path.name][0], 0, "owner of the cgroup of a container with a read-only mount")


def delegated_files(t: Trial) -> None:
    path, found = given(t)
    text = DELEGATE.read_text() if DELEGATE.exists() else FIRST_DELEGATED
    names = {path.name} | (set(text.split()) & set(found))
    changed = {name for name, (uid, gid) in found.items() if (uid, gid) != (0, 0)}
    t.equal(" ".join(sorted(changed)), " ".join(sorted(names)), "files with another owner")


def delegated_to(t: Trial) -> None:
    path, found = given(t)
    t.equal(found[path.name], (100005, 0), "owner and group of the cgroup")


CHECKS: dict[str, Function] = {
    "7.10": delegated,
    "7.11": delegated_files,
    "7.12": delegated_to,
    "7.14": unified_controllers,
    "7.15": values({"unified": {"memory.high": str(64 * MIB)}}, ("memory.high", str(64 * MIB))),
    "7.16": absent_controller,
    "7.17": error(
        {"memory": {"swappiness": 40}},
        {"memory": {"limit": 64 * MIB, "disableOOMKiller": True}},
        {"cpu": {"realtimeRuntime": 1000, "realtimePeriod": 1000000}},
        {"blockIO": {"leafWeight": 300}},
        {"network": {"classID": 1048577}},
        {"network": {"priorities": [{"name": "lo", "priority": 1}]}},
    ),
    "7.30": both(
        values({"memory": {"limit": 64 * MIB}}, ("memory.max", str(64 * MIB))),
        values({"memory": {"limit": -1}}, ("memory.max", "max")),
    ),
    "7.31": values({"memory": {"reservation": 32 * MIB}}, ("memory.low", str(32 * MIB))),
    "7.32": values(
        {"memory": {"limit": 64 * MIB, "swap": 96 * MIB}},
        ("memory.max", str(64 * MIB)),
        ("memory.swap.max", str(32 * MIB)),
    ),
    "7.43": error({"cpu": {"realtimeRuntime": 1000, "realtimePeriod": 1000000}}),
    "7.40": both(
        values({"cpu": {"shares": 2}}, ("cpu.weight", "1")),
        values({"cpu": {"shares": 262144}}, ("cpu.weight", "10000")),
    ),
    "7.41": values({"cpu": {"quota": 30000, "period": 60000}}, ("cpu.max", "30000 60000")),
    "7.42": values(
        {"cpu": {"quota": 30000, "period": 60000, "burst": 10000}}, ("cpu.max.burst", "10000")
    ),
    "7.44": values({"cpu": {"cpus": "0", "mems": "0"}}, ("cpuset.cpus", "0"), ("cpuset.mems", "0")),
    "7.45": values({"cpu": {"idle": 1}}, ("cpu.idle", "1")),
    "7.50": weight,
    "7.53": throttle,
    "7.60": pages,
    "7.63": both(
        values({"pids": {"limit": 100}}, ("pids.max", "100")),
        values({"pids": {"limit": -1}}, ("pids.max", "max")),
        values({"pids": {"limit": 0}}, ("pids.max", "0")),
    ),
}
for _number in TABLE.keys() | CHECKS.keys():
    if V2:
        register(_number, CHECKS.get(_number) or TABLE[_number])
    else:
        register(_number, TABLE.get(_number, only))

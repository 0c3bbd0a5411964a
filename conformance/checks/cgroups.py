"""config-linux.md: control groups; values of single files on cgroup v1, those of v2 are in cgroups_v2."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conformance.kit import Container
from conformance.registry import check
from conformance.trial import Skip, Trial
from conformance.world import CGROUPS, UNIFIED

MIB = 1024 * 1024
Function = Callable[[Trial], None]
V2 = (CGROUPS / "cgroup.controllers").exists()


def _in_a_new_cgroup(hierarchy: Path, file: str) -> bool:
    """Whether a cgroup has the file; the root, which lacks many, does not tell."""
    probe = hierarchy / f"conformance-probe-{os.getpid()}"
    probe.mkdir()
    try:
        return (probe / file).exists()
    finally:
        probe.rmdir()


def need_own() -> None:
    """Raises Skip where this user may make no cgroups."""
    if os.geteuid() != 0 and not V2 and not os.access(CGROUPS / "pids", os.W_OK):
        raise Skip("needs root: an ordinary user may make no cgroups on cgroup v1")


def need(controller: str, file: str | None = None) -> Path:
    """The hierarchy of a controller; raises Skip where it or the file (of v1) does not exist."""
    need_own()
    if V2 and file is None:
        # Devices have no controller there, but a filter.
        there = (CGROUPS / "cgroup.controllers").read_text().split()
        if controller != "devices" and {"blkio": "io"}.get(controller, controller) not in there:
            raise Skip(f"needs the {controller} controller")
        return CGROUPS
    path = CGROUPS / controller
    if not os.path.ismount(path) or not (path / "tasks").exists():
        raise Skip(f"needs the {controller} controller of cgroup v1")
    if file and not (path / file).exists() and not _in_a_new_cgroup(path, file):
        raise Skip(f"this kernel has no {file}")
    return path


def _path(text: str, controller: str) -> str:
    """The path of a controller's line in /proc/PID/cgroup."""
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(",") or (V2 and not names):
            return path
    raise Skip(f"needs the {controller} controller")


def place(container: Container, controller: str) -> str:
    """The cgroup of the container's process below the mount point of a controller."""
    return _path(container.proc("cgroup"), controller)


def place_of_caller(controller: str) -> str:
    """The cgroup of this process."""
    return _path(Path("/proc/self/cgroup").read_text(), controller)


def own_path(t: Trial) -> str:
    """Give the container a cgroupsPath that nothing else has and that the sweep will find.

    Raises Skip where this user may make no cgroups.
    """
    need_own()
    path = f"/{t.runtime.root.name}/{t.runtime.new_id()}"
    if V2 and os.geteuid() != 0:
        # Where an ordinary user may make cgroups, if anywhere.
        path = place_of_caller("").rpartition("/")[0] + path
    t.bundle.linux["cgroupsPath"] = path
    return path


@check("7.1")
def absolute(t: Trial) -> None:
    path = own_path(t)
    top = need("pids")
    container = t.create("sleep")
    t.equal(place(container, "pids"), path, "cgroup")
    t.claim((top / path[1:]).is_dir(), "it is below the mount point", "it is not")


@check("7.2")
def relative(t: Trial) -> None:
    need("pids")
    t.bundle.linux["cgroupsPath"] = f"{t.runtime.root.name}/relative"
    seen = place(t.create("sleep"), "pids")
    t.claim(seen.endswith(f"{t.runtime.root.name}/relative"), "the path below some place", seen)


@check("7.3")
def same_place(t: Trial) -> None:
    need("pids")
    own_path(t)
    seen = set()
    for _ in range(2):
        container = t.create("sleep")
        seen.add(place(container, "pids"))
        t.stop(container)
        t.delete(container)
    t.equal(len(seen), 1, "number of places")


@check("7.4")
def default(t: Trial) -> None:
    need("pids")
    seen = place(t.create("sleep"), "pids")
    t.claim(seen != place_of_caller("pids"), "a cgroup of its own", seen)


@check("7.5")
def unusable(t: Trial) -> None:
    need("pids")
    own_path(t)
    t.bundle.linux["cgroupsPath"] += "/line\nfeed"
    t.refused("a cgroupsPath with a line feed, which the kernel refuses")


@check("7.8")
def controllers(t: Trial) -> None:
    path = own_path(t)
    need("pids")
    need("memory")
    t.bundle.linux["resources"] = {"pids": {"limit": 100}, "memory": {"limit": 64 * MIB}}
    container = t.create("sleep")
    for name in ("pids", "memory"):
        t.equal(place(container, name), path, f"cgroup of {name}")


@check("7.9")
def owner(t: Trial) -> None:
    path = need("pids") / own_path(t)[1:]
    t.bundle.user_namespace()
    container = t.create("sleep")
    t.equal((path / "cgroup.procs").stat().st_uid, os.geteuid(), "owner of cgroup.procs")
    t.stop(container)


def v1(controller: str, resources: dict[str, Any], *files: tuple[str, str]) -> Function:
    """These resources, and what the files of the container's v1 cgroup then say."""

    def holds(t: Trial) -> None:
        top = need(controller, files[0][0])
        path = top / own_path(t)[1:]
        t.bundle.linux["resources"] = resources
        container = t.create("sleep")
        for name, value in files:
            seen = (path / name).read_text().strip()
            t.equal(seen, value, f"{controller}/{name}")
        t.stop(container)

    return holds


def both(*functions: Function) -> Function:
    """A check of several parts, each with a bundle of its own."""

    def holds(t: Trial) -> None:
        for function in functions:
            function(t)
            for container in list(t.runtime.containers):
                t.forget(container)

    return holds


def applied_or_refused(
    controller: str, resources: dict[str, Any], file: str, value: str
) -> Function:
    """The kernel may have dropped it: then an error is right as well."""

    def holds(t: Trial) -> None:
        top = need(controller, file)
        path = top / own_path(t)[1:]
        t.bundle.linux["resources"] = resources
        container = t.runtime.try_create(t.bundle.args("sleep"))
        if container.result.code == 0:
            t.equal((path / file).read_text().strip(), value, f"{controller}/{file}")

    return holds


# Registered by cgroups_v2, as far as that has no other check for cgroup v2.
TABLE: dict[str, Function] = {
    "7.30": both(
        v1("memory", {"memory": {"limit": 64 * MIB}}, ("memory.limit_in_bytes", str(64 * MIB))),
        v1("memory", {"memory": {"limit": -1}}, ("memory.limit_in_bytes", "9223372036854771712")),
    ),
    "7.31": v1(
        "memory", {"memory": {"reservation": 32 * MIB}}, ("memory.soft_limit_in_bytes", str(32 * MIB))
    ),
    "7.32": v1(
        "memory",
        {"memory": {"limit": 64 * MIB, "swap": 96 * MIB}},
        ("memory.memsw.limit_in_bytes", str(96 * MIB)),
        ("memory.limit_in_bytes", str(64 * MIB)),
    ),
    "7.33": applied_or_refused(
        "memory", {"memory": {"kernelTCP": 16 * MIB}}, "memory.kmem.tcp.limit_in_bytes", str(16 * MIB)
    ),
    "7.34": v1("memory", {"memory": {"swappiness": 40}}, ("memory.swappiness", "40")),
    "7.40": v1("cpu", {"cpu": {"shares": 512}}, ("cpu.shares", "512")),
    "7.41": v1(
        "cpu",
        {"cpu": {"quota": 30000, "period": 60000}},
        ("cpu.cfs_quota_us", "30000"),
        ("cpu.cfs_period_us", "60000"),
    ),
    "7.42": v1(
        "cpu",
        {"cpu": {"quota": 30000, "period": 60000, "burst": 10000}},
        ("cpu.cfs_burst_us", "10000"),
    ),
    "7.43": applied_or_refused(
        "cpu", {"cpu": {"realtimeRuntime": 1000, "realtimePeriod": 1000000}},
        "cpu.rt_runtime_us", "1000",
    ),
    "7.44": v1("cpuset", {"cpu": {"cpus": "0", "mems": "0"}}, ("cpuset.cpus", "0"),
               ("cpuset.mems", "0")),
    "7.45": v1("cpu", {"cpu": {"idle": 1}}, ("cpu.idle", "1")),
    "7.50": v1("blkio", {"blockIO": {"weight": 300}}, ("blkio.bfq.weight", "300")),
    "7.51": v1("blkio", {"blockIO": {"leafWeight": 300}}, ("blkio.leaf_weight", "300")),
    "7.62": v1("net_cls", {"network": {"classID": 1048577}}, ("net_cls.classid", "1048577")),
    "7.63": both(
        v1("pids", {"pids": {"limit": 100}}, ("pids.max", "100")),
        v1("pids", {"pids": {"limit": -1}}, ("pids.max", "max")),
        v1("pids", {"pids": {"limit": 0}}, ("pids.max", "0")),
    ),
}  # fmt: skip


def no_oom_killer(t: Trial) -> None:
    path = need("memory", "memory.oom_control") / own_path(t)[1:]
    t.bundle.linux["resources"] = {"memory": {"limit": 64 * MIB, "disableOOMKiller": True}}
    container = t.create("sleep")
    seen = (path / "memory.oom_control").read_text().split("\n")[0]
    t.equal(seen, "oom_kill_disable 1", "memory.oom_control")
    t.stop(container)


def throttle(t: Trial) -> None:
    path = need("blkio", "blkio.throttle.read_bps_device") / own_path(t)[1:]
    disks = [p for p in Path("/sys/block").iterdir() if (p / "dev").exists()]
    if not disks:
        raise Skip("no block device")
    major, minor = map(int, (disks[0] / "dev").read_text().split(":"))
    entry = {"major": major, "minor": minor, "rate": MIB}
    t.bundle.linux["resources"] = {
        "blockIO": {"throttleReadBpsDevice": [entry], "throttleWriteIOPSDevice": [entry]}
    }
    container = t.create("sleep")
    for file in ("blkio.throttle.read_bps_device", "blkio.throttle.write_iops_device"):
        t.equal((path / file).read_text().strip(), f"{major}:{minor} {MIB}", file)
    t.stop(container)


def _controllers(top: Path) -> list[str]:
    file = top / "cgroup.controllers"
    return file.read_text().split() if file.exists() else []


def huge_pages(t: Trial) -> None:
    """Where the hugetlb controller is: of v1, or of the cgroup2 tree of a hybrid host."""
    sizes = [p.name.removeprefix("hugepages-") for p in Path("/sys/kernel/mm/hugepages").glob("*")]
    if "2048kB" not in sizes:
        raise Skip("no huge pages of 2 MB")
    path = own_path(t)
    hybrid = "hugetlb" in _controllers(UNIFIED)
    if hybrid:
        top, names = UNIFIED, ("hugetlb.2MB.max", "hugetlb.2MB.rsvd.max")
    else:
        top, names = (
            need("hugetlb"),
            ("hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.rsvd.limit_in_bytes"),
        )
    t.bundle.linux["resources"] = {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]}
    if hybrid:
        # A runtime that leaves this tree alone has to refuse, which is no less right.
        tried = t.runtime.try_create(t.bundle.args("sleep"))
        if tried.result.code != 0:
            raise Skip("the runtime does not use the cgroup2 tree of a hybrid host")
        container = tried
    else:
        container = t.create("sleep")
    for name in names:
        file = top / path[1:] / name
        if file.exists():
            t.equal(file.read_text().strip(), str(4 * MIB), name)
        else:
            t.claim(".rsvd." in name, f"{name} of the container's cgroup", "no such file")
    t.stop(container)


TABLE |= {"7.35": no_oom_killer, "7.53": throttle, "7.60": huge_pages}


@check("7.52")
def weight_device(t: Trial) -> None:
    need("blkio")
    own_path(t)
    t.bundle.linux["resources"] = {"blockIO": {"weightDevice": [{"major": 7, "minor": 0}]}}
    t.refused("an entry of weightDevice with neither weight")


@check("7.61")
def page_size(t: Trial) -> None:
    own_path(t)
    t.bundle.linux["resources"] = {"hugepageLimits": [{"pageSize": "3MB", "limit": 0}]}
    t.refused("pages of 3 MB")


# /dev/loop-control: it is no default device, and opening it has no effect.
_PROBE = {"type": "c", "major": 10, "minor": 237}


def _probe(t: Trial) -> str:
    """EPERM or ok: whether the container may use the device."""
    numbers = (str(_PROBE["major"]), str(_PROBE["minor"]))
    text = " ".join(t.output("mknod", "/dev/n", "c", *numbers, ";", "open", "/dev/n", "r"))
    if "ENODEV" in text or "ENXIO" in text:
        raise Skip("this kernel has no /dev/loop-control")
    return "EPERM" if "EPERM" in text else text.removeprefix("ok ")


def _rules(t: Trial, *rules: dict[str, Any]) -> None:
    own_path(t)
    names = ["CAP_MKNOD", "CAP_DAC_OVERRIDE"]
    t.bundle.process["capabilities"] = dict.fromkeys(("bounding", "permitted", "effective"), names)
    t.bundle.linux["resources"] = {"devices": list(rules)}


_DENY = {"allow": False, "access": "rwm"}


@check("7.20")
def rule_order(t: Trial) -> None:
    need("devices")
    allow = {"allow": True, **_PROBE, "access": "rwm"}
    _rules(t, _DENY, allow)
    t.equal(_probe(t), "ok", "10:237 after deny all, allow 10:237")
    _rules(t, allow, _DENY)
    t.equal(_probe(t), "EPERM", "10:237 after allow 10:237, deny all")


@check("7.21")
def rule_defaults(t: Trial) -> None:
    need("devices")
    for rule in (
        {"type": "c", "major": 10},
        {"type": "c"},
        {"type": "a"},
    ):
        _rules(t, _DENY, {"allow": True, **rule, "access": "rwm"})
        t.equal(_probe(t), "ok", f"10:237 after deny all, allow {rule}")

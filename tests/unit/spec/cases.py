"""Configs that break one rule each, and unusual ones that must be accepted: changes of a valid config."""

# ruff: noqa: E501 (tables: one case per line)

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, NamedTuple

DATA = Path(__file__).resolve().parents[2] / "data"
IDS = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def sample(name: str = "every-property") -> dict[str, Any]:
    """One of the configs in tests/data."""
    document: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
    return document


class Change(NamedTuple):
    """Sets (or with ``...`` deletes) the value at a JSON pointer; a last step of ``-`` appends to an array."""

    pointer: str
    value: Any = ...

    def apply(self, document: Any) -> None:
        *steps, last = [
            step.replace("~1", "/").replace("~0", "~") for step in self.pointer.split("/")[1:]
        ]
        for step in steps:
            document = document[int(step)] if isinstance(document, list) else document[step]
        key: Any = int(last) if isinstance(document, list) and last != "-" else last
        if self.value is ...:
            del document[key]
        elif last == "-" and isinstance(document, list):
            document.append(copy.deepcopy(self.value))
        else:
            document[key] = copy.deepcopy(self.value)


def changed(*changes: Change, base: str = "every-property") -> dict[str, Any]:
    document = sample(base)
    for change in changes:
        change.apply(document)
    return document


class Refused(NamedTuple):
    """``changes`` of a valid config break ``rule`` at ``pointers`` (default: where the last change was made)."""

    rule: str
    changes: list[Change]
    message: str = ""
    pointers: list[str] | None = None
    base: str = "every-property"
    strict: bool = False


def without(kind: str, *more: Change) -> list[Change]:
    """The namespace type taken out (every-property has eight, in this order)."""
    order = ["pid", "network", "ipc", "uts", "mount", "user", "cgroup", "time"]
    return [Change(f"/linux/namespaces/{order.index(kind)}"), *more]


_NO_USERNS = without("user", Change("/linux/uidMappings"), Change("/linux/gidMappings"))
_MANY = [{"containerID": 2 * i, "hostID": 100000 + 2 * i, "size": 1} for i in range(341)]
_LONG = [{"containerID": 2 * i, "hostID": 1000000000 + 2 * i, "size": 1} for i in range(300)]

REFUSED: list[Refused] = [
    Refused("oci-version", [Change("/ociVersion", "")], "not a version"),
    Refused("oci-version", [Change("/ociVersion", "1.3")], "not a version"),
    Refused("oci-version", [Change("/ociVersion", "v1.3.0")], "not a version"),
    Refused("oci-version", [Change("/ociVersion", "1.03.0")], "not a version"),
    Refused("oci-version", [Change("/ociVersion", "1.3.0-")], "not a version"),
    Refused("oci-version", [Change("/ociVersion", "1.3.0-01")], "not a version"),
    Refused("oci-version", [Change("/ociVersion", "1.3.0+a..b")], "not a version"),
    Refused("oci-version", [Change("/ociVersion", "1.3.0\n")], "not a version"),
    Refused("oci-version", [Change("/ociVersion", "2.0.0")], "unsupported version"),
    Refused("oci-version", [Change("/ociVersion", "0.5.0-dev")], "unsupported version"),
    Refused("root-required", [Change("/root")], "root must be specified"),
    Refused("root-required", [Change("/root/path", "")], "empty path"),
    Refused("args-required", [Change("/process/args")], "args must not be empty"),
    Refused("args-required", [Change("/process/args", [])], "args must not be empty"),
    Refused("cwd-absolute", [Change("/process/cwd", "tmp")], "not an absolute path"),
    Refused("cwd-absolute", [Change("/process/cwd", "")], "not an absolute path"),
    Refused("env-entry", [Change("/process/env/0", "PATH")], "expected NAME=value"),
    Refused("env-entry", [Change("/process/env/0", "=x")], "expected NAME=value"),
    Refused("env-entry", [Change("/process/env/1", "")], "expected NAME=value"),
    Refused("env-entry", [Change("/hooks/poststop/0/env/0", "x")], "expected NAME=value"),
    Refused("user-required", [Change("/process/user")], "expected uid and gid"),
    Refused("user-required", [Change("/process/user/uid")], "expected a uid"),
    Refused("user-required", [Change("/process/user/gid")], "expected a gid"),
    Refused("user-id", [Change("/process/user/uid", 2**32 - 1)], "not an id", base="docker-default"),
    Refused("user-id", [Change("/process/user/gid", 2**32 - 1)], "not an id", base="docker-default"),
    Refused("user-id", [Change("/process/user/additionalGids/1", 2**32 - 1)], "not an id", base="docker-default"),
    Refused("umask-range", [Change("/process/user/umask", 0o1000)], "at most 511"),
    Refused("rlimit-type", [Change("/process/rlimits/0/type", "RLIMIT_FOO")], "unknown resource limit"),
    Refused("rlimit-duplicate", [Change("/process/rlimits/1/type", "RLIMIT_NOFILE")], "duplicate resource limit"),
    Refused("rlimit-order", [Change("/process/rlimits/0/soft", 4097)], "above the hard limit"),
    Refused("oom-score-adj", [Change("/process/oomScoreAdj", 1001)], "-1000 to 1000"),
    Refused("oom-score-adj", [Change("/process/oomScoreAdj", -1001)], "-1000 to 1000"),
    Refused("io-priority", [Change("/process/ioPriority/priority")], "missing"),
    Refused("io-priority", [Change("/process/ioPriority/priority", 8)], "expected 0 to 7"),
    Refused("io-priority", [Change("/process/ioPriority/priority", -1)], "expected 0 to 7"),
    Refused("scheduler", [Change("/process/scheduler", {"policy": "SCHED_FIFO"})], "1 to 99", ["/process/scheduler/priority"]),
    Refused(
        "scheduler",
        [Change("/process/scheduler", {"policy": "SCHED_RR", "priority": 100})],
        "1 to 99",
        ["/process/scheduler/priority"],
    ),
    Refused(
        "scheduler",
        [Change("/process/scheduler", {"policy": "SCHED_OTHER", "priority": 1})],
        "only for SCHED_FIFO",
        ["/process/scheduler/priority"],
    ),
    Refused(
        "scheduler",
        [Change("/process/scheduler", {"policy": "SCHED_OTHER", "nice": 20})],
        "-20 to 19",
        ["/process/scheduler/nice"],
    ),
    Refused(
        "scheduler",
        [Change("/process/scheduler", {"policy": "SCHED_BATCH", "runtime": 1, "period": 1})],
        "only for SCHED_DEADLINE",
        ["/process/scheduler/runtime", "/process/scheduler/period"],
    ),
    Refused("scheduler", [Change("/process/scheduler/runtime", 200001)], "runtime <= deadline", ["/process/scheduler"]),
    Refused("scheduler", [Change("/process/scheduler/period", 199999)], "deadline <= period", ["/process/scheduler"]),
    Refused("scheduler", [Change("/process/scheduler/runtime")], "0 < runtime", ["/process/scheduler"]),
    Refused("cpu-affinity", [Change("/process/execCPUAffinity/initial", "3-1")], "malformed list of CPUs"),
    Refused("cpu-affinity", [Change("/process/execCPUAffinity/final", "1-2-3")], "malformed list of CPUs"),
    Refused("cpu-affinity", [Change("/process/execCPUAffinity/final", "-1")], "malformed list of CPUs"),
    Refused("cpu-affinity", [Change("/process/execCPUAffinity/final", "1 2")], "malformed list of CPUs"),
    Refused("console-size", [Change("/process/consoleSize/width", 65536)], "at most 65535"),
    Refused("uts-required", without("uts", Change("/domainname")), "unable to set hostname without a private UTS namespace", ["/hostname"]),
    Refused("uts-required", without("uts", Change("/hostname")), "unable to set domainname", ["/domainname"]),
    Refused("name-too-long", [Change("/hostname", "é" * 33)], "longer than 64 bytes"),
    Refused("name-too-long", [Change("/domainname", "x" * 65)], "longer than 64 bytes"),
    Refused("hook-path", [Change("/hooks/prestart/0/path", "true")], "not an absolute path"),
    Refused("hook-path", [Change("/hooks/poststop/0/path", "")], "not an absolute path"),
    Refused("annotation-key", [Change("/annotations/", "x")], "empty annotation name"),
    Refused("mount-destination", [Change("/mounts/2/destination", "")], "empty destination"),
    Refused("mount-destination", [Change("/mounts/2/destination", "data")], "not an absolute path", strict=True),
    Refused("mount-on-proc", [Change("/mounts/0/type", "tmpfs")], "/proc must be a procfs"),
    Refused("mount-on-proc", [Change("/mounts/0/type")], "/proc must be a procfs"),
    Refused("mount-on-proc", [Change("/mounts/2/destination", "/proc/self/attr")], "inside /proc"),
    Refused("mount-on-proc", [Change("/mounts/2/destination", "//x/../proc/./sys")], "inside /proc"),
    Refused("mount-on-proc", [Change("/mounts/2/destination", "proc/uptime/x")], "inside /proc"),
    Refused("bind-source", [Change("/mounts/2/source")], "missing source"),
    Refused("bind-source", [Change("/mounts/2/source", "")], "missing source"),
    Refused("idmap-pair", [Change("/mounts/2/uidMappings")], "go together"),
    Refused("idmap-pair", [Change("/mounts/2/gidMappings", [])], "go together"),
    Refused(
        "idmap-mappings",
        [
            *_NO_USERNS,
            Change("/mounts/2/uidMappings"),
            Change("/mounts/2/gidMappings"),
            Change("/mounts/2/options/-", "idmap"),
        ],
        "without uidMappings",
        ["/mounts/2/options"],
    ),
    Refused("namespace-duplicate", [Change("/linux/namespaces/-", {"type": "pid"})], "duplicate namespace type pid", ["/linux/namespaces/8/type"]),
    Refused("namespace-path", [Change("/linux/namespaces/1/path", "netns/blue")], "not an absolute path"),
    Refused("mappings-without-userns", without("user", Change("/linux/gidMappings")), "no user namespace", ["/linux/uidMappings"]),
    Refused("mappings-without-userns", without("user", Change("/linux/uidMappings")), "no user namespace", ["/linux/gidMappings"]),
    Refused("userns-mappings", [Change("/linux/uidMappings")], "no uid mappings found"),
    Refused("userns-mappings", [Change("/linux/gidMappings", [])], "no gid mappings found"),
    Refused("map-size", [Change("/mounts/2/uidMappings", _MANY)], "got 341"),
    Refused("map-size", [Change("/mounts/2/gidMappings", _LONG)], "the kernel takes less than 4096"),
    Refused("map-range", [Change("/mounts/2/uidMappings/0/size", 0)], "empty range"),
    Refused("map-range", [Change("/mounts/2/uidMappings/0/hostID", 2**32 - 65536)], "beyond the last id"),
    Refused("map-range", [Change("/mounts/2/gidMappings/0/containerID", 2**32 - 2)], "beyond the last id"),
    Refused(
        "map-overlap",
        [Change("/mounts/2/uidMappings/-", {"containerID": 65535, "hostID": 1, "size": 1})],
        "overlaps the range of entry 0",
        ["/mounts/2/uidMappings/1/containerID"],
    ),
    Refused(
        "map-overlap",
        [Change("/mounts/2/gidMappings/-", {"containerID": 70000, "hostID": 99999, "size": 2})],
        "overlaps the range of entry 0",
        ["/mounts/2/gidMappings/1/hostID"],
    ),
    Refused("id-unmapped", [Change("/process/user/uid", 65536)], "uid 65536 is not in linux.uidMappings"),
    Refused("id-unmapped", [Change("/process/user/additionalGids/1", 65536)], "gid 65536"),
    Refused("id-unmapped", [Change("/linux/gidMappings/0/containerID", 1)], "root of the container 0", ["/linux/gidMappings"]),
    Refused("time-offsets", without("time"), "no time namespace", ["/linux/timeOffsets"]),
    Refused("time-offsets", [Change("/linux/namespaces/7/path", "/proc/1/ns/time")], "joined by path", ["/linux/timeOffsets"]),
    Refused("time-offsets", [Change("/linux/timeOffsets/monotonic/nanosecs", 10**9)], "less than 1000000000"),
    Refused("device-path", [Change("/linux/devices/0/path", "dev/fuse")], "not an absolute path"),
    Refused("device-number", [Change("/linux/devices/0/major")], "missing"),
    Refused("device-number", [Change("/linux/devices/0/minor")], "missing"),
    Refused("device-number", [Change("/linux/devices/0/major", 4096)], "0 to 4095"),
    Refused("device-number", [Change("/linux/devices/0/minor", -1)], "0 to 1048575"),
    Refused("file-mode", [Change("/linux/devices/0/fileMode", 0o200000)], "not a file mode"),
    Refused("file-mode", [Change("/linux/devices/0/fileMode", 0o1000)], "not a file mode", strict=True),
    Refused("net-device", without("network", Change("/linux/sysctl/net.core.somaxconn")), "no network namespace", ["/linux/netDevices"]),
    Refused("net-device", [Change("/linux/netDevices/eth0/name", "x" * 16)], "at most 15 bytes"),
    Refused("net-device", [Change("/linux/netDevices/eth0/name", "a/b")], "not the name"),
    Refused("net-device", [Change("/linux/netDevices/eth0/name", "a b")], "not the name"),
    Refused("net-device", [Change("/linux/netDevices/eth0/name", "..")], "not the name"),
    Refused("net-device", [Change("/linux/netDevices/a:1", {})], "not the name"),
    Refused("net-device", [Change("/linux/netDevices/eth0/name", "eth1")], "same name", ["/linux/netDevices/eth1"]),
    Refused("cgroups-path", [Change("/linux/cgroupsPath", "/a/../b")], "invalid cgroup path"),
    Refused("cgroups-path", [Change("/linux/cgroupsPath", "/a\nb")], "invalid cgroup path"),
    Refused("device-rule", [Change("/linux/resources/devices/1/type", "p")], "expected a, b or c"),
    Refused("device-rule", [Change("/linux/resources/devices/1/access", "rx")], "letters of rwm"),
    Refused("device-rule", [Change("/linux/resources/devices/1/major", -2)], "-1 for all"),
    Refused(
        "weight-device",
        [Change("/linux/resources/blockIO/weightDevice/0", {"major": 8, "minor": 0})],
        "weight, leafWeight or both",
    ),
    Refused("rdma-limits", [Change("/linux/resources/rdma/mlx5_0", {})], "hcaHandles, hcaObjects or both"),
    Refused("unified-name", [Change("/linux/resources/unified/..~1x", "1")], "not the name of a cgroup file"),
    Refused("unified-name", [Change("/linux/resources/unified/", "1")], "not the name of a cgroup file"),
    Refused("sysctl-name", [Change("/linux/sysctl/kernel..shmmax", "1")], "empty or relative component"),
    Refused("sysctl-name", [Change("/linux/sysctl/net~1..~1kernel~1core_pattern", "1")], "empty or relative component"),
    Refused("sysctl-name", [Change("/linux/sysctl/kernel.shm_rmid_forced=1+kernel.core_pattern", "|x")], "no kernel parameter has"),
    Refused("sysctl-name", [Change("/linux/sysctl/net.a b", "1")], "no kernel parameter has"),
    Refused("sysctl-name", [Change("/linux/sysctl/", "1")], "empty or relative component"),
    Refused("sysctl-value", [Change("/linux/sysctl/kernel.shmmax", "1\nx")], "control character"),
    Refused("sysctl-namespace", [Change("/linux/sysctl/kernel.hostname", "x")], 'sysctl "kernel.hostname" is not allowed'),
    Refused("sysctl-namespace", [Change("/linux/sysctl/kernel.core_pattern", "x")], "is not in a separate kernel namespace"),
    Refused("sysctl-namespace", [Change("/linux/sysctl/vm.swappiness", "1")], "is not in a separate kernel namespace"),
    Refused("sysctl-namespace", without("ipc"), "the host's ipc namespace", ["/linux/sysctl/kernel.shmmax"]),
    Refused("sysctl-namespace", without("network", Change("/linux/netDevices")), "the host's network namespace", ["/linux/sysctl/net.core.somaxconn"]),
    Refused("seccomp-notify-default", [Change("/linux/seccomp/defaultErrnoRet"), Change("/linux/seccomp/defaultAction", "SCMP_ACT_NOTIFY")]),
    Refused("seccomp-errno", [Change("/linux/seccomp/defaultAction", "SCMP_ACT_ALLOW")], "only with SCMP_ACT_ERRNO", ["/linux/seccomp/defaultErrnoRet"]),
    Refused("seccomp-errno", [Change("/linux/seccomp/syscalls/2/errnoRet", 1)], "only with SCMP_ACT_ERRNO"),
    Refused("seccomp-errno", [Change("/linux/seccomp/syscalls/1/errnoRet", 4096)], "at most 4095"),
    Refused("seccomp-errno", [Change("/linux/seccomp/syscalls/1/action", "SCMP_ACT_TRACE"), Change("/linux/seccomp/syscalls/1/errnoRet", 65536)], "at most 65535"),
    Refused(
        "seccomp-listener",
        [Change("/linux/seccomp/listenerPath"), Change("/linux/seccomp/syscalls/0")],
        "not allowed without listenerPath",
        ["/linux/seccomp/listenerMetadata"],
    ),
    Refused(
        "seccomp-listener",
        [Change("/linux/seccomp/listenerMetadata"), Change("/linux/seccomp/listenerPath")],
        "needs listenerPath",
        ["/linux/seccomp/syscalls/0/action"],
    ),
    Refused("seccomp-argument", [Change("/linux/seccomp/syscalls/1/args/0/index", 6)], "0 to 5"),
    Refused(
        "paths-without-mount-namespace",
        without("mount"),
        "unable to restrict sys entries without a private MNT namespace",
        ["/linux/maskedPaths", "/linux/readonlyPaths"],
    ),
    Refused("restricted-path", [Change("/linux/maskedPaths/0", "proc/kcore")], "not an absolute path"),
    Refused("restricted-path", [Change("/linux/readonlyPaths/0", "")], "not an absolute path"),
    Refused("rootfs-propagation", [Change("/linux/rootfsPropagation", "rslave")], "not in the specification", strict=True),
    Refused("personality", [Change("/linux/personality/domain")], "missing"),
    Refused("personality", [Change("/linux/personality/flags", ["X"])], "unsupported personality flags"),
    Refused("memory-policy", [Change("/linux/memoryPolicy/mode")], "missing"),
    Refused("memory-policy", [Change("/linux/memoryPolicy/nodes")], "MPOL_BIND needs nodes"),
    Refused("memory-policy", [Change("/linux/memoryPolicy/nodes", "a")], "malformed list of nodes"),
    Refused("memory-policy", [Change("/linux/memoryPolicy", {"mode": "MPOL_LOCAL", "nodes": "0"})], "takes no nodes", ["/linux/memoryPolicy/nodes"]),
    Refused(
        "memory-policy",
        [Change("/linux/memoryPolicy", {"mode": "MPOL_PREFERRED", "flags": ["MPOL_F_STATIC_NODES"]})],
        "takes no flag on nodes",
        ["/linux/memoryPolicy/flags"],
    ),
    Refused("memory-policy", [Change("/linux/memoryPolicy/flags/-", "MPOL_F_RELATIVE_NODES")], "exclude each other", ["/linux/memoryPolicy/flags"]),
    Refused(
        "memory-policy",
        [Change("/linux/memoryPolicy/mode", "MPOL_INTERLEAVE"), Change("/linux/memoryPolicy/flags", ["MPOL_F_NUMA_BALANCING"])],
        "only for MPOL_BIND",
    ),
    Refused("intel-rdt", [Change("/linux/intelRdt/closID", "..")], "not the name of a class of service"),
    Refused("intel-rdt", [Change("/linux/intelRdt/closID", "a/b")], "not the name of a class of service"),
    Refused("intel-rdt", [Change("/linux/intelRdt/schemata/0", "L2:0=f\nMB:0=1")], "more than one line"),
    Refused("intel-rdt", [Change("/linux/intelRdt/l3CacheSchema", "L3:0=f\n")], "more than one line"),
]  # fmt: skip


class Accepted(NamedTuple):
    """``changes`` that engines make or the specification allows."""

    what: str
    changes: list[Change]
    base: str = "docker-default"


def _resources(value: Any) -> Change:
    return Change("/linux/resources", value)


ACCEPTED: list[Accepted] = [
    Accepted("no process: create without start", [Change("/process")]),
    Accepted("pre-release version of old engines", [Change("/ociVersion", "1.0.2-dev")]),
    Accepted("version with build metadata", [Change("/ociVersion", "1.0.0-rc5-dev+a.001.b-c")]),
    Accepted("a later minor version", [Change("/ociVersion", "1.99.0")]),
    Accepted("no linux object", [Change("/linux"), Change("/hostname")]),
    Accepted("no mounts", [Change("/mounts")]),
    Accepted("empty objects", [Change("/hooks", {}), Change("/process/capabilities", {}), Change("/annotations", {})]),
    Accepted("empty resources", [_resources({})]),
    Accepted("empty groups of resources", [_resources({"memory": {}, "cpu": {}, "blockIO": {}, "network": {}, "unified": {}})]),
    Accepted("Docker's zeros", [_resources({"cpu": {"shares": 0}, "blockIO": {"weight": 0}, "pids": {"limit": 0}, "memory": {"kernel": 0}})]),
    Accepted("junk options of bind mounts", [Change("/mounts/-", {"destination": "/v", "type": "bind", "source": "/v", "options": ["U", "copy", "nocopy", "", "rbind", "rbind", "ro", "rw", "z"]})]),
    Accepted("tmpcopyup and an empty option", [], "podman-default"),
    Accepted("two mounts on one destination", [Change("/mounts/-", {"destination": "/dev/shm", "type": "bind", "source": "/s", "options": ["rbind"]})]),
    Accepted("relative destination", [Change("/mounts/-", {"destination": "v", "type": "tmpfs", "source": "tmpfs"})]),
    Accepted("bind of a procfs on /proc", [Change("/mounts/0", {"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]})]),
    Accepted("lxcfs below /proc", [Change("/mounts/-", {"destination": "/proc/cpuinfo", "type": "bind", "source": "/var/lib/lxcfs/proc/cpuinfo", "options": ["bind"]})]),
    Accepted("a name that only begins like /proc", [Change("/mounts/-", {"destination": "/process/x", "type": "tmpfs", "source": "t"})]),
    Accepted("remount without source", [Change("/mounts/-", {"destination": "/sys", "options": ["bind", "remount", "ro"]})]),
    Accepted("repeated and absent masks", [Change("/linux/maskedPaths", ["/proc/x", "/proc/x", "/etc/passwd"])]),
    Accepted("user namespace with a path and mappings (containerd)", [Change("/linux/namespaces/-", {"type": "user", "path": "/proc/9/ns/user"}), Change("/linux/uidMappings", IDS), Change("/linux/gidMappings", IDS)]),
    Accepted("user namespace by path alone", [Change("/linux/namespaces/-", {"type": "user", "path": "/proc/9/ns/user"})]),
    Accepted("mappings without the option idmap (containerd, podman)", [Change("/mounts/-", {"destination": "/v", "type": "bind", "source": "/v", "options": ["rbind"], "uidMappings": IDS, "gidMappings": IDS})]),
    Accepted("empty mappings lists", [Change("/linux/uidMappings", []), Change("/linux/gidMappings", [])]),
    Accepted("idmap with the container's mappings", [Change("/mounts/2/uidMappings"), Change("/mounts/2/gidMappings"), Change("/mounts/2/options/-", "ridmap")], "every-property"),
    Accepted("fileMode with type bits", [Change("/linux/devices", [{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 8630, "uid": 0, "gid": 0}])]),
    Accepted("a device in a subfolder, a default one again", [Change("/linux/devices", [{"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200}, {"path": "/dev/full", "type": "c", "major": 1, "minor": 7}])]),
    Accepted("device rules without type, repeated, with wildcards", [_resources({"devices": [{"allow": False, "access": "rwm"}, {"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 136, "minor": -1, "access": "rwm"}, {"allow": True, "type": "", "access": ""}, {"allow": True}]})]),
    Accepted("unlimited resource limits", [Change("/process/rlimits", [{"type": "RLIMIT_NPROC", "soft": 2**64 - 1, "hard": 2**64 - 1}])]),
    Accepted("additionalGids unsorted and repeating gid", [Change("/process/user/additionalGids", [27, 0, 0, 5])]),
    Accepted("capabilities of a later kernel", [Change("/process/capabilities/bounding/-", "CAP_FUTURE")]),
    Accepted("consoleSize of zeros", [Change("/process/terminal", True), Change("/process/consoleSize", {"height": 0, "width": 0})]),
    Accepted("consoleSize without a terminal is ignored", [Change("/process/consoleSize", {"height": 2**40, "width": 1})]),
    Accepted("the recursive words of propagation", [Change("/linux/rootfsPropagation", "rslave")]),
    Accepted("empty strings as Go writes them", [Change("/hostname", ""), Change("/domainname", ""), Change("/linux/namespaces/0/path", ""), Change("/linux/cgroupsPath", "")]),
    Accepted("hostname in a joined UTS namespace", [Change("/linux/namespaces/2/path", "/proc/9/ns/uts")]),
    Accepted("systemd's form of cgroupsPath", [Change("/linux/cgroupsPath", "machine.slice:libpod:abc")]),
    Accepted("hook of dockerd", [Change("/hooks", {"prestart": [{"path": "/proc/77/exe", "args": ["libnetwork-setkey", "-exec-root=/var/run/docker"]}]})]),
    Accepted("unknown hook kinds and unknown properties", [Change("/hooks", {"later": [{"path": 5}]}), Change("/x", None), Change("/linux/y", [])]),
    Accepted("unknown system calls", [Change("/linux/seccomp/syscalls/0/names/-", "no_such_call")]),
    Accepted("repeated argument index", [Change("/linux/seccomp/syscalls/1/args", [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}] * 2)]),
    Accepted("PARISC and the rest of the architectures", [Change("/linux/seccomp/architectures/-", "SCMP_ARCH_PARISC64")]),
    Accepted("Docker's and podman's sysctls", [Change("/linux/sysctl", {"net.ipv4.ping_group_range": "0 2147483647", "kernel.msgmax": "65536", "kernel.domainname": "x", "fs.mqueue.msg_max": "10", "net/ipv4/conf/eth0.100/forwarding": "1"})]),
    Accepted("intelRdt of ctr", [Change("/linux/intelRdt", {"closID": "gold"})]),
    Accepted("the default class of service", [Change("/linux/intelRdt", {"closID": "/"})]),
    Accepted("personality of podman", [Change("/linux/personality", {"domain": "LINUX32"})]),
    Accepted("memory policy without nodes", [Change("/linux/memoryPolicy", {"mode": "MPOL_PREFERRED", "nodes": ""})]),
    Accepted("memory policy by default", [Change("/linux/memoryPolicy", {"mode": "MPOL_DEFAULT"})]),
    Accepted("real-time scheduling", [Change("/process/scheduler", {"policy": "SCHED_FIFO", "priority": 99})]),
    Accepted("empty timeOffsets", [Change("/linux/timeOffsets", {})]),
    Accepted("template of a network device name", [Change("/linux/netDevices", {"eth0": {"name": "net%d"}, "eth1": {"name": "net%d"}})]),
    Accepted("the largest map", [Change("/linux/namespaces/-", {"type": "user"}), Change("/linux/uidMappings", [{"containerID": 0, "hostID": 0, "size": 2**32 - 1}]), Change("/linux/gidMappings", [{"containerID": 0, "hostID": 0, "size": 2**32 - 1}])]),
    Accepted("adjacent ranges in any order", [Change("/linux/namespaces/-", {"type": "user"}), Change("/linux/uidMappings", [{"containerID": 5, "hostID": 0, "size": 10}, {"containerID": 0, "hostID": 10, "size": 5}]), Change("/linux/gidMappings", IDS)]),
    Accepted("other platforms' objects", [Change("/windows", {"layerFolders": ["c:\\x"]}), Change("/solaris", {}), Change("/vm", {"kernel": {"path": "/k"}}), Change("/zos", {}), Change("/freebsd", {"jail": {"vnet": "new"}})]),
]  # fmt: skip

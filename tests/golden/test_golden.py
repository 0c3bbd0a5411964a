"""config.json → plan, as text. OCIRUNTIME_GOLDEN=write writes the expected files anew; read the difference."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ociruntime.plan import compile as compiler
from ociruntime.plan import explain, join, words
from ociruntime.plan.encode import encode
from ociruntime.plan.facts import Facts
from ociruntime.plan.ops import Plan
from ociruntime.spec.locate import Places

HERE = Path(__file__).parent
DATA = HERE.parent / "data"
MAPPINGS = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def host(**changes: Any) -> Facts:
    """A host with two cgroup v1 hierarchies and a cgroup2 tree beside them."""
    facts = Facts()
    facts.rootfs = "/bundle/rootfs"
    facts.cgroup_mounts = [
        ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct", "/caller"),
        ("systemd", "/sys/fs/cgroup/systemd", "none,name=systemd", "/"),
        ("unified", "/sys/fs/cgroup/unified", "", "/"),
    ]
    facts.sources = dict.fromkeys(range(40), "dir")
    facts.devices = {path: 0 for path, _, _ in words.DEFAULT_DEVICES}
    facts.devices["/dev/fuse"] = 0
    for name, value in changes.items():
        setattr(facts, name, value)
    return facts


V2 = {"cgroup_mode": "v2", "cgroup_mounts": [("", "/sys/fs/cgroup", "", "/caller")]}
ROOTLESS = {"privileged": False, "euid": 1000, "egid": 1000, "cap_permitted": 0}


def options(**changes: Any) -> compiler.Options:
    chosen = compiler.Options("demo", "/bundle")
    for name, value in changes.items():
        setattr(chosen, name, value)
    return chosen


def sample(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads((DATA / f"{name}.json").read_bytes())
    return spec


def create(
    name: str, change: Callable[[dict[str, Any]], None], facts: Facts, **chosen: Any
) -> Plan:
    spec = sample(name)
    change(spec)
    chosen.setdefault("console", bool(spec["process"].get("terminal")))
    return compiler.compile_create(spec, facts, options(**chosen))


def same(spec: dict[str, Any]) -> None:
    pass


def user_namespace(spec: dict[str, Any]) -> None:
    linux = spec["linux"]
    linux["namespaces"] += [{"type": "user"}, {"type": "time"}, {"type": "cgroup"}]
    linux["uidMappings"] = copy.deepcopy(MAPPINGS)
    linux["gidMappings"] = copy.deepcopy(MAPPINGS)
    linux["timeOffsets"] = {"monotonic": {"secs": 7}, "boottime": {"secs": -1, "nanosecs": 5}}


def rootless(spec: dict[str, Any]) -> None:
    linux = spec["linux"]
    linux["namespaces"] = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "user")]
    linux["uidMappings"] = [{"containerID": 0, "hostID": 1000, "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": 1000, "size": 1}]


def everything(spec: dict[str, Any]) -> None:
    """What the samples do not ask for."""
    spec["domainname"] = "example.org"
    spec["hooks"] = {"createContainer": [{"path": "/bin/hook"}]}
    process = spec["process"]
    process["user"] = {"uid": 7, "gid": 8, "umask": 0o077, "additionalGids": [9, 10]}
    process["cwd"] = "/app//dir/../here"
    process["noNewPrivileges"] = False
    process["scheduler"] = {
        "policy": "SCHED_BATCH",
        "nice": -2,
        "flags": ["SCHED_FLAG_RESET_ON_FORK"],
    }
    process["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 3}
    process["rlimits"] += [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 1 << 20}]
    process["apparmorProfile"] = "confined"
    process["selinuxLabel"] = "system_u:system_r:container_t:s0"
    process["env"] += ["TERM=last", "HOME="]
    linux = spec["linux"]
    linux["namespaces"][2] = {"type": "ipc", "path": "/proc/7/ns/ipc"}
    linux["rootfsPropagation"] = "rshared"
    linux["mountLabel"] = "system_u:object_r:container_file_t:s0"
    linux["sysctl"] = {"net.ipv4.ip_forward": "1", "net/ipv4/conf/eth0.1/forwarding": "0"}
    linux["personality"] = {"domain": "LINUX32"}
    linux["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0,2", "flags": ["MPOL_F_STATIC_NODES"]}
    linux["netDevices"] = {"eth1": {}}
    linux["devices"] = [
        {
            "path": "/dev/fuse",
            "type": "c",
            "major": 10,
            "minor": 229,
            "fileMode": 0o20666,
            "gid": 5,
        },
        {"path": "/dev/pipe", "type": "p"},
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600},
    ]
    spec["mounts"] += [
        {"destination": "/a", "source": "some/./dir", "options": ["rbind", "rro", "ro", "rslave"]},
        {"destination": "/a", "options": ["remount", "bind", "rw", "shared"]},
        {"destination": "rel/b", "type": "tmpfs", "options": ["tmpcopyup", "ro", "lazytime"]},
        {
            "destination": "/overlay",
            "type": "overlay",
            "source": "overlay",
            "options": ["lowerdir=" + ":".join(f"/layers/{n:032}" for n in range(10)), "ro"],
        },
        {"destination": "/overlay", "type": "overlay", "options": ["remount", "noatime", "size=1"]},
        {
            "destination": "/mapped",
            "source": "/data",
            "options": ["bind"],
            "uidMappings": copy.deepcopy(MAPPINGS),
            "gidMappings": copy.deepcopy(MAPPINGS),
        },
    ]


def no_mounts_namespace(spec: dict[str, Any]) -> None:
    spec["linux"] = {"namespaces": [{"type": "uts"}]}
    spec["mounts"] = []
    del spec["root"]["readonly"]


def _exec() -> Plan:
    process = sample("podman-default")["process"]
    process["execCPUAffinity"] = {"initial": "0", "final": "0-1,3"}
    joined = words.NEWPID | words.NEWNS | words.NEWUSER | words.NEWNET
    chosen = options(namespaces=joined, users=(MAPPINGS, MAPPINGS), console=True)
    return join.compile_exec(process, host(), chosen)


def _hook() -> Plan:
    hook = {"path": "/usr/bin/hook", "args": ["hook", "now"], "env": ["A=b"]}
    chosen = options(namespaces=words.NEWPID | words.NEWNS)
    return join.compile_hook(hook, host(), chosen, "/hooks/createContainer/0", inside=False)


FILTER = {"seccomp_filter": bytes(16), "seccomp_flags": 4}
CASES: dict[str, Callable[[], Plan]] = {
    "spec-default": lambda: create("spec-default", same, host()),
    "spec-default-v2": lambda: create("spec-default", same, host(**V2), cgroup_join="clone3"),
    "docker-default": lambda: create("docker-default", same, host(), **FILTER),
    "docker-default-run": lambda: create("docker-default", same, host(), gate=False, **FILTER),
    "podman-default": lambda: create("podman-default", same, host()),
    "k8s-pod": lambda: create("k8s-pod", same, host()),
    "user-namespace": lambda: create("spec-default", user_namespace, host()),
    "rootless": lambda: create(
        "spec-default", rootless, host(**ROOTLESS, **V2), cgroup_join="none"
    ),
    "everything": lambda: create(
        "spec-default",
        everything,
        host(apparmor=True, selinux=True),
        env=["LISTEN_FDS=1"],
        notify_dir="/run/demo/notify",
        seccomp_listener=True,
        **FILTER,
    ),
    "no-pivot": lambda: create(
        "spec-default",
        same,
        host(
            mounts=[
                ("/proc", "proc"),
                ("/", "ext4"),
                ("/sys", "sysfs"),
                ("/bundle/rootfs/proc", "proc"),
            ]
        ),
        no_pivot=True,
        no_new_keyring=True,
    ),
    "chroot": lambda: create("spec-default", no_mounts_namespace, host()),
    "aarch64": lambda: create("spec-default", same, host(machine="aarch64")),
    "exec": _exec,
    "hook": _hook,
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    plan = CASES[name]()
    encode(plan, 3)
    text = explain.text(plan)
    path = HERE / f"{name}.txt"
    if os.environ.get("OCIRUNTIME_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


def test_no_file_without_a_case() -> None:
    assert {path.stem for path in HERE.glob("*.txt")} == set(CASES)


def test_lines_of_the_config() -> None:
    data = (DATA / "spec-default.json").read_bytes()
    document = explain.document(create("spec-default", same, host()), Places(data))
    lines = data.decode().splitlines()
    hostname = next(item for item in document["operations"] if item.get("origin") == "/hostname")
    assert '"hostname"' in lines[hostname["line"] - 1]
    assert json.dumps(document)

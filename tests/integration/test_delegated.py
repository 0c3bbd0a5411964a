"""An ordinary user with a session: subordinate ids, cgroup v2 delegated by the user's service manager (tests/vm)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import Bundle, Container, Runtime, by_kind, poll

ROOT = Path("/sys/fs/cgroup")
MIB = 1024 * 1024
ERROR = "ociruntime"  # texts of errors are compared for this runtime only


def own_cgroup() -> str:
    """The cgroup of this process."""
    return Path("/proc/self/cgroup").read_text().strip().rpartition("0::")[2]


def delegated() -> bool:
    """Whether this user may make cgroups beside its own."""
    if os.geteuid() == 0 or not (ROOT / "cgroup.controllers").exists():
        return False
    return os.access(f"{ROOT}{os.path.dirname(own_cgroup())}/cgroup.procs", os.W_OK)


pytestmark = pytest.mark.skipif(
    not delegated(), reason="needs an ordinary user with a delegated cgroup: make test-vm"
)


def above() -> str:
    """Where this user's containers have their cgroups."""
    return os.path.dirname(own_cgroup())


def place(container: Container) -> str:
    return container.proc("cgroup").strip().removeprefix("0::")


def value(container: Container, name: str) -> str:
    return (ROOT / place(container)[1:] / name).read_text().strip()


@pytest.fixture(autouse=True)
def in_a_delegated_cgroup(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["cgroupsPath"] = f"{above()}/{rt.root.name}/c"


def limits(bundle: Bundle, **resources: Any) -> Bundle:
    bundle.linux["resources"] = resources
    return bundle.args("sleep")


# --- ids


def test_all_subordinate_ids(rt: Runtime, bundle: Bundle) -> None:
    """newuidmap and newgidmap: one map of the own id, one of the subordinate ones."""
    out = rt.run(bundle.args("cat", "/proc/self/uid_map", "/proc/self/setgroups")).ok().out
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["0", str(os.geteuid()), "1"]
    assert rows[1][0] == "1" and int(rows[1][2]) >= 65536
    assert rows[2] == ["allow"]


def single(bundle: Bundle) -> Bundle:
    """Only the own id."""
    for kind in ("uidMappings", "gidMappings"):
        bundle.linux[kind] = bundle.linux[kind][:1]
    return bundle


def test_the_own_id_alone(rt: Runtime, bundle: Bundle) -> None:
    single(bundle).args("cat", "/proc/self/uid_map", "/proc/self/setgroups")
    lines = rt.run(bundle).ok().out.splitlines()
    assert lines[0].split() == ["0", str(os.geteuid()), "1"]
    assert lines[1] == by_kind(rt, "deny", runc=lines[1], crun=lines[1])


def test_a_user_of_the_subordinate_ids(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 33, "gid": 44, "additionalGids": [55]}
    container = rt.create(bundle.args("sleep")).start()
    status = dict(line.split(":", 1) for line in container.proc("status").splitlines())
    maps = bundle.linux["uidMappings"][1]
    assert status["Uid"].split()[0] == str(maps["hostID"] + 32)
    assert status["Groups"].split() == [str(bundle.linux["gidMappings"][1]["hostID"] + 54)]


def test_additional_groups_need_more_than_one_id(rt: Runtime, bundle: Bundle) -> None:
    single(bundle).process["user"]["additionalGids"] = [55]
    result = rt.try_create(bundle.args("sleep")).result
    if result.code == 0:
        result = rt.containers[-1].verb("start")
    if rt.kind == ERROR:
        result.failed("additionalGids")


def test_ids_that_are_not_this_users(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["uidMappings"] = [{"containerID": 0, "hostID": 0, "size": 10}]
    result = rt.try_create(bundle.args("sleep")).result.failed()
    if rt.kind == ERROR:
        result.failed("uid")


# --- cgroups


def test_the_process_is_in_a_delegated_cgroup(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep"))
    assert place(container) == bundle.linux["cgroupsPath"]
    assert value(container, "cgroup.procs") == str(container.pid)


@pytest.mark.known("crun", "1.8.1 makes no cgroup then")
def test_the_default_lies_beside_the_callers(rt: Runtime, bundle: Bundle) -> None:
    del bundle.linux["cgroupsPath"]
    container = rt.create(bundle.args("sleep"))
    assert place(container) == f"{above()}/{container.id}"


@pytest.mark.known("crun", "1.8.1 makes no cgroup then")
def test_a_relative_path_starts_beside_the_callers(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["cgroupsPath"] = f"{rt.root.name}/rel"
    assert place(rt.create(bundle.args("sleep"))) == f"{above()}/{rt.root.name}/rel"


@pytest.mark.parametrize(
    ("resources", "name", "expected"),
    [
        ({"memory": {"limit": 64 * MIB, "swap": 96 * MIB}}, "memory.max", str(64 * MIB)),
        ({"memory": {"reservation": 16 * MIB}}, "memory.low", str(16 * MIB)),
        ({"cpu": {"quota": 50000, "period": 200000}}, "cpu.max", "50000 200000"),
        ({"cpu": {"cpus": "0"}}, "cpuset.cpus", "0"),
        ({"pids": {"limit": 100}}, "pids.max", "100"),
        ({"unified": {"memory.high": "50331648"}}, "memory.high", "50331648"),
    ],
)
def test_limit(
    rt: Runtime, bundle: Bundle, resources: dict[str, Any], name: str, expected: str
) -> None:
    assert value(rt.create(limits(bundle, **resources)), name) == expected


def test_out_of_memory(rt: Runtime, bundle: Bundle) -> None:
    limits(bundle, memory={"limit": 32 * MIB, "swap": 32 * MIB})
    assert rt.run(bundle.args("spawn", "memhog", str(96 * MIB))).out == "killed 9\n"


def test_pids_limit(rt: Runtime, bundle: Bundle) -> None:
    limits(bundle, pids={"limit": 6})
    assert rt.run(bundle.args("fork", "20")).out == "forked 5 EAGAIN\n"


def test_device_rules_are_left_out(rt: Runtime, bundle: Bundle) -> None:
    """An ordinary user can load no device filter; engines send rules all the same."""
    limits(bundle, devices=[{"allow": False, "access": "rwm"}])
    assert rt.run(bundle.args("open", "/dev/full", "r")).ok().out == "ok\n"


def test_a_limit_where_nothing_is_delegated(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["cgroupsPath"] = f"/system.slice/{rt.root.name}"
    result = rt.try_create(limits(bundle, memory={"limit": 64 * MIB})).result.failed()
    if rt.kind == ERROR:
        result.failed("memory", "delegated")


def test_no_limit_where_nothing_is_delegated(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["cgroupsPath"] = f"/system.slice/{rt.root.name}"
    container = rt.create(bundle.args("sleep"))
    assert place(container) == own_cgroup()


def test_a_controller_that_is_not_delegated(rt: Runtime, bundle: Bundle) -> None:
    there = (ROOT / above()[1:] / "cgroup.controllers").read_text().split()
    if "hugetlb" in there:
        pytest.skip("hugetlb is delegated here")
    limits(bundle, unified={"hugetlb.2MB.max": "0"})
    result = rt.try_create(bundle).result.failed()
    if rt.kind == ERROR:
        result.failed("hugetlb", "not available here", "memory")


def test_update(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(limits(bundle, pids={"limit": 10}))
    document = '{"pids": {"limit": 77}, "memory": {"limit": 50331648}}'
    container.verb("update", "--resources", "-", stdin=document).ok()
    assert value(container, "pids.max") == "77"
    assert value(container, "memory.max") == "50331648"


def test_pause_freezes(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("fork", "2", ";", "sleep")).start()
    container.verb("pause").ok()
    assert "frozen 1" in value(container, "cgroup.events")
    assert container.status == "paused"
    container.verb("resume").ok()
    poll(lambda: "frozen 0" in value(container, "cgroup.events"), "still frozen")


def test_delete_kills_all_of_it(rt: Runtime, bundle: Bundle) -> None:
    bundle.without_namespace("pid").drop_mount("/proc")
    bundle.mount("/proc", "none", "/proc", "rbind")
    container = rt.create(bundle.args("fork", "4", ";", "echo", "up", ";", "sleep")).start()
    container.wait_out("up")
    path = place(container)
    assert len(value(container, "cgroup.procs").split()) == 5
    container.delete("--force").ok()
    assert not (ROOT / path[1:]).exists()


def test_exec_joins(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep")).start()
    out = container.exec("cat", "/proc/self/cgroup").ok().out
    assert out == f"0::{place(container)}\n"


@pytest.mark.known("crun", "has no events")
def test_events_stats(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(limits(bundle, memory={"limit": 64 * MIB})).start()
    data = container.verb("events", "--stats").ok().json()["data"]
    assert data["pids"]["current"] == 1
    assert data["memory"]["usage"]["limit"] == 64 * MIB


def test_the_container_manages_its_cgroup(rt: Runtime, bundle: Bundle) -> None:
    """systemd in a rootless container: own view, writable."""
    top = "/sys/fs/cgroup"
    bundle.namespace("cgroup").mount(top, "cgroup", "cgroup", "nosuid", "nodev", "noexec")
    bundle.args(
        "cat", "/proc/self/cgroup", ";", "mkdir", f"{top}/sub", ";",
        "write", f"{top}/sub/cgroup.procs", "1", ";",
        "write", f"{top}/cgroup.subtree_control", "+memory", ";",
        "write", f"{top}/sub/memory.max", "33554432",
    )  # fmt: skip
    result = rt.run(bundle).ok()
    assert (result.out, result.err) == ("0::/\n", "")


# --- what an ordinary user may not mount or make


def test_sysfs_without_a_network_namespace(rt: Runtime, bundle: Bundle) -> None:
    """The kernel lets only the owner of the network namespace mount sysfs: the host's is bound."""
    bundle.without_namespace("network").args("ls", "/sys/class/net")
    if rt.kind == "crun":
        pytest.skip("adds a network namespace or fails, by version")
    result = rt.run(bundle)
    if rt.kind == ERROR:
        assert "lo" in result.ok().out.split()


def test_device_nodes_are_the_hosts(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["devices"] = [{"path": "/dev/tty9", "type": "c", "major": 4, "minor": 9}]
    if not Path("/dev/tty9").exists():
        bundle.linux["devices"] = [{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]
    name = bundle.linux["devices"][0]["path"]
    out = rt.run(bundle.args("open", "/dev/null", "rw", ";", "stat", name)).ok().out
    assert out.startswith("ok\n") and "EN" not in out


def test_a_terminal(rt: Runtime, bundle: Bundle) -> None:
    command = ["script", "-qec", " ".join([*rt.argv("run", "-b", str(bundle.path)), rt.new_id()])]
    bundle.process["terminal"] = True
    bundle.args("tty").write()
    done = subprocess.run(
        [*command, "/dev/null"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "pts" in done.stdout or "console" in done.stdout


def test_no_user_namespace_is_an_error(rt: Runtime, bundle: Bundle) -> None:
    bundle.without_namespace("user")
    for kind in ("uidMappings", "gidMappings"):
        del bundle.linux[kind]
    result = rt.try_create(bundle.args("sleep")).result
    if rt.kind == "crun":
        return  # adds one
    result.failed()
    if rt.kind == ERROR:
        result.failed("user namespace")

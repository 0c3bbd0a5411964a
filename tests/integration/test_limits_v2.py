"""Limits of cgroup v2 alone (tests/vm): each read back, refused ones, devices, update, events."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cgrouplib import MIB, ROOT, limits
from tests.integration.harness import Bundle, Container, Runtime
from tests.integration.v2lib import DENY, leaf, needs_v2, refused, said, value

pytestmark = [pytest.mark.root, needs_v2]


@pytest.fixture(autouse=True)
def place_of_the_cgroup(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["cgroupsPath"] = f"/{rt.root.name}/c"


# --- controllers and limits


@pytest.mark.leaks("runc", "leaves the parents that it made")
def test_controllers_are_enabled_on_the_way_down(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["cgroupsPath"] = f"/{rt.root.name}/a/b/c"
    rt.create(limits(bundle, pids={"limit": 33}, memory={"limit": 64 * MIB}, cpu={"shares": 512}))
    for path in ("", "a", "a/b"):
        enabled = (ROOT / rt.root.name / path / "cgroup.subtree_control").read_text().split()
        assert {"pids", "memory", "cpu"} <= set(enabled), path
    assert (ROOT / rt.root.name / "a/b/c/pids.max").read_text() == "33\n"


@pytest.mark.parametrize(
    ("resources", "name", "expected"),
    [
        ({"memory": {"limit": 64 * MIB}}, "memory.max", str(64 * MIB)),
        ({"memory": {"limit": -1}}, "memory.max", "max"),
        ({"memory": {"limit": 64 * MIB, "swap": 96 * MIB}}, "memory.swap.max", str(32 * MIB)),
        ({"memory": {"limit": 64 * MIB, "swap": 64 * MIB}}, "memory.swap.max", "0"),
        ({"memory": {"limit": 64 * MIB, "swap": -1}}, "memory.swap.max", "max"),
        ({"memory": {"reservation": 32 * MIB}}, "memory.low", str(32 * MIB)),
        ({"cpu": {"shares": 2}}, "cpu.weight", "1"),
        ({"cpu": {"shares": 262144}}, "cpu.weight", "10000"),
        ({"cpu": {"quota": 50000, "period": 200000}}, "cpu.max", "50000 200000"),
        ({"cpu": {"quota": 50000}}, "cpu.max", "50000 100000"),
        ({"cpu": {"quota": -1}}, "cpu.max", "max 100000"),
        ({"cpu": {"cpus": "0"}}, "cpuset.cpus", "0"),
        ({"cpu": {"mems": "0"}}, "cpuset.mems", "0"),
        ({"pids": {"limit": 100}}, "pids.max", "100"),
        ({"pids": {"limit": -1}}, "pids.max", "max"),
        ({"unified": {"memory.high": "50331648"}}, "memory.high", "50331648"),
        ({"unified": {"cpu.weight.nice": "5"}}, "cpu.weight.nice", "5"),
    ],
)
def test_limit(
    rt: Runtime, bundle: Bundle, resources: dict[str, Any], name: str, expected: str
) -> None:
    rt.create(limits(bundle, **resources))
    assert value(rt, name) == expected


@pytest.mark.known("runc", "1.1.5 converts shares in a straight line")
@pytest.mark.known("crun", "1.8.1 converts shares in a straight line")
def test_the_default_of_shares_is_the_default_of_weight(rt: Runtime, bundle: Bundle) -> None:
    rt.create(limits(bundle, cpu={"shares": 1024}))
    assert value(rt, "cpu.weight") == "100"


@pytest.mark.known("runc", "1.1.5 does not know burst")
@pytest.mark.known("crun", "1.8.1 writes the wrong file")
def test_burst(rt: Runtime, bundle: Bundle) -> None:
    rt.create(limits(bundle, cpu={"quota": 50000, "period": 100000, "burst": 20000}))
    assert value(rt, "cpu.max.burst") == "20000"


@pytest.mark.known("runc", "1.1.5 does not know idle")
def test_idle(rt: Runtime, bundle: Bundle) -> None:
    rt.create(limits(bundle, cpu={"idle": 1}))
    assert value(rt, "cpu.idle") == "1"


@pytest.mark.known("runc", "1.1.5 takes 0 for absent")
@pytest.mark.known("crun", "takes 0 for absent")
def test_a_pids_limit_of_zero(rt: Runtime, bundle: Bundle) -> None:
    rt.create(limits(bundle, pids={"limit": 0}))
    assert value(rt, "pids.max") == "0"


def disk() -> str:
    """major:minor of the disk."""
    found = sorted(Path("/sys/block").glob("vd*/dev"))
    if not found:
        pytest.skip("no disk")
    return found[0].read_text().strip()


def test_throttled_io(rt: Runtime, bundle: Bundle) -> None:
    major, minor = map(int, disk().split(":"))
    entry = {"major": major, "minor": minor, "rate": MIB}
    names = ("throttleReadBpsDevice", "throttleWriteIOPSDevice")
    rt.create(limits(bundle, blockIO={name: [entry] for name in names}))
    assert value(rt, "io.max") == f"{disk()} rbps={MIB} wbps=max riops=max wiops={MIB}"


def test_io_weight(rt: Runtime, bundle: Bundle) -> None:
    scheduler = Path("/sys/block/vda/queue/scheduler")
    if not scheduler.exists():
        pytest.skip("no disk vda")
    result = rt.try_create(limits(bundle, blockIO={"weight": 500})).result
    if not (leaf(rt) / "io.weight").exists() and not (leaf(rt) / "io.bfq.weight").exists():
        # Neither the iocost controller nor BFQ is there.
        result.failed()
        return
    result.ok()
    if (leaf(rt) / "io.bfq.weight").exists():
        assert value(rt, "io.bfq.weight") == "default 500"
    else:
        assert value(rt, "io.weight") == "default 4950"


@pytest.mark.known("runc", "1.1.5 sets only the usage limit")
@pytest.mark.known("crun", "1.8.1 sets only the usage limit")
def test_huge_pages_are_limited_when_reserved(rt: Runtime, bundle: Bundle) -> None:
    rt.create(limits(bundle, hugepageLimits=[{"pageSize": "2MB", "limit": 4 * MIB}]))
    assert value(rt, "hugetlb.2MB.max") == str(4 * MIB)
    if (leaf(rt) / "hugetlb.2MB.rsvd.max").exists():
        assert value(rt, "hugetlb.2MB.rsvd.max") == str(4 * MIB)


def test_an_rdma_device_that_is_not_there(rt: Runtime, bundle: Bundle) -> None:
    if rt.kind == "crun":
        pytest.skip("ignores rdma")
    limits(bundle, rdma={"mlx5_9": {"hcaHandles": 3}})
    refused(rt, bundle, "rdma")


# What v1 has and v2 has not: an error that names it, never silence.
@pytest.mark.known("runc", "drops it in silence")
@pytest.mark.parametrize(
    ("resources", "word"),
    [
        ({"memory": {"swappiness": 40}}, "swappiness"),
        ({"memory": {"limit": 64 * MIB, "disableOOMKiller": True}}, "disableOOMKiller"),
        ({"cpu": {"realtimeRuntime": 5000}}, "realtimeRuntime"),
        ({"cpu": {"realtimePeriod": 5000}}, "realtimePeriod"),
        ({"blockIO": {"leafWeight": 300}}, "leafWeight"),
        ({"network": {"classID": 1048577}}, "classID"),
        ({"network": {"priorities": [{"name": "lo", "priority": 1}]}}, "priorities"),
    ],
)
def test_what_v2_cannot_do_is_refused(
    rt: Runtime, bundle: Bundle, resources: dict[str, Any], word: str
) -> None:
    refused(rt, limits(bundle, **resources), word, "cgroup v1")


def test_swap_without_a_memory_limit_is_refused(rt: Runtime, bundle: Bundle) -> None:
    refused(rt, limits(bundle, memory={"swap": 96 * MIB}), "swap")


def test_swap_below_the_memory_limit_is_refused(rt: Runtime, bundle: Bundle) -> None:
    refused(rt, limits(bundle, memory={"limit": 96 * MIB, "swap": 64 * MIB}), "swap")


@pytest.mark.known("crun", "1.8.1 checks no sizes")
def test_a_page_size_that_is_none_is_refused(rt: Runtime, bundle: Bundle) -> None:
    refused(rt, limits(bundle, hugepageLimits=[{"pageSize": "3MB", "limit": 0}]), "3MB")


@pytest.mark.parametrize(
    ("key", "text", "word"),
    [
        ("memory.nothing", "1", "memory.nothing"),
        ("nothing.max", "1", "nothing.max"),
        ("memory.high", "many", "memory.high"),
        ("../memory.high", "1", "not the name of a cgroup file"),
        ("/etc/passwd", "1", "not the name of a cgroup file"),
        pytest.param(
            "cgroup.procs", "1", "not a limit", marks=pytest.mark.known("crun", "writes it")
        ),
        pytest.param(
            "cgroup.kill", "1", "not a limit", marks=pytest.mark.known("crun", "writes it")
        ),
    ],
)
def test_what_is_no_limit_is_refused(
    rt: Runtime, bundle: Bundle, key: str, text: str, word: str
) -> None:
    if rt.kind == "runc" and key.startswith("cgroup."):
        pytest.skip("runc writes it, with whatever effect")
    refused(rt, limits(bundle, unified={key: text}), word)


def test_unified_has_the_last_word(rt: Runtime, bundle: Bundle) -> None:
    rt.create(limits(bundle, pids={"limit": 100}, unified={"pids.max": "50"}))
    assert value(rt, "pids.max") == "50"


@pytest.mark.known("runc", "1.1.5 writes all lines at once")
@pytest.mark.known("crun", "1.8.1 writes all lines at once")
def test_lines_of_unified_are_written_one_by_one(rt: Runtime, bundle: Bundle) -> None:
    text = f"{disk()} rbps=2097152\n{disk()} wiops=120"
    rt.create(limits(bundle, unified={"io.max": text}))
    assert value(rt, "io.max") == f"{disk()} rbps=2097152 wbps=max riops=max wiops=120"


# --- devices


PROBE = {"type": "c", "major": 10, "minor": 237}  # /dev/loop-control: no default device


def access(rt: Runtime, bundle: Bundle, *rules: dict[str, Any]) -> str:
    names = ["CAP_MKNOD", "CAP_DAC_OVERRIDE"]
    bundle.process["capabilities"] = dict.fromkeys(("bounding", "permitted", "effective"), names)
    bundle.linux["resources"] = {"devices": list(rules)}
    bundle.args("mknod", "/dev/n", "c", "10", "237", ";", "open", "/dev/n", "r")
    return said(rt, bundle)[-1]


def test_devices_are_denied(rt: Runtime, bundle: Bundle) -> None:
    assert access(rt, bundle, DENY) == "EPERM"


def test_a_rule_allows_a_device(rt: Runtime, bundle: Bundle) -> None:
    subprocess.run(["modprobe", "loop"], check=False)
    assert access(rt, bundle, DENY, {"allow": True, **PROBE, "access": "rwm"}) == "ok"


def test_the_last_rule_decides(rt: Runtime, bundle: Bundle) -> None:
    allow = {"allow": True, **PROBE, "access": "rwm"}
    assert access(rt, bundle, allow, DENY) == "EPERM"


def test_access_by_letters(rt: Runtime, bundle: Bundle) -> None:
    assert access(rt, bundle, DENY, {"allow": True, **PROBE, "access": "wm"}) == "EPERM"


def test_update_leaves_the_device_filter(rt: Runtime, bundle: Bundle) -> None:
    """Kubernetes and podman send a deny-all (engines, trap 11)."""
    container = rt.create(bundle.args("sleep")).start()
    document = '{"devices": [{"allow": false, "access": "rwm"}]}'
    container.verb("update", "--resources=-", stdin=document).ok()
    assert container.exec("open", "/dev/null", "rw").ok().out == "ok\n"


# --- update, events


def update(rt: Runtime, container: Container, document: str) -> None:
    container.verb("update", "--resources", "-", stdin=document).ok()


def test_update(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(limits(bundle, pids={"limit": 10}, memory={"limit": 64 * MIB}))
    document = '{"pids": {"limit": 77}, "cpu": {"quota": 20000}, "memory": {"limit": 50331648}}'
    update(rt, container, document)
    assert value(rt, "pids.max") == "77"
    assert value(rt, "cpu.max") == "20000 100000"
    assert value(rt, "memory.max") == "50331648"


@pytest.mark.known("crun", "1.8.1 sets the quota to max")
def test_update_of_the_period_keeps_the_quota(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(limits(bundle, cpu={"quota": 20000, "period": 100000}))
    update(rt, container, '{"cpu": {"period": 50000}}')
    assert value(rt, "cpu.max") == "20000 50000"


@pytest.mark.known("crun", "1.8.1 writes the zeros")
def test_update_with_zeros_leaves_everything(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(limits(bundle, cpu={"quota": 30000}, memory={"limit": 64 * MIB}))
    document = (
        '{"memory":{"limit":0,"reservation":0,"kernel":0},'
        '"cpu":{"shares":0,"quota":0,"period":0},"blockIO":{"weight":0}}'
    )
    update(rt, container, document)
    assert value(rt, "cpu.max") == "30000 100000"
    assert value(rt, "memory.max") == str(64 * MIB)


def test_update_memory_and_swap_both_ways(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(limits(bundle, memory={"limit": 32 * MIB, "swap": 48 * MIB}))
    for limit, swap in ((96, 128), (16, 24)):
        update(rt, container, f'{{"memory":{{"limit":{limit * MIB},"swap":{swap * MIB}}}}}')
        assert value(rt, "memory.max") == str(limit * MIB)
        assert value(rt, "memory.swap.max") == str((swap - limit) * MIB)


def test_a_controller_that_update_needs_is_enabled(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep"))
    update(rt, container, '{"cpu": {"cpus": "0"}}')
    assert value(rt, "cpuset.cpus") == "0"


@pytest.mark.known("crun", "has no events")
def test_events_stats(rt: Runtime, bundle: Bundle) -> None:
    limits(bundle, memory={"limit": 64 * MIB}, pids={"limit": 9})
    container = rt.create(bundle.args("sleep")).start()
    document = container.verb("events", "--stats").ok().json()
    assert (document["type"], document["id"]) == ("stats", container.id)
    data = document["data"]
    assert data["pids"] == {"current": 1, "limit": 9}
    assert data["memory"]["usage"]["limit"] == 64 * MIB
    assert data["memory"]["usage"]["usage"] > 0
    assert data["memory"]["raw"]["anon"] >= 0
    assert data["cpu"]["usage"]["total"] > 0
    if rt.kind == "ociruntime" and Path("/proc/pressure/cpu").exists():
        for part in ("cpu", "memory", "blkio"):
            assert set(data[part]["psi"]["some"]) == {"avg10", "avg60", "avg300", "total"}

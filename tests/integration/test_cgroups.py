"""cgroups on v1 and hybrid machines: the path, each limit read back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cgrouplib import MIB, ROOT, limits
from tests.integration.harness import Bundle, Runtime, by_kind, poll

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not (ROOT / "memory").is_dir(), reason="needs cgroup v1"),
]


@pytest.fixture(autouse=True)
def own_path(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["cgroupsPath"] = f"/{rt.root.name}/c"


def value(rt: Runtime, controller: str, name: str) -> str:
    return (ROOT / controller / rt.root.name / "c" / name).read_text().strip()


def test_the_process_is_in_every_controller(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep"))
    for line in container.proc("cgroup").splitlines():
        number, names, path = line.split(":", 2)
        if number == "0" or names in ("net_cls", "net_prio", "perf_event", "hugetlb"):
            continue
        assert path == f"/{rt.root.name}/c", line


def test_default_path_is_made_of_the_id(rt: Runtime, bundle: Bundle) -> None:
    del bundle.linux["cgroupsPath"]
    container = rt.create(bundle.args("sleep"))
    line = next(x for x in container.proc("cgroup").splitlines() if ":pids:" in x)
    assert container.id in line.rsplit("/", 1)[1]


def test_relative_path(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["cgroupsPath"] = f"{rt.root.name}/rel"
    container = rt.create(bundle.args("sleep"))
    line = next(x for x in container.proc("cgroup").splitlines() if ":pids:" in x)
    assert line.endswith(f"{rt.root.name}/rel")


def test_same_path_same_place(rt: Runtime, bundle: Bundle) -> None:
    places = set()
    for _ in range(2):
        container = rt.create(bundle.args("sleep"))
        places.add(container.proc("cgroup"))
        container.delete("--force").ok()
    assert len(places) == 1


def test_delete_removes_it_with_what_the_container_made_below(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep")).start()
    (ROOT / "pids" / rt.root.name / "c" / "sub" / "deep").mkdir(parents=True)
    container.delete("--force").ok()
    assert not (ROOT / "pids" / rt.root.name / "c").exists()


def crun_fails(*row: Any) -> Any:
    """A row that crun 1.8.1 writes as it is, fails, and leaves the cgroup."""
    return pytest.param(
        *row,
        marks=[
            pytest.mark.known("crun", "1.8.1 writes -1 as 2^64 - 1"),
            pytest.mark.leaks("crun", "1.8.1 leaves the cgroup of a failed create"),
        ],
    )


def known_to_the_kernel(controller: str, name: str) -> bool:
    """Whether a cgroup has the file; the root, which lacks many, does not tell."""
    probe = ROOT / controller / f"ociruntime-probe-{os.getpid()}"
    probe.mkdir()
    try:
        return (probe / name).exists()
    finally:
        probe.rmdir()


@pytest.mark.parametrize(
    ("resources", "controller", "name", "expected"),
    [
        ({"memory": {"limit": 64 * MIB}}, "memory", "memory.limit_in_bytes", str(64 * MIB)),
        (
            {"memory": {"limit": 64 * MIB, "swap": 128 * MIB}},
            "memory",
            "memory.memsw.limit_in_bytes",
            str(128 * MIB),
        ),
        (
            {"memory": {"reservation": 32 * MIB}},
            "memory",
            "memory.soft_limit_in_bytes",
            str(32 * MIB),
        ),
        ({"memory": {"limit": -1}}, "memory", "memory.limit_in_bytes", "9223372036854771712"),
        ({"memory": {"swappiness": 40}}, "memory", "memory.swappiness", "40"),
        ({"cpu": {"shares": 512}}, "cpu", "cpu.shares", "512"),
        ({"cpu": {"quota": 50000, "period": 100000}}, "cpu", "cpu.cfs_quota_us", "50000"),
        ({"cpu": {"quota": 50000, "period": 200000}}, "cpu", "cpu.cfs_period_us", "200000"),
        crun_fails({"cpu": {"quota": -1}}, "cpu", "cpu.cfs_quota_us", "-1"),
        ({"cpu": {"cpus": "0"}}, "cpuset", "cpuset.cpus", "0"),
        ({"cpu": {"cpus": "0-1", "mems": "0"}}, "cpuset", "cpuset.mems", "0"),
        ({"pids": {"limit": 100}}, "pids", "pids.max", "100"),
        crun_fails({"pids": {"limit": -1}}, "pids", "pids.max", "max"),
    ],
)
def test_limit(
    rt: Runtime,
    bundle: Bundle,
    resources: dict[str, Any],
    controller: str,
    name: str,
    expected: str,
) -> None:
    if not known_to_the_kernel(controller, name):
        pytest.skip(f"this kernel has no {name}")
    rt.create(limits(bundle, **resources))
    assert value(rt, controller, name) == expected


def test_block_io_throttle(rt: Runtime, bundle: Bundle) -> None:
    disks = [p for p in Path("/sys/block").iterdir() if (p / "dev").exists()]
    if not disks:
        pytest.skip("no block device")
    major, minor = map(int, (disks[0] / "dev").read_text().split(":"))
    device = {"major": major, "minor": minor, "rate": 1048576}
    rt.create(limits(bundle, blockIO={"throttleReadBpsDevice": [device]}))
    text = value(rt, "blkio", "blkio.throttle.read_bps_device")
    assert text == f"{major}:{minor} 1048576"


def test_empty_resources_and_zeros(rt: Runtime, bundle: Bundle) -> None:
    """Docker sends zeros for what is unset (engines, 4c)."""
    limits(bundle, memory={"disableOOMKiller": False}, cpu={"shares": 0}, blockIO={"weight": 0})
    rt.create(bundle)


@pytest.mark.leaks("crun", "1.8.1 leaves the cgroup of a failed create")
def test_impossible_value_is_an_error(rt: Runtime, bundle: Bundle) -> None:
    result = rt.try_create(limits(bundle, cpu={"cpus": "4000"})).result
    result.failed(by_kind(rt, "cpuset.cpus", crun="cpus"))


@pytest.mark.leaks("crun", "1.8.1 leaves the cgroup of a failed create")
def test_cpu_list_that_is_no_list(rt: Runtime, bundle: Bundle) -> None:
    assert rt.try_create(limits(bundle, cpu={"cpus": "zero"})).result.code != 0


@pytest.mark.leaks("crun", "1.8.1 leaves the cgroup of a failed create")
def test_unified_on_v1_is_refused(rt: Runtime, bundle: Bundle) -> None:
    result = rt.try_create(limits(bundle, unified={"memory.high": "50000000"})).result
    result.failed(by_kind(rt, "unified", runc="cgroup", crun=""))


def test_a_cgroup_with_processes_is_refused(rt: Runtime, bundle: Bundle) -> None:
    path = ROOT / "pids" / rt.root.name / "c"
    path.mkdir(parents=True)
    child = os.fork()
    if child == 0:
        (path / "cgroup.procs").write_text(str(os.getpid()))
        os.execv("/bin/sleep", ["sleep", "30"])
    try:
        poll(lambda: (path / "cgroup.procs").read_text() != "", "the process has not moved")
        result = rt.try_create(bundle.args("sleep")).result
        if rt.kind == "ociruntime":
            result.failed("cgroup")
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        rt.clean()
        if path.is_dir():
            path.rmdir()


def test_pause_freezes(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("fork", "3", ";", "sleep")).start()
    container.verb("pause").ok()
    assert value(rt, "freezer", "freezer.state") == "FROZEN"
    container.verb("resume").ok()
    assert value(rt, "freezer", "freezer.state") == "THAWED"


def test_ps_sees_sub_cgroups(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("fork", "1", ";", "echo", "up", ";", "sleep")).start()
    container.wait_out("up")
    pids = container.verb("ps", "--format", "json").ok().json()
    child = next(p for p in pids if p != container.pid)
    if rt.kind == "crun":
        pytest.skip("crun reads one controller only: no sub cgroup there")
    moved = False
    for controller in ("devices", "memory", "pids", "freezer", "cpu", "systemd"):
        sub = ROOT / controller / rt.root.name / "c" / "sub"
        if sub.parent.is_dir():
            sub.mkdir()
            (sub / "cgroup.procs").write_text(str(child))
            moved = True
    assert moved
    assert set(container.verb("ps", "--format", "json").ok().json()) == set(pids)


# --- update


def update(rt: Runtime, bundle: Bundle, document: str, **limit: Any) -> None:
    container = rt.create(limits(bundle, **limit))
    container.verb("update", "--resources", "-", stdin=document).ok()


def test_update(rt: Runtime, bundle: Bundle) -> None:
    document = '{"pids": {"limit": 77}, "cpu": {"shares": 256}, "memory": {"limit": 50331648}}'
    update(rt, bundle, document, pids={"limit": 10})
    assert value(rt, "pids", "pids.max") == "77"
    assert value(rt, "cpu", "cpu.shares") == "256"
    assert value(rt, "memory", "memory.limit_in_bytes") == "50331648"


def test_update_of_nothing(rt: Runtime, bundle: Bundle) -> None:
    """`docker update --restart no` sends {} (engines, 1.17)."""
    update(rt, bundle, "{}", pids={"limit": 10})
    assert value(rt, "pids", "pids.max") == "10"


@pytest.mark.known("crun", "1.8.1 writes the zeros")
def test_update_with_zeros_leaves_everything(rt: Runtime, bundle: Bundle) -> None:
    document = (
        '{"memory":{"limit":0,"reservation":0,"kernel":0},'
        '"cpu":{"shares":0,"quota":0,"period":0},"blockIO":{"weight":0}}'
    )
    update(rt, bundle, document, cpu={"shares": 512}, memory={"limit": 64 * MIB})
    assert value(rt, "cpu", "cpu.shares") == "512"
    assert value(rt, "memory", "memory.limit_in_bytes") == str(64 * MIB)


def test_update_ignores_devices(rt: Runtime, bundle: Bundle) -> None:
    """Kubernetes and podman 5 send a deny-all (engines, trap 11)."""
    container = rt.create(bundle.args("sleep")).start()
    document = '{"devices": [{"allow": false, "access": "rwm"}]}'
    container.verb("update", "--resources=-", stdin=document).ok()
    assert container.exec("open", "/dev/null", "rw").ok().out == "ok\n"


def test_update_memory_above_the_old_swap(rt: Runtime, bundle: Bundle) -> None:
    """The order of the two writes matters, both ways."""
    if not (ROOT / "memory/memory.memsw.limit_in_bytes").exists():
        pytest.skip("no swap accounting")
    container = rt.create(limits(bundle, memory={"limit": 32 * MIB, "swap": 48 * MIB}))
    for limit, swap in ((96, 128), (16, 24)):
        document = f'{{"memory":{{"limit":{limit * MIB},"swap":{swap * MIB}}}}}'
        container.verb("update", "--resources", "-", stdin=document).ok()
        assert value(rt, "memory", "memory.limit_in_bytes") == str(limit * MIB)
        assert value(rt, "memory", "memory.memsw.limit_in_bytes") == str(swap * MIB)


def test_update_flags(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(limits(bundle, pids={"limit": 10}))
    flags = ["--pids-limit", "99", "--cpu-share", "128", "--memory", str(48 * MIB)]
    container.verb("update", *flags).ok()
    assert value(rt, "pids", "pids.max") == "99"
    assert value(rt, "cpu", "cpu.shares") == "128"
    assert value(rt, "memory", "memory.limit_in_bytes") == str(48 * MIB)


def test_update_file(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(limits(bundle, pids={"limit": 10}))
    path = bundle.path / "resources.json"
    path.write_text('{"pids": {"limit": 55}}')
    container.verb("update", f"--resources={path}").ok()
    assert value(rt, "pids", "pids.max") == "55"


def test_update_error(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(limits(bundle))
    for document in ("{", '{"cpu": {"cpus": "4000"}}'):
        assert container.verb("update", "--resources", "-", stdin=document).code != 0


@pytest.mark.known("crun", "has no events")
def test_events_stats(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep")).start()
    document = container.verb("events", "--stats").ok().json()
    assert (document["type"], document["id"]) == ("stats", container.id)
    data = document["data"]
    assert data["pids"]["current"] == 1
    assert data["memory"]["usage"]["usage"] > 0
    assert data["cpu"]["usage"]["total"] > 0

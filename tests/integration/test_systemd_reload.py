"""What systemd writes again (daemon-reload, update, set-property): no limit may end with it (tests/vm)."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import Bundle, Container, Runtime
from tests.integration.test_systemd import (
    MIB,
    OURS,
    ROOT,
    USER,
    booted,
    limits,
    place,
    prop,
    systemctl,
)
from tests.integration.test_systemd import unit as unit  # a fixture

pytestmark = [
    pytest.mark.skipif(not booted(), reason="needs systemd as pid 1: make test-vm"),
    pytest.mark.skipif(not (ROOT / "cgroup.controllers").exists(), reason="needs cgroup v2"),
]
root_only = pytest.mark.skipif(USER, reason="for root only")


def read(container: Container, *names: str) -> dict[str, str]:
    """The control files of these names, but for those that this kernel does not have."""
    there = [place(container) / name for name in names]
    return {path.name: path.read_text().strip() for path in there if path.exists()}


def disk() -> str:
    """major:minor of a disk."""
    found = sorted(Path("/sys/block").glob("vd*/dev"))
    if not found:
        pytest.skip("no disk")
    return found[0].read_text().strip()


def throttles(rate: int, *kinds: str) -> dict[str, Any]:
    major, minor = map(int, disk().split(":"))
    entry = {"major": major, "minor": minor, "rate": rate}
    return {f"throttle{kind}Device": [entry] for kind in kinds}


CASES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "memory": (
        {"memory": {"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 16 * MIB}},
        {
            "memory.max": str(64 * MIB),
            "memory.swap.max": str(32 * MIB),
            "memory.low": str(16 * MIB),
        },
    ),
    "no-swap": (
        {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}},
        {"memory.max": str(64 * MIB), "memory.swap.max": "0"},
    ),
    "memory-unified": (
        {
            "unified": {
                "memory.min": str(MIB),
                "memory.high": str(32 * MIB),
                "memory.swap.high": str(8 * MIB),
                "memory.zswap.max": "0",
            }
        },
        {
            "memory.min": str(MIB),
            "memory.high": str(32 * MIB),
            "memory.swap.high": str(8 * MIB),
            "memory.zswap.max": "0",
        },
    ),
    "quota": (
        {"cpu": {"quota": 50_000, "period": 200_000, "burst": 20_000, "shares": 2048}},
        {"cpu.max": "50000 200000", "cpu.max.burst": "20000", "cpu.weight": "174"},
    ),
    "nice": ({"unified": {"cpu.weight.nice": "7"}}, {"cpu.weight.nice": "7"}),
    "idle": ({"cpu": {"idle": 1}}, {"cpu.idle": "1"}),
    "cpuset": (
        {"cpu": {"cpus": "0", "mems": "0"}},
        {"cpuset.cpus": "0", "cpuset.mems": "0"},
    ),
    "pids": ({"pids": {"limit": 77}}, {"pids.max": "77"}),
    "hugetlb": (
        {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]},
        {"hugetlb.2MB.max": str(4 * MIB), "hugetlb.2MB.rsvd.max": str(4 * MIB)},
    ),
}
# An update of one controller makes systemd write all that it knows of that one.
UPDATES = {
    "memory": (["--memory-reservation", str(8 * MIB)], {"memory.low": str(8 * MIB)}),
    "no-swap": (["--memory-reservation", str(8 * MIB)], {"memory.low": str(8 * MIB)}),
    "memory-unified": (["--memory", str(80 * MIB)], {"memory.max": str(80 * MIB)}),
    "quota": (["--cpu-share", "512"], {"cpu.weight": "59"}),
    "nice": (["--cpu-quota", "40000"], {"cpu.max": "40000 100000"}),
    "idle": (["--cpu-quota", "40000"], {"cpu.max": "40000 100000"}),
    "cpuset": (["--pids-limit", "55"], {"pids.max": "55"}),
    "pids": (["--pids-limit", "55"], {"pids.max": "55"}),
    "hugetlb": (["--memory", str(80 * MIB)], {"memory.max": str(80 * MIB)}),
}


NO_SWAP = pytest.mark.known("runc", "1.1.5 does not tell systemd of no swap at all (moby 51446)")


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[NO_SWAP] if c == "no-swap" else []) for c in CASES]
)
def test_limits_stay(rt: Runtime, bundle: Bundle, unit: str, case: str) -> None:
    """Through daemon-reload, an update of something else, and daemon-reload again."""
    if rt.kind != OURS and case in ("quota", "idle", "nice", "hugetlb"):
        pytest.skip("burst, idle, nice and reservations are not 1.1.5's and 1.8.1's")
    if USER and case in ("hugetlb", "cpuset"):
        pytest.skip("not delegated to a user")
    resources, wanted = CASES[case]
    container = rt.create(limits(bundle, **resources)).start()
    there = read(container, *wanted)
    wanted = {name: text for name, text in wanted.items() if name in there}
    assert there == wanted
    systemctl("daemon-reload")
    assert read(container, *wanted) == wanted
    options, changed = UPDATES[case]
    rt.call("update", *options, container.id).ok()
    wanted = {**wanted, **changed}
    assert read(container, *wanted) == wanted
    systemctl("daemon-reload")
    assert read(container, *wanted) == wanted
    assert container.status == "running"


@root_only
@pytest.mark.known("runc", "1.1.5 takes 0 for absent")
@pytest.mark.known("crun", "takes 0 for absent")
def test_no_process_more(rt: Runtime, bundle: Bundle, unit: str) -> None:
    """A limit of 0 is none that systemd can hold; what it writes must let as little be made."""
    container = rt.create(limits(bundle, pids={"limit": 0})).start()
    assert read(container, "pids.max") == {"pids.max": "0"}
    rt.call("update", "--memory", str(80 * MIB), container.id).ok()
    assert read(container, "pids.max") == {"pids.max": "0"}
    systemctl("daemon-reload")
    assert read(container, "pids.max")["pids.max"] in ("0", "1")


def test_idle_no_more(rt: Runtime, bundle: Bundle, unit: str) -> None:
    """systemd's word for idle is CPUWeight=0: it has to be taken back too."""
    if rt.kind != OURS:
        pytest.skip("1.1.5 and 1.8.1 do not know idle")
    container = rt.create(limits(bundle, cpu={"idle": 1})).start()
    assert prop(unit, "CPUWeight")["CPUWeight"] in ("0", "idle")
    change = bundle.path / "update.json"
    change.write_text('{"cpu": {"idle": 0}}')
    rt.call("update", "--resources", str(change), container.id).ok()
    for _ in range(2):
        assert read(container, "cpu.idle", "cpu.weight") == {"cpu.idle": "0", "cpu.weight": "100"}
        systemctl("daemon-reload")


@pytest.mark.known("runc", "1.1.5 does not tell systemd")
def test_processes_die_together(rt: Runtime, bundle: Bundle, unit: str) -> None:
    """memory.oom.group: OOMPolicy= of scopes, from systemd 253 and late 252 on."""
    name = "memory.oom.group"
    container = rt.create(limits(bundle, unified={name: "1"})).start()
    if not prop(unit, "OOMPolicy"):
        pytest.skip("this systemd has no OOMPolicy= of scopes")
    assert read(container, name) == {name: "1"}
    rt.call("update", "--memory", str(80 * MIB), container.id).ok()
    assert read(container, name) == {name: "1"}
    systemctl("daemon-reload")
    assert read(container, name) == {name: "1"}
    if rt.kind == OURS:  # the property cannot change
        change = bundle.path / "update.json"
        change.write_text('{"unified": {"memory.oom.group": "0"}}')
        rt.call("update", "--resources", str(change), container.id).ok()
        assert read(container, name) == {name: "0"}


@root_only
def test_throttles_stay(rt: Runtime, bundle: Bundle, unit: str) -> None:
    """systemd writes all four limits of a device at once, when an administrator gives it one of them, too."""
    container = rt.create(limits(bundle, blockIO=throttles(MIB, "ReadBps", "WriteIOPS"))).start()
    limit = f"{disk()} rbps={MIB} wbps=max riops=max wiops={MIB}"
    assert read(container, "io.max") == {"io.max": limit}
    systemctl("daemon-reload")
    assert read(container, "io.max") == {"io.max": limit}
    if rt.kind == "crun":
        return  # below the scope, where systemd does not come
    change = bundle.path / "update.json"
    change.write_text(
        '{"unified": {"io.max": "' + disk() + ' riops=500"}}'
        if rt.kind == OURS
        else '{"blockIO": {"weight": 0}}'
    )
    rt.call("update", "--resources", str(change), container.id).ok()
    limit = limit.replace("riops=max", "riops=500") if rt.kind == OURS else limit
    assert read(container, "io.max") == {"io.max": limit}
    systemctl("daemon-reload")
    assert read(container, "io.max") == {"io.max": limit}
    if rt.kind != OURS:
        return  # systemd does not know of the others
    systemctl("set-property", "--runtime", unit, f"IOWriteBandwidthMax=/dev/block/{disk()} 5M")
    limit = limit.replace("wbps=max", "wbps=5000000")
    for _ in range(2):
        assert read(container, "io.max") == {"io.max": limit}
        systemctl("daemon-reload")


@contextlib.contextmanager
def scheduler(name: str) -> Iterator[str]:
    """The disk with this I/O scheduler; major:minor."""
    subprocess.run(["modprobe", name], check=False, capture_output=True)
    device = sorted(Path("/sys/block").glob("vd*"))
    path = device[0] / "queue/scheduler" if device else Path("/nonexistent")
    if not path.exists() or name not in path.read_text().replace("[", "").replace("]", ""):
        pytest.skip(f"no disk with {name}")
    before = path.read_text().partition("[")[2].partition("]")[0]
    path.write_text(name)
    try:
        yield disk()
    finally:
        path.write_text(before)


@root_only
def test_weights_of_bfq_stay(rt: Runtime, bundle: Bundle, unit: str) -> None:
    """The kernel drops a device's weight when the default is written, as systemd does."""
    if rt.kind != OURS:
        pytest.skip("1.1.5 loses it, 1.8.1 writes below the scope")
    with scheduler("bfq") as device:
        major, minor = map(int, device.split(":"))
        one = {"major": major, "minor": minor, "weight": 700}
        container = rt.create(limits(bundle, blockIO={"weight": 300, "weightDevice": [one]}))
        container.start()
        wanted = {"io.bfq.weight": f"default 300\n{device} 700"}
        for _ in range(2):
            assert read(container, *wanted) == wanted
            systemctl("daemon-reload")


@root_only
def test_weights_stay(rt: Runtime, bundle: Bundle, unit: str) -> None:
    """As above with blk-iocost, the other controller behind io.weight."""
    if rt.kind != OURS:
        pytest.skip("1.1.5 and 1.8.1 know io.bfq.weight or io.weight of other kernels")
    qos = ROOT / "io.cost.qos"
    if not qos.exists():
        pytest.skip("the kernel has no blk-iocost")
    device = disk()
    qos.write_text(f"{device} enable=1")
    try:
        weights = {"io.weight": f"default 200\n{device} 50"}
        container = rt.create(limits(bundle, unified=weights)).start()
        for _ in range(2):
            assert read(container, *weights) == weights
            systemctl("daemon-reload")
    finally:
        qos.write_text(f"{device} enable=0")

"""The systemd driver on cgroup v1: systemd makes the scope where it has a hierarchy, the runtime everywhere else.

`make test-vm` boots a machine for it: systemd.unified_cgroup_hierarchy=0 (systemd 252 has a hybrid tree then).
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.integration.harness import Bundle, Container, Runtime, alive
from tests.integration.test_systemd import (
    MIB,
    OURS,
    ROOT,
    booted,
    gone,
    known,
    limits,
    prop,
    systemctl,
)
from tests.integration.test_systemd import unit as unit  # a fixture
from tests.integration.test_systemd_reload import scheduler

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not booted(), reason="needs systemd as pid 1: make test-vm"),
    pytest.mark.skipif((ROOT / "cgroup.controllers").exists(), reason="needs cgroup v1"),
]


# Debian's Linux 6.12 has no memory controller for cgroup v1.
needs_memory = pytest.mark.skipif(
    not (ROOT / "memory").exists(), reason="needs the memory controller of cgroup v1"
)


def places(container: Container) -> dict[str, Path]:
    """The cgroups of init, as the kernel tells them; "" is that of cgroup2."""
    found = {}
    for line in container.proc("cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        name = controllers.removeprefix("name=") or "unified"
        found[controllers] = Path(f"{ROOT / name}{path}")
        found.update(dict.fromkeys(controllers.split(","), found[controllers]))
    return found


def value(container: Container, name: str) -> str:
    return (places(container)[name.partition(".")[0]] / name).read_text().strip()


def test_scope(rt: Runtime, bundle: Bundle, unit: str) -> None:
    """In systemd's hierarchy and in each of the kernel's, and of all that nothing stays."""
    container = rt.create(bundle)
    found = places(container)
    for name in ("name=systemd", "pids", "devices", "freezer", "cpuset", "cpu", "blkio"):
        assert found[name].name == unit, found
        assert str(container.pid) in (found[name] / "cgroup.procs").read_text().split()
    about = prop(unit, "ActiveState", "Delegate", "ControlGroup")
    assert about["ActiveState"] == "active" and about["Delegate"] == "yes"
    assert about["ControlGroup"] == f"/{found['name=systemd'].relative_to(ROOT / 'systemd')}"
    container.start().kill()
    container.wait().delete().ok()
    assert not [path for path in found.values() if path.name == unit and path.exists()]
    gone(unit)


@needs_memory
def test_limits_and_update(rt: Runtime, bundle: Bundle, unit: str) -> None:
    limits(
        bundle,
        memory={"limit": 64 * MIB},
        cpu={"shares": 512, "quota": 50_000, "period": 100_000},
        pids={"limit": 100},
    )
    container = rt.create(bundle)
    assert value(container, "memory.limit_in_bytes") == str(64 * MIB)
    assert value(container, "cpu.shares") == "512"
    assert value(container, "cpu.cfs_quota_us") == "50000"
    assert value(container, "pids.max") == "100"
    assert prop(unit, "TasksMax") == {"TasksMax": "100"}
    rt.call("update", "--memory", str(80 * MIB), "--pids-limit", "50", container.id).ok()
    rt.call("update", "--cpu-quota", "33333", "--cpu-period", "100000", container.id).ok()
    assert value(container, "memory.limit_in_bytes") == str(80 * MIB)
    assert value(container, "pids.max") == "50"
    assert value(container, "cpu.cfs_quota_us") == "33333"
    if rt.kind == OURS:
        about = prop(unit, "MemoryLimit", "TasksMax")
        assert about == {"MemoryLimit": str(80 * MIB), "TasksMax": "50"}


def test_limits_stay(rt: Runtime, bundle: Bundle, unit: str) -> None:
    """Through daemon-reload and an update: what systemd knows, and on v1 throttles have a file for each kind."""
    disk = sorted(Path("/sys/block").glob("vd*/dev"))[0].read_text().strip()
    major, minor = map(int, disk.split(":"))
    entry = {"major": major, "minor": minor, "rate": MIB}
    limits(
        bundle,
        cpu={"shares": 512, "quota": 50_555, "period": 100_000, "cpus": "0"},
        pids={"limit": 77},
        blockIO={f"throttle{kind}Device": [entry] for kind in ("ReadBps", "WriteIOPS")},
    )
    container = rt.create(bundle).start()
    wanted = {
        "cpu.shares": "512",
        "cpu.cfs_period_us": "100000",
        "cpuset.cpus": "0",
        "pids.max": "77",
        "blkio.throttle.read_bps_device": f"{disk} {MIB}",
        "blkio.throttle.write_iops_device": f"{disk} {MIB}",
    }
    assert {name: value(container, name) for name in wanted} == wanted
    for _ in range(2):
        systemctl("daemon-reload")
        assert {name: value(container, name) for name in wanted} == wanted
        # no whole percent: systemd writes the next one that is
        assert value(container, "cpu.cfs_quota_us") in ("50555", "51000")
        rt.call("update", "--pids-limit", "55", container.id).ok()
        wanted["pids.max"] = "55"
        assert {name: value(container, name) for name in wanted} == wanted


def test_weight_of_bfq_stays(rt: Runtime, bundle: Bundle, unit: str) -> None:
    """As far as systemd 252 can say it: up to 181."""
    if rt.kind != OURS:
        pytest.skip("1.1.5 tells the number as it is, of which systemd makes another")
    with scheduler("bfq"):
        container = rt.create(limits(bundle, blockIO={"weight": 150})).start()
        for _ in range(2):
            assert value(container, "blkio.bfq.weight").removeprefix("default ") == "150"
            systemctl("daemon-reload")
        rt.call("update", "--blkio-weight", "700", container.id).ok()
        assert value(container, "blkio.bfq.weight").removeprefix("default ") == "700"


def test_no_process_more(rt: Runtime, bundle: Bundle, unit: str) -> None:
    """A limit of 0 is none that systemd can hold; what it writes must let as little be made."""
    if rt.kind != OURS:
        pytest.skip("1.1.5 takes 0 for absent")
    container = rt.create(limits(bundle, pids={"limit": 0})).start()
    assert value(container, "pids.max") == "0"
    rt.call("update", "--cpu-share", "512", container.id).ok()
    assert value(container, "pids.max") == "0"
    systemctl("daemon-reload")
    assert value(container, "pids.max") in ("0", "1")


def test_devices(rt: Runtime, bundle: Bundle, unit: str) -> None:
    rules = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "access": "rwm"}]
    rules[1] |= {"major": 1, "minor": 5}
    limits(bundle, devices=rules)
    container = rt.create(bundle).start()
    listed = value(container, "devices.list").splitlines()
    assert "c 1:5 rwm" in listed and "a *:* rwm" not in listed


def test_pause_and_exec(rt: Runtime, bundle: Bundle, unit: str) -> None:
    container = rt.create(bundle).start()
    pid_file = bundle.path / "exec.pid"
    container.exec("sleep", flags=["--detach", "--pid-file", str(pid_file)]).ok()
    pid = int(pid_file.read_text())
    for name in ("cpu", "pids", "name=systemd"):
        assert str(pid) in (places(container)[name] / "cgroup.procs").read_text().split(), name
    container.verb("pause").ok()
    assert container.status == "paused"
    assert value(container, "freezer.state") == "FROZEN"
    container.verb("resume").ok()
    os.kill(pid, signal.SIGKILL)
    container.verb("pause").ok()
    container.delete("--force").ok()
    gone(unit)


@needs_memory
def test_out_of_memory(rt: Runtime, bundle: Bundle, unit: str) -> None:
    limits(bundle, memory={"limit": 16 * MIB})
    container = rt.create(bundle.args("memhog", str(64 * MIB))).start()
    container.wait().delete().ok()
    gone(unit)


@pytest.mark.known("runc", "1.1.5 takes a cgroup in use, with a warning")
def test_second_container_in_a_unit(rt: Runtime, bundle: Bundle, unit: str) -> None:
    first = rt.create(bundle).start()
    second = rt.try_create(bundle)
    second.result.failed()
    assert alive(first.pid) and known(unit)

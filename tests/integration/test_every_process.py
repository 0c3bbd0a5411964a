"""What config.json says of each process, `exec` too: personality, policies, CPUs, clocks; and no process at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import Bundle, Container, Runtime, fields

pytestmark = pytest.mark.root
CPUS = sorted(os.sched_getaffinity(0))


def exec_process(container: Container, *args: str, **changes: Any) -> Any:
    """`exec --process` with the container's process and what is changed in it."""
    process = {**container.bundle.process, "args": ["/init", *args], **changes}
    path = container.bundle.path / "process.json"
    path.write_text(json.dumps(process))
    return container.verb("exec", "--process", str(path))


@pytest.mark.known("runc", "1.1.5 does not know linux.personality")
def test_personality_of_exec(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["personality"] = {"domain": "LINUX32"}
    container = rt.create(bundle.args("sleep")).start()
    assert container.exec("personality").ok().out.split()[0] == "0x8"


@pytest.mark.skipif(not Path("/proc/self/numa_maps").exists(), reason="a kernel without NUMA")
def test_memory_policy_of_exec(rt: Runtime, bundle: Bundle) -> None:
    if rt.kind != "ociruntime":
        pytest.skip("policies are newer than Debian 12's peers")
    bundle.linux["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0"}
    container = rt.create(bundle.args("sleep")).start()
    lines = container.exec("cat", "/proc/self/numa_maps").ok().lines
    assert lines
    assert all(line.split()[1] == "bind:0" for line in lines), lines


NEWER = pytest.mark.known("runc", "1.1.5 does not know process.ioPriority")


@NEWER
@pytest.mark.known("crun", "1.8.1 does not know process.ioPriority")
@pytest.mark.parametrize(
    ("word", "level", "shown"),
    [
        ("IOPRIO_CLASS_RT", 0, ("1", "0")),
        ("IOPRIO_CLASS_RT", 7, ("1", "7")),
        ("IOPRIO_CLASS_BE", 4, ("2", "4")),
    ],
)
def test_io_priority(
    rt: Runtime, bundle: Bundle, word: str, level: int, shown: tuple[str, str]
) -> None:
    """Of the first process, and of those that are executed later."""
    bundle.process["ioPriority"] = {"class": word, "priority": level}
    container = rt.create(bundle.args("ioprio", ";", "sleep")).start()
    container.wait_out("level=")
    first, later = fields(container.out), fields(container.exec("ioprio").ok().out)
    assert (first["class"], first["level"]) == (later["class"], later["level"]) == shown


@pytest.mark.parametrize(
    ("priority", "text"),
    [
        ({"class": "IOPRIO_CLASS_NOSUCH", "priority": 0}, "IOPRIO_CLASS_NOSUCH"),
        ({"class": "IOPRIO_CLASS_BE", "priority": 8}, "process.ioPriority.priority"),
    ],
)
def test_refused_io_priority(
    rt: Runtime, bundle: Bundle, priority: dict[str, Any], text: str
) -> None:
    if rt.kind != "ociruntime":
        pytest.skip("Debian's peers are older than process.ioPriority")
    bundle.process["ioPriority"] = priority
    rt.try_create(bundle).result.failed(text, code=1)


def cpus(text: str) -> str:
    return next(
        line.split()[1] for line in text.splitlines() if line.startswith("Cpus_allowed_list")
    )


@pytest.fixture
def affinity(rt: Runtime) -> None:
    if rt.kind != "ociruntime":
        pytest.skip("Debian's peers are older than process.execCPUAffinity")
    if len(CPUS) < 2:
        pytest.skip("needs two CPUs")


STATUS = ("cat", "/proc/self/status")


def test_affinity_of_the_config(rt: Runtime, bundle: Bundle, affinity: None) -> None:
    """For exec alone: the first process has the CPUs of the caller."""
    last = str(CPUS[-1])
    bundle.process["execCPUAffinity"] = {"initial": str(CPUS[0]), "final": last}
    container = rt.create(bundle.args("sleep")).start()
    assert os.sched_getaffinity(container.pid) == set(CPUS)
    assert cpus(container.exec(*STATUS).ok().out) == last


def test_affinity_of_a_process_file(rt: Runtime, bundle: Bundle, affinity: None) -> None:
    """It replaces the config's; what only initial says holds where no cpuset changes it."""
    bundle.process["execCPUAffinity"] = {"final": str(CPUS[0])}
    container = rt.create(bundle.args("sleep")).start()
    last = str(CPUS[-1])
    for given in ({"final": last}, {"initial": str(CPUS[0]), "final": last}, {"initial": last}):
        result = exec_process(container, *STATUS, execCPUAffinity=given)
        assert cpus(result.ok().out) == last, given


@pytest.mark.parametrize("when", ["initial", "final"])
def test_affinity_to_cpus_that_are_not_there(
    rt: Runtime, bundle: Bundle, affinity: None, when: str
) -> None:
    container = rt.create(bundle.args("sleep")).start()
    result = exec_process(container, *STATUS, execCPUAffinity={when: "8000"})
    result.failed("set the CPU affinity", "invalid argument", f"execCPUAffinity.{when}")


def test_no_process(rt: Runtime, bundle: Bundle) -> None:
    """runtime-spec config.md "Process": not required until start. What needs one says so, the rest works."""
    if rt.kind != "ociruntime":
        pytest.skip("runc and crun refuse it in create")
    del bundle.config["process"]
    container = rt.create(bundle)
    assert container.status == "created"
    assert rt.call("list", "-q").ok().out.split() == [container.id]
    container.verb("start").failed("process", code=1)
    container.exec("exit", "0").failed("cannot exec in a container without a process")
    change = '[{"destination": "/x", "source": "/tmp", "options": ["bind"]}]'
    result = rt.call("mounts", "add", container.id, "-", stdin=change)
    result.failed("cannot change the mounts of a container without a process", code=1)
    assert container.status == "created"
    container.kill("KILL").ok()
    container.wait()
    container.verb("delete").ok()


def test_run_without_a_process(rt: Runtime, bundle: Bundle) -> None:
    del bundle.config["process"]
    result = rt.run(bundle)
    assert result.code != 0
    if rt.kind == "ociruntime":
        assert "process" in result.err


@pytest.mark.known("runc", "1.1.5 does not know the time namespace")
@pytest.mark.known("crun", "1.8.1 writes the offsets but fails on this kernel")
@pytest.mark.parametrize("users", [False, True])
def test_time_offsets(rt: Runtime, bundle: Bundle, users: bool) -> None:
    """Both clocks, each way, in a user namespace as well; exec has them, the host keeps its own."""
    if users:
        bundle.user_namespace()
    bundle.namespace("time")
    up = int(float(Path("/proc/uptime").read_text().split()[0]))
    bundle.linux["timeOffsets"] = {
        "monotonic": {"secs": -(up // 2), "nanosecs": 500_000_000},
        "boottime": {"secs": 1_000_000},
    }
    container = rt.create(bundle.args("clocks", ";", "sleep")).start()
    container.wait_out("boottime=")
    for clocks in (fields(container.out), fields(container.exec("clocks").ok().out)):
        assert int(clocks["monotonic"]) < up
        assert int(clocks["boottime"]) >= 1_000_000 + up
    assert int(float(Path("/proc/uptime").read_text().split()[0])) < up + 1000

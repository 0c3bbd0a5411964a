"""update on cgroup v2 (tests/vm): every option, --resources by file and standard input, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.cgrouplib import MIB, ROOT
from tests.integration.harness import Bundle, Container, Runtime, by_kind
from tests.integration.v2lib import leaf, needs_v2, value

pytestmark = [pytest.mark.root, needs_v2]


@pytest.fixture
def container(rt: Runtime, bundle: Bundle) -> Container:
    """A created container with limits that every option below changes."""
    bundle.linux["cgroupsPath"] = f"/{rt.root.name}/c"
    bundle.linux["resources"] = {
        "pids": {"limit": 10},
        "memory": {"limit": 64 * MIB, "swap": 64 * MIB},
        "cpu": {"quota": 20000, "period": 100000, "shares": 1024, "cpus": "0"},
    }
    return rt.create(bundle.args("sleep"))


def differs(runtime: str, reason: str, *row: Any) -> Any:
    """A row that a peer does otherwise."""
    return pytest.param(*row, marks=pytest.mark.known(runtime, reason))


PLAIN = "1.8.1 takes plain numbers only"
OPTIONS = [
    (["--cpu-quota", "30000"], "cpu.max", "30000 100000"),
    differs("crun", PLAIN, ["--cpu-quota", "-1"], "cpu.max", "max 100000"),
    (["--cpu-quota", "900000", "--cpu-period", "1000000"], "cpu.max", "900000 1000000"),
    (["--cpu-quota", "2000", "--cpu-period", "10000"], "cpu.max", "2000 10000"),
    (["--cpuset-cpus", "1"], "cpuset.cpus", "1"),
    (["--cpuset-mems", "0"], "cpuset.mems", "0"),
    differs("crun", PLAIN, ["--memory", "48m"], "memory.max", str(48 * MIB)),
    (["--memory", str(96 * MIB)], "memory.max", str(96 * MIB)),
    differs("crun", PLAIN, ["--memory-reservation", "8M"], "memory.low", str(8 * MIB)),
    (
        ["--memory", str(128 * MIB), "--memory-swap", str(256 * MIB)],
        *("memory.swap.max", str(128 * MIB)),
    ),
    (["--pids-limit", "99"], "pids.max", "99"),
    (["--pids-limit", "-1"], "pids.max", "max"),
]


@pytest.mark.parametrize(("options", "name", "wanted"), OPTIONS)
def test_option(
    rt: Runtime, container: Container, options: list[str], name: str, wanted: str
) -> None:
    assert container.verb("update", *options).ok().out == ""
    assert value(rt, name) == wanted


def test_shares_become_a_weight(rt: Runtime, container: Container) -> None:
    """1024 is the kernel's default of both; the peers' older formula gives 39 for it."""
    assert value(rt, "cpu.weight") == by_kind(rt, "100", runc="39", crun="39")
    container.verb("update", "--cpu-share", "128").ok()
    assert value(rt, "cpu.weight") == by_kind(rt, "21", runc="5", crun="5")


def test_io_weight(rt: Runtime, container: Container) -> None:
    if rt.kind != "ociruntime":
        pytest.skip("1.1.5 and 1.8.1 know io.bfq.weight or io.weight of other kernels")
    container.verb("update", "--blkio-weight", "300").ok()
    # Looked for now: other tests load the scheduler.
    if (ROOT / "system.slice/io.bfq.weight").exists():
        assert value(rt, "io.bfq.weight").splitlines()[0] == "default 300"
    else:
        assert value(rt, "io.weight").splitlines()[0] == f"default {1 + (300 - 10) * 9999 // 990}"


@pytest.mark.known("runc", "1.1.5 has neither option")
@pytest.mark.known("crun", "has neither option")
@pytest.mark.parametrize(
    ("options", "name", "wanted"),
    [
        (["--cpu-burst", "10000"], "cpu.max.burst", "10000"),
        (["--cpu-idle", "1"], "cpu.idle", "1"),
    ],
)
def test_option_of_newer_versions(
    rt: Runtime, container: Container, options: list[str], name: str, wanted: str
) -> None:
    if not (leaf(rt) / name).exists():
        pytest.skip(f"this kernel has no {name}")
    container.verb("update", *options).ok()
    assert value(rt, name) == wanted


@pytest.mark.parametrize("way", ["file", "stdin"])
@pytest.mark.parametrize(
    ("resources", "name", "wanted"),
    [
        ({"cpu": {"cpus": "0-1"}}, "cpuset.cpus", "0-1"),
        ({"pids": {"limit": 20}, "devices": [{"allow": False}]}, "pids.max", "20"),
        ({"unified": {"memory.high": str(40 * MIB)}}, "memory.high", str(40 * MIB)),
        ({"memory": {"limit": 32 * MIB, "swap": 48 * MIB}}, "memory.swap.max", str(16 * MIB)),
    ],
)
def test_resources(
    rt: Runtime, container: Container, way: str, resources: dict[str, Any], name: str, wanted: str
) -> None:
    text = json.dumps(resources)
    if way == "file":
        path = rt.root.parent / "resources.json"
        path.write_text(text)
        container.verb("update", "--resources", str(path)).ok()
    else:
        container.verb("update", "-r", "-", stdin=text).ok()
    assert value(rt, name) == wanted


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--cpu-quota", "100"], "cpu.max"),
        (["--cpuset-cpus", "4000"], "cpuset.cpus"),
        (["--memory", "much"], "invalid"),
        (["--cpu-period", "x"], "invalid value"),
        (["--cpu-rt-runtime", "1000"], "realtimeRuntime needs cgroup v1"),
        ({"memory": {"swappiness": 40}}, "memory.swappiness needs cgroup v1"),
        ({"network": {"classID": 1}}, "network.classID needs cgroup v1"),
        ({"unified": {"cgroup.procs": "1"}}, "is not a limit"),
        ({"unified": {"memory.nosuch": "1"}}, "memory.nosuch"),
    ],
)
def test_refused(
    rt: Runtime, container: Container, words: list[str] | dict[str, Any], text: str
) -> None:
    """In one line that names the property or the file; nothing has changed."""
    if rt.kind != "ociruntime" and isinstance(words, dict):
        pytest.skip("the peers drop in silence what cgroup v2 has no file for")
    if isinstance(words, dict):
        result = container.verb("update", "-r", "-", stdin=json.dumps(words))
    else:
        result = container.verb("update", *words)
    result.failed(code=1)
    if rt.kind == "ociruntime":
        assert text in result.message
    assert container.status == "created"
    assert value(rt, "cpu.max") == "20000 100000"
    assert value(rt, "pids.max") == "10"


def test_what_the_first_error_follows_stays(rt: Runtime, container: Container) -> None:
    """The kernel knows no transactions: what was written before the failing write is as asked for."""
    if rt.kind != "ociruntime":
        pytest.skip("the order of the writes is ours")
    document = '{"cpu": {"quota": 50000, "cpus": "4000"}, "pids": {"limit": 30}}'
    result = container.verb("update", "-r", "-", stdin=document).failed(code=1)
    assert result.err.count("\n") == 1 and "cpuset.cpus" in result.err and "4000" in result.err
    assert (value(rt, "cpu.max"), value(rt, "pids.max")) == ("50000 100000", "10")


def test_while_running_and_paused(rt: Runtime, container: Container) -> None:
    container.start()
    container.verb("update", "--pids-limit", "50").ok()
    container.verb("pause").ok()
    container.verb("update", "--pids-limit", "60").ok()
    assert value(rt, "cgroup.freeze") == "1"
    container.verb("resume").ok()
    assert value(rt, "pids.max") == "60"
    assert container.exec("echo", "x").ok().out == "x\n"


def test_a_limit_that_bites(rt: Runtime, container: Container) -> None:
    container.start()
    container.verb("update", "--memory", str(16 * MIB), "--memory-swap", str(16 * MIB)).ok()
    assert container.exec("memhog", str(64 * MIB)).code == 137
    container.verb("update", "--memory", str(128 * MIB), "--memory-swap", str(128 * MIB)).ok()
    container.exec("memhog", str(64 * MIB)).ok()

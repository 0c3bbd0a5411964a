"""update: every option, every resource of --resources, what conflicts, and Intel RDT on a fake tree."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import REPOSITORY, Bundle, Container, Runtime, runtime_path
from tests.integration.test_cgroups import MIB, known_to_the_kernel, value

pytestmark = pytest.mark.root


@pytest.fixture
def container(rt: Runtime, bundle: Bundle) -> Container:
    """A created container with limits that every option below changes, on cgroup v1."""
    if not Path("/sys/fs/cgroup/memory").is_dir():
        pytest.skip("needs cgroup v1; v2: test_update_v2.py")
    bundle.linux["cgroupsPath"] = f"/{rt.root.name}/c"
    bundle.linux["resources"] = {
        "pids": {"limit": 10},
        "memory": {"limit": 64 * MIB},
        "cpu": {"quota": 20000, "period": 100000},
    }
    return rt.create(bundle.args("sleep"))


def differs(runtime: str, reason: str, *row: Any) -> Any:
    """A row that a peer does otherwise."""
    return pytest.param(*row, marks=pytest.mark.known(runtime, reason))


BFQ = "1.8.1 knows only blkio.weight"
PLAIN = "1.8.1 takes plain numbers only"
OPTIONS = [
    differs("crun", BFQ, ["--blkio-weight", "300"], "blkio", "blkio.bfq.weight", "300"),
    (["--cpu-period", "50000"], "cpu", "cpu.cfs_period_us", "50000"),
    (["--cpu-quota", "30000"], "cpu", "cpu.cfs_quota_us", "30000"),
    differs("crun", PLAIN, ["--cpu-quota", "-1"], "cpu", "cpu.cfs_quota_us", "-1"),
    (["--cpu-quota", "900000", "--cpu-period", "1000000"], "cpu", "cpu.cfs_quota_us", "900000"),
    (["--cpu-quota", "2000", "--cpu-period", "10000"], "cpu", "cpu.cfs_period_us", "10000"),
    (["--cpu-share", "128"], "cpu", "cpu.shares", "128"),
    (["--cpuset-cpus", "0"], "cpuset", "cpuset.cpus", "0"),
    (["--cpuset-mems", "0"], "cpuset", "cpuset.mems", "0"),
    differs(
        *("crun", PLAIN, ["--memory", "48m"]),
        *("memory", "memory.limit_in_bytes", str(48 * MIB)),
    ),
    (["--memory", str(96 * MIB)], "memory", "memory.limit_in_bytes", str(96 * MIB)),
    differs(
        *("crun", PLAIN, ["--memory-reservation", "8M"]),
        *("memory", "memory.soft_limit_in_bytes", str(8 * MIB)),
    ),
    differs(
        *("crun", PLAIN, ["--memory-swap", "80m"]),
        *("memory", "memory.memsw.limit_in_bytes", str(80 * MIB)),
    ),
    differs(
        *("crun", PLAIN, ["--memory", "128m", "--memory-swap", "256m"]),
        *("memory", "memory.limit_in_bytes", str(128 * MIB)),
    ),
    (["--pids-limit", "99"], "pids", "pids.max", "99"),
    differs("crun", PLAIN, ["--pids-limit", "-1"], "pids", "pids.max", "max"),
    differs(
        "crun", PLAIN, ["--kernel-memory", "50m", "--pids-limit", "98"], "pids", "pids.max", "98"
    ),
]
NEW_OPTIONS = [
    (["--cpu-burst", "10000"], "cpu", "cpu.cfs_burst_us", "10000"),
    (["--cpu-idle", "1"], "cpu", "cpu.idle", "1"),
]


def check(
    rt: Runtime, container: Container, options: list[str], controller: str, name: str, wanted: str
) -> None:
    if not known_to_the_kernel(controller, name):
        pytest.skip(f"this kernel has no {name}")
    assert container.verb("update", *options).ok().out == ""
    assert value(rt, controller, name) == wanted


@pytest.mark.parametrize(("options", "controller", "name", "wanted"), OPTIONS)
def test_option(
    rt: Runtime, container: Container, options: list[str], controller: str, name: str, wanted: str
) -> None:
    check(rt, container, options, controller, name, wanted)


def test_real_time(rt: Runtime, bundle: Bundle) -> None:
    """--cpu-rt-runtime, and with --cpu-rt-period: what the parent cgroup has no time for is refused with its words."""
    if not Path("/sys/fs/cgroup/cpu").is_dir():
        pytest.skip("needs the cpu controller of cgroup v1")
    if not known_to_the_kernel("cpu", "cpu.rt_runtime_us"):
        pytest.skip("this kernel has no real-time groups")
    bundle.linux["cgroupsPath"] = f"/{rt.root.name}c"
    container = rt.create(bundle.args("sleep"))
    place = Path("/sys/fs/cgroup/cpu", f"{rt.root.name}c")
    container.verb("update", "--cpu-rt-period", "500000", "--cpu-rt-runtime", "1000").ok()
    assert (place / "cpu.rt_period_us").read_text().strip() == "500000"
    assert (place / "cpu.rt_runtime_us").read_text().strip() == "1000"
    container.verb("update", "--cpu-rt-runtime", "2000").ok()
    assert (place / "cpu.rt_runtime_us").read_text().strip() == "2000"
    result = container.verb("update", "--cpu-rt-runtime", "600000").failed("nvalid argument")
    if rt.kind == "ociruntime":
        result.failed("cpu.rt_runtime_us", "600000")
    assert (place / "cpu.rt_runtime_us").read_text().strip() == "2000"


@pytest.mark.known("runc", "1.1.5 has neither option")
@pytest.mark.known("crun", "has neither option")
@pytest.mark.parametrize(("options", "controller", "name", "wanted"), NEW_OPTIONS)
def test_option_of_newer_versions(
    rt: Runtime, container: Container, options: list[str], controller: str, name: str, wanted: str
) -> None:
    check(rt, container, options, controller, name, wanted)


RESOURCES = [
    differs(
        *("runc", "1.1.5 ignores it in update", {"memory": {"swappiness": 40}}),
        *("memory", "memory.swappiness", "40"),
    ),
    ({"cpu": {"shares": 300, "cpus": "0"}}, "cpu", "cpu.shares", "300"),
    differs("crun", BFQ, {"blockIO": {"weight": 200}}, "blkio", "blkio.bfq.weight", "200"),
    ({"pids": {"limit": 20}, "devices": [{"allow": False}]}, "pids", "pids.max", "20"),
    (
        {"memory": {"limit": 128 * MIB, "swap": 128 * MIB}},
        *("memory", "memory.memsw.limit_in_bytes", str(128 * MIB)),
    ),
]


@pytest.mark.parametrize("way", ["file", "stdin"])
@pytest.mark.parametrize(("resources", "controller", "name", "wanted"), RESOURCES)
def test_resources(
    rt: Runtime,
    container: Container,
    way: str,
    resources: dict[str, Any],
    controller: str,
    name: str,
    wanted: str,
) -> None:
    if not known_to_the_kernel(controller, name):
        pytest.skip(f"this kernel has no {name}")
    text = json.dumps(resources)
    if way == "file":
        path = rt.root.parent / "resources.json"
        path.write_text(text)
        container.verb("update", "--resources", str(path)).ok()
    else:
        container.verb("update", "--resources", "-", stdin=text).ok()
    assert value(rt, controller, name) == wanted


@pytest.mark.known("crun", "applies them")
def test_devices_stay(rt: Runtime, container: Container) -> None:
    """Engines send a bare deny-all (which would take /dev/null away)."""
    before = value(rt, "devices", "devices.list")
    container.verb("update", "-r", "-", stdin='{"devices": [{"allow": false}]}').ok()
    assert value(rt, "devices", "devices.list") == before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--cpu-quota", "100"], "cpu.cfs_quota_us"),
        differs("crun", "accepts it", ["--cpu-share", "1"], "minimum allowed cpu-shares is 2"),
        (["--cpuset-cpus", "4000"], "cpuset.cpus"),
        (["--memory-swap", "1m"], "memory.memsw.limit_in_bytes"),
        differs("runc", "accepts it", ["--blkio-weight", "5"], "weight"),
        (["--memory", "much"], "invalid"),
        (["--cpu-period", "x"], "invalid value"),
    ],
)
def test_refused(container: Container, options: list[str], text: str) -> None:
    result = container.verb("update", *options).failed(code=1)
    if container.runtime.kind == "ociruntime":
        assert text in result.message
    assert container.status == "created"


def test_the_error_names_the_place(container: Container) -> None:
    """One line, with the property, the file and the errno."""
    if container.runtime.kind != "ociruntime":
        pytest.skip("texts are ours")
    result = container.verb("update", "--cpuset-cpus", "4000").failed()
    assert result.err.count("\n") == 1
    assert "cpuset.cpus" in result.err and "4000" in result.err


def test_a_limit_below_the_use(rt: Runtime, bundle: Bundle) -> None:
    """memory.checkBeforeUpdate refuses it before the kernel tries to reclaim (runtime-spec 1.1)."""
    container = rt.create(bundle.args("sleep")).start()
    document = '{"memory": {"limit": 4096, "checkBeforeUpdate": true}}'
    if rt.kind == "crun":
        pytest.skip("1.8.1 does not know checkBeforeUpdate")
    container.verb("update", "-r", "-", stdin=document).failed(code=1)
    assert container.status == "running"


@pytest.mark.known("crun", "updates the cgroup that is left")
def test_of_a_stopped_container(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("exit", "0")).start()
    container.wait()
    container.verb("update", "--pids-limit", "5").failed(code=1)


# The same fake tree as the unit tests', under a whole life of a container in one process.
LIFE = """
import sys
sys.path[:0] = [{repository!r}, {repository!r} + "/tests/unit/host"]
import pathlib, pytest
from fake_resctrl import FakeResctrl
from ociruntime import cli, hotpath
FakeResctrl(pathlib.Path({place!r}) / "resctrl").install(pytest.MonkeyPatch())
print(cli.main(sys.argv[1:]), file=sys.stderr)
"""


def with_fake_tree(place: Path, rt: Runtime, *words: str) -> subprocess.CompletedProcess[str]:
    code = LIFE.format(repository=str(REPOSITORY), place=str(place))
    command = [sys.executable, "-c", code, "--root", str(rt.root), *words]
    with (place / "out").open("w+") as out:
        done = subprocess.run(command, stdout=out, stderr=out, check=False, text=True)
        out.seek(0)
        done.stdout = out.read()
    return done


def test_intel_rdt_through_a_containers_life(rt: Runtime, bundle: Bundle, place: Path) -> None:
    if rt.kind != "ociruntime" or not runtime_path():
        pytest.skip("the fake tree stands in for resctrl inside our own process")
    bundle.linux["intelRdt"] = {"memBwSchema": "MB:0=50", "enableMonitoring": True}
    bundle.args("sleep").write()
    container = rt.track(bundle)
    top = place / "resctrl"
    made = with_fake_tree(place, rt, "create", "-b", str(bundle.path), container.id)
    assert made.stdout == "0\n"
    pid = container.state()["pid"]
    group = top / container.id
    assert (group / "tasks").read_text() == f"{pid}\n"
    assert (group / "mon_groups" / container.id / "tasks").read_text() == f"{pid}\n"
    assert "MB:0=50" in (group / "schemata").read_text()
    container.start()
    done = with_fake_tree(place, rt, "exec", container.id, "/init", "exit", "0")
    assert done.stdout == "0\n"
    assert len((group / "tasks").read_text().split()) == 2, "exec did not join the class"
    done = with_fake_tree(place, rt, "update", "--mem-bw-schema", "MB:0=20", container.id)
    assert done.stdout == "0\n"
    assert "MB:0=20" in (group / "schemata").read_text()
    done = with_fake_tree(place, rt, "events", "--stats", container.id)
    figures = json.loads(done.stdout.splitlines()[0])["data"]["intel_rdt"]
    assert figures["mem_bw_schema"] == "MB:0=20"
    (group / "tasks").write_text("")
    done = with_fake_tree(place, rt, "delete", "--force", container.id)
    assert done.stdout == "0\n"
    assert not group.exists()


def test_update_makes_a_class(rt: Runtime, bundle: Bundle, place: Path) -> None:
    if rt.kind != "ociruntime" or not runtime_path():
        pytest.skip("the fake tree stands in for resctrl inside our own process")
    container = rt.create(bundle.args("sleep")).start()
    group = place / "resctrl" / container.id
    words = ("update", "--l3-cache-schema", "L3:0=zz\n", container.id)
    assert "more than one line" in with_fake_tree(place, rt, *words).stdout
    words = ("update", "--mem-bw-schema", "XX:0=1", container.id)
    assert "does not start with MB:" in with_fake_tree(place, rt, *words).stdout
    words = ("update", "--l3-cache-schema", "L9:0=1", container.id)
    assert "Unknown or duplicate domain" in with_fake_tree(place, rt, *words).stdout
    assert not group.exists(), "a failed update leaves no class"
    words = ("update", "--l3-cache-schema", "L3:0=f", container.id)
    assert with_fake_tree(place, rt, *words).stdout == "0\n"
    assert str(container.pid) in (group / "tasks").read_text().split()
    (group / "tasks").write_text("")
    assert with_fake_tree(place, rt, "delete", "--force", container.id).stdout == "0\n"
    assert not group.exists()

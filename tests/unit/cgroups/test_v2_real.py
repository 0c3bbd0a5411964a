"""The v2 manager with processes, on a real cgroup2."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_subtests import SubTests

from ociruntime import cgroups, errors
from ociruntime.cgroups.v2 import V2Manager

sys.path.insert(0, str(Path(__file__).parent))
import cgroup_kit as kit


@pytest.fixture
def real() -> Iterator[V2Manager]:
    with kit.cgroup2() as mount:
        made = V2Manager(mount, f"/ociruntime-test-{os.getpid()}", 0, False)
        made.create()
        yield made
        made.kill_all()
        made.delete()
        assert not made.exists()


def place_of(manager: V2Manager) -> Path:
    _, mount, _, path = manager.mount_facts()[0]
    return Path(mount + path)


@pytest.mark.root
def test_attach_and_kill(real: V2Manager, subtests: SubTests) -> None:
    for name in ("cgroup.kill", "freeze, kill, thaw"):
        with subtests.test(name):
            (place_of(real) / "sub").mkdir(exist_ok=True)
            pids = [kit.sleeper(), kit.sleeper()]
            real.attach(pids[0])
            (place_of(real) / "sub/cgroup.procs").write_text(str(pids[1]))
            assert real.pids() == sorted(pids)
            if name == "cgroup.kill":
                real.kill_all()
            else:
                super(V2Manager, real).kill_all()
            assert [kit.end(pid) for pid in pids] == [-signal.SIGKILL] * 2


@pytest.mark.root
def test_freeze_and_signal(real: V2Manager) -> None:
    pid = kit.sleeper()
    real.attach(pid)
    assert not real.frozen()
    real.freeze()
    assert real.frozen()
    assert Path(real.freezer_file()).read_text()[0] == "1"
    real.kill_all(signal.SIGUSR1)
    assert real.frozen(), "a signal does not resume a paused container"
    real.thaw()
    assert not real.frozen()
    assert kit.end(pid) == -signal.SIGUSR1


@pytest.mark.root
def test_freeze_of_an_empty_cgroup(real: V2Manager) -> None:
    real.freeze()
    assert real.frozen()
    real.thaw()


@pytest.mark.root
def test_fork_bomb(real: V2Manager) -> None:
    pid = kit.fork_bomb(lambda: real.attach(os.getpid()), 4)
    kit.wait_for(lambda: len(real.pids()) > 2, "the bomb to go off")
    super(V2Manager, real).kill_all()
    assert kit.end(pid) == -signal.SIGKILL
    kit.wait_for(lambda: not real.pids(), "all to be gone")


@pytest.mark.root
def test_open_for_clone(real: V2Manager) -> None:
    fd = real.open_for_clone()
    try:
        assert os.fstat(fd).st_ino == place_of(real).stat().st_ino
        assert not os.get_inheritable(fd)
        with pytest.raises(OSError):
            os.listdir(fd)
    finally:
        os.close(fd)
    assert real.open_for_join() == []


@pytest.mark.root
def test_delete_of_a_tree_and_its_parents() -> None:
    with kit.cgroup2() as mount:
        name = f"/ociruntime-test-{os.getpid()}-tree"
        made = V2Manager(mount, f"{name}/a/b", 2, False)
        made.create()
        os.makedirs(f"{mount}{name}/a/b/c/d")
        start = time.monotonic()
        made.delete()
        assert not os.path.exists(mount + name)
        assert time.monotonic() - start < 5


@pytest.mark.root
def test_exec_follows_init_into_its_cgroup(real: V2Manager) -> None:
    """A container manager inside the container leaves no room in the container's own cgroup."""
    controllers = (place_of(real) / "cgroup.controllers").read_text().split()
    if not controllers:
        parent = place_of(real).parent / "cgroup.subtree_control"
        pytest.skip(f"no controller enabled in {parent}")
    (place_of(real) / "init.scope").mkdir()
    pid = kit.sleeper()
    (place_of(real) / "init.scope/cgroup.procs").write_text(str(pid))
    (place_of(real) / "cgroup.subtree_control").write_text("+" + controllers[0])
    assert real.for_exec((), pid).path == real.path + "/init.scope"
    kit.discard(pid)


@pytest.fixture
def whole() -> Iterator[V2Manager]:
    """A container's cgroup on a machine that has every controller on v2."""
    if cgroups.detect() != "v2":
        pytest.skip("no pure cgroup v2 machine")
    with kit.cgroup2():
        made = cgroups.manager("cgroupfs", f"/ociruntime-test-{os.getpid()}/a/b", "x")
        assert isinstance(made, V2Manager)
        yield made
        made.kill_all()
        made.delete()
        assert not made.exists()
        assert not place_of(made).parent.parent.exists()


@pytest.mark.root
def test_real_limits(whole: V2Manager, subtests: SubTests) -> None:
    res: dict[str, Any] = {
        "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0"},
        "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20},
        "pids": {"limit": 33},
        "blockIO": {"weight": 500},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}],
        "unified": {"memory.high": "50331648", "cgroup.max.depth": "7"},
    }
    whole.create(res)
    place = place_of(whole)
    controllers = (place / "cgroup.controllers").read_text().split()
    if not (place / "io.weight").exists() and not (place / "io.bfq.weight").exists():
        del res["blockIO"]
    if "hugetlb" not in controllers:
        del res["hugepageLimits"]
    if not (place / "memory.swap.max").exists():
        del res["memory"]["swap"]
    whole.apply_limits(res, False, [])
    for name, expected in (
        ("cpu.weight", "100"),
        ("cpu.max", "50000 100000"),
        ("cpuset.cpus", "0"),
        ("memory.max", str(64 << 20)),
        ("memory.swap.max", str(32 << 20)),
        ("memory.low", str(32 << 20)),
        ("memory.high", "50331648"),
        ("pids.max", "33"),
        ("cgroup.max.depth", "7"),
        ("hugetlb.2MB.max", str(4 << 20)),
    ):
        with subtests.test(name):
            if not (place / name).exists():
                pytest.skip("this kernel does not have it")
            assert (place / name).read_text().strip() == expected
    with subtests.test("update"):
        whole.apply({"cpu": {"period": 200000}, "pids": {"limit": 0}}, update=True)
        assert (place / "cpu.max").read_text().strip() == "50000 200000"
        assert (place / "pids.max").read_text().strip() == "33"
    with subtests.test("refused by the kernel"):
        with pytest.raises(errors.Error, match=r"cgroup: write 9999 to cpuset\.cpus") as info:
            whole.apply({"cpu": {"cpus": "9999"}}, update=True)
        assert info.value.pointer == "/linux/resources/cpu/cpus"
    with subtests.test("stats"):
        got = whole.stats()
        assert got["pids"]["limit"] == 33
        assert got["memory"]["usage"]["limit"] == 64 << 20
        assert json.loads(json.dumps(got)) == got


@pytest.mark.root
def test_real_oom_kill(whole: V2Manager) -> None:
    whole.create({"memory": {"limit": 8 << 20}})
    unswapped = {"limit": 8 << 20, "swap": 8 << 20}
    if not (place_of(whole) / "memory.swap.max").exists():
        del unswapped["swap"]
    whole.apply_limits({"memory": unswapped}, False, [])
    pid = os.fork()
    if pid == 0:
        whole.attach(os.getpid())
        held = [bytearray(os.urandom(1 << 20)) for _ in range(64)]
        os._exit(len(held))
    assert kit.end(pid) == -signal.SIGKILL
    assert whole.oom_kills() == 1

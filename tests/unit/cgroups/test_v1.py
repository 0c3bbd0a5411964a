"""The v1 and hybrid manager on the real hierarchies of this machine."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_subtests import SubTests

from ociruntime import cgroups, errors
from ociruntime.cgroups import hierarchy, tree
from ociruntime.cgroups.base import Manager

sys.path.insert(0, str(Path(__file__).parent))
import cgroup_kit as kit

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        cgroups.detect() not in ("v1", "hybrid"), reason="no cgroup v1 hierarchy on this machine"
    ),
]

DENY_ALL = {"allow": False, "access": "rwm"}
_PARENT = f"/ociruntime-test-{os.getpid()}"


def leaf(manager: Manager, controller: str) -> str:
    for name, mount, _, path in manager.mount_facts():
        if controller in name.split(","):
            return mount + path
    pytest.skip(f"no v1 {controller} hierarchy on this machine")


def value(manager: Manager, file: str) -> str:
    return Path(leaf(manager, file.partition(".")[0]), file).read_text().strip()


def everywhere(path: str) -> list[str]:
    """Directories of that cgroup path that exist, in any hierarchy."""
    return [m + path for _, m in hierarchy.survey()[1] if os.path.exists(m + path)]


@pytest.fixture
def manager(request: pytest.FixtureRequest) -> Iterator[Manager]:
    made = cgroups.manager("cgroupfs", f"{_PARENT}/{request.node.name[:40]}", "x")
    made.create()
    yield made
    made.kill_all()
    made.delete()
    assert everywhere(_PARENT) == []


def test_create_and_delete_leave_nothing() -> None:
    manager = cgroups.manager("cgroupfs", f"{_PARENT}/a/b", "x")
    state = json.loads(json.dumps(manager.to_state()))
    assert everywhere(_PARENT) == [], "deciding makes nothing"
    manager.create()
    assert len(everywhere(f"{_PARENT}/a/b")) == len(hierarchy.survey()[1])
    again = cgroups.from_state(state)
    assert again.exists()
    again.delete()
    assert everywhere(_PARENT) == []
    assert not again.exists()
    again.delete()


def test_delete_after_any_crash(subtests: SubTests) -> None:
    """The state is written first: whatever part of create was done, delete removes it."""
    count = len(hierarchy.survey()[1])
    for made in range(count + 1):
        with subtests.test(made=made):
            manager = cgroups.manager("cgroupfs", f"{_PARENT}/a/b", "x")
            state = manager.to_state()
            for _, mount, _ in state["at"][:made]:
                tree.make(mount, state["path"])
            if made < count:
                os.mkdir(state["at"][made][1] + _PARENT)
            cgroups.from_state(state).delete()
            assert everywhere(_PARENT) == []


def test_parents_that_were_there_stay() -> None:
    mount = hierarchy.survey()[1][0][1]
    os.mkdir(mount + _PARENT)
    try:
        manager = cgroups.manager("cgroupfs", f"{_PARENT}/x", "x")
        manager.create()
        manager.delete()
        assert everywhere(_PARENT) == [mount + _PARENT]
    finally:
        os.rmdir(mount + _PARENT)


def test_shared_parent_goes_with_the_last() -> None:
    one = cgroups.manager("cgroupfs", f"{_PARENT}/one", "x")
    two = cgroups.manager("cgroupfs", f"{_PARENT}/two", "x")
    one.create()
    two.create()
    one.delete()
    assert two.exists()
    two.delete()
    assert everywhere(_PARENT) == []


def test_default_and_relative_paths(subtests: SubTests) -> None:
    for path, expected in (
        (None, "/ociruntime-test-id"),
        ("", "/ociruntime-test-id"),
        ("rel/x", "/rel/x"),
        ("/a//b/./c/", "/a/b/c"),
        ("/../../x", "/x"),
        ("a:b:c", "/a:b:c"),
    ):
        with subtests.test(path=path):
            got = cgroups.manager("cgroupfs", path, "ociruntime-test-id")
            assert got.path == expected
    for path in ("/", "/..", "a/.."):
        with subtests.test(path=path), pytest.raises(errors.Error, match="root cgroup"):
            cgroups.manager("cgroupfs", path, "x")
    for path in ("/a\0b", "/a\nb"):
        with subtests.test(path=path), pytest.raises(errors.Error, match="control character"):
            cgroups.manager("cgroupfs", path, "x")


def test_join_by_descriptors(manager: Manager) -> None:
    """What init does: start in the cgroup2 directory, write 0 into each v1 tasks file."""
    fds = manager.open_for_join()
    unified = manager.open_for_clone()
    assert (unified >= 0) == (cgroups.detect() == "hybrid")

    def join() -> None:
        for fd in fds:
            os.write(fd, b"0")

    pid = kit.sleeper(join)
    for fd in [*fds, unified]:
        if fd >= 0:
            assert not os.get_inheritable(fd)
            os.close(fd)
    paths = dict(hierarchy.membership(pid))
    for _, _, options, path in manager.mount_facts():
        if options:
            assert paths[options.removeprefix("none,")] == path
    assert manager.pids() == [pid]
    manager.kill_all()
    assert kit.end(pid) == -signal.SIGKILL


def test_attach(manager: Manager) -> None:
    pid = kit.sleeper()
    manager.attach(pid)
    paths = dict(hierarchy.membership(pid))
    assert {paths[controllers] for controllers, _ in hierarchy.survey()[1]} == {manager.path}
    manager.kill_all()
    kit.end(pid)
    with pytest.raises(errors.Error, match="no such process"):
        manager.attach(pid)


def test_limits(manager: Manager, subtests: SubTests) -> None:
    warnings = manager.apply(
        {
            "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0"},
            "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20, "kernel": 1},
            "pids": {"limit": 33},
            "devices": [DENY_ALL],
        }
    )
    assert len(warnings) == 1
    for file, expected in (
        ("cpu.shares", "512"),
        ("cpu.cfs_quota_us", "50000"),
        ("cpu.cfs_period_us", "100000"),
        ("cpuset.cpus", "0"),
        ("memory.limit_in_bytes", str(64 << 20)),
        ("memory.memsw.limit_in_bytes", str(96 << 20)),
        ("memory.soft_limit_in_bytes", str(32 << 20)),
        ("pids.max", "33"),
    ):
        with subtests.test(file):
            assert value(manager, file) == expected
    changes: list[tuple[dict[str, Any], dict[str, str]]] = [
        (  # both above the old ones: swap must go first
            {"memory": {"limit": 128 << 20, "swap": 160 << 20}},
            {"memory.limit_in_bytes": str(128 << 20)},
        ),
        (  # both below: memory must go first
            {"memory": {"limit": 16 << 20, "swap": 17 << 20}},
            {"memory.memsw.limit_in_bytes": str(17 << 20)},
        ),
        ({"memory": {"limit": -1}}, {"pids.max": "33"}),
        ({}, {"pids.max": "33"}),
        (
            {"pids": {"limit": 0}, "cpu": {"shares": 0}, "memory": {"limit": 0}},
            {"pids.max": "33", "cpu.shares": "512"},
        ),
        ({"pids": {"limit": -1}}, {"pids.max": "max"}),
        ({"cpu": {"quota": -1}}, {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}),
    ]
    before = value(manager, "devices.list")
    for res, expected_files in changes:
        with subtests.test(res=res):
            manager.apply({**res, "devices": [DENY_ALL, DENY_ALL]}, update=True)
            for file, expected in expected_files.items():
                assert value(manager, file) == expected
    with subtests.test("an update leaves the devices alone"):
        assert value(manager, "devices.list") == before


def test_burst_follows_quota(manager: Manager) -> None:
    if not os.path.exists(leaf(manager, "cpu") + "/cpu.cfs_burst_us"):
        pytest.skip("kernel without cpu.cfs_burst_us")
    manager.apply({"cpu": {"quota": 20000, "period": 100000, "burst": 10000}})
    manager.apply({"cpu": {"quota": 5000, "burst": 4000}}, update=True)
    assert value(manager, "cpu.cfs_burst_us") == "4000"
    manager.apply({"cpu": {"quota": 40000, "burst": 30000}}, update=True)
    assert value(manager, "cpu.cfs_burst_us") == "30000"


def test_errors_name_value_file_and_property(manager: Manager, subtests: SubTests) -> None:
    for res, text, pointer in (
        (
            {"cpu": {"cpus": "9999"}},
            "cgroup: write 9999 to cpuset.cpus: numerical result out of range",
            "/linux/resources/cpu/cpus",
        ),
        (
            {"cpu": {"period": 5}},
            "cgroup: write 5 to cpu.cfs_period_us: invalid argument",
            "/linux/resources/cpu/period",
        ),
        (
            {"network": {"classID": 1}},
            "cannot set net_cls.classid: the container has no net_cls cgroup",
            "/linux/resources/network/classID",
        ),
    ):
        with subtests.test(res=res):
            if "network" in res and any("net_cls" in c for c, _ in hierarchy.survey()[1]):
                pytest.skip("this machine has net_cls")
            with pytest.raises(errors.Error) as info:
                manager.apply(res)
            assert str(info.value) == text
            assert info.value.pointer == pointer


def test_limit_below_usage_says_so(manager: Manager) -> None:
    held: list[bytearray] = []

    def join_and_use() -> None:
        manager.attach(os.getpid())
        held.append(bytearray(8 << 20))

    pid = kit.sleeper(join_and_use)
    used = int(value(manager, "memory.usage_in_bytes"))
    limit = {"memory": {"limit": used // 2, "checkBeforeUpdate": True}}
    with pytest.raises(errors.Error, match="below the current usage"):
        manager.apply(limit, update=True)
    kit.discard(pid)


def test_devices(manager: Manager, tmp_path: Path) -> None:
    node = str(tmp_path / "node")
    os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(1, 11))
    allowed = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}
    manager.apply(None)

    def errno_of(path: str, flags: int) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                manager.attach(os.getpid())
                os.open(path, flags)
                os._exit(0)
            except OSError as exc:
                os._exit(exc.errno or 255)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert errno_of("/dev/null", os.O_RDWR) == 0
    assert errno_of(node, os.O_RDONLY) == errno.EPERM
    manager.set_devices([allowed], update=True)
    assert errno_of(node, os.O_RDONLY) == 0
    assert errno_of(node, os.O_RDWR) == errno.EPERM
    manager.set_devices([DENY_ALL], update=True)
    assert errno_of(node, os.O_RDONLY) == errno.EPERM
    assert errno_of("/dev/zero", os.O_RDWR) == 0


def test_freeze(manager: Manager) -> None:
    pid = kit.sleeper()
    manager.attach(pid)
    assert not manager.frozen()
    manager.freeze()
    assert manager.frozen()
    assert Path(manager.freezer_file()).read_text()[0] == "F"
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.05)
    assert kit.state(pid) not in ("", "Z")
    manager.thaw()
    assert not manager.frozen()
    assert kit.end(pid) == -signal.SIGKILL


def test_signal_for_all_keeps_a_paused_container_paused(manager: Manager) -> None:
    pids = [kit.sleeper(), kit.sleeper()]
    for pid in pids:
        manager.attach(pid)
    manager.freeze()
    manager.kill_all(signal.SIGUSR1)
    assert manager.frozen()
    manager.thaw()
    assert [kit.end(pid) for pid in pids] == [-signal.SIGUSR1] * 2


def test_kill_all_reaches_paused_and_nested(manager: Manager) -> None:
    os.mkdir(leaf(manager, "freezer") + "/sub")
    outer, inner = kit.sleeper(), kit.sleeper()
    manager.attach(outer)
    manager.attach(inner)
    Path(leaf(manager, "freezer"), "sub/cgroup.procs").write_text(str(inner))
    assert manager.pids() == sorted([outer, inner])
    assert manager.pids(recursive=False) == [outer]
    manager.freeze()
    manager.kill_all()
    assert [kit.end(pid) for pid in (outer, inner)] == [-signal.SIGKILL] * 2


def test_kill_all_ends_a_fork_bomb(manager: Manager, subtests: SubTests) -> None:
    for name in ("with the freezer", "without"):
        with subtests.test(name):
            manager.apply({"pids": {"limit": 2000}})
            pid = kit.fork_bomb(lambda: manager.attach(os.getpid()), 4)
            kit.wait_for(lambda: len(manager.pids()) > 2, "the bomb to go off")
            if name == "without":
                manager._kill_running(os.getpid())
            else:
                manager.kill_all()
            assert kit.end(pid) == -signal.SIGKILL
            kit.wait_for(lambda: not manager.pids(), "all to be gone")


def test_own_process_is_spared(manager: Manager) -> None:
    """A runtime that sits in the cgroup itself neither freezes nor kills itself."""
    other = kit.sleeper()
    manager.attach(other)
    pid = os.fork()
    if pid == 0:
        try:
            manager.attach(os.getpid())
            manager.kill_all()
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert kit.end(pid) == 0
    assert kit.end(other) == -signal.SIGKILL


def test_used_cgroup_is_refused(manager: Manager, subtests: SubTests) -> None:
    os.mkdir(leaf(manager, "freezer") + "/sub")
    pid = kit.sleeper()
    for place in ("", "/sub"):
        with subtests.test(place=place):
            Path(leaf(manager, "freezer") + place, "cgroup.procs").write_text(str(pid))
            with pytest.raises(errors.Error, match="cgroup is not empty"):
                cgroups.manager("cgroupfs", manager.path, "x")
    kit.discard(pid)
    with subtests.test("frozen"):
        manager.freeze()
        with pytest.raises(errors.Error, match="unexpectedly frozen"):
            cgroups.manager("cgroupfs", manager.path, "x")
        manager.thaw()
    with subtests.test("empty is fine"):
        cgroups.manager("cgroupfs", manager.path, "x").create()


def test_refusal_in_create_touches_nothing() -> None:
    """Somebody may come between deciding and making: his processes are not ours to kill."""
    late = cgroups.manager("cgroupfs", f"{_PARENT}/x", "x")
    first = cgroups.manager("cgroupfs", f"{_PARENT}/x", "x")
    first.create()
    pid = kit.sleeper()
    first.attach(pid)
    with pytest.raises(errors.Error, match="not empty"):
        late.create()
    late.kill_all()
    late.delete()
    assert first.pids() == [pid]
    first.kill_all()
    kit.end(pid)
    first.delete()
    assert everywhere(_PARENT) == []


def test_delete_waits_and_says_who_is_left(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = kit.sleeper()
    manager.attach(pid)
    monkeypatch.setattr(tree, "REMOVE_TIMEOUT", 0.2)
    start = time.monotonic()
    with pytest.raises(errors.Error, match="device or resource busy") as info:
        manager.delete()
    assert 0.2 <= time.monotonic() - start < 2
    assert info.value.hint is not None and str(pid) in info.value.hint
    kit.discard(pid)


def test_delete_removes_nested_cgroups(manager: Manager) -> None:
    for controller in ("memory", "freezer"):
        os.makedirs(leaf(manager, controller) + "/a/b")
        os.makedirs(leaf(manager, controller) + "/c")
    manager.delete()
    assert not manager.exists()


def test_exec_paths(manager: Manager, subtests: SubTests) -> None:
    os.mkdir(leaf(manager, "memory") + "/sub")
    with subtests.test("none"):
        assert manager.for_exec().mount_facts() == manager.mount_facts()
    with subtests.test("one controller"):
        below = manager.for_exec(["memory:sub"])
        assert leaf(below, "memory") == leaf(manager, "memory") + "/sub"
        assert leaf(below, "freezer") == leaf(manager, "freezer")
        pid = kit.sleeper()
        below.attach(pid)
        assert dict(hierarchy.membership(pid))["memory"] == manager.path + "/sub"
        kit.discard(pid)
    for sub, text in (
        ("memory:../..", "not below"),
        ("memory:../../x", "not below"),
        ("nothing:sub", "no cgroup controller nothing"),
        ("memory:absent", "no such file or directory"),
        ("sub", "no such file or directory"),
    ):
        with subtests.test(sub=sub), pytest.raises(errors.Error, match=text):
            manager.for_exec([sub])


def test_cpuset_of_new_parents_is_filled(manager: Manager) -> None:
    assert value(manager, "cpuset.cpus") != ""
    assert value(manager, "cpuset.mems") != ""


def test_unified_folder_takes_limits_of_its_controllers() -> None:
    """On a hybrid machine a controller may live in the cgroup2 tree: its limits work all the same."""
    places = dict(hierarchy.survey()[1])
    if "" not in places or any("hugetlb" in name.split(",") for name in places):
        pytest.skip("hugetlb is not in a cgroup2 tree beside v1")
    controllers = Path(places[""], "cgroup.controllers").read_text().split()
    if "hugetlb" not in controllers:
        pytest.skip("no hugetlb controller")
    with kit.cgroup2() as mount:
        manager = cgroups.manager("cgroupfs", _PARENT, "x")
        manager.create()
        try:
            manager.apply({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]})
            assert Path(mount + _PARENT, "hugetlb.2MB.max").read_text().strip() == str(4 << 20)
            assert manager.stats()["hugetlb"]["2MB"]["usage"] == 0
            with pytest.raises(errors.Error, match="3MB is not available"):
                manager.apply({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]})
        finally:
            manager.delete()


def test_oom_kill_is_counted(manager: Manager) -> None:
    manager.apply({"memory": {"limit": 8 << 20, "swap": 8 << 20}})
    fds = manager.open_for_join()
    pid = os.fork()
    if pid == 0:
        for fd in fds:
            os.write(fd, b"0")
        held = [bytearray(os.urandom(1 << 20)) for _ in range(64)]
        os._exit(len(held))
    for fd in fds:
        os.close(fd)
    assert kit.end(pid) == -signal.SIGKILL
    assert manager.oom_kills() == 1


def test_ordinary_user_gets_no_cgroup(subtests: SubTests) -> None:
    """Rootless: lacking permission is tolerated until something needs the cgroup."""

    def told(rootless: bool | None) -> str:
        manager = cgroups.manager("cgroupfs", _PARENT, "x", rootless=rootless)
        manager.create({})
        if manager.to_state()["at"] or manager.apply(None) or manager.open_for_join():
            return "made something"
        manager.attach(os.getpid())
        manager.apply({"pids": {"limit": 5}})
        return "no error"

    for rootless, expected in (
        (None, "cannot set pids.max: the container has no pids cgroup"),
        (True, "cannot set pids.max: the container has no pids cgroup"),
        (False, f"cgroup: make {hierarchy.survey()[1][0][1]}{_PARENT}: permission denied"),
    ):
        with subtests.test(rootless=rootless):
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    os.setresgid(65534, 65534, 65534)
                    os.setresuid(65534, 65534, 65534)
                    text = told(rootless)
                except errors.Error as exc:
                    text = str(exc)
                os.write(writer, text.encode())
                os._exit(0)
            os.close(writer)
            kit.end(pid)
            assert os.read(reader, 1000).decode() == expected
            os.close(reader)
    assert everywhere(_PARENT) == []


def test_stats(manager: Manager) -> None:
    manager.apply({"memory": {"limit": 64 << 20}, "pids": {"limit": 7}})
    pid = kit.sleeper()
    manager.attach(pid)
    got = manager.stats()
    assert got["pids"] == {"current": 1, "limit": 7}
    assert got["memory"]["usage"]["limit"] == 64 << 20
    assert got["cpuset"]["cpus"]
    assert set(got["cpu"]) == {"usage", "throttling"}
    assert len(got["cpu"]["usage"]["percpu"]) >= 1
    assert json.loads(json.dumps(got)) == got
    manager.kill_all()
    kit.end(pid)

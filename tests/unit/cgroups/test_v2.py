"""The v2 manager: file logic on a made-up tree."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pytest_subtests import SubTests

from ociruntime import cgroups, errors
from ociruntime.cgroups import files, resources_io, v2
from ociruntime.cgroups.v2 import V2Manager

sys.path.insert(0, str(Path(__file__).parent))


CONTROLLERS = "cpuset cpu io memory hugetlb pids rdma"


class Tree:
    """A cgroup2 tree of plain files, as far as a test fills it."""

    def __init__(self, path: Path) -> None:
        self.root = path / "cgroup"
        self.root.mkdir()
        self.proc = path / "proc"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "self/cgroup").write_text("0::/user.slice/own.scope\n")
        self.fill(self.root, CONTROLLERS, "")

    def fill(self, place: Path, controllers: str, enabled: str) -> None:
        (place / "cgroup.controllers").write_text(controllers + "\n")
        (place / "cgroup.subtree_control").write_text(enabled + "\n")

    def leaf(self, path: str, files_of: dict[str, str]) -> Path:
        place = self.root / path.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        for name, text in files_of.items():
            (place / name).write_text(text)
        return place

    def manager(self, path: str | None, **kwargs: Any) -> V2Manager:
        made = cgroups.manager(
            "cgroupfs", path, "ident", root=str(self.root), proc=str(self.proc), **kwargs
        )
        assert isinstance(made, V2Manager)
        return made


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_detected(tree: Tree) -> None:
    assert cgroups.detect(str(tree.root), str(tree.proc)) == "v2"
    assert cgroups.mount_facts(None, str(tree.root), str(tree.proc)) == [
        ("", str(tree.root), "", "/user.slice/own.scope")
    ]


def test_paths(tree: Tree, subtests: SubTests) -> None:
    for path, rootless, expected in (
        ("/a/b", False, "/a/b"),
        ("a/b", False, "/a/b"),
        ("/a/b", True, "/a/b"),
        ("a/b", True, "/user.slice/a/b"),
        (None, False, "/ident"),
        (None, True, "/user.slice/ident"),
    ):
        with subtests.test(path=path, rootless=rootless):
            assert tree.manager(path, rootless=rootless).path == expected


def asked(namespaces: dict[str, str | None], *mount: str, uid: int = 5, **linux: Any) -> int | None:
    """Who gets the cgroup of a container with these namespaces and a cgroup mount with these options."""
    kinds = [{"type": kind} | ({"path": path} if path else {}) for kind, path in namespaces.items()]
    return v2.owner(
        {
            "process": {"user": {"uid": uid, "gid": 6}},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": list(mount)},
            ],
            "linux": {"namespaces": kinds, **linux},
        }
    )


MAPS = [
    {"containerID": 0, "hostID": 1000, "size": 1},
    {"containerID": 1, "hostID": 7000, "size": 9},
]


def test_who_gets_the_cgroup() -> None:
    both: dict[str, str | None] = {"cgroup": None, "user": None}
    assert asked(both, "nosuid", uidMappings=MAPS) == 7004
    assert asked(both, uid=0, uidMappings=MAPS) == 1000
    assert asked({"cgroup": None}) == 5
    assert asked({"cgroup": None}, uid=0) is None, "it is root's already"
    assert asked(both, "ro", "rw", uidMappings=MAPS) == 7004
    pid = os.getpid()
    joined = asked({"cgroup": None, "user": f"/proc/{pid}/ns/user"})
    assert joined == 5, "the map of this process"


def test_who_gets_no_cgroup() -> None:
    both: dict[str, str | None] = {"cgroup": None, "user": None}
    assert asked(both, "nosuid", "ro", uidMappings=MAPS) is None
    assert asked(both, uid=50, uidMappings=MAPS) is None, "not mapped"
    assert asked({"user": None}, uidMappings=MAPS) is None
    assert asked({"cgroup": "/proc/1/ns/cgroup"}) is None
    assert asked({"cgroup": None, "user": "/run/user-namespace"}) is None
    spec = {"process": {"user": {"uid": 5}}, "linux": {"namespaces": [{"type": "cgroup"}]}}
    assert v2.owner(spec) is None, "no cgroup mount"
    assert v2.owner({"linux": {"namespaces": [{"type": "cgroup"}]}}) is None, "no process"


def test_state_round_trip(tree: Tree) -> None:
    (tree.root / "a").mkdir()
    made = tree.manager("/a/b/c", rootless=False)
    state = json.loads(json.dumps(made.to_state()))
    assert state["made"] == 1
    again = cgroups.from_state(state)
    assert again.to_state() == state
    assert again.mode == "v2"


def test_controllers_are_enabled_along_the_path(tree: Tree) -> None:
    parent = tree.leaf("/a", {})
    tree.fill(parent, "cpu memory pids", "pids")
    made = tree.manager("/a/b", rootless=False)
    made.create({"memory": {"limit": 1}})
    assert (tree.root / "a/b").is_dir()
    on = (tree.root / "cgroup.subtree_control").read_text()
    assert on == " ".join("+" + name for name in CONTROLLERS.split())
    assert (parent / "cgroup.subtree_control").read_text() == "+cpu +memory"
    with pytest.raises(FileNotFoundError):
        (tree.root / "a/b/cgroup.subtree_control").read_text()


def test_enabled_controllers_are_not_written_again(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.fill(tree.root, "cpu memory", "memory cpu")
    monkeypatch.setattr(files, "write", lambda path, value: pytest.fail(f"{path} written"))
    tree.manager("/x", rootless=False).create({"memory": {"limit": 1}})


def test_controller_that_cannot_be_enabled(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, subtests: SubTests
) -> None:
    written: list[str] = []
    reason = errno.EINVAL

    def write(path: str, value: str) -> None:
        if "memory" in value:
            raise OSError(reason, "not here")
        written.append(value)

    monkeypatch.setattr(files, "write", write)
    tree.fill(tree.root, "cpu memory", "")
    nothing = {"memory": {"limit": 0, "disableOOMKiller": False}, "blockIO": {}, "pids": {}}
    with subtests.test("not needed"):
        tree.manager("/x", rootless=False).create({"cpu": {"shares": 5}, **nothing})
        assert written == ["+cpu"]
    reason = errno.EBUSY
    with subtests.test("busy: controllers of threads alone would make a threaded subtree of it"):
        written.clear()
        tree.manager("/z", rootless=False).create(nothing)
        assert written == []
    with subtests.test("needed"), pytest.raises(errors.Error) as info:
        tree.manager("/y", rootless=False).create({"memory": {"limit": 5}})
    assert info.value.pointer == "/linux/resources/memory"
    assert "processes of its own" in (info.value.hint or "")


def test_limits(tree: Tree) -> None:
    names = ("memory.max", "memory.swap.max", "pids.max", "cpu.weight", "cpu.max", "memory.high")
    place = tree.leaf("/x", dict.fromkeys(names, ""))
    made = tree.manager("/x", rootless=True)  # rootless: no device filter
    made.apply(
        {
            "memory": {"limit": 100, "swap": 150},
            "pids": {"limit": 5},
            "cpu": {"shares": 1024, "quota": 5, "period": 10},
            "unified": {"memory.high": "99"},
        }
    )
    got = {name: (place / name).read_text() for name in names}
    assert got == {
        "memory.max": "100",
        "memory.swap.max": "50",
        "pids.max": "5",
        "cpu.weight": "100",
        "cpu.max": "5 10",
        "memory.high": "99",
    }


def test_missing_controller_is_an_error(tree: Tree, subtests: SubTests) -> None:
    place = tree.leaf("/x", {"cgroup.controllers": "cpu pids\n"})
    made = tree.manager("/x", rootless=True)
    for res, pointer, hint in (
        ({"memory": {"limit": 5}}, "/memory/limit", "controller memory is not available"),
        ({"unified": {"misc.max": "a 1"}}, "/unified/misc.max", "controller misc is not available"),
        ({"cpu": {"idle": 1}}, "/cpu/idle", "this kernel does not offer the limit"),
    ):
        with subtests.test(res=res), pytest.raises(errors.Error) as info:
            made.apply(res)
        assert info.value.pointer == "/linux/resources" + pointer
        assert hint in (info.value.hint or "")
        assert str(info.value).endswith("no such file or directory")
    assert sorted(os.listdir(place)) == ["cgroup.controllers"]


def test_limits_without_a_cgroup(tree: Tree) -> None:
    made = tree.manager("/x", rootless=True)
    assert made.apply({"devices": [{"allow": False}]}) == []
    with pytest.raises(errors.Error, match="the container has no cgroup") as info:
        made.apply({"pids": {"limit": 5}})
    assert info.value.pointer == "/linux/resources/pids/limit"


def test_no_permission(tree: Tree, monkeypatch: pytest.MonkeyPatch, subtests: SubTests) -> None:
    def refuse(path: str, mode: int) -> None:
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr("posix.mkdir", refuse)
    with subtests.test("tolerated"):
        made = tree.manager("/x", rootless=True)
        made.create({})
        assert made.open_for_clone() == -1
        made.attach(1)
        made.kill_all()
        made.delete()
    with subtests.test("not tolerated"), pytest.raises(errors.Error, match="permission denied"):
        tree.manager("/x", rootless=False).create({})


@pytest.mark.parametrize("kind", ["threaded", "domain invalid"])
def test_threaded_subtree(tree: Tree, kind: str) -> None:
    place = tree.leaf("/t/x", {"cgroup.type": f"{kind}\n", "cgroup.procs": ""})
    tree.fill(place.parent, "cpu", "")
    with pytest.raises(errors.Error, match="threaded subtree"):
        tree.manager("/t/x", rootless=False)
    assert (place.parent / "cgroup.subtree_control").read_text() == "\n"


@pytest.mark.root
def test_delegation(tree: Tree, monkeypatch: pytest.MonkeyPatch, subtests: SubTests) -> None:
    names = ("cgroup.procs", "cgroup.threads", "memory.max", "memory.oom.group")
    place = tree.leaf("/x", dict.fromkeys(names, ""))
    listing = tree.proc / "delegate"

    def owners() -> dict[str, int]:
        found = {name: (place / name).stat().st_uid for name in names}
        return {"": place.stat().st_uid, **found}

    def reset() -> None:
        for path in (place, *place.iterdir()):
            os.chown(path, 0, 7)

    for name, content, given in (
        (
            "the kernel's list",
            "cgroup.procs\nmemory.oom.group\ncgroup.not.there\n",
            {"", "cgroup.procs", "memory.oom.group"},
        ),
        ("no list", None, {"", "cgroup.procs", "cgroup.threads"}),
    ):
        with subtests.test(name):
            reset()
            if content is not None:
                listing.write_text(content)
            else:
                listing.unlink(missing_ok=True)
            monkeypatch.setattr(v2, "DELEGATE", str(listing))
            tree.manager("/x", rootless=False).create({}, delegate_uid=1234)
            assert {name for name, uid in owners().items() if uid == 1234} == given
            assert place.stat().st_gid == 7, "the group stays"
    with subtests.test("nothing without being asked"):
        reset()
        tree.manager("/x", rootless=False).create({})
        assert set(owners().values()) == {0}


def test_frozen_or_used_is_refused(tree: Tree, subtests: SubTests) -> None:
    tree.leaf("/used", {"cgroup.procs": "17\n"})
    tree.leaf("/frozen", {"cgroup.procs": "", "cgroup.events": "populated 0\nfrozen 1\n"})
    tree.leaf("/nested/sub", {"cgroup.procs": "17\n"})
    for path, text in (("/used", "not empty"), ("/frozen", "frozen"), ("/nested", "not empty")):
        with subtests.test(path=path), pytest.raises(errors.Error, match=text):
            tree.manager(path, rootless=False)


def test_exec_path(tree: Tree, subtests: SubTests) -> None:
    place = tree.leaf("/x", {"cgroup.procs": "", "cgroup.subtree_control": "\n"})
    tree.leaf("/x/init.scope", {"cgroup.procs": ""})
    made = tree.manager("/x", rootless=False)
    with subtests.test("the container's"):
        assert made.for_exec().path == "/x"
    with subtests.test("below"):
        assert made.for_exec(["init.scope"]).path == "/x/init.scope"
    for subs, text in (
        (["../y"], "not below"),
        (["/../.."], "not below"),
        (["absent"], "no such file"),
        (["memory:init.scope"], "one hierarchy"),
        (["a", "b"], "one hierarchy"),
    ):
        with subtests.test(subs=subs), pytest.raises(errors.Error, match=text):
            made.for_exec(subs)
    with subtests.test("init has moved on"):
        (place / "cgroup.subtree_control").write_text("memory\n")
        assert made.for_exec((), 0).path == "/x"


def test_stats(tree: Tree) -> None:
    tree.leaf(
        "/x",
        {
            "cpu.stat": "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 1\nnr_throttled 4\n"
            "throttled_usec 6\n",
            "cpu.pressure": "some avg10=1.50 avg60=0.00 avg300=0.00 total=77\n",
            "io.pressure": "some avg10=0.00 avg60=2.00 avg300=0.10 total=5\n"
            "full avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",
            "cpuset.cpus.effective": "0-2,5\n",
            "cpuset.mems.effective": "0\n",
            "memory.current": "1000\n",
            "memory.max": "max\n",
            "memory.peak": "2000\n",
            "memory.stat": "anon 5\nfile 7\nkernel 3\nsock 1\n",
            "memory.events": "low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\n",
            "memory.swap.current": "50\n",
            "memory.swap.max": "4096\n",
            "pids.current": "3\n",
            "pids.max": "max\n",
            "io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n8:16 \n",
            "hugetlb.2MB.current": "6\n",
            "hugetlb.2MB.events": "max 3\n",
            "hugetlb.2MB.rsvd.current": "8\n",
        },
    )
    made = tree.manager("/x", rootless=False)
    got = made.stats()
    assert got["cpu"]["usage"] == {"total": 5000, "kernel": 2000, "user": 3000}
    assert got["cpu"]["throttling"] == {
        "periods": 1,
        "throttledPeriods": 4,
        "throttledTime": 6000,
    }
    assert got["cpu"]["psi"] == {"some": {"avg10": 1.5, "avg60": 0.0, "avg300": 0.0, "total": 77}}
    assert got["blkio"]["psi"] == {
        "some": {"avg10": 0.0, "avg60": 2.0, "avg300": 0.1, "total": 5},
        "full": {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 3},
    }
    assert got["cpuset"] == {"cpus": [0, 1, 2, 5], "mems": [0]}
    memory = got["memory"]
    assert memory["usage"] == {"limit": 2**64 - 1, "usage": 1000, "max": 2000, "failcnt": 9}
    assert memory["swap"]["usage"] == 1050
    assert memory["swap"]["limit"] == 2**64 - 1
    assert memory["cache"] == 7
    assert memory["raw"]["sock"] == 1
    assert "psi" not in memory
    line = "some avg10=0.00 avg60=0.00 avg300=0.00 total=9\n"
    tree.leaf("/x", {"memory.pressure": line})
    assert made.stats()["memory"]["psi"]["some"]["total"] == 9
    assert got["pids"] == {"current": 3, "limit": 0}
    assert got["blkio"]["ioServiceBytesRecursive"] == [
        {"major": 8, "minor": 0, "op": "Read", "value": 10},
        {"major": 8, "minor": 0, "op": "Write", "value": 20},
        {"major": 8, "minor": 0, "op": "Discard", "value": 0},
    ]
    assert got["hugetlb"] == {"2MB": {"usage": 6, "max": 0, "failcnt": 3}}
    assert made.oom_kills() == 2


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("rdma.max", "no RDMA device of this name (there are: "),
        ("io.max", "no such block device, or it is a partition"),
        ("misc.max", None),
    ],
)
def test_a_device_that_is_not_there(tree: Tree, name: str, hint: str | None) -> None:
    target = (f"/x/{name}", "mlx5_0 hca_handle=1", "/linux/resources/rdma/mlx5_0")
    error = tree.manager("/c")._failure(OSError(errno.ENODEV, "no"), target)
    assert error.message == f"cgroup: write mlx5_0 hca_handle=1 to {name}: no such device"
    assert error.pointer == "/linux/resources/rdma/mlx5_0"
    assert hint is None if error.hint is None else hint and hint in error.hint


def test_the_rdma_devices_of_the_host(tmp_path: Path) -> None:
    for name in ("rxe1", "mlx5_0"):
        (tmp_path / name).mkdir()
    hint = resources_io.missing_device("rdma.max", str(tmp_path)) or ""
    assert "(there are: mlx5_0 rxe1)" in hint
    assert "(there are: none)" in (resources_io.missing_device("rdma.max", "/nonexistent") or "")

"""Finding the hierarchies; systemd paths; no cgroup at all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from ociruntime import cgroups, errors
from ociruntime.cgroups import hierarchy, systemd, tree
from ociruntime.cgroups.base import Manager

PROC_CGROUP = """\
12:name=systemd:/user.slice
5:cpu,cpuacct:/user.slice/a:b
4:memory:/
3:net_cls:/
0::/user.slice
"""

MOUNTINFO = """\
31 23 0:28 / {root} rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / {root}/odd\\040place rw,relatime shared:9 - cgroup cgroup rw,memory
33 31 0:30 / {root}/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
"""


class Host:
    """/sys/fs/cgroup and /proc of a v1 machine, made of plain files."""

    def __init__(self, path: Path) -> None:
        self.root = path / "cgroup"
        self.proc = path / "proc"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "77").mkdir()
        (self.proc / "self/cgroup").write_text(PROC_CGROUP)
        (self.proc / "77/cgroup").write_text(PROC_CGROUP.replace("/user.slice", "/other"))
        (self.proc / "self/mountinfo").write_text(MOUNTINFO.format(root=self.root))
        for name in ("systemd", "cpu,cpuacct", "odd place"):
            self.mount(name)

    def mount(self, name: str) -> None:
        place = self.root / name
        place.mkdir(parents=True)
        (place / "cgroup.procs").touch()

    @property
    def args(self) -> tuple[str, str]:
        return str(self.root), str(self.proc)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_survey_v1(host: Host) -> None:
    mode, places = hierarchy.survey(*host.args)
    assert mode == "v1"
    assert places == [
        ("name=systemd", f"{host.root}/systemd"),
        ("cpu,cpuacct", f"{host.root}/cpu,cpuacct"),
        ("memory", f"{host.root}/odd place"),
    ], "net_cls and cgroup2 are mounted nowhere"


def test_survey_hybrid(host: Host) -> None:
    host.mount("unified")
    mode, places = hierarchy.survey(*host.args)
    assert mode == "hybrid"
    assert places[-1] == ("", f"{host.root}/unified")


def test_survey_without_hierarchies(host: Host, subtests: SubTests) -> None:
    with subtests.test("only an unmounted cgroup2"):
        (host.proc / "self/cgroup").write_text("0::/\n")
        assert hierarchy.survey(*host.args) == ("none", [])
    with subtests.test("no /proc/self/cgroup"):
        (host.proc / "self/cgroup").unlink()
        assert hierarchy.survey(*host.args) == ("none", [])
        assert cgroups.mount_facts(None, *host.args) == []


def test_mount_facts(host: Host) -> None:
    host.mount("unified")
    facts = cgroups.mount_facts(None, *host.args)
    assert facts == [
        ("systemd", f"{host.root}/systemd", "none,name=systemd", "/user.slice"),
        ("cpu,cpuacct", f"{host.root}/cpu,cpuacct", "cpu,cpuacct", "/user.slice/a:b"),
        ("memory", f"{host.root}/odd place", "memory", "/"),
        ("unified", f"{host.root}/unified", "", "/user.slice"),
    ]
    assert cgroups.mount_links(facts) == [("cpu", "cpu,cpuacct"), ("cpuacct", "cpu,cpuacct")]
    assert cgroups.mount_facts(77, *host.args)[0][3] == "/other"


def test_real_host_is_consistent() -> None:
    mode, places = hierarchy.survey()
    assert mode in ("v1", "hybrid", "v2", "none")
    for _, place in places:
        assert Path(place, "cgroup.procs").exists()


def test_manager_kinds(host: Host, subtests: SubTests) -> None:
    with subtests.test("unknown"), pytest.raises(errors.Error, match="unknown cgroup manager"):
        cgroups.manager("bogus", None, "x")
    with subtests.test("systemd, bad path"), pytest.raises(errors.Error, match="slice:prefix:name"):
        cgroups.manager("systemd", "/a/b", "x")


def inert(manager: Manager) -> None:
    """Everything that a manager without a cgroup can be asked to do, does nothing."""
    manager.create({})
    manager.attach(1)
    assert manager.open_for_clone() == -1
    assert manager.open_for_join() == []
    assert manager.pids() == []
    assert not manager.exists()
    assert not manager.frozen()
    assert manager.freezer_file() == ""
    assert manager.oom_kills() == 0
    manager.kill_all()
    manager.set_devices([])
    manager.delete()


def test_disabled(subtests: SubTests) -> None:
    made = cgroups.manager("disabled", "/x", "x")
    again = cgroups.from_state(made.to_state())
    for manager in (made, again):
        inert(manager)
        assert manager.mode == "none"
        assert manager.apply(None) == []
        assert manager.apply({"devices": [{"allow": False}], "memory": {}}) == []
        with subtests.test("limits have no effect"):
            assert len(manager.apply({"pids": {"limit": 1}})) == 1
        for call in (manager.freeze, manager.thaw):
            with pytest.raises(errors.Error, match="no cgroup"):
                call()
        with pytest.raises(errors.Error, match="no cgroup"):
            manager.apply({"pids": {"limit": 1}}, update=True)
        with pytest.raises(errors.Error, match="no cgroup"):
            manager.for_exec(["x"])
        assert manager.for_exec() is manager


def test_host_without_cgroups(host: Host) -> None:
    (host.proc / "self/cgroup").write_text("")
    made = cgroups.manager("cgroupfs", "/x", "x", root=str(host.root), proc=str(host.proc))
    inert(made)
    with pytest.raises(errors.Error, match="no cgroup file system") as info:
        made.apply({"pids": {"limit": 1}})
    assert info.value.pointer == "/linux/resources/pids"


def test_devices_need_some_cgroup(host: Host, subtests: SubTests) -> None:
    """Where nothing can enforce device rules they are not dropped in silence (but see rootless)."""
    for rootless in (False, True):
        with subtests.test(rootless=rootless):
            args = {"root": str(host.root), "proc": str(host.proc)}
            made = cgroups.manager("cgroupfs", f"/x{rootless}", "x", rootless=rootless, **args)
            made.create()
            if rootless:
                assert made.apply(None) == []
                continue
            with pytest.raises(errors.Error, match="no devices cgroup"):
                made.apply(None)


def test_systemd_paths(subtests: SubTests) -> None:
    for path, expected in (
        ("", ("system.slice", "ociruntime-id.scope", "/system.slice/ociruntime-id.scope")),
        (
            "machine.slice:libpod:abc",
            ("machine.slice", "libpod-abc.scope", "/machine.slice/libpod-abc.scope"),
        ),
        (":cri:abc", ("system.slice", "cri-abc.scope", "/system.slice/cri-abc.scope")),
        ("a-b-c.slice::x", ("a-b-c.slice", "x.scope", "/a.slice/a-b.slice/a-b-c.slice/x.scope")),
        ("-.slice:p:n", ("-.slice", "p-n.scope", "/p-n.scope")),
        ("a.slice:p:", ("a.slice", "p-id.scope", "/a.slice/p-id.scope")),
    ):
        with subtests.test(path=path):
            assert systemd.parse_systemd_path(path, "id") == expected
    with subtests.test("a user's manager"):
        assert systemd.parse_systemd_path("", "id", user=True)[0] == "user.slice"
    for path in (
        "/docker/abc",
        "a:b",
        "a:b:c:d",
        "a:b:c",
        ".slice:b:c",
        "a--b.slice:b:c",
        "-a.slice:b:c",
        "a-.slice:b:c",
        "x/y.slice:b:c",
        "a.slice:b/..:c",
        "a.slice:b:c/d",
        "a.slice:p:n.slice",
        "a.slice:b:c\nExecStopPost",
    ):
        with subtests.test(path=path), pytest.raises(errors.Error) as info:
            systemd.parse_systemd_path(path, "id")
        assert info.value.pointer == "/linux/cgroupsPath"


def test_removal_never_follows_links(tmp_path: Path) -> None:
    """Not that a cgroup file system has any: but the walk must not leave the tree whatever it meets."""
    canary = tmp_path / "canary/inside"
    canary.mkdir(parents=True)
    (tmp_path / "mount/x").mkdir(parents=True)
    (tmp_path / "mount/x/link").symlink_to(canary.parent)
    assert tree.walk(str(tmp_path / "mount/x")) == [str(tmp_path / "mount/x")]
    (tmp_path / "mount/y").symlink_to(canary.parent)
    assert tree.children(str(tmp_path / "mount/y")) == []
    with pytest.raises(errors.Error):
        tree.remove(str(tmp_path / "mount"), "/x", 0, 0.0)
    assert canary.is_dir()


@pytest.mark.parametrize("path", ["", "/"])
def test_nothing_of_the_root_is_killed(tmp_path: Path, path: str) -> None:
    """A state that names the root, for whatever reason, must not cost the host its processes."""
    with subprocess.Popen(["sleep", "100"]) as child:
        try:
            (tmp_path / "cgroup.procs").write_text(f"{child.pid}\n")
            (tmp_path / "cgroup.kill").touch()
            state = {"mount": str(tmp_path), "path": path, "rootless": False}
            for more in ({"mode": "v2", "made": 0}, {"mode": "v1", "at": [["", str(tmp_path), 0]]}):
                manager = cgroups.from_state(state | more)
                assert manager.pids() == [child.pid]
                with pytest.raises(errors.Error, match="the root cgroup is no container's"):
                    manager.kill_all()
            assert child.poll() is None
            assert (tmp_path / "cgroup.kill").read_text() == ""
        finally:
            child.kill()

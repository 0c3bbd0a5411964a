"""cgroup v2 alone (tests/vm): the place, who may be there, life and death, sub-cgroups."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cgrouplib import MIB, ROOT, limits
from tests.integration.harness import Bundle, Container, Runtime, poll
from tests.integration.v2lib import leaf, needs_v2, refused, value

pytestmark = [pytest.mark.root, needs_v2]


@pytest.fixture(autouse=True)
def place_of_the_cgroup(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["cgroupsPath"] = f"/{rt.root.name}/c"


# --- the place


def place(container: Container) -> str:
    """The container's cgroup, as the kernel says it."""
    return container.proc("cgroup").strip().removeprefix("0::")


def test_the_process_is_there(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep"))
    assert place(container) == f"/{rt.root.name}/c"
    container.start()
    assert place(container) == f"/{rt.root.name}/c"
    assert value(rt, "cgroup.procs") == str(container.pid)


def test_default_path_is_made_of_the_id(rt: Runtime, bundle: Bundle) -> None:
    del bundle.linux["cgroupsPath"]
    container = rt.create(bundle.args("sleep"))
    assert container.id in place(container).rsplit("/", 1)[1]


def test_relative_path(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["cgroupsPath"] = f"{rt.root.name}/rel"
    assert place(rt.create(bundle.args("sleep"))).endswith(f"/{rt.root.name}/rel")


def test_same_path_same_place(rt: Runtime, bundle: Bundle) -> None:
    places = set()
    for _ in range(2):
        container = rt.create(bundle.args("sleep"))
        places.add(place(container))
        container.delete("--force").ok()
    assert len(places) == 1


def test_no_path_leads_out_of_the_tree(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["cgroupsPath"] = f"/../../{rt.root.name}/../{rt.root.name}/c"
    if rt.kind == "ociruntime":
        refused(rt, bundle, "cgroupsPath", "..")
        return
    assert place(rt.create(bundle.args("sleep"))) == f"/{rt.root.name}/c"


def test_it_is_born_in_its_cgroup(rt: Runtime, bundle: Bundle, place: Path) -> None:
    """CLONE_INTO_CGROUP: no process of the container is ever elsewhere."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace")
    if rt.kind != "ociruntime":
        pytest.skip("runc moves its process; crun 1.8.1 too")
    trace = place / "trace"
    command = [strace, "-f", "-qq", "-e", "trace=clone3", "-o", str(trace)]
    rt.run(bundle.args("exit", "0"), prefix=command).ok()
    assert "CLONE_INTO_CGROUP" in trace.read_text()


def test_delete_removes_it_with_what_the_container_made_below(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep")).start()
    (leaf(rt) / "sub" / "deep").mkdir(parents=True)
    container.delete("--force").ok()
    assert not leaf(rt).exists()


@pytest.mark.known("crun", "1.8.1 joins it")
def test_a_cgroup_with_processes_is_refused(rt: Runtime, bundle: Bundle) -> None:
    leaf(rt).mkdir(parents=True)
    child = subprocess.Popen(["sleep", "100"])
    try:
        (leaf(rt) / "cgroup.procs").write_text(str(child.pid))
        rt.try_create(bundle.args("sleep")).result.failed("not empty")
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()
        poll(lambda: value(rt, "cgroup.procs") == "", "the process is still there")
        leaf(rt).rmdir()


@pytest.mark.known("crun", "1.8.1 joins it, and hangs or is killed there")
def test_a_frozen_cgroup_is_refused(rt: Runtime, bundle: Bundle) -> None:
    if rt.kind == "crun":
        pytest.fail("not tried")
    leaf(rt).mkdir(parents=True)
    (leaf(rt) / "cgroup.freeze").write_text("1")
    try:
        rt.try_create(bundle.args("sleep")).result.failed("frozen")
    finally:
        leaf(rt).rmdir()


@pytest.fixture
def parent(rt: Runtime) -> Iterator[Path]:
    """A cgroup that is there before the container's is made below it."""
    path = ROOT / rt.root.name
    path.mkdir()
    yield path
    rt.clean()
    for directory in [*path.glob("*/"), path]:
        directory.rmdir()


def test_a_parent_with_processes_gives_no_controllers(
    rt: Runtime, bundle: Bundle, parent: Path
) -> None:
    """The no-internal-processes rule (cgroup-v2.rst): said where it is met, without harm to the process."""
    child = subprocess.Popen(["sleep", "100"])
    try:
        (parent / "cgroup.procs").write_text(str(child.pid))
        result = rt.try_create(limits(bundle, memory={"limit": 64 * MIB})).result.failed()
        if rt.kind == "ociruntime":
            result.failed("memory", "processes of its own")
        assert child.poll() is None
        if rt.kind == "ociruntime":
            # Without a limit there is no need for a controller, and no thread root is made of the parent.
            del bundle.linux["resources"]
            rt.create(bundle.args("sleep")).start().delete("--force").ok()
            assert (parent / "cgroup.type").read_text() == "domain\n"
            result = rt.try_create(limits(bundle, pids={"limit": 6})).result
            result.failed("pids", "processes of its own")
    finally:
        child.kill()
        child.wait()
        poll(lambda: (parent / "cgroup.procs").read_text() == "", "the process is still there")


def test_a_threaded_parent_has_no_memory_controller(
    rt: Runtime, bundle: Bundle, parent: Path
) -> None:
    (parent / "threads").mkdir()
    (parent / "threads" / "cgroup.type").write_text("threaded")
    bundle.linux["cgroupsPath"] = f"/{rt.root.name}/threads/c"
    result = rt.try_create(limits(bundle, memory={"limit": 64 * MIB})).result.failed()
    if rt.kind == "ociruntime":
        result.failed("threaded subtree")
        assert not (parent / "threads" / "c").exists()


# --- life


def test_pause_freezes(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("fork", "3", ";", "sleep")).start()
    container.verb("pause").ok()
    assert "frozen 1" in value(rt, "cgroup.events")
    assert container.status == "paused"
    container.verb("resume").ok()
    poll(lambda: "frozen 0" in value(rt, "cgroup.events"), "still frozen")
    assert container.status == "running"


def test_a_paused_container_is_deleted(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("fork", "3", ";", "sleep")).start()
    container.verb("pause").ok()
    container.delete("--force").ok()
    assert not leaf(rt).exists()


def test_delete_kills_all_of_it(rt: Runtime, bundle: Bundle) -> None:
    """Without a pid namespace only the cgroup tells what belongs to the container."""
    bundle.without_namespace("pid").args("fork", "5", ";", "echo", "up", ";", "sleep")
    container = rt.create(bundle).start()
    container.wait_out("up")
    pids = [int(pid) for pid in value(rt, "cgroup.procs").split()]
    assert len(pids) == 6
    container.delete("--force").ok()
    assert not leaf(rt).exists()


def test_ps_sees_sub_cgroups(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("fork", "1", ";", "echo", "up", ";", "sleep")).start()
    container.wait_out("up")
    pids = set(container.verb("ps", "--format", "json").ok().json())
    child = next(p for p in pids if p != container.pid)
    (leaf(rt) / "sub").mkdir()
    (leaf(rt) / "sub" / "cgroup.procs").write_text(str(child))
    assert set(container.verb("ps", "--format", "json").ok().json()) == pids


def test_exec_joins(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep")).start()
    assert container.exec("cat", "/proc/self/cgroup").ok().out == f"0::/{rt.root.name}/c\n"


@pytest.mark.known("crun", "1.8.1 cannot join a cgroup that has sub-cgroups with controllers")
def test_exec_where_the_container_manages_sub_cgroups(rt: Runtime, bundle: Bundle) -> None:
    """A service manager in the container leaves its own cgroup empty: exec goes where it is."""
    container = rt.create(limits(bundle, memory={"limit": 64 * MIB})).start()
    (leaf(rt) / "init").mkdir()
    (leaf(rt) / "init" / "cgroup.procs").write_text(str(container.pid))
    (leaf(rt) / "cgroup.subtree_control").write_text("+memory")
    out = container.exec("cat", "/proc/self/cgroup").ok().out
    assert out == f"0::/{rt.root.name}/c/init\n"


def test_exec_into_a_sub_cgroup(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep")).start()
    (leaf(rt) / "sub").mkdir()
    flags = ["--cgroup", "/sub" if rt.kind == "crun" else "sub"]
    out = container.exec("cat", "/proc/self/cgroup", flags=flags).ok().out
    assert out == f"0::/{rt.root.name}/c/sub\n"

"""cgroup v2 as the container sees it: namespaces, mounts, who owns it, its device filter (tests/vm)."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.integration.cgrouplib import ROOT
from tests.integration.harness import Bundle, Runtime
from tests.integration.v2lib import DENY, leaf, needs_v2, said

pytestmark = [pytest.mark.root, needs_v2]


@pytest.fixture(autouse=True)
def place_of_the_cgroup(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["cgroupsPath"] = f"/{rt.root.name}/c"


def cgroup_mount(bundle: Bundle, *options: str) -> Bundle:
    """/sys/fs/cgroup as engines ask for it."""
    return bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", *options, "nosuid", "nodev", "noexec")


def flags_of_the_hierarchy() -> set[str]:
    """nsdelegate and the like: super block options of the one hierarchy, which any mount can change."""
    line = next(
        x for x in Path("/proc/self/mountinfo").read_text().splitlines() if " cgroup2 " in x
    )
    return set(line.rsplit(" ", 1)[1].split(",")) - {"ro", "rw"}


def test_a_namespace_shows_only_the_container(rt: Runtime, bundle: Bundle) -> None:
    bundle.namespace("cgroup")
    cgroup_mount(bundle, "ro").args(
        "cat", "/proc/self/cgroup", "/sys/fs/cgroup/cgroup.procs", ";", "mounts",
        ";", "write", "/sys/fs/cgroup/cgroup.procs", "1",
    )  # fmt: skip
    result = rt.run(bundle)
    lines = [*result.out.splitlines(), *result.err.split()]
    assert lines[:2] == ["0::/", "1"]
    mount = next(x for x in lines if " /sys/fs/cgroup " in x).split()
    assert mount[3] == "/" or mount[3].endswith("/c"), mount
    assert "ro" in mount[5].split(",")
    assert lines[-1] == "EROFS"


@pytest.mark.leaks(
    "runc", "1.1.5 mounts cgroup2 anew, which takes nsdelegate from the host's mount"
)
def test_no_namespace_shows_the_host(rt: Runtime, bundle: Bundle) -> None:
    before = flags_of_the_hierarchy()
    cgroup_mount(bundle, "ro").args("cat", "/proc/self/cgroup", ";", "ls", "/sys/fs/cgroup")
    out = rt.run(bundle).ok().out
    assert f"0::/{rt.root.name}/c\n" in out
    assert "system.slice" in out
    if rt.kind != "ociruntime":
        pytest.skip("mounts the hierarchy anew, which may reset its flags")
    assert flags_of_the_hierarchy() == before


def owners(path: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_uid, p.stat().st_gid) for p in [path, *path.iterdir()]}


def delegated() -> set[str]:
    return set(Path("/sys/kernel/cgroup/delegate").read_text().split())


@pytest.mark.known("runc", "delegates with the systemd driver only")
@pytest.mark.known("crun", "1.8.1 gives all of the files it knows to the user and the group")
def test_a_container_with_its_own_view_owns_its_cgroup(rt: Runtime, bundle: Bundle) -> None:
    """runtime-spec config-linux.md "Cgroup ownership": the directory and the kernel's list, not the group."""
    bundle.user_namespace().namespace("cgroup")
    cgroup_mount(bundle).process["user"] = {"uid": 5, "gid": 6}
    rt.create(bundle.args("sleep"))
    found = owners(leaf(rt))
    given = {name for name, owner in found.items() if owner == (100005, 0)}
    assert given == {"c"} | (delegated() & set(found))
    assert {owner for name, owner in found.items() if name not in given} == {(0, 0)}


def test_the_container_can_use_what_it_owns(rt: Runtime, bundle: Bundle) -> None:
    bundle.user_namespace().namespace("cgroup")
    top = "/sys/fs/cgroup"
    cgroup_mount(bundle).args(
        "mkdir", f"{top}/sub", ";", "write", f"{top}/sub/cgroup.procs", "1", ";",
        "write", f"{top}/cgroup.subtree_control", "+pids", ";", "write", f"{top}/sub/pids.max", "9", ";",
        "write", f"{top}/pids.max", "9",
    )  # fmt: skip
    words = said(rt, bundle)
    if rt.kind == "runc":
        assert words[0] == "mkdir:", "runc 1.1.5 delegates with the systemd driver only"
    else:
        assert words == ["write:", f"{top}/pids.max:", "EACCES"], "its own limit is not its own"


@pytest.mark.parametrize("case", ["read-only", "no namespace", "no mount"])
def test_no_view_no_ownership(rt: Runtime, bundle: Bundle, case: str) -> None:
    bundle.user_namespace()
    if case != "no namespace":
        bundle.namespace("cgroup")
    if case != "no mount":
        cgroup_mount(bundle, *(["ro"] if case == "read-only" else []))
    if rt.kind == "crun":
        pytest.skip("1.8.1 gives it to the root of every user namespace")
    rt.create(bundle.args("sleep"))
    assert set(owners(leaf(rt)).values()) == {(0, 0)}


def test_a_device_filter_is_exchanged_at_once(rt: Runtime, bundle: Bundle) -> None:
    """BPF_F_REPLACE: the filter of a cgroup in use is replaced, never missing, never two."""
    if rt.kind != "ociruntime":
        pytest.skip("a unit of ours")
    from ociruntime import cgroups
    from ociruntime.host import native

    container = rt.create(bundle.args("sleep")).start()
    state = {"driver": "cgroupfs", "mode": "v2", "path": f"/{rt.root.name}/c", "mount": str(ROOT)}
    manager = cgroups.from_state({**state, "made": 0, "rootless": False})
    fd = os.open(leaf(rt), os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert container.exec("open", "/dev/full", "r").ok().out == "ok\n"
        manager.set_devices([DENY], update=True)
        first = native.bpf_prog_attached(fd)
        manager.set_devices([{"allow": True, "access": "rwm"}], update=True)
        second = native.bpf_prog_attached(fd)
        assert first is not None and second is not None
        numbers = [re.findall(r"prog_id:\s*(\d+)", _fdinfo(n)) for n in (first, second)]
        assert numbers[0] != numbers[1]
        native.bpf_prog_detach(fd, second)
        assert native.bpf_prog_attached(fd) is None
        os.close(first)
        os.close(second)
        assert container.exec("open", "/dev/full", "r").ok().out == "ok\n"
    finally:
        os.close(fd)


def _fdinfo(number: int) -> str:
    return Path(f"/proc/self/fdinfo/{number}").read_text()

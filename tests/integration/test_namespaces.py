"""Each namespace: made, joined by path, inherited; user namespace maps; what is refused."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conformance.kit import PATIENCE
from tests.integration.harness import Bundle, Runtime, alive, by_kind, fields, poll

pytestmark = pytest.mark.root
MakeBundle = Callable[[], Bundle]

WORD = {
    "pid": "pid",
    "network": "net",
    "ipc": "ipc",
    "uts": "uts",
    "mount": "mnt",
    "cgroup": "cgroup",
    "time": "time",
    "user": "user",
}


def inode(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{WORD[kind]}")


def add(bundle: Bundle, kind: str, path: str | None = None) -> Bundle:
    """Ask for a namespace beside the five of the base configuration."""
    if kind == "user" and path is None:
        return bundle.user_namespace()
    return bundle.namespace(kind, path)


PEERS = [
    "pid",
    "network",
    "ipc",
    "uts",
    "mount",
    "cgroup",
    "user",
    pytest.param(
        "time",
        marks=[
            pytest.mark.known("runc", "1.1.5 does not know the time namespace"),
            pytest.mark.known("crun", "1.8.1 fails: write to sync socket"),
        ],
    ),
]


@pytest.mark.parametrize("kind", PEERS)
def test_new_namespace(rt: Runtime, bundle: Bundle, kind: str) -> None:
    add(bundle, kind)
    container = rt.create(bundle.args("sleep")).start()
    assert inode(container.pid, kind) != inode("self", kind)


@pytest.mark.parametrize("kind", ["network", "ipc", "uts", "pid", "cgroup"])
def test_absent_namespace_is_inherited(rt: Runtime, bundle: Bundle, kind: str) -> None:
    bundle.without_namespace(kind)
    if kind == "uts":
        del bundle.config["hostname"]
    if kind == "network":
        # A new sysfs needs a network namespace of the same owner only in a user namespace.
        bundle.drop_mount("/sys")
    container = rt.create(bundle.args("sleep")).start()
    assert inode(container.pid, kind) == inode("self", kind)


@pytest.fixture
def donor(rt: Runtime, make_bundle: MakeBundle) -> Iterator[int]:
    """The pid of a running container whose namespaces may be joined."""
    bundle = make_bundle().namespace("cgroup")
    yield rt.create(bundle.args("sleep")).start().pid


@pytest.mark.parametrize("kind", ["network", "ipc", "uts", "pid", "cgroup"])
def test_join_by_path(rt: Runtime, bundle: Bundle, donor: int, kind: str) -> None:
    add(bundle, kind, f"/proc/{donor}/ns/{WORD[kind]}")
    if kind == "uts":
        del bundle.config["hostname"]
    container = rt.create(bundle.args("sleep")).start()
    assert inode(container.pid, kind) == inode(donor, kind)


def test_join_several_as_a_pod_does(rt: Runtime, bundle: Bundle, donor: int) -> None:
    del bundle.config["hostname"]
    for kind in ("network", "ipc", "uts", "pid"):
        bundle.namespace(kind, f"/proc/{donor}/ns/{WORD[kind]}")
    container = rt.create(bundle.args("uname", ";", "sleep")).start()
    for kind in ("network", "ipc", "uts", "pid"):
        assert inode(container.pid, kind) == inode(donor, kind)
    assert "hostname=testhost" in container.wait_out("hostname=")


def test_exec_after_joining_a_pid_namespace(rt: Runtime, bundle: Bundle, donor: int) -> None:
    bundle.namespace("pid", f"/proc/{donor}/ns/pid")
    container = rt.create(bundle.args("sleep")).start()
    assert container.exec("echo", "there").ok().out == "there\n"


@pytest.mark.parametrize("end", ["by itself", "killed"])
def test_nobody_outlives_a_joined_pid_namespace(
    rt: Runtime, bundle: Bundle, donor: int, end: str
) -> None:
    """The namespace goes on when init ends: the runtime kills init's children, without waiting for them."""
    bundle.namespace("pid", f"/proc/{donor}/ns/pid")
    last = [";", "sleep"] if end == "killed" else []
    container = rt.create(bundle.args("fork", "2", ";", "echo", "up", *last)).start()
    container.wait_out("up")
    if end == "killed":
        container.kill("KILL").ok()
    container.wait()
    begin = time.monotonic()
    container.delete().ok()
    assert time.monotonic() - begin < 5 * PATIENCE, "delete waits for processes that do not end"
    assert alive(donor)
    children = Path(f"/proc/{donor}/task/{donor}/children")
    poll(lambda: not [p for p in children.read_text().split() if alive(int(p))], "children stay")


@pytest.mark.parametrize("kind", ["network", "ipc", "uts", "pid"])
def test_path_of_the_wrong_type(rt: Runtime, bundle: Bundle, kind: str) -> None:
    other = "net" if kind != "network" else "uts"
    bundle.namespace(kind, f"/proc/self/ns/{other}")
    if kind == "uts":
        del bundle.config["hostname"]
    assert rt.try_create(bundle).result.code != 0


def test_path_that_is_not_there(rt: Runtime, bundle: Bundle) -> None:
    bundle.namespace("network", "/nosuch/netns")
    rt.try_create(bundle).result.failed("/nosuch/netns")


def test_path_that_is_no_namespace(rt: Runtime, bundle: Bundle) -> None:
    bundle.namespace("network", "/etc/passwd")
    assert rt.try_create(bundle).result.code != 0


@pytest.mark.known("crun", "1.8.1 takes a second entry of a type")
def test_duplicate_namespace(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["namespaces"].append({"type": "pid"})
    rt.try_create(bundle).result.failed("duplicate")


def test_unknown_namespace_type(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["namespaces"].append({"type": "nosuch"})
    rt.try_create(bundle).result.failed("nosuch")


def test_hostname_without_uts_namespace(rt: Runtime, bundle: Bundle) -> None:
    bundle.without_namespace("uts")
    rt.try_create(bundle).result.failed(
        by_kind(
            rt,
            "unable to set hostname without a private UTS namespace",
            crun="hostname",
        )
    )


# --- network


def test_new_network_namespace_has_loopback_up(rt: Runtime, bundle: Bundle) -> None:
    assert "lo up=1" in rt.run(bundle.args("netif")).ok().lines


def test_joined_network_namespace_is_left_as_it_is(rt: Runtime, bundle: Bundle, donor: int) -> None:
    bundle.namespace("network", f"/proc/{donor}/ns/net")
    rt.run(bundle.args("netif")).ok()
    assert Path(f"/proc/{donor}/ns/net").exists()


# --- user namespace


def test_user_namespace_maps(rt: Runtime, bundle: Bundle) -> None:
    bundle.user_namespace(200000, 1000)
    container = rt.create(bundle.args("id", ";", "sleep")).start()
    assert container.proc("uid_map").split() == ["0", "200000", "1000"]
    assert container.proc("gid_map").split() == ["0", "200000", "1000"]
    assert fields(container.wait_out("uid="))["uid"] == "0,0,0"
    assert os.stat(f"/proc/{container.pid}").st_uid == 200000


def test_user_namespace_with_several_ranges(rt: Runtime, bundle: Bundle) -> None:
    bundle.user_namespace()
    ranges = [
        {"containerID": 0, "hostID": 100000, "size": 10},
        {"containerID": 10, "hostID": 300000, "size": 5},
        {"containerID": 1000, "hostID": 400000, "size": 1},
    ]
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = ranges
    bundle.process["user"] = {"uid": 1000, "gid": 12, "additionalGids": [3]}
    container = rt.create(bundle.args("id", ";", "sleep")).start()
    ids = fields(container.wait_out("uid="))
    assert (ids["uid"], ids["gid"]) == ("1000,1000,1000", "12,12,12")
    assert os.stat(f"/proc/{container.pid}").st_uid == 400000


def test_user_that_is_not_mapped(rt: Runtime, bundle: Bundle) -> None:
    bundle.user_namespace(size=10)
    bundle.process["user"] = {"uid": 1000, "gid": 0}
    assert rt.try_create(bundle).result.code != 0


@pytest.mark.known("runc", "1.1.5 ignores them")
@pytest.mark.known("crun", "1.8.1 ignores them")
def test_mappings_without_a_user_namespace(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["uidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 1}]
    bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 1}]
    rt.try_create(bundle).result.failed("user namespace")


def test_join_a_user_namespace_that_also_has_mappings(
    rt: Runtime, bundle: Bundle, make_bundle: MakeBundle
) -> None:
    """containerd 2 sends both (engines, trap 13): join, and do not write the maps again."""
    owner = rt.create(make_bundle().user_namespace().args("sleep")).start()
    bundle.user_namespace()
    bundle.namespace("user", f"/proc/{owner.pid}/ns/user")
    container = rt.create(bundle.args("id", ";", "sleep")).start()
    assert inode(container.pid, "user") == inode(owner.pid, "user")
    assert fields(container.wait_out("uid="))["uid"] == "0,0,0"


def test_exec_in_a_user_namespace(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.user_namespace().args("sleep")).start()
    assert fields(container.exec("id").ok().out)["uid"] == "0,0,0"


def test_devices_in_a_user_namespace_are_bound(rt: Runtime, bundle: Bundle) -> None:
    bundle.user_namespace()
    lines = rt.run(bundle.args("stat", "/dev/null", "/dev/zero", "/dev/tty")).ok().lines
    assert ["rdev=1:3" in lines[0], "rdev=1:5" in lines[1], "rdev=5:0" in lines[2]] == [True] * 3


def test_many_mappings_are_not_truncated(rt: Runtime, bundle: Bundle) -> None:
    """The kernel takes 340 lines; more must be an error, not another map (CVE-2021-43784)."""
    bundle.user_namespace()
    many = [{"containerID": i, "hostID": 100000 + 2 * i, "size": 1} for i in range(10000)]
    bundle.linux["uidMappings"] = many
    assert rt.try_create(bundle).result.code != 0
    bundle.linux["uidMappings"] = many[:300]
    container = rt.create(bundle.args("sleep"))
    assert len(container.proc("uid_map").splitlines()) == 300


@pytest.mark.parametrize("kind", ["network", "ipc", "uts", "pid", "mount"])
def test_exec_is_in_every_namespace(rt: Runtime, bundle: Bundle, kind: str) -> None:
    container = rt.create(bundle.args("sleep")).start()
    lines = container.exec("ns").ok().lines
    assert inode(container.pid, kind) in lines


def test_only_a_mount_namespace(rt: Runtime, bundle: Bundle) -> None:
    """All host but the mounts, as `podman run --network host --pid host ...` is sent."""
    del bundle.config["hostname"]
    bundle.linux["namespaces"] = [{"type": "mount"}]
    bundle.drop_mount("/sys").drop_mount("/proc")
    bundle.mount("/proc", "bind", "/proc", "rbind", "rprivate")
    container = rt.create(bundle.args("sleep")).start()
    for kind in ("network", "ipc", "uts", "pid"):
        assert inode(container.pid, kind) == inode("self", kind)
    assert inode(container.pid, "mount") != inode("self", "mount")

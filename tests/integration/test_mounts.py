"""Mounts: order, sources and targets, the root itself, idmapped and kernel file systems."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.harness import Bundle, Runtime, by_kind, poll
from tests.integration.mountlib import mount_table, volume

pytestmark = pytest.mark.root


def test_order_is_kept_and_the_later_mount_covers(rt: Runtime, bundle: Bundle) -> None:
    first, second = volume(bundle, "first"), volume(bundle, "second")
    (second / "only-second").touch()
    bundle.mount("/mnt", "bind", str(first), "bind").mount("/mnt", "bind", str(second), "bind")
    assert rt.run(bundle.args("ls", "/mnt")).ok().lines == ["file", "only-second"]


def test_mount_below_another_one(rt: Runtime, bundle: Bundle) -> None:
    bundle.mount("/mnt", "tmpfs", "tmpfs")
    bundle.mount("/mnt/a/b", "bind", str(volume(bundle)), "bind")
    assert rt.run(bundle.args("cat", "/mnt/a/b/file")).ok().out == "content\n"


def test_relative_source_is_relative_to_the_bundle(rt: Runtime, bundle: Bundle) -> None:
    volume(bundle)
    bundle.mount("/mnt", "bind", "volume", "bind")
    assert rt.run(bundle.args("cat", "/mnt/file"), cwd=Path("/")).ok().out == "content\n"


def test_relative_destination_is_relative_to_the_root(rt: Runtime, bundle: Bundle) -> None:
    bundle.mount("mnt", "tmpfs", "tmpfs")
    assert "/mnt" in mount_table(rt, bundle)


def test_bind_without_type(rt: Runtime, bundle: Bundle) -> None:
    bundle.mount("/mnt", None, str(volume(bundle)), "bind")
    assert rt.run(bundle.args("cat", "/mnt/file")).ok().out == "content\n"


def test_type_none_with_rbind(rt: Runtime, bundle: Bundle) -> None:
    bundle.mount("/mnt", "none", str(volume(bundle)), "rbind")
    assert rt.run(bundle.args("cat", "/mnt/file")).ok().out == "content\n"


def test_bind_of_a_file_makes_the_target(rt: Runtime, bundle: Bundle) -> None:
    source = volume(bundle) / "file"
    bundle.mount("/run/secrets/deep/file", "bind", str(source), "bind", "ro")
    assert rt.run(bundle.args("cat", "/run/secrets/deep/file")).ok().out == "content\n"
    assert (bundle.rootfs / "run/secrets/deep/file").is_file()


def test_bind_of_a_file_onto_a_readonly_root(rt: Runtime, bundle: Bundle) -> None:
    bundle.config["root"]["readonly"] = True
    bundle.mount("/sbin/docker-init", "bind", str(volume(bundle) / "file"), "bind", "ro")
    assert rt.run(bundle.args("cat", "/sbin/docker-init")).ok().out == "content\n"


def test_missing_bind_source(rt: Runtime, bundle: Bundle) -> None:
    bundle.mount("/mnt", "bind", "/no/such/source", "bind")
    rt.try_create(bundle).result.failed("/no/such/source", code=1)


def test_directory_onto_a_file(rt: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "mnt").write_text("")
    bundle.mount("/mnt", "bind", str(volume(bundle)), "bind")
    rt.try_create(bundle).result.failed(by_kind(rt, "not a directory", crun="mnt"))


def test_unknown_file_system(rt: Runtime, bundle: Bundle) -> None:
    bundle.mount("/mnt", "nosuchfs", "none")
    rt.try_create(bundle).result.failed(
        by_kind(rt, "nosuchfs", runc="no such device", crun="No such device")
    )


def test_symlink_as_target_stays_in_the_root(rt: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "link").symlink_to("/../../../real")
    (bundle.rootfs / "real").mkdir()
    bundle.mount("/link", "bind", str(volume(bundle)), "bind")
    assert rt.run(bundle.args("cat", "/real/file")).ok().out == "content\n"


def test_tmpfs_keeps_the_mode_of_the_folder_below(rt: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "mnt").mkdir()
    (bundle.rootfs / "mnt").chmod(0o1777)
    bundle.mount("/mnt", "tmpfs", "tmpfs")
    assert "mode=1777" in rt.run(bundle.args("stat", "/mnt")).ok().out


def test_tmpcopyup(rt: Runtime, bundle: Bundle) -> None:
    tree = bundle.rootfs / "data"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/file").write_text("kept\n")
    (tree / "sub/file").chmod(0o604)
    os.chown(tree / "sub/file", 12, 34)
    (tree / "link").symlink_to("sub/file")
    bundle.mount("/data", "tmpfs", "tmpfs", "tmpcopyup")
    result = rt.run(
        bundle.args("cat", "/data/link", ";", "stat", "/data/sub/file", ";", "statfs", "/data")
    ).ok()
    assert result.lines[0] == "kept"
    assert "mode=0604 uid=12 gid=34" in result.lines[1]
    assert "type=0x1021994" in result.lines[2]
    assert (tree / "sub/file").exists()


@pytest.mark.known("runc", "1.1: the mode of the image's directory replaces the one asked for")
def test_tmpcopyup_with_a_mode(rt: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "data/sub").mkdir(parents=True)
    bundle.mount("/data", "tmpfs", "tmpfs", "tmpcopyup", "mode=1770")
    result = rt.run(bundle.args("stat", "/data", "/data/sub")).ok()
    assert "mode=1770" in result.lines[0] and "mode=0755" in result.lines[1]


# --- the root file system


def test_readonly_root(rt: Runtime, bundle: Bundle) -> None:
    bundle.config["root"]["readonly"] = True
    bundle.args("write", "/x", "x", ";", "write", "/dev/x", "x")
    result = rt.run(bundle)
    assert result.code == 1
    assert "write: /x: EROFS" in result.err
    assert "/dev/x" not in result.err


def test_writable_root(rt: Runtime, bundle: Bundle) -> None:
    rt.run(bundle.args("write", "/x", "x")).ok()
    assert (bundle.rootfs / "x").read_text() == "x"


def test_absolute_root_path(rt: Runtime, bundle: Bundle) -> None:
    bundle.config["root"]["path"] = str(bundle.rootfs)
    rt.run(bundle).ok()


def test_root_is_missing(rt: Runtime, bundle: Bundle) -> None:
    bundle.config["root"]["path"] = "nosuch"
    rt.try_create(bundle).result.failed("nosuch")


def test_root_is_a_file(rt: Runtime, bundle: Bundle) -> None:
    (bundle.path / "file").write_text("")
    bundle.config["root"]["path"] = "file"
    assert rt.try_create(bundle).result.code != 0


def test_overlay_root(rt: Runtime, bundle: Bundle) -> None:
    for name in ("upper", "work", "merged"):
        (bundle.path / name).mkdir()
    options = f"lowerdir={bundle.rootfs},upperdir={bundle.path}/upper,workdir={bundle.path}/work"
    mounted = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", options, bundle.path / "merged"], check=False
    )
    if mounted.returncode:
        pytest.skip("this kernel or file system has no overlayfs")
    try:
        bundle.config["root"]["path"] = "merged"
        rt.run(bundle.args("write", "/new", "x")).ok()
        assert (bundle.path / "upper/new").exists()
        assert not (bundle.rootfs / "new").exists()
    finally:
        subprocess.run(["umount", bundle.path / "merged"], check=True)


def test_overlay_as_a_mount(rt: Runtime, bundle: Bundle) -> None:
    """podman's `:O` volumes: the source is a folder and means nothing."""
    lower = volume(bundle)
    space = bundle.path / "space"
    subprocess.run(["mkdir", "-p", space], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "space", space], check=True)
    try:
        for name in ("upper", "work"):
            (space / name).mkdir()
        options = [f"lowerdir={lower}", f"upperdir={space}/upper", f"workdir={space}/work"]
        bundle.mount("/mnt", "overlay", str(lower), *options, "private")
        rt.run(bundle.args("cat", "/mnt/file", ";", "write", "/mnt/new", "x")).ok()
        assert (space / "upper/new").exists()
    finally:
        subprocess.run(["umount", space], check=True)


def test_no_pivot(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("ls", "/", ";", "sleep"), "--no-pivot").start()
    assert "init\n" in container.wait_out("tmp\n")


def test_nothing_of_the_host_is_mounted(rt: Runtime, bundle: Bundle) -> None:
    table = mount_table(rt, bundle)
    ours = {m["destination"] for m in bundle.mounts} | {"/"}
    extra = {t for t in table if t not in ours and not t.startswith("/dev/")}
    assert extra == set()


def test_root_is_not_the_hosts(rt: Runtime, bundle: Bundle) -> None:
    bundle.args("ls", "/", ";", "open", "/..", "rd", ";", "ls", "/../..")
    lines = rt.run(bundle).ok().lines
    assert "home" not in lines and "usr" not in lines


# --- idmapped mounts


@pytest.mark.known("runc", "1.1.5 has no idmapped mounts")
@pytest.mark.parametrize("option", [["idmap"], []])
def test_idmapped_bind(rt: Runtime, bundle: Bundle, option: list[str]) -> None:
    """With mappings of its own; podman sends them without the word (engines, trap 14)."""
    if rt.kind == "crun":
        if not option:
            pytest.skip("crun 1.8.1 idmaps only with the word: nothing to compare")
        bundle.user_namespace()
    source = volume(bundle)
    os.chown(source / "file", 1000, 1000)
    bundle.mount("/mnt", "bind", str(source), "bind", *option)
    for key in ("uidMappings", "gidMappings"):
        bundle.mounts[-1][key] = [{"containerID": 1000, "hostID": 2000, "size": 1}]
    if rt.kind != "crun":
        assert "uid=2000 gid=2000" in rt.run(bundle.args("stat", "/mnt/file")).ok().out
    else:
        rt.run(bundle.args("stat", "/mnt/file")).ok()


@pytest.mark.known("runc", "1.1.5 has no idmapped mounts")
def test_idmap_by_the_containers_user_namespace(rt: Runtime, bundle: Bundle) -> None:
    bundle.user_namespace()
    source = volume(bundle)
    bundle.mount("/mnt", "bind", str(source), "bind", "idmap")
    assert "uid=0 gid=0" in rt.run(bundle.args("stat", "/mnt/file")).ok().out


@pytest.fixture
def below(rt: Runtime, bundle: Bundle) -> Iterator[Path]:
    """A folder with another one bound on its sub folder (in this process's mount namespace)."""
    path = volume(bundle)
    (path / "inner").mkdir()
    subprocess.run(["mount", "--bind", volume(bundle, "other"), path / "inner"], check=True)
    yield path
    subprocess.run(["umount", path / "inner"], check=True)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(("option", "inner"), [("idmap", False), ("ridmap", True)])
def test_id_map_of_a_tree(
    rt: Runtime, bundle: Bundle, below: Path, option: str, inner: bool, own: bool
) -> None:
    """`ridmap` maps the mounts below as well, `idmap` leaves them alone; by its own map or the container's."""
    if rt.kind != "ociruntime":
        pytest.skip("1.1.5 has no idmapped mounts; 1.8.1 takes the mappings in its own form")
    host = 2000
    if not own:
        bundle.user_namespace()
    bundle.mount("/mnt", "bind", str(below), "rbind", option)
    if own:
        for key in ("uidMappings", "gidMappings"):
            bundle.mounts[-1][key] = [{"containerID": 0, "hostID": host, "size": 1}]
    out = rt.run(bundle.args("stat", "/mnt/file", "/mnt/inner/file")).ok().out
    owners = [word for line in out.splitlines() for word in line.split() if word[:4] == "uid="]
    mapped, plain = (f"uid={host}", "uid=0") if own else ("uid=0", "uid=65534")
    assert owners == [mapped, mapped if inner else plain]


@pytest.mark.known("runc", "1.1.5 has no idmapped mounts")
@pytest.mark.parametrize("users", [False, True])
def test_idmapped_tmpfs(rt: Runtime, bundle: Bundle, users: bool) -> None:
    """A file system of the container's own, with and without a user namespace."""
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 3):
        pytest.skip("tmpfs cannot be idmapped before Linux 6.3")
    if rt.kind == "crun":
        pytest.skip("1.8.1 takes the mappings in its own form")
    outside = 0
    if users:
        bundle.user_namespace()
        outside = 100000
    bundle.mount("/mnt", "tmpfs", "tmpfs", "idmap", "mode=755")
    for key in ("uidMappings", "gidMappings"):
        bundle.mounts[-1][key] = [{"containerID": 0, "hostID": outside + 20, "size": 10}]
    assert "uid=20 gid=20" in rt.run(bundle.args("stat", "/mnt")).ok().out


def test_idmapped_file_system_that_cannot_be(rt: Runtime, bundle: Bundle) -> None:
    if rt.kind != "ociruntime":
        pytest.skip("the text is ours")
    bundle.drop_mount("/dev/pts").mount("/dev/pts", "devpts", "devpts", "idmap")
    for key in ("uidMappings", "gidMappings"):
        bundle.mounts[-1][key] = [{"containerID": 0, "hostID": 20, "size": 10}]
    result = rt.try_create(bundle).result.failed("mount devpts: map ids: invalid")
    assert "cannot map the ids of that file system" in result.err


def test_mappings_of_a_mount_come_in_pairs(rt: Runtime, bundle: Bundle) -> None:
    bundle.mount("/mnt", "bind", str(volume(bundle)), "bind", "idmap")
    bundle.mounts[-1]["uidMappings"] = [{"containerID": 0, "hostID": 1, "size": 1}]
    assert rt.try_create(bundle).result.code != 0 or rt.kind == "runc"


# --- kernel file systems


def test_mqueue_and_shm(rt: Runtime, bundle: Bundle) -> None:
    bundle.mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev")
    bundle.mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=8m")
    table = mount_table(rt, bundle)
    assert table["/dev/mqueue"].kind == "mqueue"
    assert {"size=8192k", "mode=1777"} <= set(table["/dev/shm"].super.split(",")) | {"mode=1777"}


def test_cgroup_mount(rt: Runtime, bundle: Bundle) -> None:
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev")
    table = mount_table(rt, bundle)
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        assert table["/sys/fs/cgroup"].kind == "cgroup2"
        return
    assert "ro" in table["/sys/fs/cgroup/memory"].options
    assert table["/sys/fs/cgroup/memory"].kind == "cgroup"


V2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
PIDS = "/sys/fs/cgroup" if V2 else "/sys/fs/cgroup/pids"


@pytest.mark.parametrize("private", [False, True])
def test_the_container_sees_its_own_cgroup_only(rt: Runtime, bundle: Bundle, private: bool) -> None:
    if private:
        bundle.namespace("cgroup")
    elif V2:
        pytest.skip("the one hierarchy of cgroup v2 is shown as it is: test_cgroup_view.py")
    bundle.linux["cgroupsPath"] = f"/{rt.root.name}/below"
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev")
    bundle.args("ls", PIDS, ";", "cat", f"{PIDS}/cgroup.procs")
    lines = rt.run(bundle).ok().lines
    assert rt.root.name not in lines
    assert lines[-1] == "1"


def test_cgroup_mount_is_not_writable(rt: Runtime, bundle: Bundle) -> None:
    """CVE-2023-25809: `ro` must hold, also in a user namespace."""
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev")
    bundle.args("write", f"{PIDS}/cgroup.procs", "1")
    rt.run(bundle).failed("EROFS")


RUNC_BINDS = pytest.mark.known("runc", "checks bind mounts only")


@pytest.mark.known("crun", "allows any mount below /proc")
@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("/proc/self/attr", "bind"),
        ("/proc/sys", "bind"),
        ("/proc/1", "bind"),
        ("/proc/self", "bind"),
        pytest.param("/proc/self/attr", "tmpfs", marks=RUNC_BINDS),
        pytest.param("/proc/sys", "tmpfs", marks=RUNC_BINDS),
    ],
)
def test_mount_over_proc_is_refused(rt: Runtime, bundle: Bundle, target: str, kind: str) -> None:
    """CVE-2019-16884: what the runtime itself reads and writes in /proc must be procfs."""
    bundle.mount(target, kind, str(volume(bundle)), *(["bind"] if kind == "bind" else []))
    rt.try_create(bundle).result.failed("/proc")


def test_allowed_mount_in_proc(rt: Runtime, bundle: Bundle) -> None:
    """lxcfs binds files there."""
    source = volume(bundle) / "file"
    bundle.mount("/proc/uptime", "bind", str(source), "bind")
    assert rt.run(bundle.args("cat", "/proc/uptime")).ok().out == "content\n"


def test_no_mounts_at_all(rt: Runtime, bundle: Bundle) -> None:
    """Every mount is optional (spec config.md)."""
    del bundle.config["mounts"]
    result = rt.run(bundle.args("ls", "/proc", ";", "echo", "done"))
    if rt.kind in ("runc", "crun"):
        assert result.code != 0
        return
    assert result.ok().lines == ["done"]


def test_a_hundred_mounts(rt: Runtime, bundle: Bundle) -> None:
    source = volume(bundle)
    for i in range(100):
        bundle.mount(f"/many/{i}", "bind", str(source), "rbind", "ro", "nosuid")
    table = mount_table(rt, bundle)
    assert sum(t.startswith("/many/") for t in table) == 100


def test_remounts_of_the_container_die_with_it(rt: Runtime, bundle: Bundle) -> None:
    bundle.mount("/mnt", "tmpfs", "tmpfs")
    container = rt.create(bundle.args("sleep")).start()
    container.delete("--force").ok()
    poll(lambda: str(bundle.rootfs) not in Path("/proc/self/mountinfo").read_text(), "mounts stay")

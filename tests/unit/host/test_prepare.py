"""Opening what a plan names. Detached mounts change nothing on the host; the rest runs in a private mount namespace."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ociruntime import errors
from ociruntime.plan import ops

REPOSITORY = Path(__file__).resolve().parents[3]

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("native", "no_leaks")]

RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
MS_REC, MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE = 0x4000, 1 << 18, 1 << 19, 1 << 20, 1 << 17


def bind(name: str, source: object, **more: Any) -> ops.Plan:
    plan = ops.Plan()
    plan.fd(name)
    plan.binds.append(
        (
            name,
            str(source),
            more.get("recursive", False),
            more.get("attr_set", 0),
            more.get("attr_clr", 0),
            more.get("tree_set", 0),
            more.get("tree_clr", 0),
            more.get("propagation", ()),
            more.get("idmap"),
            "/mounts/3",
        )
    )
    return plan


def opened(plan: ops.Plan, **more: int) -> list[int]:
    from ociruntime.host import prepare

    return prepare.open_descriptors(plan, **more)


@pytest.fixture
def close() -> Iterator[Any]:
    """A function that opens a plan's descriptors; they are closed in the end."""
    fds: list[int] = []

    def remember(plan: ops.Plan, **more: int) -> list[int]:
        new = opened(plan, **more)
        fds.extend(new)
        return new

    yield remember
    for fd in fds:
        os.close(fd)


def refused(plan: ops.Plan, text: str, pointer: str | None = "/mounts/3") -> errors.Error:
    with pytest.raises(errors.Error, match=text) as caught:
        opened(plan)
    assert caught.value.pointer == pointer
    return caught.value


# -- the root --------------------------------------------------------------------------------------


def rootfs(path: object) -> ops.Plan:
    plan = ops.Plan()
    plan.fd("rootfs")
    plan.paths["rootfs"] = (str(path), "/root/path")
    return plan


def test_rootfs_is_a_copy_of_the_tree(tmp_path: Path, close: Any) -> None:
    (tmp_path / "inside").touch()
    (fd,) = close(rootfs(tmp_path))
    assert os.listdir(f"/proc/self/fd/{fd}") == ["inside"]
    assert not os.get_inheritable(fd)
    assert os.stat(fd).st_ino == tmp_path.stat().st_ino


def test_rootfs_that_is_or_passes_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    for path in ("link", "link/deep"):
        refused(
            rootfs(tmp_path / path),
            "invalid rootfs .*: not an absolute path, or a symlink",
            "/root/path",
        )


@pytest.mark.parametrize(
    ("make", "text"),
    [(None, "no such file or directory"), (Path.touch, "not a directory")],
)
def test_rootfs_that_is_none(tmp_path: Path, make: Any, text: str) -> None:
    path = tmp_path / "rootfs"
    if make:
        make(path)
    refused(rootfs(path), f"invalid rootfs: open {path}: {text}", "/root/path")


# -- namespaces ------------------------------------------------------------------------------------

KINDS = {
    "mount": "mnt", "cgroup": "cgroup", "uts": "uts", "ipc": "ipc", "user": "user", "pid": "pid",
    "network": "net", "time": "time",
}  # fmt: skip


def namespace(kind: str, path: object) -> ops.Plan:
    plan = ops.Plan()
    plan.fd(f"ns:{kind}")
    plan.paths[f"ns:{kind}"] = (str(path), "/linux/namespaces/2/path")
    return plan


@pytest.mark.parametrize("kind", KINDS)
def test_namespace(kind: str, close: Any) -> None:
    path = f"/proc/self/ns/{KINDS[kind]}"
    (fd,) = close(namespace(kind, path))
    assert os.readlink(f"/proc/self/fd/{fd}") == os.readlink(path)


@pytest.mark.parametrize("kind", KINDS)
def test_namespace_of_another_type(kind: str) -> None:
    other = "uts" if kind != "uts" else "ipc"
    path = f"/proc/self/ns/{KINDS[other]}"
    text = f"{path} is a {other} namespace, not a {kind} namespace"
    refused(namespace(kind, path), text, "/linux/namespaces/2/path")


def test_what_is_no_namespace(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # an open that waits for a writer would hang here
    for path in (tmp_path / "fifo", Path("/etc/passwd"), tmp_path, Path("/dev/null")):
        refused(namespace("pid", path), f"{path} is not a namespace", "/linux/namespaces/2/path")
    refused(
        namespace("network", tmp_path / "absent"),
        f"open network namespace {tmp_path}/absent: no such file or directory",
        "/linux/namespaces/2/path",
    )


# -- bind sources ----------------------------------------------------------------------------------


def test_bind_of_a_directory_and_of_a_file(tmp_path: Path, close: Any) -> None:
    (tmp_path / "file").write_text("content")
    (directory,) = close(bind("mount:3", tmp_path))
    assert os.listdir(f"/proc/self/fd/{directory}") == ["file"]
    (file,) = close(bind("mount:3", tmp_path / "file"))
    assert Path(f"/proc/self/fd/{file}").read_text() == "content"


def test_bind_follows_a_symlink_of_the_host(tmp_path: Path, close: Any) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("dir")
    (fd,) = close(bind("mount:3", tmp_path / "link"))
    assert os.stat(fd).st_ino == (tmp_path / "dir").stat().st_ino


def test_attributes(tmp_path: Path, close: Any) -> None:
    (fd,) = close(bind("mount:3", tmp_path, attr_set=RDONLY | NOSUID | NOEXEC))
    flags = os.fstatvfs(fd).f_flag
    assert flags & (os.ST_RDONLY | os.ST_NOSUID | os.ST_NOEXEC) == 1 | 2 | os.ST_NOEXEC
    assert not flags & os.ST_NODEV
    (fd,) = close(bind("mount:3", "/dev/pts", attr_clr=NOSUID | NOEXEC, attr_set=NODEV))
    flags = os.fstatvfs(fd).f_flag
    assert not flags & (os.ST_NOSUID | os.ST_NOEXEC) and flags & os.ST_NODEV


def test_missing_source(tmp_path: Path) -> None:
    refused(bind("mount:3", tmp_path / "absent"), f"open_tree {tmp_path}/absent: no such file")


IN_NAMESPACE = """
import os, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests/unit/host"]
from ociruntime import errors
from ociruntime.host import native, prepare, procfs
from test_prepare import *
base = sys.argv[2]
def attach(fd):
    # Below a shared mount everything would become shared.
    os.makedirs(f"{base}/private", exist_ok=True)
    native.mount("none", f"{base}/private", "tmpfs")
    native.mount("none", f"{base}/private", None, MS_PRIVATE)
    os.mkdir(f"{base}/private/target")
    target = os.open(f"{base}/private/target", os.O_PATH)
    native.move_mount(fd, target)
    os.close(target)
    found = {}
    for line in open("/proc/self/mountinfo"):
        fields = line.split()
        if fields[4].startswith(f"{base}/private/target"):
            found[fields[4][len(f"{base}/private"):]] = (fields[5], fields[6:fields.index("-")])
    native.umount2(f"{base}/private", 2)
    return found
def tree():
    native.mount("none", base, "tmpfs")
    native.mount("none", base, None, 1 << 20)  # shared
    os.mkdir(f"{base}/source")
    native.mount("none", f"{base}/source", "tmpfs")
    native.mount("none", f"{base}/source", None, 1 << 20)
    os.mkdir(f"{base}/source/below")
    native.mount("none", f"{base}/source/below", "tmpfs")
    native.mount("none", f"{base}/source/below", None, 1 << 20)
"""


def in_namespace(tmp_path: Path, code: str) -> None:
    """Run code in a mount namespace of its own, with the helpers above."""
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            sys.executable,
            "-c",
            IN_NAMESPACE + code,
            str(REPOSITORY),
            str(tmp_path),
        ],
        capture_output=True,
        timeout=60,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_recursive_attributes_and_propagation(tmp_path: Path) -> None:
    in_namespace(
        tmp_path,
        """
tree()
source = f"{base}/source"
found = attach(opened(bind("mount:3", source))[0])
assert list(found) == ["/target"], found
assert "shared:" in found["/target"][1][0]  # as the source is
found = attach(opened(bind("mount:3", source, recursive=True, propagation=(MS_PRIVATE | MS_REC,)))[0])
assert list(found) == ["/target", "/target/below"]
assert all(not optional for _, optional in found.values()), found
found = attach(opened(bind("mount:3", source, recursive=True, propagation=(MS_SLAVE,)))[0])
assert "master:" in found["/target"][1][0] and "shared:" in found["/target/below"][1][0], found
found = attach(
    opened(bind("mount:3", source, recursive=True, propagation=(MS_SLAVE | MS_REC, MS_SHARED | MS_REC)))[0]
)
for _, optional in found.values():
    assert len(optional) == 2, found  # slave of the source, and shared itself
private = {"recursive": True, "propagation": (MS_PRIVATE | MS_REC,)}
found = attach(opened(bind("mount:3", source, attr_set=RDONLY, **private))[0])
assert found["/target"][0].startswith("ro") and found["/target/below"][0].startswith("rw"), found
found = attach(opened(bind("mount:3", source, tree_set=RDONLY, attr_clr=RDONLY, **private))[0])
assert found["/target"][0].startswith("rw") and found["/target/below"][0].startswith("ro"), found
""",
    )


def test_rootfs_takes_its_submounts_along(tmp_path: Path) -> None:
    in_namespace(
        tmp_path,
        """
tree()
found = attach(opened(rootfs(f"{base}/source"))[0])
assert list(found) == ["/target", "/target/below"], found
""",
    )


def test_unbindable_source(tmp_path: Path) -> None:
    in_namespace(
        tmp_path,
        """
tree()
native.mount("none", f"{base}/source", None, MS_UNBINDABLE)
refused(bind("mount:3", f"{base}/source"), "open_tree .*: invalid argument")
""",
    )


# -- id maps ---------------------------------------------------------------------------------------


def mappings(host: int, size: int = 65536) -> list[dict[str, int]]:
    return [{"containerID": 0, "hostID": host, "size": size}]


def test_idmapped_mount(tmp_path: Path) -> None:
    in_namespace(
        tmp_path,
        """
native.mount("none", base, "tmpfs")
open(f"{base}/file", "w").close()
os.mkdir(f"{base}/below")
os.chown(f"{base}/file", 5, 6)
before = os.listdir("/proc/self/fd")
idmap = (False, mappings(100000), mappings(200000))
plan = bind("mount:0", base, idmap=idmap)
plan.fd("mount:1")
plan.binds.append(bind("mount:1", base, idmap=idmap, recursive=True).binds[0])
fds = opened(plan)
assert len(os.listdir("/proc/self/fd")) == len(before) + 2
for fd in fds:
    stat = os.stat(f"/proc/self/fd/{fd}/file")
    assert (stat.st_uid, stat.st_gid) == (100005, 200006), stat
""",
    )


def test_idmap_where_the_file_system_has_none(tmp_path: Path) -> None:
    plan = bind("mount:3", "/proc", idmap=(False, mappings(100000), mappings(100000)))
    error = refused(plan, "map ids of /proc: invalid argument")
    assert error.hint and "idmapped" in error.hint


def test_idmap_of_the_joined_user_namespace(tmp_path: Path) -> None:
    in_namespace(
        tmp_path,
        """
from ociruntime.host import idmap
native.mount("none", base, "tmpfs")
open(f"{base}/file", "w").close()
fd = idmap.userns_fd(mappings(300000), mappings(300000))
plan = bind("mount:3", base, idmap=(False, None, None))
plan.paths["ns:user"] = (f"/proc/self/fd/{fd}", "/linux/namespaces/0/path")
tree = opened(plan)[0]
assert os.stat(f"/proc/self/fd/{tree}/file").st_uid == 300000
""",
    )


# -- devices, /proc and the rest -------------------------------------------------------------------


def test_device(close: Any) -> None:
    (fd,) = close(bind("device:/dev/null", "/dev/null"))
    found = os.stat(fd)
    assert stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(1, 3)


def test_what_is_no_device(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        path = tmp_path / name
        refused(bind(f"device:{path}", path), f"bind device {path}: not a device")
    refused(bind("device:/dev/absent", "/dev/absent"), "bind device /dev/absent: no such file")


def test_procfs(close: Any) -> None:
    plan = ops.Plan()
    plan.fd("procfs")
    (fd,) = close(plan)
    assert os.readlink("self", dir_fd=fd) == str(os.getpid())
    assert os.readlink(f"/proc/self/fd/{fd}") == "/proc"


FAKES = {
    "tmpfs with the right links": """
native.mount("none", "/proc", "tmpfs")
os.symlink(str(os.getpid()), "/proc/self")
""",
    "a directory of procfs": """
native.mount("/proc/self", "/proc", None, 4096)
""",
    "nothing at all": """
native.umount2("/proc", 2)
while os.path.exists("/proc/self"):
    native.umount2("/proc", 2)
""",
}


@pytest.mark.parametrize("fake", FAKES)
def test_procfs_that_is_not_genuine_is_replaced(tmp_path: Path, fake: str) -> None:
    in_namespace(
        tmp_path,
        FAKES[fake]
        + """
fd = procfs.root()
assert native.fs_type(fd) == 0x9fa0
assert os.readlink("self", dir_fd=fd) == str(os.getpid())
assert os.stat("1/comm", dir_fd=fd)
assert not os.path.exists("/proc/1/comm")
""",
    )


def test_root_of_a_process(close: Any) -> None:
    child = subprocess.Popen(["sleep", "60"])
    pidfd = os.pidfd_open(child.pid)
    plan = ops.Plan()
    plan.fd("root")
    plan.fd("pidfd")
    try:
        root, duplicate = close(plan, pidfd=pidfd)
        assert os.stat(root).st_ino == os.stat("/").st_ino
        assert duplicate != pidfd
    finally:
        child.kill()
        child.wait()
    refused_plan = ops.Plan()
    refused_plan.fd("root")
    with pytest.raises(errors.Error, match="open the container's root"):
        opened(refused_plan, pidfd=pidfd)
    os.close(pidfd)


def test_gate_is_duplicated(tmp_path: Path, close: Any) -> None:
    given = os.open(tmp_path, os.O_RDONLY)
    plan = ops.Plan()
    plan.fd("gate")
    (fd,) = close(plan, gate=given)
    os.close(given)
    assert os.listdir(fd) == []


def test_unknown_name() -> None:
    plan = ops.Plan()
    plan.fd("frob:1")
    refused(plan, "unknown descriptor frob:1", None)


def test_a_failure_closes_what_was_opened(tmp_path: Path) -> None:
    """The fixture counts."""
    plan = bind("mount:0", tmp_path)
    plan.fds.insert(2, "procfs")
    plan.fd("mount:1")
    plan.binds.append(bind("mount:1", tmp_path / "absent").binds[0])
    refused(plan, "absent")
    plan = bind("mount:3", "/proc", attr_set=1 << 40)
    refused(plan, "mount_setattr on /proc: invalid argument")

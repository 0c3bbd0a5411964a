"""ociruntime.host.native, each call on its own."""

from __future__ import annotations

import errno
import os
import resource
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from pytest_subtests import SubTests

from tests.native.kit import BUSYBOX, NEWNS, NEWPID, NEWUTS
from tests.native.spawn_kit import cgroup2_roots, spawn

MS_PRIVATE_REC = 0x4000 | 1 << 18
O_PATH = os.O_PATH


def in_child(work: Callable[[], None]) -> None:
    """Run something in a forked process and fail where it fails."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException as exc:
            os.write(writer, f"{exc!r} {exc}".encode()[:4000])
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said


def in_private_mounts(native: ModuleType, work: Callable[[], None]) -> None:
    def child() -> None:
        native.unshare(NEWNS)
        native.mount(None, "/", None, MS_PRIVATE_REC)
        work()

    in_child(child)


# -- memory files ----------------------------------------------------------------------------------


def test_memfd(native: ModuleType) -> None:
    content = os.urandom(3 << 20)
    fd = native.memfd_sealed(content)
    assert os.pread(fd, len(content) + 1, 0) == content
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 1)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_init_memfd(native: ModuleType, tmp_path: Path) -> None:
    fd = native.init_memfd(BUSYBOX)
    assert os.pread(fd, 64, 0) == Path(BUSYBOX).read_bytes()[:64]
    assert os.fstat(fd).st_size == os.stat(BUSYBOX).st_size
    os.close(fd)
    with pytest.raises(FileNotFoundError):
        native.init_memfd(str(tmp_path / "missing"))
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError):
        native.init_memfd(str(tmp_path))
    assert os.listdir("/proc/self/fd") == before


# -- mounts ----------------------------------------------------------------------------------------


@pytest.mark.root
def test_mount_calls(native: ModuleType, tmp_path: Path) -> None:
    """fsopen … move_mount, open_tree, mount_setattr, mount, umount2, statfs and mount ids."""

    def work() -> None:
        context = native.fsopen("tmpfs")
        native.fsconfig(context, "size", "1m")
        native.fsconfig(context, "mode", "0711")
        native.fsconfig_create(context)
        mount = native.fsmount(context, 2)
        target = os.open(tmp_path, O_PATH)
        outside = native.mount_id(target)
        native.move_mount(mount, target)
        assert native.mount_id(mount) != outside
        assert native.fs_type(mount) == 0x01021994
        assert os.stat(tmp_path).st_mode & 0o777 == 0o711
        (tmp_path / "file").write_text("")
        native.mount_setattr(mount, 1, 0)
        try:
            (tmp_path / "file").write_text("x")
            raise AssertionError("writable")
        except OSError as exc:
            assert exc.errno == errno.EROFS
        native.mount_setattr(mount, 0, 1, 0, native.AT_RECURSIVE)
        (tmp_path / "dir").mkdir()
        tree = native.open_tree(native.AT_FDCWD, str(tmp_path), native.OPEN_TREE_CLONE)
        again = native.open_tree(tree, "")
        inside = os.open(tmp_path / "dir", O_PATH)
        native.move_mount(tree, inside)
        assert (tmp_path / "dir/file").exists()
        native.umount2(str(tmp_path / "dir"), 2)
        native.mount("source", str(tmp_path / "dir"), "tmpfs", 2, "size=1m")
        native.umount2(str(tmp_path / "dir"))
        for fd in (context, mount, target, tree, again, inside):
            assert not os.get_inheritable(fd)
            os.close(fd)

    in_private_mounts(native, work)


@pytest.mark.root
def test_pivot_root_and_chroot(native: ModuleType, tmp_path: Path) -> None:
    def pivot() -> None:
        native.mount("tmpfs", str(tmp_path), "tmpfs")
        os.mkdir(tmp_path / "inside")
        os.chdir(tmp_path)
        native.pivot_root(".", ".")
        native.umount2(".", 2)
        assert os.listdir("/") == ["inside"]

    def change() -> None:
        os.mkdir(tmp_path / "inside")
        native.chroot(str(tmp_path))
        os.chdir("/")
        assert os.listdir("/") == ["inside"]

    in_private_mounts(native, pivot)
    in_private_mounts(native, change)


def test_openat2(native: ModuleType, tmp_path: Path, subtests: SubTests) -> None:
    (tmp_path / "root/sub").mkdir(parents=True)
    (tmp_path / "root/up").symlink_to("../../..")
    (tmp_path / "root/abs").symlink_to("/sub")
    top = os.open(tmp_path / "root", O_PATH)
    cases: list[tuple[str, int, type[OSError] | int | None]] = [
        ("abs", native.RESOLVE_IN_ROOT, None),
        ("up/sub", native.RESOLVE_IN_ROOT, None),
        ("abs", native.RESOLVE_BENEATH, errno.EXDEV),
        ("abs", native.RESOLVE_IN_ROOT | native.RESOLVE_NO_SYMLINKS, errno.ELOOP),
        ("missing", 0, errno.ENOENT),
        ("abs", 1 << 40, errno.EINVAL),
    ]
    for path, resolve, expected in cases:
        with subtests.test(f"{path} {resolve}"):
            if expected is None:
                fd = native.openat2(top, path, O_PATH, resolve)
                assert os.path.samestat(os.fstat(fd), os.stat(tmp_path / "root/sub"))
                os.close(fd)
            else:
                with pytest.raises(OSError) as caught:
                    native.openat2(top, path, O_PATH, resolve)
                assert (caught.value.errno, caught.value.filename) == (expected, "openat2")
    fd = native.openat2(top, "new", os.O_CREAT | os.O_WRONLY, native.RESOLVE_BENEATH, 0o640)
    assert os.fstat(fd).st_mode & 0o777 == 0o640
    os.close(fd)
    os.close(top)


# -- processes -------------------------------------------------------------------------------------


@pytest.mark.root
def test_unshare_and_setns(native: ModuleType) -> None:
    def work() -> None:
        outer = os.open("/proc/self/ns/uts", os.O_RDONLY)
        name = os.uname().nodename
        native.unshare(NEWUTS)
        Path("/proc/sys/kernel/hostname").write_text("inner")
        assert os.uname().nodename == "inner"
        native.setns(outer, NEWUTS)
        assert os.uname().nodename == name
        try:
            native.setns(outer, NEWPID)
            raise AssertionError("joined a uts namespace as a pid namespace")
        except OSError as exc:
            assert (exc.errno, exc.filename) == (errno.EINVAL, "setns")

    in_child(work)


def test_pidfd_calls(native: ModuleType) -> None:
    child = subprocess.Popen(["sleep", "100"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    fd = native.pidfd_open(child.pid)
    try:
        copy = native.pidfd_getfd(fd, 0)
        assert os.path.samestat(os.fstat(copy), os.fstat(child.stdin.fileno()))
        os.close(copy)
        native.pidfd_send_signal(fd, 0)
        native.pidfd_send_signal(fd, signal.SIGTERM)
        assert child.wait() == -signal.SIGTERM
        with pytest.raises(ProcessLookupError):
            native.pidfd_send_signal(fd, 0)
        with pytest.raises(OSError) as caught:
            native.pidfd_send_signal(fd, 99)
        assert caught.value.errno in (errno.EINVAL, errno.ESRCH)
    finally:
        child.stdin.close()
        os.close(fd)


def test_limits_and_affinity(native: ModuleType) -> None:
    child = subprocess.Popen(["sleep", "100"])
    try:
        before = resource.prlimit(child.pid, resource.RLIMIT_CORE)
        old = native.prlimit(child.pid, resource.RLIMIT_CORE, 0, 4096)
        assert [x if x != 2**64 - 1 else -1 for x in old] == list(before)
        assert resource.prlimit(child.pid, resource.RLIMIT_CORE) == (0, 4096)
        cpu = max(os.sched_getaffinity(child.pid))
        native.sched_setaffinity(child.pid, [cpu])
        assert os.sched_getaffinity(child.pid) == {cpu}
        for cpus in ([], [8000]):
            with pytest.raises(OSError) as caught:
                native.sched_setaffinity(child.pid, cpus)
            assert caught.value.errno == errno.EINVAL
        with pytest.raises(OSError) as caught:
            native.prlimit(child.pid, resource.RLIMIT_CORE, 5, 4)
        assert caught.value.errno == errno.EINVAL
    finally:
        child.kill()
        child.wait()


def test_close_range_prctl_and_keyring(native: ModuleType) -> None:
    def work() -> None:
        fds = [os.open("/", O_PATH) for _ in range(5)]
        native.close_range(fds[0], fds[-1])
        for fd in fds:
            try:
                os.fstat(fd)
                raise AssertionError(f"{fd} is open")
            except OSError as exc:
                assert exc.errno == errno.EBADF
        assert native.prctl(3) == 1
        native.prctl(4, 0)
        assert native.prctl(3) == 0
        try:
            serial = native.join_session_keyring("ociruntime-test")
        except OSError as exc:
            assert exc.errno in (errno.ENOSYS, errno.EPERM, errno.EDQUOT)
        else:
            assert serial > 0

    in_child(work)


# -- device filter ---------------------------------------------------------------------------------

ALLOW = struct.pack("=BBhi", 0xB7, 0, 0, 1) + struct.pack("=BBhi", 0x95, 0, 0, 0)
DENY = struct.pack("=BBhi", 0xB7, 0, 0, 0) + struct.pack("=BBhi", 0x95, 0, 0, 0)


@pytest.mark.root
def test_bpf(native: ModuleType) -> None:
    """Load, attach, find, replace and detach; what it decides is decided."""
    root = next((p for p in cgroup2_roots() if os.access(p, os.W_OK)), None)
    if root is None:
        pytest.skip("no cgroup v2 hierarchy")
    try:
        allow = native.bpf_prog_load(ALLOW)
    except OSError as exc:
        if exc.errno in (errno.EPERM, errno.ENOSYS):
            pytest.skip("no bpf(2) here")
        raise
    deny = native.bpf_prog_load(DENY)
    group = root / f"ociruntime-bpf-{os.getpid()}"
    group.mkdir()
    fd = os.open(group, os.O_RDONLY)
    try:
        script = "head -c1 /dev/zero >/dev/null && echo allowed || echo denied"
        assert native.bpf_prog_attached(fd) is None
        native.bpf_prog_attach(fd, deny)
        assert "denied" in spawn(native, script, cgroup_fd=fd)[2]
        attached = native.bpf_prog_attached(fd)
        assert attached is not None
        native.bpf_prog_attach(fd, allow, attached)
        os.close(attached)
        assert spawn(native, script, cgroup_fd=fd)[2] == "allowed\n"
        native.bpf_prog_detach(fd, allow)
        assert native.bpf_prog_attached(fd) is None
        with pytest.raises(OSError):
            native.bpf_prog_detach(fd, allow)
    finally:
        for one in (allow, deny, fd):
            os.close(one)
        group.rmdir()
    endless = struct.pack("=BBhi", 0x05, 0, -1, 0)
    with pytest.raises(OSError) as caught:
        native.bpf_prog_load(endless)
    assert caught.value.filename == "bpf"
    assert native.bpf_prog_log(endless) != ""


# -- seccomp ---------------------------------------------------------------------------------------


def test_seccomp_compile(native: ModuleType) -> None:
    try:
        version = native.seccomp_version()
    except OSError as exc:
        assert exc.errno == errno.ENOENT
        pytest.skip("libseccomp is not installed")
    assert version >= (2, 4, 0)
    number = native.seccomp_resolve(0, "mkdirat")
    assert number == {"x86_64": 258, "aarch64": 34}[os.uname().machine]
    assert native.seccomp_resolve(0xC00000B7, "mkdirat") == 34
    assert native.seccomp_resolve(0xC00000B7, "mkdir") < -1
    assert native.seccomp_resolve(0, "no_such_call") == -1
    assert native.seccomp_resolve(0x12345678, "mkdir") == -1
    allow, refuse = 0x7FFF0000, 0x50000 | 99
    code = native.seccomp_compile(allow, [], [(refuse, number, [(2, 4, 0o700, 0)])])
    assert len(code) % 8 == 0
    assert struct.pack("=I", refuse) in code
    assert code.endswith(struct.pack("=HBBI", 6, 0, 0, 0)) or struct.pack("=I", allow) in code
    larger = native.seccomp_compile(allow, [0xC00000B7], [(refuse, number, [])], [(4, 0)])
    assert struct.pack("=I", 0xC00000B7) in larger


def test_seccomp_errors(native: ModuleType) -> None:
    try:
        native.seccomp_version()
    except OSError:
        pytest.skip("libseccomp is not installed")
    cases: list[
        tuple[int, list[int], list[tuple[int, int, list[tuple[int, int, int, int]]]], str]
    ] = [
        (0x7FFF0000, [0x12345], [], "libseccomp"),
        (0x7FFF0000, [], [(0x50001, 83, []), (0x12340000, 84, [])], "rule 1"),
        (0x7FFF0000, [], [(0x50001, 83, [(0, 99, 0, 0)])], "rule 0"),
    ]
    for default, architectures, rules, name in cases:
        with pytest.raises(OSError) as caught:
            native.seccomp_compile(default, architectures, rules)
        assert caught.value.filename == name
    with pytest.raises(OSError):
        native.seccomp_compile(0x12345678, [], [])


def test_errors_are_named_after_the_call(native: ModuleType) -> None:
    with pytest.raises(OSError) as caught:
        native.fsopen("no-such-file-system")
    assert caught.value.filename == "fsopen"
    assert caught.value.strerror == os.strerror(caught.value.errno or 0)
    started = time.monotonic()
    with pytest.raises(OSError):
        native.pidfd_open(-1)
    assert time.monotonic() - started < 5

"""Attacks by whoever made the root, or is still changing it: nothing outside of it is made, changed or mounted on."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from ociruntime.plan import ops
from ociruntime.plan.ops import NONE, Plan
from tests.native.kit import (
    NEWPID,
    Machine,
    in_root,
    mount_new,
    private_mounts,
    rooted,
    shell,
    snapshot,
)

pytestmark = pytest.mark.root

NO_SYMLINKS = 4
RDEV_NULL, RDEV_ZERO = os.makedev(1, 3), os.makedev(1, 5)
CHR = 0o20000


def links_out(link: Path, canary: Path) -> dict[str, Callable[[], None]]:
    """Ways in which a name of the root may point to a directory of the host."""

    def chain() -> None:
        (link.parent / "second").symlink_to(canary)
        link.symlink_to("second")

    return {
        "absolute": lambda: link.symlink_to(canary),
        "relative": lambda: link.symlink_to(os.path.relpath(canary, link.parent)),
        "upwards": lambda: link.symlink_to("../" * 40 + str(canary)[1:]),
        "chain": chain,
    }


def clean(rootfs: Path, *names: str) -> None:
    """Take away what a case has made in the root."""
    for name in (*names, "second", str(rootfs.parent)[1:].partition("/")[0]):
        path = rootfs / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink()


Operations = Callable[[Plan, int], None]


def making(name: str) -> Operations:
    """An operation of each kind that makes something below /dev of the root."""

    def add(plan: Plan, root: int) -> None:
        if name == "MKDIR":
            plan.add("", ops.MKDIR, root, "/dev/a/b/c", 0o755, 1, 2)
        elif name == "MKFILE":
            plan.add("", ops.MKFILE, root, "/dev/a/file", 0o644, 1, 2)
        elif name == "SYMLINK":
            plan.add("", ops.SYMLINK, root, "/dev/link", "/proc/self/fd")
            plan.add("", ops.SYMLINK, root, "/dev/stdin", "/proc/self/fd/0")
        elif name == "MKNOD":
            plan.add("", ops.MKNOD, root, "/dev/zero", CHR | 0o666, RDEV_ZERO, 1, 2)
        elif name == "ATTACH":
            mount_new(plan, root, "tmpfs", "/dev/new/dir")
        elif name == "ATTACH file":
            tree = plan.slot()
            plan.add("", ops.TREE, tree, NONE, "/dev/null", 0, 0)
            plan.add("", ops.ATTACH, tree, root, "/dev/new/file", ops.TARGET_FILE, 0, NONE)

    return add


@pytest.mark.parametrize(
    "operation", ["MKDIR", "MKFILE", "SYMLINK", "MKNOD", "ATTACH", "ATTACH file"]
)
def test_nothing_is_made_outside(
    machine: Machine, rootfs: Path, canary: Path, subtests: SubTests, operation: str
) -> None:
    """/dev of the root is a link to a directory of the host (CVE-2024-45310, CVE-2026-41579)."""
    before = snapshot(canary)
    for name, make in links_out(rootfs / "dev", canary).items():
        with subtests.test(name):
            make()
            plan, root = rooted(rootfs)
            making(operation)(plan, root)
            result = machine.run(in_root(plan, root, "ls -R /dev/ | wc -l"))
            assert result.failure is None
            assert int(result.output) > 1  # made below what the link means inside
            assert snapshot(canary) == before
            clean(rootfs, "dev")


@pytest.mark.parametrize("operation", ["MKDIR", "MKFILE", "SYMLINK", "MKNOD", "ATTACH"])
def test_magic_links_lead_nowhere(
    machine: Machine, rootfs: Path, canary: Path, operation: str
) -> None:
    """/dev is a magic link of procfs, which no path resolution would scope."""
    before = snapshot(canary)
    (rootfs / "proc").mkdir()
    (rootfs / "dev").symlink_to("/proc/self/cwd")
    plan, root = rooted(rootfs)
    mount_new(plan, root, "proc", "/proc")
    making(operation)(plan, root)
    os_cwd = os.getcwd()
    os.chdir(canary)
    try:
        result = machine.run(in_root(plan, root, "true"))
    finally:
        os.chdir(os_cwd)
    assert result.failure is not None
    assert result.failure[1:3] == ("ELOOP", "openat2")
    assert snapshot(canary) == before


def test_dangling_links_are_made_inside(machine: Machine, rootfs: Path, subtests: SubTests) -> None:
    """A link to a file that a mount will bring, such as /etc/resolv.conf, gets its target inside of the root."""
    (rootfs / "etc").mkdir()
    cases = {
        "/etc/relative": ("../run/a/resolv.conf", "run/a/resolv.conf"),
        "/etc/absolute": ("/run/b/resolv.conf", "run/b/resolv.conf"),
        "/etc/beside": ("other", "etc/other"),
        "/etc/above": ("../" * 20 + "run/c/file", "run/c/file"),
    }
    for path, (target, made) in cases.items():
        with subtests.test(path):
            (rootfs / path[1:]).symlink_to(target)
            plan, root = rooted(rootfs)
            plan.add("", ops.MKFILE, root, path, 0o600, 3, 4)
            assert machine.run(plan).failure is None
            about = os.lstat(rootfs / made)
            assert stat.S_ISREG(about.st_mode)
            assert (about.st_mode & 0o7777, about.st_uid, about.st_gid) == (0o600, 3, 4)
    with subtests.test("directories"):
        (rootfs / "lib").symlink_to("usr/lib")
        plan, root = rooted(rootfs)
        plan.add("", ops.MKDIR, root, "/lib/x/../y", 0o750, 3, 4)
        assert machine.run(plan).failure is None
        about = os.lstat(rootfs / "usr/lib/y")
        assert (about.st_mode & 0o7777, about.st_uid, about.st_gid) == (0o750, 3, 4)
    with subtests.test("loop"):
        (rootfs / "loop").symlink_to("loop")
        for code in (ops.MKDIR, ops.MKFILE):
            plan, root = rooted(rootfs)
            plan.add("", code, root, "/loop/x", 0o755, NONE, NONE)
            failure = machine.run(plan).failure
            assert failure is not None and failure[1] == "ELOOP"
    with subtests.test("links that grow"):
        (rootfs / "grow").symlink_to("grow2/" + "x/" * 100)
        (rootfs / "grow2").symlink_to("missing")
        plan, root = rooted(rootfs)
        plan.add("", ops.MKFILE, root, "/grow/file", 0o644, NONE, NONE)
        assert machine.run(plan).failure is None
        assert (rootfs / "missing" / ("x/" * 100) / "file").is_file()


def test_what_is_there_stays(machine: Machine, rootfs: Path, subtests: SubTests) -> None:
    """Existing directories and files keep owner, mode and content; the wrong kind is named."""
    (rootfs / "dir").mkdir(mode=0o700)
    (rootfs / "file").write_text("content")
    os.mkfifo(rootfs / "fifo")
    cases = [
        (ops.MKDIR, "/dir", None),
        (ops.MKDIR, "/dir/", None),
        (ops.MKDIR, "/", None),
        (ops.MKDIR, "/file", "ENOTDIR"),
        (ops.MKDIR, "/file/below", "ENOTDIR"),
        (ops.MKFILE, "/file", None),
        (ops.MKFILE, "/fifo", None),
        (ops.MKFILE, "/dir", "EISDIR"),
        (ops.MKFILE, "/", "EISDIR"),
        (ops.MKFILE, "/dir/..", "EISDIR"),
        (ops.MKFILE, "/file/below", "ENOTDIR"),
    ]
    before = snapshot(rootfs)
    for code, path, expected in cases:
        with subtests.test(f"{code} {path}"):
            plan, root = rooted(rootfs)
            plan.add("", code, root, path, 0o777, 7, 7)
            failure = machine.run(plan).failure
            assert (failure and failure[1]) == expected
            assert snapshot(rootfs) == before
    assert (rootfs / "file").read_text() == "content"


def test_device_nodes(machine: Machine, rootfs: Path, subtests: SubTests) -> None:
    """Made with mode and owner; an equal one stays; anything else of that name is an error."""
    dev = rootfs / "dev"
    dev.mkdir()
    os.mknod(dev / "same", CHR | 0o600, RDEV_NULL)
    os.mknod(dev / "other", CHR | 0o600, RDEV_ZERO)
    os.mknod(dev / "block", 0o60600, RDEV_NULL)
    os.mkfifo(dev / "pipe")
    (dev / "file").write_text("")
    (dev / "link").symlink_to("same")
    (dev / "nowhere").symlink_to("missing")
    (dev / "dir").mkdir()
    cases = {
        "new": None,
        "same": None,
        "other": "EEXIST",
        "block": "EEXIST",
        "pipe": "EEXIST",
        "file": "EEXIST",
        "link": "EEXIST",
        "nowhere": "EEXIST",
        "dir": "EEXIST",
    }
    for name, expected in cases.items():
        with subtests.test(name):
            plan, root = rooted(rootfs)
            plan.add("", ops.MKNOD, root, f"/dev/{name}", CHR | 0o640, RDEV_NULL, 5, 6)
            failure = machine.run(plan).failure
            assert (failure and failure[1]) == expected
            if failure is not None:
                assert failure[3] == "exists and is not that device"
    about = os.lstat(dev / "new")
    assert (about.st_mode, about.st_rdev) == (CHR | 0o640, RDEV_NULL)
    assert (about.st_uid, about.st_gid) == (5, 6)
    assert os.lstat(dev / "same").st_uid == 0
    assert not os.path.lexists(dev / "missing")
    with subtests.test("fifo"):
        for _ in range(2):
            plan, root = rooted(rootfs)
            plan.add("", ops.MKNOD, root, "/dev/fifo", 0o10666, 0, NONE, NONE)
            assert machine.run(plan).failure is None
        assert stat.S_ISFIFO(os.lstat(dev / "fifo").st_mode)
    with subtests.test("large numbers"):
        rdev = os.makedev(4095, 1048575)
        for _ in range(2):
            plan, root = rooted(rootfs)
            plan.add("", ops.MKNOD, root, "/dev/large", CHR | 0o666, rdev, NONE, NONE)
            assert machine.run(plan).failure is None
        assert os.lstat(dev / "large").st_rdev == rdev


def test_symlinks(machine: Machine, rootfs: Path, subtests: SubTests) -> None:
    """The same link may be there; another one, or a file, is EEXIST, and stays."""
    dev = rootfs / "dev"
    dev.mkdir()
    (dev / "same").symlink_to("/proc/self/fd")
    (dev / "longer").symlink_to("/proc/self/fd/0")
    (dev / "file").write_text("")
    for name, expected in {"new": None, "same": None, "longer": "EEXIST", "file": "EEXIST"}.items():
        with subtests.test(name):
            plan, root = rooted(rootfs)
            plan.add("", ops.SYMLINK, root, f"/dev/{name}", "/proc/self/fd")
            failure = machine.run(plan).failure
            assert (failure and failure[1]) == expected
    assert os.readlink(dev / "new") == "/proc/self/fd"
    assert os.readlink(dev / "longer") == "/proc/self/fd/0"


def test_proc_must_be_an_ordinary_directory(
    machine: Machine, rootfs: Path, canary: Path, subtests: SubTests
) -> None:
    """A linked /proc is refused before anything is made or mounted (CVE-2019-19921, CVE-2023-27561)."""
    (rootfs / "real").mkdir()
    before = snapshot(canary)

    def inside() -> None:
        (rootfs / "proc").symlink_to("real")

    for name, make in {**links_out(rootfs / "proc", canary), "inside": inside}.items():
        with subtests.test(name):
            make()
            tree_before = snapshot(rootfs)
            plan, root = rooted(rootfs)
            tree = plan.slot()
            plan.add("", ops.FSMOUNT, tree, "proc", "proc", (), 0, 0)
            plan.add("", ops.ATTACH, tree, root, "/proc", ops.TARGET_DIR, NO_SYMLINKS, NONE)
            failure = machine.run(in_root(plan, root, "true")).failure
            assert failure is not None
            assert failure[1] == "ELOOP"
            assert failure[3] == "must be mounted on ordinary directory"
            assert snapshot(rootfs) == tree_before
            assert snapshot(canary) == before
            clean(rootfs, "proc")


def mask(plan: Plan, root: int, *paths: str) -> None:
    """Mask as the compiler does: the host's null device, one empty directory for all."""
    null, empty = plan.slot(), plan.slot()
    plan.add("", ops.OPEN, null, NONE, "/dev/null", os.O_PATH, 0, CHR, RDEV_NULL)
    options = ("nr_blocks=1", "nr_inodes=1")
    plan.add("", ops.FSMOUNT, empty, "tmpfs", "tmpfs", options, 2, 1)
    for path in paths:
        plan.add("", ops.MASK, root, path, null, empty)


def null_devices(null: Path, canary: Path) -> dict[str, Callable[[], object]]:
    return {
        "missing": lambda: None,
        "link to the host": lambda: null.symlink_to(canary / "secret"),
        "link inside": lambda: null.symlink_to("/bin/busybox"),
        "file": lambda: null.write_text("no device"),
        "other device": lambda: os.mknod(null, CHR | 0o666, RDEV_ZERO),
        "device": lambda: os.mknod(null, CHR | 0o666, RDEV_NULL),
        "directory": null.mkdir,
    }


def test_masks_do_not_trust_the_roots_null(
    machine: Machine, rootfs: Path, canary: Path, subtests: SubTests
) -> None:
    """Whatever /dev/null of the root is, a masked file reads as nothing (CVE-2025-31133)."""
    (rootfs / "dev").mkdir()
    (rootfs / "secret").write_text("secret")
    (rootfs / "dir").mkdir()
    (rootfs / "dir/inside").write_text("secret")
    (rootfs / "dir2").mkdir()
    (rootfs / "dir2/inside").write_text("secret")
    before = snapshot(canary)
    for name, make in null_devices(rootfs / "dev/null", canary).items():
        with subtests.test(name):
            make()
            plan, root = rooted(rootfs)
            mask(plan, root, "/secret", "/dir", "/dir2", "/missing", "/secret/below")
            script = "cat /secret; stat -c %F-%t:%T /secret; ls -a /dir /dir2; touch /dir/x"
            result = machine.run(in_root(plan, root, script))
            assert result.failure is None
            lines = result.output.splitlines()
            assert lines[:2] == ["character special file-1:3", "/dir:"]
            assert "inside" not in lines
            assert "Read-only file system" in lines[-1]
            assert snapshot(canary) == before
            clean(rootfs / "dev", "null")


def test_masks_of_links_stay_inside(machine: Machine, rootfs: Path, canary: Path) -> None:
    """A masked path that is a link to the host masks what it means inside, and an absent target is absent."""
    (rootfs / "out").symlink_to(canary / "secret")
    (rootfs / "in").symlink_to("bin/busybox")
    before = snapshot(canary)
    plan, root = rooted(rootfs)
    mask(plan, root, "/out")
    result = machine.run(in_root(plan, root, "cat /out; echo $?"))
    assert result.output.endswith("1\n")
    plan, root = rooted(rootfs)
    mask(plan, root, "/in")
    plan.add("", ops.PIVOT, root, ops.PIVOT_ROOT)
    plan.add("", ops.EXEC, ("busybox",), 1, (), 0, "/bin/busybox")
    failure = machine.run(plan).failure
    assert failure is not None and failure[1] == "EACCES"  # the null device is no program
    assert snapshot(canary) == before


def test_readonly_paths(machine: Machine, rootfs: Path) -> None:
    """Bound over themselves, read-only with what is mounted below; other flags stay; absent is fine."""
    (rootfs / "ro/sub").mkdir(parents=True)
    (rootfs / "file").write_text("")
    plan, root = rooted(rootfs)
    tree = plan.slot()
    plan.add("", ops.FSMOUNT, tree, "tmpfs", "tmpfs", (), 0, 0x8)  # noexec
    plan.add("", ops.ATTACH, tree, root, "/ro/sub", ops.TARGET_DIR, 0, NONE)
    for path in ("/ro", "/file", "/missing", "/file/below"):
        plan.add("", ops.READONLY, root, path)
    mount_new(plan, root, "proc", "/proc")
    script = (
        "touch /ro/x; touch /ro/sub/x; echo x > /file; touch /y && echo writable; "
        "grep ' /ro/sub ' /proc/self/mounts | tail -n1"
    )
    lines = machine.run(in_root(plan, root, script)).output.splitlines()
    assert [line.endswith("Read-only file system") for line in lines] == [True] * 3 + [False] * 2
    assert lines[3] == "writable"
    assert "ro,noexec" in lines[4]


def test_console_is_no_link(
    machine: Machine, rootfs: Path, canary: Path, subtests: SubTests
) -> None:
    """/dev/console of the root is a link or a directory: refused, nothing made (CVE-2026-88264)."""
    console = rootfs / "dev/console"
    console.parent.mkdir()
    before = snapshot(canary)
    makers: dict[str, tuple[Callable[[], None], str]] = {
        "link to a file": (lambda: console.symlink_to(canary / "secret"), "ELOOP"),
        "link to nothing": (lambda: console.symlink_to(canary / "new"), "ELOOP"),
        "link inside": (lambda: console.symlink_to("/bin/busybox"), "ELOOP"),
        "directory": (console.mkdir, "EISDIR"),
    }
    for name, (make, expected) in makers.items():
        with subtests.test(name):
            make()
            plan, root = rooted(rootfs)
            mount_new(plan, root, "devpts", "/dev/pts", "newinstance", "ptmxmode=0666")
            plan.add("", ops.CONSOLE, plan.slot(), root, 0, 0, NONE, ops.CONSOLE_MOUNT)
            failure = machine.run(plan).failure
            assert failure is not None and failure[1] == expected
            assert snapshot(canary) == before
            clean(rootfs / "dev", "console")


def test_terminal_without_devpts(
    machine: Machine, rootfs: Path, canary: Path, subtests: SubTests
) -> None:
    """Nothing mounted on /dev/pts: its files are the root's own and are not believed (CVE-2025-52565)."""
    pts = rootfs / "dev/pts"
    pts.mkdir(parents=True)
    before = snapshot(canary)
    for number in range(10):
        (pts / str(number)).symlink_to(canary / "secret")
    makers: dict[str, tuple[Callable[[], object], str]] = {
        "missing": (lambda: None, "ENOENT"),
        "link to the host": (lambda: (pts / "ptmx").symlink_to(canary / "ptmx"), "ENOENT"),
        "file": (lambda: (pts / "ptmx").write_text(""), "ENXIO"),
        "other device": (lambda: os.mknod(pts / "ptmx", CHR | 0o666, RDEV_ZERO), "ENXIO"),
        # the right numbers, but not on devpts
        "node": (lambda: os.mknod(pts / "ptmx", CHR | 0o666, os.makedev(5, 2)), "ENXIO"),
    }
    for name, (make, expected) in makers.items():
        with subtests.test(name):
            make()
            plan, root = rooted(rootfs)
            plan.add("", ops.CONSOLE, plan.slot(), root, 0, 0, NONE, ops.CONSOLE_MOUNT)
            failure = machine.run(plan).failure
            assert failure is not None and failure[1] == expected
            assert snapshot(canary) == before
            clean(pts, "ptmx")


def test_streams_are_not_exchanged(
    machine: Machine, rootfs: Path, canary: Path, subtests: SubTests
) -> None:
    """The host's null device becomes the root's only if that is one (CVE-2026-88265)."""
    (rootfs / "dev").mkdir()
    before = snapshot(canary)
    for name, make in null_devices(rootfs / "dev/null", canary).items():
        with subtests.test(name):
            make()
            plan, root = rooted(rootfs)
            plan.add("", ops.PIVOT, root, ops.PIVOT_ROOT)
            plan.add("", ops.STDIO, root, NONE, 1000)
            mount_new(plan, root, "proc", "/proc")
            plan.clone_flags |= NEWPID
            program = ("busybox", "stat", "-L", "-c", "%t:%T %u %i", "/proc/self/fd/0")
            plan.add("", ops.EXEC, program, len(program), (), 0, "/bin/busybox")
            owner = os.stat("/dev/null").st_uid
            device, uid, inode = machine.run(plan).output.split()
            assert device == "1:3"
            own = name == "device"
            assert (int(inode) == os.stat("/dev/null").st_ino) is not own
            assert int(uid) == owner
            assert os.stat("/dev/null").st_uid == owner
            assert snapshot(canary) == before
            clean(rootfs / "dev", "null")


def test_writes_reach_procfs_only(machine: Machine, tmp_path: Path, subtests: SubTests) -> None:
    """Neither a look-alike, nor a mount inside of procfs, nor a magic link (CVE-2019-16884, CVE-2025-52881)."""
    fake = tmp_path / "fake"
    (fake / "sys/kernel").mkdir(parents=True)
    (fake / "sys/kernel/hostname").write_text("old")
    (fake / "self").symlink_to("/proc/self")
    proc = os.open("/proc", os.O_PATH)
    look_alike = os.open(fake, os.O_PATH)
    flags = ops.WRITE_PROCFS
    cases: list[tuple[str, int, str, tuple[str, str] | None]] = [
        ("real", proc, "sys/kernel/hostname", None),
        ("self is followed", proc, "self/comm", None),
        ("thread-self is followed", proc, "thread-self/comm", None),
        ("look-alike", look_alike, "sys/kernel/hostname", ("ENXIO", "fstatfs")),
        ("link out of it", look_alike, "self/comm", ("EXDEV", "openat2")),
        ("upwards", proc, "../etc/hostname", ("EXDEV", "openat2")),
        ("absolute", proc, "/etc/hostname", ("EXDEV", "openat2")),
        ("magic link", proc, "self/root/etc/hostname", ("ELOOP", "openat2")),
        ("magic link of a descriptor", proc, "self/fd/1", ("ELOOP", "openat2")),
        ("missing", proc, "sys/kernel/no_such_thing", ("ENOENT", "openat2")),
        ("read-only", proc, "sys/kernel/ostype", ("EACCES", "openat2")),
        ("refused by the kernel", proc, "self/timerslack_ns", ("EINVAL", "write")),
    ]
    try:
        for name, directory, path, expected in cases:
            with subtests.test(name):
                plan = Plan()
                slot = plan.fd("procfs")
                plan.clone_flags = 0x4000000
                plan.add("", ops.WRITE, slot, path, "written", flags)
                failure = machine.run(plan, [directory]).failure
                assert (failure and failure[1:3]) == expected
        with subtests.test("covered"):
            plan = Plan()
            slot = plan.fd("procfs")
            tree = plan.slot()
            private_mounts(plan)
            plan.add("", ops.FSMOUNT, tree, "tmpfs", "tmpfs", (), 0, 0)
            plan.add("", ops.ATTACH, tree, slot, "/sys/kernel", ops.TARGET_EXISTS, 0, NONE)
            plan.add("", ops.WRITE, slot, "sys/kernel/hostname", "x", flags)
            failure = machine.run(plan, [proc]).failure
            # the parent's descriptor is of the parent's mount: nothing can be attached to it from here
            assert failure is not None and failure[2] == "move_mount"
            plan = Plan()
            own, tree = plan.slot(), plan.slot()
            private_mounts(plan)
            plan.add("", ops.OPEN, own, NONE, "/proc", os.O_PATH, 0, 0, 0)
            plan.add("", ops.FSMOUNT, tree, "tmpfs", "tmpfs", (), 0, 0)
            plan.add("", ops.ATTACH, tree, own, "/sys/kernel", ops.TARGET_EXISTS, 0, NONE)
            plan.add("", ops.WRITE, own, "sys/kernel/hostname", "x", flags)
            assert machine.run(plan).failure == (4, "EXDEV", "openat2", "another mount covers it")
    finally:
        os.close(proc)
        os.close(look_alike)
    assert (fake / "sys/kernel/hostname").read_text() == "old"


def test_skip_same(machine: Machine, subtests: SubTests) -> None:
    """Where the value is there already, not being allowed to write it does not matter."""
    proc = os.open("/proc", os.O_PATH)
    kernel = Path("/proc/sys/kernel/osrelease").read_text().strip()
    try:
        for value, flags, expected in (
            (kernel, ops.WRITE_PROCFS | ops.WRITE_SKIP_SAME, None),
            (kernel + "\n", ops.WRITE_PROCFS | ops.WRITE_SKIP_SAME, None),
            ("other", ops.WRITE_PROCFS | ops.WRITE_SKIP_SAME, True),
            (kernel, ops.WRITE_PROCFS, True),
        ):
            with subtests.test(f"{value.strip()} {flags}"):
                plan = Plan()
                plan.add("", ops.WRITE, plan.fd("procfs"), "sys/kernel/osrelease", value, flags)
                plan.ops.insert(0, (ops.IDS, 0, 0, (65534, 65534, NONE, 0)))
                failure = machine.run(plan, [proc]).failure
                assert (failure and failure[1] in ("EACCES", "EPERM")) == expected
    finally:
        os.close(proc)


def test_the_old_root_is_gone(machine: Machine, rootfs: Path, subtests: SubTests) -> None:
    """After PIVOT nothing of the host is mounted or reached; MOVE and CHROOT enter the root as well."""
    for method, mounts in ((ops.PIVOT_ROOT, 2), (ops.PIVOT_MOVE, None), (ops.PIVOT_CHROOT, None)):
        with subtests.test(str(method)):
            plan, root = rooted(rootfs)
            mount_new(plan, root, "proc", "/proc")
            plan.clone_flags |= NEWPID
            plan.add("", ops.PIVOT, root, method)
            script = "ls / ; ls /../.. ; pwd; cat /proc/self/mountinfo | wc -l"
            lines = machine.run(shell(plan, script)).output.split()
            assert lines == ["bin", "proc", "bin", "proc", "/", lines[-1]]
            if mounts is not None:
                assert int(lines[-1]) == mounts


# -- races -----------------------------------------------------------------------------------------


@contextmanager
def exchanging(first: Path, second: Path) -> Iterator[None]:
    """Another process exchanges two names as fast as it can."""
    pid = os.fork()
    if pid == 0:
        libc = ctypes.CDLL(None)
        a, b = os.fsencode(first), os.fsencode(second)
        while True:
            libc.renameat2(-100, a, -100, b, 2)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("operation", ["MKDIR", "MKFILE", "MKNOD", "SYMLINK", "ATTACH", "MASK"])
def test_exchanged_directories(
    machine: Machine, rootfs: Path, canary: Path, operation: str
) -> None:
    """A directory becomes a link to the host and back all the time (CVE-2021-30465, CVE-2024-45310)."""
    shared = rootfs / "shared"
    shared.mkdir()
    (shared / "dev").mkdir()
    (shared / "dev/secret").write_text("inside")
    (shared / "link").symlink_to("../" * 40 + str(canary)[1:])
    before = snapshot(canary)
    mounts = Path("/proc/self/mountinfo").read_text()
    outcomes: set[str | None] = set()
    with exchanging(shared / "dev", shared / "link"):
        for number in range(120):
            plan, root = rooted(rootfs)
            path = f"/shared/dev/{number}"
            if operation == "MKDIR":
                plan.add("", ops.MKDIR, root, f"{path}/a/b", 0o755, 1, 1)
            elif operation == "MKFILE":
                plan.add("", ops.MKFILE, root, path, 0o644, 1, 1)
            elif operation == "MKNOD":
                plan.add("", ops.MKNOD, root, path, CHR | 0o666, RDEV_NULL, 1, 1)
            elif operation == "SYMLINK":
                plan.add("", ops.SYMLINK, root, path, "/x")
            elif operation == "ATTACH":
                mount_new(plan, root, "tmpfs", path)
            else:
                mask(plan, root, "/shared/dev/secret")
            failure = machine.run(plan).failure
            outcomes.add(failure and failure[1])
    assert snapshot(canary) == before
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert None in outcomes  # it was a race, not a refusal
    allowed = {None, "ENOENT", "ESTALE", "EXDEV", "EAGAIN", "ELOOP", "EEXIST", "ENOTDIR"}
    assert outcomes <= allowed


def test_exchanged_proc(machine: Machine, rootfs: Path, canary: Path) -> None:
    """/proc is exchanged with a link: it is mounted on the directory, or the start fails (CVE-2019-19921)."""
    (rootfs / "proc").mkdir()
    (rootfs / "link").symlink_to(canary)
    before = snapshot(canary)
    good = 0
    with exchanging(rootfs / "proc", rootfs / "link"):
        for _ in range(120):
            plan, root = rooted(rootfs)
            tree = plan.slot()
            plan.add("", ops.FSMOUNT, tree, "proc", "proc", (), 0, 0)
            plan.add("", ops.ATTACH, tree, root, "/proc", ops.TARGET_DIR, NO_SYMLINKS, NONE)
            failure = machine.run(plan).failure
            good += failure is None
            assert failure is None or failure[1] in ("ELOOP", "ESTALE", "ENOENT", "EAGAIN")
    assert good
    assert snapshot(canary) == before

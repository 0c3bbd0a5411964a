"""Mounts: new file systems and their options, attaching, attributes, tmpcopyup."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from ociruntime.plan import ops
from ociruntime.plan.ops import NONE, Plan
from tests.native.kit import NEWPID, NR, Machine, in_root, mount_new, rooted, snapshot

pytestmark = pytest.mark.root

RECURSIVE = 0x8000
RDONLY, NOSUID, NODEV, NOEXEC, NOATIME, STRICTATIME, NODIRATIME = 1, 2, 4, 8, 0x10, 0x20, 0x80
ATIME = 0x70


def test_file_system_options(machine: Machine, rootfs: Path, subtests: SubTests) -> None:
    """What is wrong with an option is said in the kernel's words, where it has any."""
    long = "x" * 300
    cases: list[tuple[str, tuple[str, ...], tuple[str, str, str] | None]] = [
        ("tmpfs", ("size=1m", "mode=1777", "nr_inodes=10"), None),
        ("tmpfs", ("ro",), None),
        ("tmpfs", (), None),
        ("tmpfs", ("sizee=1m",), ("EINVAL", "fsconfig", "sizee")),
        ("tmpfs", ("flagg",), ("EINVAL", "fsconfig", "flagg")),
        ("tmpfs", ("mode=99",), ("EINVAL", "fsconfig", "mode")),
        ("tmpfs", ("size=",), ("EINVAL", "fsconfig", "size")),
        ("tmpfs", ("uid=4294967295",), ("EINVAL", "fsconfig", "uid")),
        ("tmpfs", (f"size={long}",), ("EINVAL", "fsconfig", "size=")),
        ("tmpfs", (f"{long}=1",), ("ENAMETOOLONG", "fsconfig", "xxx")),
        ("proc", ("hidepid=invisible", "subset=pid"), None),
        ("devpts", ("newinstance", "ptmxmode=0666", "mode=0620", "gid=5"), None),
        ("mqueue", (), None),
        ("sysfs", (), None),
        ("no-such-fs", (), ("ENODEV", "fsopen", "")),
        ("ext4", (), ("EINVAL", "", "")),
    ]
    for fstype, options, expected in cases:
        with subtests.test(f"{fstype} {','.join(options)[:30]}"):
            plan, root = rooted(rootfs)
            mount_new(plan, root, fstype, "/mnt")
            plan.ops[-2] = (
                ops.FSMOUNT,
                0,
                0,
                (plan.slots - 1, fstype, fstype, options, len(options), 0),
            )
            failure = machine.run(plan).failure
            if expected is None:
                assert failure is None
                continue
            assert failure is not None
            assert failure[0] == 2
            if fstype == "ext4":  # a block device is missing: the errno is the file system's
                continue
            assert failure[1:3] == expected[:2]
            assert expected[2] in failure[3]


def test_mount_attributes_and_data(machine: Machine, rootfs: Path) -> None:
    plan, root = rooted(rootfs)
    tree = plan.slot()
    options = ("size=64k", "mode=750", "uid=3", "gid=4")
    attributes = RDONLY | NOSUID | NODEV | NOEXEC | NOATIME | NODIRATIME
    plan.add("", ops.FSMOUNT, tree, "tmpfs", "source name", options, 4, attributes)
    plan.add("", ops.ATTACH, tree, root, "/mnt", ops.TARGET_DIR, 0, NONE)
    mount_new(plan, root, "proc", "/proc")
    output = machine.run(in_root(plan, root, "stat -c %a:%u:%g /mnt; grep /mnt /proc/mounts"))
    first, second = output.output.splitlines()
    assert first == "750:3:4"
    source, path, fstype, flags = second.split()[:4]
    assert (source, path, fstype) == ("source\\040name", "/mnt", "tmpfs")
    assert set(flags.split(",")) >= {
        *("ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime"),
        *("size=64k", "mode=750", "uid=3", "gid=4"),
    }


def test_targets(machine: Machine, rootfs: Path, subtests: SubTests) -> None:
    """A missing target is made as asked; the wrong kind of target is named."""
    (rootfs / "dir").mkdir()
    (rootfs / "file").write_text("")
    (rootfs / "in").symlink_to("dir")
    cases: list[tuple[str, str, int, str | None]] = [
        ("dir", "/dir", ops.TARGET_EXISTS, None),
        ("dir", "/in", ops.TARGET_EXISTS, None),
        ("dir", "/missing", ops.TARGET_EXISTS, "ENOENT"),
        ("dir", "/new/a/b", ops.TARGET_DIR, None),
        ("dir", "/file", ops.TARGET_DIR, "ENOTDIR"),
        ("dir", "/file/x", ops.TARGET_DIR, "ENOTDIR"),
        ("dir", "/wrong-kind", ops.TARGET_FILE, "ENOTDIR"),
        ("file", "/file", ops.TARGET_FILE, None),
        ("file", "/dir", ops.TARGET_FILE, "EISDIR"),
        ("file", "/new/c/file", ops.TARGET_FILE, None),
        ("file", "/new/d", ops.TARGET_DIR, "EISDIR"),
    ]
    for source, path, target, expected in cases:
        with subtests.test(f"{source} on {path}"):
            plan, root = rooted(rootfs)
            tree = plan.slot()
            name = "/bin" if source == "dir" else "/bin/busybox"
            plan.add("", ops.TREE, tree, root, name[1:], RECURSIVE, 0)
            plan.add("", ops.ATTACH, tree, root, path, target, 0, NONE)
            result = machine.run(in_root(plan, root, f"ls -d {path}/busybox || ls -l {path}"))
            assert (result.failure and result.failure[1]) == expected
            if expected in ("EISDIR", "ENOTDIR") and path != "/file/x":
                assert result.failure is not None
                assert " is a directory, " in result.failure[3]
            elif expected is None:
                assert result.output


def test_mode_taken_over(machine: Machine, rootfs: Path) -> None:
    """TARGET_LIKE: the mode of what is there, none where nothing is."""
    (rootfs / "closed").mkdir()
    (rootfs / "closed").chmod(0o1750)
    plan, root = rooted(rootfs)
    for path in ("/closed", "/missing"):
        tree = plan.slot()
        plan.add("", ops.FSMOUNT, tree, "tmpfs", "tmpfs", (), 0, 0)
        plan.add("", ops.ATTACH, tree, root, path, ops.TARGET_LIKE, 0, NONE)
    output = machine.run(in_root(plan, root, "stat -c %a /closed /missing"))
    assert output.output.split() == ["1750", "1777"]


def test_the_same_target_twice(machine: Machine, rootfs: Path) -> None:
    """The last mount covers those before."""
    plan, root = rooted(rootfs)
    for number in range(3):
        mount_new(plan, root, "tmpfs", "/mnt")
        plan.add("", ops.MKDIR, root, f"/mnt/{number}", 0o755, NONE, NONE)
    assert machine.run(in_root(plan, root, "ls /mnt")).output == "2\n"


def test_tree_kept_after_attaching(machine: Machine, rootfs: Path) -> None:
    """The attached mount stays at hand in another slot; without one it is closed."""
    for kept in (True, False):
        plan, root = rooted(rootfs)
        tree, mount = plan.slot(), plan.slot()
        plan.add("", ops.FSMOUNT, tree, "tmpfs", "tmpfs", (), 0, 0)
        plan.add("", ops.ATTACH, tree, root, "/mnt", ops.TARGET_DIR, 0, mount if kept else tree)
        plan.add("", ops.SETATTR, mount if kept else tree, RDONLY, 0, 0, 0, NONE)
        assert "Read-only" in machine.run(in_root(plan, root, "touch /mnt/x")).output
    plan, root = rooted(rootfs)
    tree = plan.slot()
    plan.add("", ops.FSMOUNT, tree, "tmpfs", "tmpfs", (), 0, 0)
    plan.add("", ops.ATTACH, tree, root, "/mnt", ops.TARGET_DIR, 0, NONE)
    plan.add("", ops.SETATTR, tree, RDONLY, 0, 0, 0, NONE)
    failure = machine.run(plan).failure
    assert failure is not None and failure[1] == "EBADF"


def test_attributes(machine: Machine, rootfs: Path, subtests: SubTests) -> None:
    """Set and cleared, alone and with everything below; propagation."""
    cases: list[tuple[tuple[int, int, int, int], set[str], set[str]]] = [
        ((NOSUID | NOEXEC, 0, 0, 0), {"nosuid", "noexec", "nodev"}, {"nodev"}),
        ((RDONLY, 0, 0, RECURSIVE), {"ro", "nodev"}, {"ro", "nodev"}),
        ((0, NODEV, 0, 0), set(), {"nodev"}),
        ((0, NODEV, 0, RECURSIVE), set(), set()),
        ((STRICTATIME, ATIME, 0, 0), {"nodev"}, {"nodev"}),
        ((0, 0, 1 << 20, 0), {"shared", "nodev"}, {"nodev"}),
        ((0, 0, 1 << 20, RECURSIVE), {"shared", "nodev"}, {"shared", "nodev"}),
    ]
    words = {"ro", "nosuid", "nodev", "noexec", "shared"}
    for arguments, outer, inner in cases:
        with subtests.test(str(arguments)):
            plan, root = rooted(rootfs)
            first, second = plan.slot(), plan.slot()
            plan.add("", ops.FSMOUNT, first, "tmpfs", "tmpfs", (), 0, NODEV)
            plan.add("", ops.ATTACH, first, root, "/mnt", ops.TARGET_DIR, 0, first)
            plan.add("", ops.FSMOUNT, second, "tmpfs", "tmpfs", (), 0, NODEV)
            plan.add("", ops.ATTACH, second, root, "/mnt/sub", ops.TARGET_DIR, 0, NONE)
            plan.add("", ops.SETATTR, first, *arguments, NONE)
            mount_new(plan, root, "proc", "/proc")
            output = machine.run(in_root(plan, root, "cat /proc/self/mountinfo")).output
            lines = {line.split()[4]: line for line in output.splitlines()}
            for path, expected in (("/mnt", outer), ("/mnt/sub", inner)):
                flags = set(lines[path].split()[5].split(","))
                flags |= {word.partition(":")[0] for word in lines[path].split()[6:]}
                assert flags & words == expected


def test_attributes_that_fail(machine: Machine, rootfs: Path) -> None:
    plan, _ = rooted(rootfs)
    tree = plan.slot()
    plan.add("", ops.FSMOUNT, tree, "tmpfs", "tmpfs", (), 0, 0)
    plan.add("", ops.SETATTR, tree, 1 << 31, 0, 0, 0, NONE)
    assert machine.run(plan).failure == (3, "EINVAL", "mount_setattr", "")


def test_trees(machine: Machine, rootfs: Path, tmp_path: Path) -> None:
    """TREE clones alone or with what is mounted below, from the host and from a slot."""
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub/under").write_text("")
    for flags, expected in ((0, "under\n"), (RECURSIVE, "over\n")):
        plan, root = rooted(rootfs)
        host = plan.slot()
        plan.add("", ops.OPEN, host, NONE, str(source), os.O_PATH | os.O_DIRECTORY, 0, 0, 0)
        mount_new(plan, host, "tmpfs", "/sub")
        plan.add("", ops.MKFILE, host, "/sub/over", 0o644, NONE, NONE)
        tree = plan.slot()
        plan.add("", ops.TREE, tree, NONE, str(source), flags, 0)
        plan.add("", ops.ATTACH, tree, root, "/mnt", ops.TARGET_DIR, 0, NONE)
        assert machine.run(in_root(plan, root, "ls /mnt/sub")).output == expected
    plan, root = rooted(rootfs)
    plan.add("", ops.TREE, plan.slot(), NONE, "/no/such/path", 0, 0)
    assert machine.run(plan).failure == (2, "ENOENT", "openat2", "")


def test_a_tree_from_the_parent(machine: Machine, rootfs: Path, tmp_path: Path) -> None:
    """What the parent has opened detached is attached here."""
    native = machine.native
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("content")
    fds = [
        native.open_tree(native.AT_FDCWD, str(path), native.OPEN_TREE_CLONE | RECURSIVE)
        for path in (tmp_path / "source", rootfs)
    ]
    native.mount_setattr(fds[0], RDONLY, 0)
    plan, root = rooted(rootfs, "mount:0", "rootfs")
    plan.ops[-1] = (ops.ROOT, 0, 0, (root, 3, str(rootfs), 0))
    plan.add("", ops.ATTACH, 2, root, "/mnt", ops.TARGET_DIR, 0, NONE)
    result = machine.run(in_root(plan, root, "cat /mnt/file; echo x > /mnt/file"), fds)
    for fd in fds:
        os.close(fd)
    assert result.output.startswith("content")
    assert "Read-only" in result.output


def test_root_that_is_none(machine: Machine, rootfs: Path, subtests: SubTests) -> None:
    for path, expected in ((rootfs / "bin/busybox", "ENOTDIR"), (rootfs / "missing", "ENOENT")):
        with subtests.test(expected):
            plan, _ = rooted(path)
            assert machine.run(plan).failure == (1, expected, "openat2", "")


def test_overlay(machine: Machine, rootfs: Path, tmp_path: Path) -> None:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower/file").write_text("lower\n")
    plan, root = rooted(rootfs)
    options = tuple(
        f"{key}={tmp_path}/{name}"
        for key, name in (("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work"))
    )
    mount_new(plan, root, "overlay", "/mnt", *options)
    result = machine.run(in_root(plan, root, "cat /mnt/file; echo upper > /mnt/file"))
    assert (result.failure, result.output) == (None, "lower\n")
    assert (tmp_path / "lower/file").read_text() == "lower\n"
    assert (tmp_path / "upper/file").read_text() == "upper\n"


def test_idmapped_mount(machine: Machine, rootfs: Path, tmp_path: Path) -> None:
    """SETATTR with a user namespace: the files appear with other owners."""
    waiter = Plan()
    waiter.add("", ops.UNSHARE, 0x10000000)
    waiter.add("", ops.SYNC, ops.TAG_USERNS)
    running = machine.start(waiter)
    assert running.receive() is not None
    for kind in ("uid", "gid"):
        Path(f"/proc/{running.pid}/{kind}_map").write_text("0 1000 10")
    namespace = os.open(f"/proc/{running.pid}/ns/user", os.O_RDONLY)
    running.kill()
    (tmp_path / "source").mkdir()
    plan, root = rooted(rootfs, "userns")
    tree = plan.slot()
    plan.add("", ops.TREE, tree, NONE, str(tmp_path / "source"), 0, 0)
    plan.add("", ops.SETATTR, tree, 0x100000, 0, 0, 0, 2)
    plan.add("", ops.ATTACH, tree, root, "/mnt", ops.TARGET_DIR, 0, NONE)
    result = machine.run(in_root(plan, root, "stat -c %u:%g /mnt"), [namespace])
    os.close(namespace)
    if result.failure is not None and result.failure[1] in ("EINVAL", "ENOSYS"):
        pytest.skip("this file system or kernel has no idmapped mounts")
    assert result.output == "1000:1000\n"


def test_copyup(machine: Machine, rootfs: Path) -> None:
    """Files, links, devices and directories with owner, mode and times, and nothing through a link."""
    top = rootfs / "etc"
    (top / "sub/deep").mkdir(parents=True)
    (top / "file").write_text("x" * 200000)
    (top / "suid").write_text("s")
    (top / "link").symlink_to("/nowhere")
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "null", 0o20600, os.makedev(1, 3))
    for number in range(300):
        (top / f"sub/{number:0100}").write_text(str(number))
    for name, owner in (
        ("file", 5),
        ("suid", 6),
        ("sub", 7),
        ("link", 8),
        ("fifo", 9),
        ("null", 1),
    ):
        os.chown(top / name, owner, owner + 1, follow_symlinks=False)
    os.chmod(top / "suid", 0o4755)
    os.chmod(top / "sub", 0o1700)
    os.chmod(top, 0o751)
    os.utime(top / "file", ns=(10**18 + 1, 10**18 + 123456789))
    os.utime(top / "sub", ns=(10**18, 10**18))
    script = (
        "cd /mnt; ls sub | wc -l; stat -c '%n %a %u %g %s %Y %F' . file suid sub sub/deep fifo null; "
        "stat -c '%n %u' link; readlink link; cat file | wc -c"
    )
    plan, root = rooted(rootfs)
    tree = plan.slot()
    plan.add("", ops.FSMOUNT, tree, "tmpfs", "tmpfs", (), 0, 0)
    plan.add("", ops.COPYUP, tree, root, "/etc", 0)
    plan.add("", ops.ATTACH, tree, root, "/mnt", ops.TARGET_DIR, 0, NONE)
    before = snapshot(top)
    result = machine.run(in_root(plan, root, script))
    assert result.failure is None
    assert snapshot(top) == before
    lines = result.output.splitlines()
    assert lines[0] == "301"
    words = {line.split()[0]: line.split()[1:] for line in lines[1:9]}
    assert words["."][0] == "751"
    assert words["file"] == ["644", "5", "6", "200000", "1000000000", "regular", "file"]
    assert words["suid"][:3] == ["4755", "6", "7"]
    assert words["sub"][:3] == ["1700", "7", "8"]
    assert words["sub"][4] == "1000000000"
    assert words["fifo"][:3] == ["640", "9", "10"]
    assert words["null"][:3] == ["600", "1", "2"]
    assert words["link"] == ["8"]
    assert lines[9:] == ["/nowhere", "200000"]


def test_copyup_of_nothing_and_of_too_much(
    machine: Machine, rootfs: Path, subtests: SubTests
) -> None:
    (rootfs / "file").write_text("")
    (rootfs / "full").mkdir()
    (rootfs / "full/large").write_text("x" * 100000)
    deep = rootfs / "deep"
    for _ in range(70):
        deep = deep / "d"
    deep.mkdir(parents=True)
    cases = {"/missing": None, "/file": "ENOTDIR", "/full": "ENOSPC", "/deep": "ELOOP"}
    for path, expected in cases.items():
        with subtests.test(path):
            plan, root = rooted(rootfs)
            tree = plan.slot()
            plan.add("", ops.FSMOUNT, tree, "tmpfs", "tmpfs", ("size=64k",), 1, 0)
            plan.add("", ops.COPYUP, tree, root, path, 0)
            failure = machine.run(plan).failure
            assert (failure and failure[1]) == expected
            if expected == "ENOSPC":
                assert failure is not None and failure[3] == "large"


def test_open_verifies(machine: Machine, subtests: SubTests) -> None:
    """OPEN takes what it was told to expect and nothing else."""
    character, rdev = stat.S_IFCHR, os.makedev(1, 3)
    cases = [
        ("/dev/null", character, rdev, 0, None),
        ("/dev/zero", character, rdev, 0, "EINVAL"),
        ("/etc/passwd", character, rdev, 0, "EINVAL"),
        ("/etc", stat.S_IFDIR, 0, 0, None),
        ("/etc/passwd", stat.S_IFDIR, 0, 0, "EINVAL"),
        ("/proc/self", 0, 0, 4, "ELOOP"),
        ("/missing", 0, 0, 0, "ENOENT"),
    ]
    for path, kind, number, resolve, expected in cases:
        with subtests.test(f"{path} {kind:o}"):
            plan = Plan()
            plan.add("", ops.OPEN, plan.slot(), NONE, path, os.O_PATH, resolve, kind, number)
            failure = machine.run(plan).failure
            assert (failure and failure[1]) == expected


def test_mount_by_number(machine: Machine, rootfs: Path) -> None:
    """SYSCALL with blobs and a number: mount(2) on the working directory, which CHDIR has verified."""
    plan, root = rooted(rootfs)
    plan.clone_flags |= NEWPID
    plan.add("", ops.MKDIR, root, "/mnt", 0o755, NONE, NONE)
    plan.add("", ops.CHDIR, root, "/mnt")
    plan.add("", ops.SYSCALL, NR["mount"], "source", ".", "tmpfs", 2, "size=1m", 0)
    mount_new(plan, root, "proc", "/proc")
    output = machine.run(in_root(plan, root, "grep /mnt /proc/mounts")).output
    assert output.startswith("source /mnt tmpfs rw,nosuid,")
    assert "size=1024k" in output

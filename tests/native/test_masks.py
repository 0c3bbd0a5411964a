"""What hides and protects in a hostile root: masks, read-only paths, the terminal, writes to procfs, the old root."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from ociruntime.plan import ops
from ociruntime.plan.ops import NONE, Plan
from tests.native.hostile import CHR, RDEV_NULL, RDEV_ZERO, clean, mask
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
            assert failure is not None and failure[1:3] == (expected, "openat")
            assert failure[3].startswith("/dev/console: a ")
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
        "missing": (lambda: None, ""),
        "link to the host": (lambda: (pts / "ptmx").symlink_to(canary / "ptmx"), ""),
        "file": (
            lambda: (pts / "ptmx").write_text(""),
            ": a regular file is there instead",
        ),
        "other device": (
            lambda: os.mknod(pts / "ptmx", CHR | 0o666, RDEV_ZERO),
            ": character device 1:5 is there instead",
        ),
        # the right numbers, but not on devpts
        "node": (
            lambda: os.mknod(pts / "ptmx", CHR | 0o666, os.makedev(5, 2)),
            ": is not on devpts",
        ),
    }
    for name, (make, instead) in makers.items():
        with subtests.test(name):
            make()
            plan, root = rooted(rootfs)
            plan.add("", ops.CONSOLE, plan.slot(), root, 0, 0, NONE, ops.CONSOLE_MOUNT)
            failure = machine.run(plan).failure
            expected = "ENXIO" if instead else "ENOENT"
            assert failure is not None
            assert failure[1:] == (expected, "openat2", f"/dev/pts/ptmx{instead}")
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

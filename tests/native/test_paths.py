"""Attacks by whoever made the root: nothing outside of it is made, changed or mounted on."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from ociruntime.plan import ops
from ociruntime.plan.ops import NONE
from tests.native.hostile import CHR, NO_SYMLINKS, RDEV_NULL, RDEV_ZERO, clean, links_out, making
from tests.native.kit import (
    Machine,
    in_root,
    mount_new,
    rooted,
    snapshot,
)

pytestmark = pytest.mark.root


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
    assert result.failure[1:] == ("ELOOP", "openat2", "magic links of /proc are not followed")
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
            assert failure is not None and failure[1:] == ("ELOOP", "openat2", "")
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
        "other": "character device 1:5",
        "block": "block device 1:3",
        "pipe": "a fifo",
        "file": "a regular file",
        "link": "a symbolic link",
        "nowhere": "a symbolic link",
        "dir": "a directory",
    }
    for name, instead in cases.items():
        with subtests.test(name):
            plan, root = rooted(rootfs)
            plan.add("", ops.MKNOD, root, f"/dev/{name}", CHR | 0o640, RDEV_NULL, 5, 6)
            failure = machine.run(plan).failure
            refusal = instead and ("EEXIST", "mknodat", f"{instead} is there instead")
            assert (failure and failure[1:]) == refusal
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

"""Attacks by whoever is changing the root meanwhile: nothing outside of it is made, changed or mounted on."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ociruntime.plan import ops
from ociruntime.plan.ops import NONE
from tests.native.hostile import CHR, NO_SYMLINKS, RDEV_NULL, mask
from tests.native.kit import (
    Machine,
    mount_new,
    rooted,
    snapshot,
)

pytestmark = pytest.mark.root


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

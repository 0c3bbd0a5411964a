"""Ways in which a root may be hostile."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from ociruntime.plan import ops
from ociruntime.plan.ops import NONE, Plan
from tests.native.kit import (
    mount_new,
)

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


def mask(plan: Plan, root: int, *paths: str) -> None:
    """Mask as the compiler does: the host's null device, one empty directory for all."""
    null, empty = plan.slot(), plan.slot()
    plan.add("", ops.OPEN, null, NONE, "/dev/null", os.O_PATH, 0, CHR, RDEV_NULL)
    options = ("nr_blocks=1", "nr_inodes=1")
    plan.add("", ops.FSMOUNT, empty, "tmpfs", "tmpfs", options, 2, 1)
    for path in paths:
        plan.add("", ops.MASK, root, path, null, empty)

"""Linux 5.10 and 5.11, which have no mount_setattr(2): a filter makes this kernel answer as they do."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable

import pytest

from tests.integration.harness import Bundle, Result, Runtime

pytestmark = pytest.mark.root

MOUNT_SETATTR = 442  # on every architecture
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2


def without_the_call() -> Callable[[], None]:
    """What a child calls before it executes: from then on mount_setattr(2) is unknown."""
    code = [
        struct.pack("=HBBI", 0x20, 0, 0, 0),  # load the number
        struct.pack("=HBBI", 0x15, 0, 1, MOUNT_SETATTR),
        struct.pack("=HBBI", 6, 0, 0, 0x50000 | errno.ENOSYS),
        struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000),
    ]
    rules = ctypes.create_string_buffer(b"".join(code))
    program = ctypes.create_string_buffer(
        struct.pack("@HP", len(code), ctypes.addressof(rules)), 16
    )
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def load() -> None:
        if prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
        assert rules

    return load


@pytest.fixture(autouse=True)
def only_ours(rt: Runtime) -> None:
    if rt.kind != "ociruntime":
        pytest.skip("a fallback of this runtime")


def on_old_kernel(rt: Runtime, bundle: Bundle) -> Result:
    return rt.run(bundle, preexec=without_the_call())


def view(result: Result) -> list[tuple[str, str, list[str], str]]:
    """(mount point, flags, kinds of propagation, type) of each mount of the container, in order."""
    found = []
    for line in result.ok().lines:
        words = line.split()
        dash = words.index("-")
        propagation = sorted(word.split(":")[0] for word in words[6:dash])
        found.append((words[4], words[5], propagation, words[dash + 1]))
    return found


def test_the_filter_hides_the_call(rt: Runtime, bundle: Bundle) -> None:
    """What only the call can do is refused by its name, and the kernel that has it."""
    bundle.mount("/mnt", "bind", "/etc", "rbind", "rro").args("mounts")
    rt.run(bundle).ok()
    on_old_kernel(rt, bundle).failed(
        "mounts[4].options: recursive attributes need mount_setattr(2)", "Linux 5.12 has it"
    )
    bundle.mounts[-1]["options"] = ["bind", "idmap"]
    bundle.user_namespace()
    on_old_kernel(rt, bundle).failed("mounts[4]: id-mapped mounts need mount_setattr(2)")


@pytest.mark.parametrize("propagation", [None, "private", "rshared"])
@pytest.mark.parametrize("users", [False, True])
def test_the_container_sees_the_same(
    rt: Runtime, bundle: Bundle, propagation: str | None, users: bool
) -> None:
    (bundle.rootfs / "mnt").mkdir()
    (bundle.path / "data").mkdir()
    (bundle.path / "file").write_text("of the host")
    data, file = str(bundle.path / "data"), str(bundle.path / "file")
    bundle.mount("/mnt/a", "bind", data, "rbind", "ro", "nosuid", "nodev", "noexec")
    bundle.mount("/mnt/b", "bind", file, "bind", "noatime", "rshared")
    bundle.mount("/mnt/c", None, data, "rbind", "rprivate", "nodiratime")
    bundle.mount("/mnt/d", "tmpfs", "tmpfs", "ro", "mode=700", "unbindable")
    bundle.mount("/mnt/a", None, data, "remount", "bind", "ro", "nosuid", "noatime")
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "nodev", "noexec")
    bundle.linux["maskedPaths"] = ["/proc/keys", "/sys/firmware"]
    bundle.linux["readonlyPaths"] = ["/proc/sys", "/proc/bus"]
    bundle.config["root"]["readonly"] = True
    if propagation:
        bundle.linux["rootfsPropagation"] = propagation
    if users:
        bundle.user_namespace()
    bundle.args("mounts")
    assert view(on_old_kernel(rt, bundle)) == view(rt.run(bundle))


def test_mounts_add_needs_the_call(rt: Runtime, bundle: Bundle) -> None:
    """In a running container no path to a descriptor can be trusted."""
    container = rt.create(bundle.args("sleep")).start()
    entries = '[{"destination": "/mnt/new", "source": "/etc", "options": ["bind", "ro"]}]'
    result = rt.call("mounts", "add", container.id, "-", stdin=entries, preexec=without_the_call())
    result.failed("mount_setattr on /etc: function not implemented", "this needs Linux 5.12")
    assert "/mnt/new" not in container.proc("mountinfo")

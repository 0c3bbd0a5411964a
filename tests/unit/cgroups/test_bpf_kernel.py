"""Device filters before the real verifier, and on a real cgroup2."""

from __future__ import annotations

import errno
import os
import random
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ociruntime.cgroups import bpf, devices
from ociruntime.cgroups.v2 import V2Manager

sys.path.insert(0, str(Path(__file__).parent))
import cgroup_bpf
import cgroup_kit as kit
from cgroup_rules import ALLOW_ALL, DENY_ALL, random_rules, rule, whole

pytestmark = pytest.mark.root


def need_bpf() -> None:
    try:
        os.close(cgroup_bpf.load(bpf.program([])))
    except OSError as exc:
        if exc.errno in (errno.EPERM, errno.ENOSYS):
            pytest.skip(f"bpf(2) not permitted here: {exc.strerror}")
        raise


@pytest.fixture
def manager() -> Iterator[V2Manager]:
    need_bpf()
    with kit.cgroup2() as mount:
        made = V2Manager(mount, f"/ociruntime-test-{os.getpid()}-bpf", 0, False)
        made.create()
        yield made
        made.kill_all()
        made.delete()


def in_cgroup(manager: V2Manager, action: Callable[[], None]) -> int:
    """errno of an action in a process of the cgroup, 0 when it went well."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            manager.attach(os.getpid())
            action()
            code = 0
        except OSError as exc:
            code = exc.errno or 255
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def set_devices(manager: V2Manager, rules: list[Any], *, update: bool = False) -> None:
    manager.set_devices(
        rules,
        update=update,
        load=cgroup_bpf.load,
        attach=cgroup_bpf.attach,
        attached=cgroup_bpf.attached,
    )


def opener(path: str, flags: int) -> Callable[[], None]:
    return lambda: os.close(os.open(path, flags))


def test_verifier_accepts_every_program() -> None:
    need_bpf()
    rand = random.Random(3)
    for _ in range(200):
        os.close(cgroup_bpf.load(bpf.program(whole(random_rules(rand)))))
    os.close(cgroup_bpf.load(bpf.program(whole([rule(True, "c", 4294967295, 0, "r")]))))
    os.close(
        cgroup_bpf.load(bpf.program(whole([rule(True, "c", 10, n, "rw") for n in range(200)])))
    )


def test_filter_works(manager: V2Manager, tmp_path: Path) -> None:
    node = str(tmp_path / "kmsg")
    os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(1, 11))
    block = str(tmp_path / "sda")
    assert in_cgroup(manager, opener("/dev/null", os.O_RDWR)) == 0
    set_devices(manager, [])
    assert in_cgroup(manager, opener("/dev/null", os.O_RDWR)) == 0
    assert in_cgroup(manager, opener("/dev/urandom", os.O_RDONLY)) == 0
    assert in_cgroup(manager, opener(node, os.O_RDONLY)) == errno.EPERM
    made = in_cgroup(manager, lambda: os.mknod(block, stat.S_IFBLK, os.makedev(8, 0)))
    assert made == 0, "mknod is allowed, the use is not"
    assert in_cgroup(manager, opener(block, os.O_RDONLY)) == errno.EPERM


def test_update_replaces_the_program(manager: V2Manager, tmp_path: Path) -> None:
    node = str(tmp_path / "zero")
    os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(1, 11))
    set_devices(manager, [DENY_ALL])
    assert in_cgroup(manager, opener(node, os.O_RDONLY)) == errno.EPERM
    set_devices(manager, [ALLOW_ALL], update=True)
    assert in_cgroup(manager, opener(node, os.O_RDONLY)) != errno.EPERM
    fd = os.open(manager.mount_facts()[0][1] + manager.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert len(cgroup_bpf.ids(fd)) == 1
    finally:
        os.close(fd)


def test_default_rules_are_real_devices() -> None:
    """The nodes that every container has are among the default rules."""
    state = devices.target([])
    for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx"):
        if not os.path.exists(f"/dev/{name}") or os.path.islink(f"/dev/{name}"):
            continue
        number = os.stat(f"/dev/{name}").st_rdev
        assert state.exceptions[("c", os.major(number), os.minor(number))] == "rwm", name

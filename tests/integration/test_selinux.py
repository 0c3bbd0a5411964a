"""SELinux (tests/vm, with the policy of tests/vm/guest/selinux.cil): labels of processes, keyrings and mounts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.harness import Bundle, Runtime

ENABLED = Path("/sys/fs/selinux/enforce").exists()
CALLER = "system_u:system_r:sys_t"
FIRST = "system_u:system_r:container_t:s0:c1"
SECOND = "system_u:system_r:container_t:s0:c2"
FILES = "system_u:object_r:container_file_t:s0"
PROTECTED = "system_u:object_r:protected_t:s0"
SELF = "/proc/self/attr/current"

needs_selinux = pytest.mark.skipif(
    not ENABLED, reason="a kernel without SELinux: make test-vm (vmrun.py --selinux)"
)
pytestmark = pytest.mark.root


@pytest.fixture
def labelled(bundle: Bundle) -> Bundle:
    bundle.process["selinuxLabel"] = FIRST
    return bundle


@needs_selinux
def test_container_and_exec(rt: Runtime, labelled: Bundle) -> None:
    container = rt.create(labelled.args("sleep")).start()
    assert container.proc("attr/current").rstrip("\0\n") == FIRST
    assert container.exec("cat", SELF).ok().out.rstrip("\0\n") == FIRST
    other = container.exec("cat", SELF, flags=["--process-label", SECOND])
    assert other.ok().out.rstrip("\0\n") == SECOND


@needs_selinux
def test_without_a_label_it_is_the_callers(rt: Runtime, bundle: Bundle) -> None:
    assert rt.run(bundle.args("cat", SELF)).ok().out.startswith(CALLER)


@needs_selinux
def test_the_policy_bites(rt: Runtime, labelled: Bundle) -> None:
    """The first process and what is executed later may not write to a file that its type must not write to."""
    path = labelled.path / "rootfs/protected"
    path.write_text("before")
    path.chmod(0o666)
    os.setxattr(path, "security.selinux", PROTECTED.encode() + b"\0")
    write = ("write", "/protected", "after")
    assert "EACCES" in rt.run(labelled.args(*write)).failed().message
    container = rt.create(labelled.args("sleep")).start()
    assert "EACCES" in container.exec(*write).failed().message
    assert path.read_text() == "before"
    container.delete("--force").ok()
    labelled.process["selinuxLabel"] = ""
    rt.run(labelled.args(*write)).ok()
    assert path.read_text() == "after"


@needs_selinux
def test_the_session_keyring_is_the_containers(rt: Runtime, labelled: Bundle) -> None:
    assert rt.run(labelled.args("keylabel")).ok().out.rstrip("\0\n") == FIRST
    labelled.process["selinuxLabel"] = ""
    assert rt.run(labelled.args("keylabel")).ok().out.startswith(CALLER)


@needs_selinux
def test_with_no_new_privileges(rt: Runtime, labelled: Bundle) -> None:
    """The policy allows the transition (nnp_transition), so the label is that of config.json."""
    labelled.process["noNewPrivileges"] = True
    assert rt.run(labelled.args("cat", SELF)).ok().out.rstrip("\0\n") == FIRST


@needs_selinux
def test_in_a_user_namespace(rt: Runtime, labelled: Bundle) -> None:
    labelled.user_namespace()
    container = rt.create(labelled.args("sleep")).start()
    assert container.proc("attr/current").rstrip("\0\n") == FIRST
    assert container.exec("cat", SELF).ok().out.rstrip("\0\n") == FIRST


@needs_selinux
def test_mount_label(rt: Runtime, labelled: Bundle) -> None:
    """`context=` for each new file system that takes it; proc and bind mounts keep theirs."""
    labelled.linux["mountLabel"] = FILES
    labelled.mount("/scratch", "tmpfs", "tmpfs")
    container = rt.create(labelled.args("sleep")).start()
    lines = container.proc("mountinfo").splitlines()
    of = {line.split()[4]: line for line in lines}
    for place in ("/scratch", "/dev"):
        assert FILES in of[place], of[place]
    assert FILES not in of["/proc"]
    new = f"/proc/{container.pid}/root/scratch/new"
    Path(new).write_text("x")
    assert os.getxattr(new, "security.selinux").rstrip(b"\0").decode() == FILES


@needs_selinux
@pytest.mark.parametrize("label", ["no-label", "system_u:system_r:nosuch_t:s0"])
def test_a_label_that_the_policy_does_not_know(rt: Runtime, bundle: Bundle, label: str) -> None:
    bundle.process["selinuxLabel"] = label
    result = rt.try_create(bundle.args("sleep")).result.failed()
    if rt.kind == "ociruntime":
        result.failed("process.selinuxLabel", "invalid argument")
        assert result.err.count("\n") <= 2
    del bundle.process["selinuxLabel"]
    container = rt.create(bundle.args("sleep")).start()
    container.exec("echo", flags=["--process-label", label]).failed()
    assert container.exec("echo", "x").ok().out == "x\n"


@needs_selinux
def test_a_mount_label_that_the_policy_does_not_know(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["mountLabel"] = "system_u:object_r:nosuch_t:s0"
    result = rt.try_create(bundle.args("sleep")).result.failed()
    if rt.kind == "ociruntime":
        result.failed("nosuch_t")


@pytest.mark.skipif(ENABLED, reason="this kernel has SELinux")
@pytest.mark.parametrize("property", ["process.selinuxLabel", "linux.mountLabel"])
def test_where_there_is_no_selinux(rt: Runtime, bundle: Bundle, property: str) -> None:
    """Refused in words that name the property, not with the errno of a write."""
    top, name = property.split(".")
    bundle.config[top][name] = FILES if name == "mountLabel" else FIRST
    result = rt.try_create(bundle.args("sleep")).result
    if rt.kind == "ociruntime":
        result.failed(property, "SELinux is disabled on this host")

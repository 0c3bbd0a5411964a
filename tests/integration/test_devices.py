"""/dev, device nodes and rules; masked and read-only paths; sysctl."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import Bundle, Runtime, by_kind, fields

pytestmark = pytest.mark.root
MKNOD = {key: ["CAP_MKNOD", "CAP_SYS_ADMIN"] for key in ("bounding", "permitted", "effective")}


def node(path: str, kind: str, major: int, minor: int, **more: Any) -> dict[str, Any]:
    return {"path": path, "type": kind, "major": major, "minor": minor, **more}


@pytest.mark.parametrize(
    ("path", "rdev"),
    [
        ("/dev/null", "1:3"),
        ("/dev/zero", "1:5"),
        ("/dev/full", "1:7"),
        ("/dev/random", "1:8"),
        ("/dev/urandom", "1:9"),
        ("/dev/tty", "5:0"),
    ],
)
def test_default_device(rt: Runtime, bundle: Bundle, path: str, rdev: str) -> None:
    words = fields(rt.run(bundle.args("stat", path)).ok().out)
    assert (words["type"], words["rdev"], words["mode"]) == ("char", rdev, "0666")


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
    ],
)
def test_dev_link(rt: Runtime, bundle: Bundle, link: str, target: str) -> None:
    assert rt.run(bundle.args("readlink", link)).ok().out == f"{target}\n"


@pytest.mark.known("crun", "1.8.1 makes no /dev/core")
def test_dev_core_only_with_kcore(rt: Runtime, bundle: Bundle) -> None:
    result = rt.run(bundle.args("readlink", "/dev/core"))
    if Path("/proc/kcore").exists():
        assert result.ok().out == "/proc/kcore\n"
    else:
        assert result.code != 0


def test_null_works_for_an_ordinary_user(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.args("write", "/dev/null", "x", ";", "open", "/dev/zero", "r")
    assert rt.run(bundle).ok().out == "ok\n"


def test_device_of_the_configuration(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["devices"] = [
        node("/dev/my/fuse", "c", 10, 229, fileMode=0o640, uid=7, gid=8),
        node("/dev/disk", "b", 7, 0),
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
        node("/dev/unbuffered", "u", 1, 3),
    ]
    bundle.args("stat", "/dev/my/fuse", "/dev/disk", "/dev/pipe", "/dev/unbuffered")
    lines = rt.run(bundle).ok().lines
    assert "type=char mode=0640 uid=7 gid=8 rdev=10:229" in lines[0]
    assert "type=block" in lines[1] and "rdev=7:0" in lines[1]
    assert "type=fifo mode=0600" in lines[2]
    assert "type=char" in lines[3] and "rdev=1:3" in lines[3]


def test_file_mode_is_applied_past_the_umask(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["devices"] = [node("/dev/x", "c", 1, 3, fileMode=0o666)]
    words = fields(
        rt.run(bundle.args("stat", "/dev/x"), preexec=lambda: (os.umask(0o077), None)[1]).ok().out
    )
    assert words["mode"] == "0666"


def test_file_mode_with_type_bits(rt: Runtime, bundle: Bundle) -> None:
    """Podman sends S_IFCHR | 0666 = 8630 (engines, 1.16)."""
    bundle.linux["devices"] = [node("/dev/x", "c", 1, 3, fileMode=stat.S_IFCHR | 0o666)]
    assert "mode=0666" in rt.run(bundle.args("stat", "/dev/x")).ok().out


def test_a_default_device_may_be_listed(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["devices"] = [
        node("/dev/null", "c", 1, 3, fileMode=0o666),
        node("/dev/tty", "c", 5, 0, fileMode=0o620),
    ]
    rules = [{"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}]
    bundle.linux["resources"] = {"devices": rules}
    assert "mode=0620" in rt.run(bundle.args("stat", "/dev/tty")).ok().out


@pytest.mark.known("runc", "needs the source of a bound node to exist")
def test_device_outside_dev(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["devices"] = [node("/tmp/null", "c", 1, 3, fileMode=0o666)]
    bundle.linux["devices"].append(node("/dev/absent", "c", 250, 250))
    rt.run(bundle.args("stat", "/tmp/null", "/dev/absent")).ok()
    assert rt.kind != "runc"


def test_device_at_a_path_taken_by_something_else(rt: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "node").write_text("a file")
    bundle.linux["devices"] = [node("/node", "c", 1, 3)]
    result = rt.try_create(bundle).result
    if rt.kind in ("runc", "crun"):
        assert result.code == 0
    else:
        result.failed("/node")


@pytest.mark.known("crun", "1.8.1 ignores a device of unknown type")
def test_unknown_device_type(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["devices"] = [node("/dev/x", "q", 1, 3)]
    assert rt.try_create(bundle).result.code != 0


# --- rules


def access(rt: Runtime, bundle: Bundle, *rules: dict[str, Any]) -> list[str]:
    """Whether null, loop-control, loop0 and fuse may be opened: ok or the errno."""
    bundle.process["capabilities"] = MKNOD
    bundle.linux.setdefault("resources", {})["devices"] = list(rules)
    words: list[str] = ["open", "/dev/null", "rw"]
    for name, kind, major, minor in (("a", "c", 10, 237), ("b", "b", 7, 0), ("c", "c", 10, 229)):
        (bundle.rootfs / "tmp" / name).unlink(missing_ok=True)
        words += [";", "mknod", f"/tmp/{name}", kind, str(major), str(minor)]
        words += [";", "open", f"/tmp/{name}", "r"]
    result = rt.run(bundle.args(*words))
    return [*result.lines, *(line.rsplit(" ", 1)[1] for line in result.err.splitlines())]


DENY = {"allow": False, "access": "rwm"}


@pytest.mark.known("crun", "1.8.1 has no device filter without resources.devices")
def test_without_rules_other_devices_are_denied(rt: Runtime, bundle: Bundle) -> None:
    """Advisory A7: no rules must not mean no filter."""
    assert access(rt, bundle).count("EPERM") == 3


def test_deny_all_keeps_the_default_devices(rt: Runtime, bundle: Bundle) -> None:
    found = access(rt, bundle, DENY)
    assert found[0] == "ok"
    assert found.count("EPERM") == 3, found


def test_rules_apply_in_order(rt: Runtime, bundle: Bundle) -> None:
    """Docker 28 sends a second deny-all in the middle."""
    one = {"allow": True, "type": "c", "major": 10, "minor": 237, "access": "rwm"}
    found = access(rt, bundle, DENY, one, DENY)
    assert found.count("EPERM") == 3, found
    found = access(rt, bundle, DENY, DENY, one)
    assert found.count("EPERM") == 2, found


def test_allow_all(rt: Runtime, bundle: Bundle) -> None:
    assert "EPERM" not in access(rt, bundle, {"allow": True, "access": "rwm"})


def test_rule_without_minor_is_a_whole_major(rt: Runtime, bundle: Bundle) -> None:
    found = access(rt, bundle, DENY, {"allow": True, "type": "c", "major": 10, "access": "rwm"})
    assert found.count("EPERM") == 1, found


# --- masks


def test_masked_file_reads_empty(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["maskedPaths"] = ["/proc/version"]
    bundle.args("cat", "/proc/version", ";", "stat", "/proc/version")
    words = fields(rt.run(bundle).ok().out)
    assert (words["type"], words["rdev"]) == ("char", "1:3")


def test_masked_directory_is_empty_and_readonly(rt: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "secret").mkdir()
    (bundle.rootfs / "secret/file").write_text("x")
    bundle.linux["maskedPaths"] = ["/secret", "/proc/fs"]
    bundle.args("ls", "/secret", ";", "ls", "/proc/fs", ";", "write", "/secret/new", "x")
    result = rt.run(bundle)
    assert result.out == ""
    assert "EROFS" in result.err


def test_masked_path_that_is_missing_or_twice(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["maskedPaths"] = [
        "/proc/no-such",
        "/proc/keys",
        "/proc/keys",
        "/proc/acpi",
        "/proc/acpi",
    ]
    assert rt.run(bundle.args("cat", "/proc/keys")).ok().out == ""


def test_masked_file_of_the_user(rt: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "etc/passwd").write_text("secret")
    bundle.linux["maskedPaths"] = ["/etc/passwd"]
    assert rt.run(bundle.args("cat", "/etc/passwd")).ok().out == ""


def test_readonly_paths(rt: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "data").mkdir()
    bundle.linux["readonlyPaths"] = ["/data", "/proc/sys", "/proc/no-such", "/data"]
    bundle.args("write", "/data/x", "x", ";", "write", "/proc/sys/kernel/msgmax", "1")
    result = rt.run(bundle)
    assert result.err.count("EROFS") == 2, result


@pytest.mark.known("crun", "1.8.1 loses nosuid, noexec and nodev")
def test_readonly_path_keeps_the_other_flags(rt: Runtime, bundle: Bundle) -> None:
    bundle.mount("/mnt", "tmpfs", "tmpfs", "nosuid", "noexec", "nodev")
    bundle.linux["readonlyPaths"] = ["/mnt"]
    lines = [m for m in rt.run(bundle.args("mounts")).ok().lines if m.split()[4] == "/mnt"]
    assert {"ro", "nosuid", "noexec", "nodev"} <= set(lines[-1].split()[5].split(","))


def test_readonly_path_below_a_masked_one(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["maskedPaths"] = ["/proc/sys"]
    bundle.linux["readonlyPaths"] = ["/proc/sys/kernel"]
    assert rt.run(bundle.args("ls", "/proc/sys")).ok().out == ""


# --- sysctl


def test_sysctl_of_own_namespaces(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["sysctl"] = {
        "kernel.msgmax": "4242",
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.ipv4.ping_group_range": "0 100",
    }
    bundle.args("cat", "/proc/sys/kernel/msgmax", "/proc/sys/net/ipv4/ip_unprivileged_port_start")
    assert rt.run(bundle).ok().lines == ["4242", "0"]


def test_sysctl_with_slashes(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["sysctl"] = {"net/ipv4/ip_unprivileged_port_start": "7"}
    bundle.args("cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start")
    assert rt.run(bundle).ok().lines == ["7"]


def test_sysctl_is_written_though_proc_sys_is_readonly(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "9"}
    bundle.linux["readonlyPaths"] = ["/proc/sys"]
    bundle.args("cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start")
    assert rt.run(bundle).ok().lines == ["9"]


@pytest.mark.parametrize(
    ("name", "drop"),
    [
        ("kernel.core_pattern", None),
        ("vm.swappiness", None),
        ("kernel.hostname", None),
        ("kernel.msgmax", "ipc"),
        ("net.ipv4.ip_forward", "network"),
        ("fs.mqueue.msg_max", "ipc"),
        ("kernel/../vm/swappiness", None),
    ],
)
def test_sysctl_of_the_host_is_refused(
    rt: Runtime, bundle: Bundle, name: str, drop: str | None
) -> None:
    if drop:
        bundle.without_namespace(drop)
        if drop == "network":
            bundle.drop_mount("/sys")
    bundle.linux["sysctl"] = {name: "1"}
    rt.try_create(bundle).result.failed(by_kind(rt, "sysctl", crun="sysctl"))


def test_unknown_sysctl(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["sysctl"] = {"net.ipv4.no_such": "1"}
    rt.try_create(bundle).result.failed("no_such")

"""Host facts: against what this machine says of itself, as root, as nobody and in user namespaces."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ociruntime import errors
from ociruntime.host import probe

REPOSITORY = Path(__file__).resolve().parents[3]


def spec(**more: Any) -> dict[str, Any]:
    return {"root": {"path": "rootfs"}, **more}


def test_own_capabilities_and_kernel() -> None:
    facts = probe.gather(spec(), "/b")
    status = dict(
        line.split(":\t")
        for line in Path("/proc/self/status").read_text().splitlines()
        if ":" in line
    )
    assert facts.cap_bounding == int(status["CapBnd"], 16)
    assert facts.cap_permitted == int(status["CapPrm"], 16)
    assert facts.cap_last == int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert (facts.euid, facts.egid) == (os.geteuid(), os.getegid())
    assert facts.machine == os.uname().machine
    assert facts.rootfs == "/b/rootfs"
    assert facts.sources == {} and facts.devices == {} and facts.mounts == []


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("6.1.0-18-amd64", (6, 1)),
        ("5.10.0", (5, 10)),
        ("6.18", (6, 18)),
        ("6.9-rc3", (6, 9)),
        ("4.18.0-553.el8.x86_64", (4, 18)),
    ],
)
def test_kernel_version(release: str, expected: tuple[int, int]) -> None:
    assert probe.kernel_version(release) == expected


@pytest.mark.parametrize("release", ["", "linux", "6.x.1", "6"])
def test_strange_kernel_version(release: str) -> None:
    with pytest.raises(errors.Error, match="cannot read the kernel version"):
        probe.kernel_version(release)


def test_kernel_without_user_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    real = probe.procfs.read_record

    def read_record(path: str) -> bytes:
        if path == "/proc/self/uid_map":
            raise FileNotFoundError(errno.ENOENT, "", path)
        return real(path)

    monkeypatch.setattr(probe.procfs, "read_record", read_record)
    assert not probe.gather(None, "").in_userns


def test_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_record(path: str) -> bytes:
        raise FileNotFoundError(errno.ENOENT, "", path)

    monkeypatch.setattr(probe.procfs, "read_record", read_record)
    with pytest.raises(errors.Error, match="read /proc/self/status: no such file"):
        probe.gather(None, "")


def test_old_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "kernel_version", lambda _: (5, 9))
    with pytest.raises(errors.Error, match=r"Linux 5\.10 or newer is needed"):
        probe.gather(None, "")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("rootfs", "/b/rootfs"),
        ("./a//b/", "/b/a/b"),
        ("/abs/./x", "/abs/x"),
        ("../other", "/b/../other"),
        ("/", "/"),
        (".", "/b"),
    ],
)
def test_absolute(path: str, expected: str) -> None:
    assert probe.absolute("/b", path) == expected


def test_bind_sources(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("dir")
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/1", "source": "dir", "options": ["rbind", "ro"]},
        {"destination": "/2", "type": "bind", "source": str(tmp_path / "file")},
        {"destination": "/3", "type": "none", "source": "fifo", "options": ["bind"]},
        {"destination": "/4", "type": "bind", "source": "link"},
        {"destination": "/5", "type": "bind", "source": "absent"},
        {"destination": "/6", "type": "bind", "source": "file/x"},
        {"destination": "/7", "type": "tmpfs", "source": "dir"},
    ]
    facts = probe.gather(spec(mounts=mounts), str(tmp_path))
    assert facts.sources == {
        1: "dir",
        2: "file",
        3: "file",
        4: "dir",
        5: errno.ENOENT,
        6: errno.ENOTDIR,
    }


def test_devices_matter_in_a_user_namespace_only(tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to("/dev/null")
    linux: dict[str, Any] = {
        "devices": [
            {"path": "/dev/fuse-of-nobody", "type": "c"},
            {"path": str(tmp_path / "null"), "type": "c"},
            {"path": "/pipe", "type": "p"},
        ]
    }
    facts = probe.gather(spec(linux=linux), "/b")
    if not facts.in_userns:
        assert facts.devices == {}
    linux["namespaces"] = [{"type": "user"}]
    devices = probe.gather(spec(linux=linux), "/b").devices
    assert devices.pop("/dev/fuse-of-nobody") == errno.ENOENT
    assert devices.pop(str(tmp_path / "null")) == errno.ENODEV
    assert devices == {
        f"/dev/{name}": 0 for name in ("null", "zero", "full", "random", "urandom", "tty")
    }


def test_cgroup_facts_for_a_cgroup_mount_only() -> None:
    mounts = [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}]
    assert probe.gather(spec(), "/b").cgroup_mounts == []
    facts = probe.gather(spec(mounts=mounts), "/b")
    assert facts.cgroup_mode in ("v1", "v2", "hybrid", "none")
    assert bool(facts.cgroup_mounts) == (facts.cgroup_mode != "none")


def test_security_modules_where_a_process_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "apparmor_enabled", lambda: True)
    monkeypatch.setattr(probe, "exists", lambda path: path == "/sys/fs/selinux/enforce")
    process = {"apparmorProfile": "p", "selinuxLabel": "l"}
    for facts in (
        probe.gather(spec(process=process), "/b"),
        probe.gather(None, "/", process=process),
    ):
        assert (facts.apparmor, facts.selinux) == (True, True)
    assert not probe.gather(spec(process={}), "/b").apparmor
    assert probe.gather(spec(linux={"mountLabel": "l"}), "/b").selinux
    assert not probe.gather(spec(), "/b").kcore


def test_mount_table() -> None:
    table = probe.gather(spec(), "/b", no_pivot=True).mounts
    assert ("/proc", "proc") in table
    assert len(table) == len(Path("/proc/self/mountinfo").read_text().splitlines())


@pytest.mark.parametrize(
    ("text", "expected"),
    [(b"/a", b"/a"), (rb"/a\040b\134c", rb"/a b\c"), (rb"\011\012", b"\t\n")],
)
def test_unescape(text: bytes, expected: bytes) -> None:
    assert probe.unescape(text) == expected


IN_CHILD = f"""
import json, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from ociruntime.host import probe
facts = probe.gather(None, "")
print(json.dumps([facts.euid, facts.privileged, facts.in_userns]))
"""


def facts_under(*command: str) -> list[Any]:
    # The interpreter of a virtual environment may be out of reach for other users.
    python = "/usr/bin/python3"
    done = subprocess.run(
        [*command, python, "-IB", "-c", IN_CHILD], capture_output=True, timeout=60, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot run {command[0]}: {done.stderr.decode().strip()[-200:]}")
    result: list[Any] = json.loads(done.stdout)
    return result


@pytest.mark.root
def test_root_is_privileged() -> None:
    assert facts_under("/usr/bin/env") == [0, True, probe.gather(None, "").in_userns]


@pytest.mark.root
def test_root_without_cap_sys_admin_is_not() -> None:
    assert facts_under("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")[
        :2
    ] == [0, False]


@pytest.mark.skipif(not shutil.which("unshare"), reason="no unshare(1)")
def test_root_of_a_user_namespace_without_mounts_of_its_own() -> None:
    assert facts_under("unshare", "--user", "--map-root-user") == [0, False, True]


@pytest.mark.skipif(not shutil.which("unshare"), reason="no unshare(1)")
def test_root_of_a_user_namespace_with_its_mounts() -> None:
    assert facts_under("unshare", "--user", "--map-root-user", "--mount") == [0, True, True]


def test_no_import_of_what_the_core_phase_lacks() -> None:
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import ociruntime.host.probe; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-ISc", code], capture_output=True, check=True, timeout=60, text=True
    )
    for name in ("typing", "re", "json", "socket", "struct", "enum", "collections"):
        assert name not in done.stdout.split()

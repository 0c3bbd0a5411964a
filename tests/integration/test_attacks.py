"""Attacks through the root file system, one or more for each path class of the security record.

Names in brackets are sections of the record (A: runc, B: all runtimes, C: crun).  Where Debian's
runc 1.1.5 and crun 1.8.1 are known to be vulnerable, `known` asserts that the attack works on them,
and `test_control_*` runs it on runc in every session: a recipe that cannot succeed proves nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.kit import PATIENCE
from tests.integration import hostlib
from tests.integration.attacklib import Canary, attempt, flipping, plant
from tests.integration.harness import Bundle, Container, Runtime, fields, poll
from tests.integration.ttylib import ConsoleSocket

pytestmark = pytest.mark.root
HOW = ["absolute", "relative", "many", "chain"]
# Creates per race.  The full kit of a later issue runs longer; this finds an open window quickly.
ROUNDS = 40


@pytest.fixture
def canary(bundle: Bundle) -> Canary:
    return Canary(bundle.path / "canary")


@pytest.fixture
def no_dev(bundle: Bundle) -> Bundle:
    """A configuration that mounts nothing on /dev: all of it is the image's."""
    return bundle.drop_mount("/dev/pts").drop_mount("/dev")


@pytest.fixture
def runc(place: Path) -> Iterator[Runtime]:
    """Debian's runc 1.1.5 as a negative control."""
    path = shutil.which("runc")
    if path is None:
        pytest.skip("no runc to prove the attack on")
    runtime = Runtime(path, place / f"{place.name}-control")
    if "1.1.5" not in runtime.version:
        pytest.skip(f"{runtime.version} may have been mended")
    yield runtime
    runtime.clean()


# --- A17, C4: /dev is a symlink to a host directory, nothing is mounted on it


@pytest.mark.parametrize("how", HOW)
def test_dev_is_a_link_to_the_host(rt: Runtime, no_dev: Bundle, canary: Canary, how: str) -> None:
    plant(no_dev, "dev", how, canary)
    attempt(rt, no_dev, "sleep")
    if rt.kind in ("runc", "crun"):
        assert canary.changed, "the control was expected to be vulnerable"
        return
    assert canary.changed == []


def test_control_dev_link(runc: Runtime, no_dev: Bundle, canary: Canary) -> None:
    plant(no_dev, "dev", "absolute", canary)
    attempt(runc, no_dev, "sleep")
    assert str(canary.path / "ptmx") in canary.changed


# --- A14, C5: /dev/null is not the null device


def bad_null(bundle: Bundle, kind: str) -> None:
    path = bundle.rootfs / "dev/null"
    (bundle.rootfs / "secret").write_text("secret\n")
    if kind == "link":
        path.symlink_to("/secret")
    elif kind == "file":
        path.write_text("not null\n")
    elif kind == "zero":
        os.mknod(path, 0o020666, os.makedev(1, 5))
    elif kind == "procfs":
        path.symlink_to("/proc/sys/kernel/msgmax")


def masked_right(container: Container) -> None:
    """The masked file is the null device, and no descriptor is the attacker's file."""
    words = fields(container.wait_out("dev="))
    assert (words["type"], words["rdev"]) == ("char", "1:3"), container.out
    for fd in (0, 1, 2):
        target = os.readlink(f"/proc/{container.pid}/fd/{fd}")
        assert "secret" not in target and "rootfs/dev/null" not in target, target


@pytest.mark.parametrize("kind", ["link", "file", "zero", "procfs", "missing"])
def test_null_of_the_image_is_not_used(
    rt: Runtime, no_dev: Bundle, canary: Canary, kind: str
) -> None:
    bad_null(no_dev, kind)
    no_dev.linux["maskedPaths"] = ["/proc/version"]
    container = attempt(rt, no_dev, "stat", "/proc/version", ";", "sleep")
    if rt.kind in ("runc", "crun"):
        # See the control below; what crun does with descriptors is C5.
        return
    if container.result.code == 0:
        masked_right(container)
    assert (no_dev.rootfs / "secret").read_text() == "secret\n"
    assert canary.changed == []


def test_control_null(runc: Runtime, no_dev: Bundle) -> None:
    """On runc 1.1.5 the mask is the attacker's file, writable, and so are the descriptors."""
    bad_null(no_dev, "link")
    no_dev.linux["maskedPaths"] = ["/proc/version"]
    container = attempt(runc, no_dev, "stat", "/proc/version", ";", "sleep")
    secret = no_dev.rootfs / "secret"
    # Its output went there too: standard output is "the null device" of the image as well.
    poll(lambda: "type=file" in secret.read_text(), "the attack fails")
    assert "secret" in os.readlink(f"/proc/{container.pid}/fd/1")


def test_null_flips_while_creating(rt: Runtime, no_dev: Bundle) -> None:
    (no_dev.rootfs / "secret").write_text("secret\n")
    first, second = no_dev.rootfs / "dev/null", no_dev.rootfs / "dev/other"
    os.mknod(first, 0o020666, os.makedev(1, 3))
    second.symlink_to("/secret")
    no_dev.linux["maskedPaths"] = ["/proc/version"]
    if rt.kind != "ociruntime":
        pytest.skip("the peers are vulnerable: see the controls")
    with flipping(no_dev.program, first, second):
        for _ in range(ROUNDS):
            container = attempt(rt, no_dev, "stat", "/proc/version", ";", "sleep")
            if container.result.code == 0:
                masked_right(container)
            container.delete("--force").ok()
    assert (no_dev.rootfs / "secret").read_text() == "secret\n"


def test_masked_file_is_not_writable(rt: Runtime, bundle: Bundle) -> None:
    """Nor may its owner or mode be changed: it could be the host's own node."""
    bundle.linux["maskedPaths"] = ["/proc/keys"]
    kinds = ("bounding", "permitted", "effective")
    names = ["CAP_CHOWN", "CAP_FOWNER", "CAP_DAC_OVERRIDE"]
    bundle.process["capabilities"] = dict.fromkeys(kinds, names)
    before = os.stat("/dev/null")
    rt.run(bundle.args("chmod", "/proc/keys", "600", ";", "chown", "/proc/keys", "5", "5"))
    after = os.stat("/dev/null")
    os.chown("/dev/null", before.st_uid, before.st_gid)
    os.chmod("/dev/null", before.st_mode & 0o7777)
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)


# --- A15, C5: the console is redirected


@pytest.mark.parametrize("what", ["console", "pts", "ptmx"])
def test_console_paths_are_links_to_the_host(
    rt: Runtime, no_dev: Bundle, canary: Canary, what: str
) -> None:
    if rt.kind == "crun":
        pytest.skip("crun 1.8.1 writes through dev/console (CVE-2026-88264)")
    if what == "console":
        (no_dev.rootfs / "dev/console").symlink_to(canary.path / "made-by-console")
    elif what == "pts":
        (no_dev.rootfs / "dev/pts").mkdir()
        for number in range(10):
            (no_dev.rootfs / f"dev/pts/{number}").symlink_to(canary.path / "secret")
    else:
        (no_dev.rootfs / "dev/ptmx").symlink_to(canary.path / "secret")
    no_dev.process["terminal"] = True
    console = ConsoleSocket(no_dev.path / "console.sock")
    try:
        container = rt.try_create(no_dev.args("tty"), "--console-socket", str(console.path))
        if container.result.code == 0:
            container.verb("start")
        assert canary.changed == []
    finally:
        console.close()


# --- A6: /proc or /sys is a symlink


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["proc", "sys"])
def test_proc_is_a_link(rt: Runtime, bundle: Bundle, canary: Canary, name: str, how: str) -> None:
    plant(bundle, name, how, canary)
    container = attempt(rt, bundle, "statfs", f"/{name}", ";", "mounts", ";", "sleep")
    assert canary.changed == []
    if container.result.code == 0:
        # Resolved inside the root: then the real file system must be there.
        magic = {"proc": "0x9fa0", "sys": "0x62656572"}[name]
        assert f"type={magic}" in container.wait_out("\n")


def test_proc_flips_while_creating(rt: Runtime, bundle: Bundle, canary: Canary) -> None:
    (bundle.rootfs / "other").symlink_to(canary.path)
    with flipping(bundle.program, bundle.rootfs / "proc", bundle.rootfs / "other"):
        for _ in range(ROUNDS):
            container = attempt(rt, bundle, "statfs", "/proc", ";", "sleep")
            container.delete("--force").ok()
    assert canary.changed == []


# --- A8, A13: a mount target in a shared volume is exchanged for a symlink


@pytest.fixture
def shared(bundle: Bundle, canary: Canary) -> Path:
    """A volume whose sub folder another container exchanges for a link out of it."""
    path = bundle.path / "shared"
    (path / "a").mkdir(parents=True)
    (path / "b").symlink_to("../../../../../../" + str(canary.path))
    bundle.mount("/vol", "bind", str(path), "rbind")
    return path


@pytest.mark.parametrize("missing", [False, True])
def test_mount_target_flips(
    rt: Runtime, bundle: Bundle, canary: Canary, shared: Path, missing: bool
) -> None:
    if rt.kind == "runc" and "1.1.5" in rt.version:
        pytest.skip("runc 1.1.5 loses this race now and then (CVE-2024-45310)")
    target = "/vol/a/new/folder" if missing else "/vol/a"
    bundle.mount(target, "tmpfs", "tmpfs").mount("/vol/a/file", "bind", "/etc/hostname", "bind")
    before = hostlib.mounts()
    with flipping(bundle.program, shared / "a", shared / "b"):
        for _ in range(ROUNDS):
            attempt(rt, bundle, "sleep").delete("--force").ok()
    assert canary.changed == []
    assert hostlib.mounts() == before


@pytest.mark.parametrize("how", HOW)
def test_mount_target_is_a_link(rt: Runtime, bundle: Bundle, canary: Canary, how: str) -> None:
    plant(bundle, "target", how, canary)
    bundle.mount("/target/new", "tmpfs", "tmpfs")
    bundle.mount("/target/file", "bind", "/etc/hostname", "bind")
    attempt(rt, bundle, "sleep")
    assert canary.changed == []


# --- other files that the runtime makes in the root (C2, BuildKit, podman WORKDIR)


@pytest.mark.parametrize("how", HOW)
def test_working_directory_is_made_inside(
    rt: Runtime, bundle: Bundle, canary: Canary, how: str
) -> None:
    plant(bundle, "work", how, canary)
    bundle.process["cwd"] = "/work/new/folder"
    attempt(rt, bundle, "sleep")
    assert canary.changed == []


@pytest.mark.parametrize("how", HOW)
def test_devices_are_made_inside(rt: Runtime, bundle: Bundle, canary: Canary, how: str) -> None:
    plant(bundle, "nodes", how, canary)
    bundle.linux["devices"] = [
        {"path": f"/nodes/{name}", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666}
        for name in ("new", "deep/er", "null")
    ]
    attempt(rt, bundle, "sleep")
    assert canary.changed == []


def test_device_path_with_dots(rt: Runtime, bundle: Bundle, canary: Canary) -> None:
    bundle.linux["devices"] = [
        {"path": f"/dev/../../{canary.path.name}/x", "type": "c", "major": 1, "minor": 3}
    ]
    attempt(rt, bundle, "sleep")
    assert canary.changed == []


@pytest.mark.parametrize("how", HOW)
def test_masks_and_readonly_paths_are_inside(
    rt: Runtime, bundle: Bundle, canary: Canary, how: str
) -> None:
    plant(bundle, "hidden", how, canary)
    bundle.linux["maskedPaths"] = ["/hidden/sub", "/hidden/secret"]
    bundle.linux["readonlyPaths"] = ["/hidden"]
    before = hostlib.mounts()
    attempt(rt, bundle, "sleep")
    assert canary.changed == []
    assert hostlib.mounts() == before
    (canary.path / "sub/file").read_text()


def test_copied_up_links_stay_links(rt: Runtime, bundle: Bundle, canary: Canary) -> None:
    data = bundle.rootfs / "data"
    data.mkdir()
    (data / "link").symlink_to(canary.path / "secret")
    (data / "up").symlink_to("../" * 20 + str(canary.path))
    bundle.mount("/data", "tmpfs", "tmpfs", "tmpcopyup")
    result = rt.run(bundle.args("lstat", "/data/link", "/data/up")).ok()
    assert result.out.count("type=link") == 2
    assert canary.changed == []


def test_root_itself_is_a_link(rt: Runtime, bundle: Bundle, canary: Canary) -> None:
    (bundle.path / "link").symlink_to(bundle.rootfs)
    bundle.config["root"]["path"] = "link"
    attempt(rt, bundle, "sleep")
    assert canary.changed == []


# --- passwd of the image is read for HOME (A2, CVE-2026-47262, C2)


def passwd(bundle: Bundle, kind: str, canary: Canary) -> None:
    path = bundle.rootfs / "etc/passwd"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "huge":
        with path.open("wb") as stream:
            stream.truncate(4 << 30)
    elif kind == "host":
        (canary.path / "passwd").write_text("r:x:0:0::/from-the-host:/\n")
        canary.renew()
        path.symlink_to("../../../" + canary.path.name + "/passwd")
    elif kind == "device":
        path.symlink_to("/dev/zero")
        os.mknod(bundle.rootfs / "dev/zero", 0o020666, os.makedev(1, 5))
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_bytes(b"\0" * 100 + b"r:x:0:0::/h\nr:x:0\n:::::::\n" + b"\xff" * 5000)


@pytest.mark.parametrize("kind", ["fifo", "huge", "host", "device", "directory", "junk"])
def test_odd_passwd(rt: Runtime, bundle: Bundle, canary: Canary, kind: str) -> None:
    if rt.kind != "ociruntime":
        pytest.skip("runc and crun hang on some of them")
    passwd(bundle, kind, canary)
    result = rt.run(bundle.args("env", "HOME"), timeout=15 * PATIENCE)
    assert "/from-the-host" not in result.out


# --- A12: cwd or the program through a leaked descriptor


PLACES = [f"/proc/self/fd/{n}" for n in range(3, 24)] + ["/proc/self/fd/7/../../.."]


def outside(container: Container) -> bool:
    """Whether the working directory of the process is not below its own root."""
    return os.readlink(f"/proc/{container.pid}/cwd").startswith("(unreachable)") or (
        not (Path(f"/proc/{container.pid}/cwd") / "").exists()
    )


def wait_for_life(container: Container) -> None:
    poll(lambda: container.out != "" or container.status == "stopped", "nothing happens")


@pytest.mark.parametrize("flags", [[], ["--preserve-fds", "2"]])
def test_cwd_through_a_descriptor(rt: Runtime, bundle: Bundle, flags: list[str]) -> None:
    for place in PLACES:
        bundle.process["cwd"] = place
        container = rt.try_create(
            bundle.args("cwd", ";", "fds", ";", "ls", "..", ";", "sleep"), *flags
        )
        if container.result.code != 0:
            continue
        container.verb("start")
        # It may be a descriptor of init that is no directory of the host; the host is not seen.
        wait_for_life(container)
        assert "home" not in container.out.split(), container.out
        assert not outside(container) or container.status == "stopped"
        container.delete("--force").ok()


def test_exec_cwd_through_a_descriptor(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep")).start()
    for place in PLACES:
        result = container.exec("ls", "../../..", "/", flags=["--cwd", place])
        assert result.code != 0 or "home" not in result.lines, result


@pytest.mark.parametrize("link", ["/proc/self/fd/5", "/proc/1/root/../..", "/proc/self/fd"])
def test_cwd_link_to_a_descriptor(rt: Runtime, bundle: Bundle, link: str) -> None:
    (bundle.rootfs / "work").symlink_to(link)
    bundle.process["cwd"] = "/work"
    result = rt.run(bundle.args("ls", "..", "../..", "../../../.."))
    assert "home" not in result.lines


def test_program_through_a_descriptor(rt: Runtime, bundle: Bundle) -> None:
    for number in range(3, 20):
        bundle.process["args"] = [f"/proc/self/fd/{number}", "echo", "escaped"]
        assert rt.run(bundle).code != 0
        bundle.process["args"] = [f"/proc/self/fd/{number}/../../bin/echo", "escaped"]
        assert "escaped" not in rt.run(bundle).out


def test_no_descriptor_leads_out(rt: Runtime, bundle: Bundle) -> None:
    assert rt.run(bundle.args("fd-escape")).ok().lines == ["end"]
    container = rt.create(bundle.args("sleep")).start()
    assert container.exec("fd-escape").ok().lines == ["end"]


# --- A16: writes to procfs are redirected


def test_sysctl_is_not_redirected(rt: Runtime, bundle: Bundle, canary: Canary) -> None:
    """/proc of the container is the attacker's: the value must not land anywhere else."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    fake = bundle.path / "fake"
    (fake / "sys/net/ipv4").mkdir(parents=True)
    (fake / "sys/net/ipv4/ip_unprivileged_port_start").symlink_to("/proc/sys/kernel/core_pattern")
    (fake / "self").mkdir()
    bundle.drop_mount("/proc").mount("/proc", "bind", str(fake), "bind")
    bundle.linux["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "0"}
    container = attempt(rt, bundle, "sleep")
    assert container.result.code != 0 or rt.kind == "crun"
    assert Path("/proc/sys/kernel/core_pattern").read_text() == pattern


@pytest.mark.parametrize(
    "value", ["1+kernel.core_pattern=|/x", "1\nkernel.core_pattern=x", "1 ", "../1"]
)
def test_sysctl_value_is_one_value(rt: Runtime, bundle: Bundle, value: str) -> None:
    """CVE-2022-0811."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    bundle.linux["sysctl"] = {"kernel.shm_rmid_forced": value}
    attempt(rt, bundle, "sleep")
    assert Path("/proc/sys/kernel/core_pattern").read_text() == pattern


def test_proc_flips_below_a_sysctl(rt: Runtime, bundle: Bundle) -> None:
    """A tmpfs with links is mounted and unmounted over /proc/sys by the image's hook-like race:
    here the folder below the mount point is exchanged while sysctl are written."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    (bundle.rootfs / "other").symlink_to("/dev")
    bundle.linux["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "0"}
    with flipping(bundle.program, bundle.rootfs / "proc", bundle.rootfs / "other"):
        for _ in range(ROUNDS):
            attempt(rt, bundle, "sleep").delete("--force").ok()
    assert Path("/proc/sys/kernel/core_pattern").read_text() == pattern


# --- A10: inheritable capabilities


def test_inheritable_only_when_asked(rt: Runtime, bundle: Bundle) -> None:
    kinds = ("bounding", "permitted", "effective")
    bundle.process["capabilities"] = {key: ["CAP_CHOWN", "CAP_SETUID"] for key in kinds}
    container = rt.create(bundle.args("sleep")).start()
    assert "CapInh:\t0000000000000000" in container.proc("status")
    for flags in ([], ["--cap", "CAP_NET_RAW"], ["--user", "1000", "--cap", "CAP_NET_RAW"]):
        sets = fields(container.exec("caps", flags=flags).ok().out)
        assert sets["inheritable"] == "0", flags


# --- A9: large and odd values cross unharmed or not at all


def test_large_values(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["env"] += [f"V{i}={'x' * 1000}" for i in range(800)]
    assert rt.run(bundle.args("env", "V799")).ok().out == "x" * 1000 + "\n"
    bundle.namespace("network", "/" + "x" * 100000)
    assert rt.try_create(bundle).result.code != 0


@pytest.mark.parametrize("where", ["args", "env", "cwd", "hostname", "mount"])
def test_nul_bytes(rt: Runtime, bundle: Bundle, where: str) -> None:
    if where == "args":
        bundle.args("echo", "a\0b")
    elif where == "env":
        bundle.process["env"].append("A=b\0C=d")
    elif where == "cwd":
        bundle.process["cwd"] = "/tmp\0/x"
    elif where == "hostname":
        bundle.config["hostname"] = "a\0b"
    else:
        bundle.mount("/mnt\0/x", "tmpfs", "tmpfs")
    if rt.kind in ("runc", "crun"):
        pytest.skip("the peers cut some of them at NUL")
    assert attempt(rt, bundle).result.code != 0

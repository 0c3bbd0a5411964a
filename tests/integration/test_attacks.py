"""Attacks through the root file system and config.json that the kit (conformance/attacks) does not play.

Names in brackets are sections of the record (A: runc, B: all runtimes, C: crun).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conformance.attacks.canary import Canary, flipping
from conformance.kit import PATIENCE
from tests.integration.harness import Bundle, Container, Runtime, poll
from tests.integration.ttylib import ConsoleSocket

pytestmark = pytest.mark.root
# Creates per race.
ROUNDS = 40


def attempt(rt: Runtime, bundle: Bundle, *args: str) -> Container:
    """Create and start a container, or fail to; which of the two is the runtime's choice."""
    container = rt.try_create(bundle.args(*args) if args else bundle)
    if container.result.code == 0:
        container.verb("start")
    return container


@pytest.fixture
def canary(bundle: Bundle) -> Canary:
    return Canary(bundle.path / "canary")


@pytest.fixture
def no_dev(bundle: Bundle) -> Bundle:
    """A configuration that mounts nothing on /dev: all of it is the image's."""
    return bundle.drop_mount("/dev/pts").drop_mount("/dev")


# --- A15, C5: the console is redirected


def test_the_terminals_multiplexer_is_a_link_to_the_host(
    rt: Runtime, no_dev: Bundle, canary: Canary
) -> None:
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


# --- other files that the runtime makes in the root (C2, BuildKit, podman WORKDIR)


def test_device_path_with_dots(rt: Runtime, bundle: Bundle, canary: Canary) -> None:
    bundle.linux["devices"] = [
        {"path": f"/dev/../../{canary.path.name}/x", "type": "c", "major": 1, "minor": 3}
    ]
    attempt(rt, bundle, "sleep")
    assert canary.changed == []


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


def passwd(bundle: Bundle, kind: str) -> None:
    path = bundle.rootfs / "etc/passwd"
    if kind == "huge":
        with path.open("wb") as stream:
            stream.truncate(4 << 30)
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_bytes(b"\0" * 100 + b"r:x:0:0::/h\nr:x:0\n:::::::\n" + b"\xff" * 5000)


@pytest.mark.parametrize("kind", ["huge", "directory", "junk"])
def test_odd_passwd(rt: Runtime, bundle: Bundle, kind: str) -> None:
    if rt.kind != "ociruntime":
        pytest.skip("runc and crun hang on some of them")
    passwd(bundle, kind)
    assert rt.run(bundle.args("env", "HOME"), timeout=15 * PATIENCE).ok().out.startswith("/")


# --- A12: cwd or the program through a leaked descriptor


PLACES = [f"/proc/self/fd/{n}" for n in range(3, 24)] + ["/proc/self/fd/7/../../.."]


def outside(container: Container) -> bool:
    """Whether the working directory of the process is not below its own root."""
    return os.readlink(f"/proc/{container.pid}/cwd").startswith("(unreachable)") or (
        not (Path(f"/proc/{container.pid}/cwd") / "").exists()
    )


def wait_for_life(container: Container) -> None:
    poll(lambda: container.out != "" or container.status == "stopped", "nothing happens")


def test_cwd_through_a_preserved_descriptor(rt: Runtime, bundle: Bundle) -> None:
    for place in PLACES:
        bundle.process["cwd"] = place
        container = rt.try_create(
            bundle.args("cwd", ";", "fds", ";", "ls", "..", ";", "sleep"), "--preserve-fds", "2"
        )
        if container.result.code != 0:
            continue
        container.verb("start")
        # It may be a descriptor of init that is no directory of the host; the host is not seen.
        wait_for_life(container)
        assert "home" not in container.out.split(), container.out
        assert not outside(container) or container.status == "stopped"
        container.delete("--force").ok()


@pytest.mark.parametrize("link", ["/proc/self/fd/5", "/proc/1/root/../..", "/proc/self/fd"])
def test_cwd_link_to_a_descriptor(rt: Runtime, bundle: Bundle, link: str) -> None:
    (bundle.rootfs / "work").symlink_to(link)
    bundle.process["cwd"] = "/work"
    result = rt.run(bundle.args("ls", "..", "../..", "../../../.."))
    assert "home" not in result.lines


# --- A16: writes to procfs are redirected


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

"""config-linux.md: network devices moved into the container."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

from conformance.checks.namespaces import donor
from conformance.registry import check
from conformance.trial import Skip, Trial


def ip(*words: str) -> str:
    """ip(8) on the host; raises Skip when it cannot be done."""
    try:
        run = subprocess.run(["ip", *words], capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as error:
        what = " ".join(word for word in words if not word.startswith("oc"))
        raise Skip(f"ip {what}: {error.stderr.strip()}") from None
    return run.stdout


@contextlib.contextmanager
def device() -> Iterator[str]:
    """A network device of the host that may be moved away; its other end stays."""
    if not shutil.which("ip") or not shutil.which("nsenter"):
        raise Skip("needs ip(8) and nsenter(1)")
    name, other = f"oc{os.getpid()}a", f"oc{os.getpid()}b"
    ip("link", "add", name, "type", "veth", "peer", "name", other)
    try:
        yield name
    finally:
        subprocess.run(["ip", "link", "del", other], capture_output=True, check=False)


def inside(pid: int, *words: str) -> str:
    """ip(8) in the network namespace of a container."""
    command = ["nsenter", "-t", str(pid), "-n", "ip", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@check("6.23")
def moved(t: Trial) -> None:
    with device() as name:
        t.bundle.linux["netDevices"] = {name: {}}
        names = [line.split()[0] for line in t.output("netif")]
        t.claim(name in names, f"{name} in the container", names)


@check("6.24")
def renamed(t: Trial) -> None:
    with device() as name:
        t.bundle.linux["netDevices"] = {name: {"name": "net0"}}
        names = [line.split()[0] for line in t.output("netif")]
        t.claim("net0" in names, "net0 in the container", names)
    with device() as name:
        t.bundle.linux["netDevices"] = {name: {"name": "lo"}}
        t.refused("the new name lo, which is taken")


@check("6.25")
def addresses(t: Trial) -> None:
    with device() as name:
        ip("address", "add", "10.77.1.2/24", "dev", name)
        ip("link", "set", name, "up")
        t.bundle.linux["netDevices"] = {name: {}}
        container = t.create("sleep")
        text = inside(container.pid, "-o", "address", "show", "dev", name)
        t.claim("10.77.1.2/24" in text, "10.77.1.2/24 on the device", text.strip() or "none")


@check("6.26")
def up(t: Trial) -> None:
    with device() as name:
        t.bundle.linux["netDevices"] = {name: {}}
        lines = [x for x in t.output("netif") if x.startswith(name)]
        t.equal(lines, [f"{name} up=1"], "state of the device")


@check("6.27")
def stays(t: Trial) -> None:
    with device() as name, donor() as pid:
        t.bundle.namespace("network", f"/proc/{pid}/ns/net")
        t.bundle.linux["netDevices"] = {name: {}}
        container = t.launch("exit", "0")
        t.finish(container)
        t.until(container, "stopped")
        t.forget(container)
        text = inside(pid, "-o", "link", "show", "dev", name)
        t.claim(name in text, f"{name} is still in the namespace after delete", text or "gone")


@check("6.28")
def needs_namespace(t: Trial) -> None:
    with device() as name:
        t.bundle.without_namespace("network")
        t.bundle.linux["netDevices"] = {name: {}}
        t.bundle.drop_mount("/sys")
        t.refused("netDevices without a network namespace")

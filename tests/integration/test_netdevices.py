"""linux.netDevices: what happens to the host's device when create fails, and when it does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.harness import Bundle, Runtime, poll

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not shutil.which("ip"), reason="no ip(8)"),
]


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def device(rt: Runtime) -> Iterator[str]:
    if rt.kind != "ociruntime":
        pytest.skip("Debian's peers are older than netDevices")
    name, other = f"it{os.getpid()}a", f"it{os.getpid()}b"
    ip("link", "add", name, "type", "veth", "peer", "name", other)
    ip("addr", "add", "10.77.8.2/24", "dev", name)
    ip("addr", "add", "2001:db8::8/64", "dev", name, "nodad")
    ip("link", "set", name, "up")
    yield name
    subprocess.run(["ip", "link", "del", other], capture_output=True, check=False)


def shown(name: str) -> dict[str, Any]:
    (link,) = json.loads(ip("-j", "addr", "show", "dev", name))
    return dict(link)


def addresses(link: dict[str, Any]) -> set[str]:
    return {entry["local"] for entry in link["addr_info"] if entry["scope"] == "global"}


def test_a_failed_create_gives_it_back(rt: Runtime, bundle: Bundle, device: str) -> None:
    """The end of the container's namespace would have destroyed it."""
    bundle.linux["netDevices"] = {device: {"name": "net0"}}
    bundle.mount("/x", "tmpfs", "tmpfs", "nosuchoption=1")
    result = rt.try_create(bundle.args("sleep")).result.failed("nosuchoption", code=1)
    assert "undo" not in result.err
    link = shown(device)
    assert addresses(link) == {"10.77.8.2", "2001:db8::8"}
    assert "UP" in link["flags"]


def test_a_failing_hook_gives_it_back(rt: Runtime, bundle: Bundle, device: str) -> None:
    bundle.linux["netDevices"] = {device: {}}
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
    rt.try_create(bundle.args("sleep")).result.failed(code=1)
    assert addresses(shown(device)) == {"10.77.8.2", "2001:db8::8"}


@pytest.fixture
def pod() -> Iterator[str]:
    """A network namespace that somebody else holds."""
    with subprocess.Popen(["unshare", "-n", "sleep", "1000"]) as holder:
        path = f"/proc/{holder.pid}/ns/net"
        own = os.stat("/proc/self/ns/net").st_ino
        poll(lambda: os.stat(path).st_ino != own, "no namespace")
        yield path
        holder.kill()


@pytest.mark.parametrize("case", ["new", "joined", "in a user namespace"])
def test_it_is_inside_with_all_it_had(
    rt: Runtime, bundle: Bundle, device: str, pod: str, case: str
) -> None:
    if case == "joined":
        bundle.without_namespace("network").namespace("network", pod)
    elif case != "new":
        bundle.user_namespace()
    bundle.linux["netDevices"] = {device: {"name": "net0"}}
    container = rt.create(bundle.args("sleep")).start()
    command = ["nsenter", "-t", str(container.pid), "-n", "ip", "-j", "addr", "show", "dev", "net0"]
    (link,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert addresses(link) == {"10.77.8.2", "2001:db8::8"}
    assert "UP" in link["flags"]
    run = subprocess.run(["ip", "link", "show", "dev", device], capture_output=True, check=False)
    assert run.returncode != 0


def test_a_failed_create_takes_it_back_from_a_pod(
    rt: Runtime, bundle: Bundle, device: str, pod: str
) -> None:
    """That namespace goes on: the device would stay in it under its new name."""
    bundle.without_namespace("network").namespace("network", pod)
    bundle.linux["netDevices"] = {device: {"name": "net0"}}
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
    rt.try_create(bundle.args("sleep")).result.failed(code=1)
    assert addresses(shown(device)) == {"10.77.8.2", "2001:db8::8"}


def test_the_error_names_the_device(rt: Runtime, bundle: Bundle, device: str) -> None:
    bundle.linux["netDevices"] = {device: {}, "nosuchdev0": {}}
    result = rt.try_create(bundle.args("sleep")).result.failed(code=1)
    assert "move network device nosuchdev0: no such device" in result.err
    assert addresses(shown(device)) == {"10.77.8.2", "2001:db8::8"}

"""Moving real devices between two private network namespaces."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.usefixtures("native"),
    pytest.mark.skipif(not shutil.which("ip"), reason="no ip(8)"),
]

REPOSITORY = Path(__file__).resolve().parents[3]

# Runs in a network namespace of its own; the second one belongs to a sleeping child.
CHILD = """
import json, os, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
setup, devices = json.loads(sys.argv[2])
from ociruntime import errors
from ociruntime.host import netdev
other = subprocess.Popen(["unshare", "--net", "sleep", "60"])
try:
    path = f"/proc/{other.pid}/ns/net"
    while os.readlink(path) == os.readlink("/proc/self/ns/net"):
        time.sleep(0.01)
    for command in setup:
        inside = command.startswith("@")
        words = command.lstrip("@").split()
        where = ["nsenter", "-t", str(other.pid), "-n"] if inside else []
        subprocess.run([*where, "ip", *words], check=True)
    before = os.stat("/proc/self/ns/net").st_ino
    fds = os.listdir("/proc/self/fd")
    namespace = os.open(path, os.O_RDONLY)
    result = {}
    try:
        netdev.move(devices, namespace)
    except errors.Error as exc:
        result["error"] = exc.message
        result["pointer"] = exc.pointer
    os.close(namespace)
    assert os.stat("/proc/self/ns/net").st_ino == before
    assert os.listdir("/proc/self/fd") == fds
    def show(*prefix):
        out = subprocess.run([*prefix, "ip", "-j", "addr"], check=True, capture_output=True).stdout
        return {link["ifname"]: link for link in json.loads(out)}
    result["inside"] = show("nsenter", "-t", str(other.pid), "-n")
    result["outside"] = show()
    print(json.dumps(result))
finally:
    other.kill()
    other.wait()
"""


def move(devices: dict[str, Any], *setup: str) -> dict[str, Any]:
    done = subprocess.run(
        [
            "unshare",
            "--net",
            sys.executable,
            "-c",
            CHILD,
            str(REPOSITORY),
            json.dumps([setup, devices]),
        ],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    result: dict[str, Any] = json.loads(done.stdout)
    return result


VETH = "link add veth0 type veth peer name veth1"


def addresses(link: dict[str, Any]) -> set[str]:
    return {
        f"{entry['local']}/{entry['prefixlen']}"
        for entry in link["addr_info"]
        if entry["scope"] == "global"
    }


def test_move_keeps_name_and_addresses_and_sets_up() -> None:
    result = move(
        {"veth0": {}},
        VETH,
        "addr add 192.0.2.1/24 broadcast 192.0.2.255 dev veth0",
        "addr add 192.0.2.9/32 dev veth0",
        "addr add 2001:db8::1/64 dev veth0",
        "addr add 198.51.100.1/24 scope link dev veth0",
        "addr add 203.0.113.1/24 valid_lft 1000 preferred_lft 1000 dev veth0",
        "link set veth0 mtu 1400 up",
    )
    assert "error" not in result
    assert "veth0" not in result["outside"] and "veth1" in result["outside"]
    link = result["inside"]["veth0"]
    assert "UP" in link["flags"]
    assert link["mtu"] == 1400
    assert addresses(link) == {"192.0.2.1/24", "192.0.2.9/32", "2001:db8::1/64"}
    assert [a["broadcast"] for a in link["addr_info"] if "broadcast" in a] == ["192.0.2.255"]


def test_move_and_rename() -> None:
    result = move(
        {"veth0": {"name": "eth7"}}, VETH, "addr add 192.0.2.1/24 dev veth0 label veth0:x"
    )
    assert addresses(result["inside"]["eth7"]) == {"192.0.2.1/24"}
    assert "UP" in result["inside"]["eth7"]["flags"]


def test_template_name() -> None:
    result = move({"veth0": {"name": "eth%d"}}, VETH, "@link add eth0 type veth peer name other")
    assert "error" not in result
    assert "eth1" in result["inside"]


def test_two_devices() -> None:
    result = move({"veth0": {"name": "a"}, "veth1": {"name": "b"}}, VETH)
    assert {"a", "b", "lo"} == set(result["inside"])


def test_one_that_fails_takes_none_away() -> None:
    """The first is back with its name, its addresses and its state."""
    result = move(
        {"veth0": {"name": "a"}, "veth1": {"name": "b"}, "absent": {}},
        VETH,
        "addr add 192.0.2.1/24 dev veth0",
        "addr add 2001:db8::1/64 preferred_lft 0 dev veth0",
        "link set veth0 up",
    )
    assert result["error"] == "move network device absent: no such device"
    assert set(result["inside"]) == {"lo"}
    assert addresses(result["outside"]["veth0"]) == {"192.0.2.1/24", "2001:db8::1/64"}
    assert "UP" in result["outside"]["veth0"]["flags"]
    assert "UP" not in result["outside"]["veth1"]["flags"]


def test_deprecated_addresses_stay_so() -> None:
    result = move({"veth0": {}}, VETH, "addr add 2001:db8::1/64 preferred_lft 0 dev veth0")
    (entry,) = [a for a in result["inside"]["veth0"]["addr_info"] if a["scope"] == "global"]
    assert entry["preferred_life_time"] == 0
    assert entry["deprecated"] is True


def test_no_such_device() -> None:
    result = move({"absent": {}})
    assert result["error"] == "move network device absent: no such device"
    assert result["pointer"] == "/linux/netDevices/absent"


def test_name_in_use() -> None:
    result = move({"veth0": {"name": "eth0"}}, VETH, "@link add eth0 type veth peer name other")
    assert result["error"] == "move network device veth0: the container has a device eth0 already"
    assert "veth0" in result["outside"]


def test_device_that_cannot_move() -> None:
    """The kernel's refusal (lo is bound to its namespace) reaches the user."""
    result = move({"lo": {"name": "lo9"}})
    assert result["error"].startswith("move network device lo: invalid argument")

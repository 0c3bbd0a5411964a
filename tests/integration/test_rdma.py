"""linux.resources.rdma with a device: RDMA over Ethernet in software, on an interface of the test's (tests/vm)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cgrouplib import ROOT, limits
from tests.integration.harness import Bundle, Runtime
from tests.integration.v2lib import DENY, leaf, needs_v2, value

pytestmark = [pytest.mark.root, needs_v2]

DEVICE = "rxetest"
VERBS = Path("/sys/class/infiniband_verbs")
# Takes handles of a device as libibverbs does (IB_USER_VERBS_CMD_GET_CONTEXT of ib_user_verbs.h), in a cgroup.
USE = """
import ctypes, os, struct, sys
cgroup, node, count = sys.argv[1:]
open(cgroup + "/cgroup.procs", "w").write("0")
answer = ctypes.create_string_buffer(64)
for number in range(int(count)):
    fd = os.open(node, os.O_RDWR)
    try:
        os.write(fd, struct.pack("=IHHQQ", 0, 6, 2, ctypes.addressof(answer), 0))
    except OSError as error:
        print(error.strerror)
    else:
        print("a handle")
"""


def call(*words: str) -> bool:
    if shutil.which(words[0]) is None:
        return False
    return subprocess.run(words, capture_output=True, check=False, timeout=60).returncode == 0


@pytest.fixture
def node() -> Iterator[str]:
    """The device node of a software device."""
    if "rdma" not in (ROOT / "cgroup.controllers").read_text().split():
        pytest.skip("the kernel has no rdma controller")
    if not call("modprobe", "rdma_rxe") or not call("modprobe", "ib_uverbs"):
        pytest.skip("the kernel has no rdma_rxe, or the image no module of it: build-image")
    interface = DEVICE + "0"
    assert call("ip", "link", "add", interface, "type", "dummy")
    try:
        assert call("ip", "link", "set", interface, "up")
        assert call("rdma", "link", "add", DEVICE, "type", "rxe", "netdev", interface)
        names = {(path / "ibdev").read_text().strip(): path.name for path in VERBS.glob("uverbs*")}
        yield f"/dev/infiniband/{names[DEVICE]}"
    finally:
        call("rdma", "link", "delete", DEVICE)
        call("ip", "link", "delete", interface)


@pytest.mark.known("crun", "1.8.1 ignores rdma")
def test_limits(rt: Runtime, bundle: Bundle, node: str) -> None:
    """As the kernel counts them: one handle, and no second."""
    bundle.linux["cgroupsPath"] = f"/{rt.root.name}/c"
    number = os.stat(node).st_rdev
    device = {"type": "c", "major": os.major(number), "minor": os.minor(number)}
    limits(bundle, devices=[DENY, {"allow": True, "access": "rwm", **device}])
    rt.create(limits(bundle, rdma={DEVICE: {"hcaHandles": 1, "hcaObjects": 7}})).start()
    assert value(rt, "rdma.max") == f"{DEVICE} hca_handle=1 hca_object=7"
    command = [sys.executable, "-c", USE, str(leaf(rt)), node, "2"]
    used = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    words = used.stdout.splitlines()
    assert words == ["a handle", "Resource temporarily unavailable"], used.stderr


def test_update(rt: Runtime, bundle: Bundle, node: str) -> None:
    """What is absent stays, and an object alone leaves the handles alone."""
    if rt.kind != "ociruntime":
        pytest.skip("1.1.5 does not take rdma in an update, 1.8.1 ignores it")
    bundle.linux["cgroupsPath"] = f"/{rt.root.name}/c"
    container = rt.create(limits(bundle, rdma={DEVICE: {"hcaHandles": 3}}))
    assert value(rt, "rdma.max") == f"{DEVICE} hca_handle=3 hca_object=max"
    change = bundle.path / "update.json"
    change.write_text('{"rdma": {"%s": {"hcaObjects": 9}}}' % DEVICE)
    container.verb("update", "--resources", str(change)).ok()
    assert value(rt, "rdma.max") == f"{DEVICE} hca_handle=3 hca_object=9"


def test_another_device(rt: Runtime, bundle: Bundle, node: str) -> None:
    """One that is not there: an error that says which there are."""
    if rt.kind == "crun":
        pytest.skip("1.8.1 ignores rdma")
    bundle.linux["cgroupsPath"] = f"/{rt.root.name}/c"
    limits(bundle, rdma={"mlx5_9": {"hcaHandles": 3}})
    result = rt.try_create(bundle).result.failed("rdma.max", "o such device")
    if rt.kind == "ociruntime":
        result.failed("config.json:", f"(there are: {DEVICE})")
        assert not leaf(rt).exists()


def test_with_systemd(rt: Runtime, bundle: Bundle, node: str) -> None:
    """It has no property: through daemon-reload and an update of what has one."""
    if rt.kind == "crun":
        pytest.skip("1.8.1 ignores rdma")
    if not Path("/run/systemd/system").is_dir():
        pytest.skip("needs systemd as pid 1")
    rt.options = ["--systemd-cgroup"]
    bundle.linux["cgroupsPath"] = f"system.slice:{rt.root.name}:c"
    limits(bundle, rdma={DEVICE: {"hcaHandles": 3, "hcaObjects": 9}})
    container = rt.create(bundle).start()
    place = ROOT / container.proc("cgroup").strip().removeprefix("0::/")
    for _ in range(2):
        limit = (place / "rdma.max").read_text().strip()
        assert limit == f"{DEVICE} hca_handle=3 hca_object=9"
        container.verb("update", "--pids-limit", "55").ok()
        assert call("systemctl", "daemon-reload")

"""events: the stream of samples and out-of-memory events, and its end."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance.kit import PATIENCE
from tests.integration.harness import Bundle, Container, Runtime
from tests.integration.test_cgroups import MIB

pytestmark = [pytest.mark.root, pytest.mark.known("crun", "has no events")]


@pytest.fixture
def stream(rt: Runtime) -> Iterator[Any]:
    """A function that starts `events` and returns the process; ended with the test."""
    running: list[subprocess.Popen[str]] = []

    def start(container: Container, *options: str) -> subprocess.Popen[str]:
        command = rt.argv("events", *options, container.id)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def lines(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Every event until the stream ends by itself."""
    out, _ = process.communicate(timeout=10 * PATIENCE)
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.known("runc", "1.1.5 does not end with the container")
def test_samples_come_at_the_interval_until_the_end(
    rt: Runtime, bundle: Bundle, stream: Any
) -> None:
    container = rt.create(bundle.args("sleep")).start()
    process = stream(container, "--interval", f"{200 * PATIENCE:.0f}ms")
    assert process.stdout
    first = json.loads(process.stdout.readline())
    started = time.monotonic()
    second = json.loads(process.stdout.readline())
    assert 0.1 < time.monotonic() - started < 5 * PATIENCE
    for event in (first, second):
        assert (event["type"], event["id"]) == ("stats", container.id)
    container.kill("KILL").ok()
    container.wait()
    began = time.monotonic()
    lines(process)
    assert time.monotonic() - began < 5 * PATIENCE
    if rt.kind == "ociruntime":
        assert process.returncode == 0


def test_out_of_memory(rt: Runtime, bundle: Bundle, stream: Any) -> None:
    """Told at once, not with the next sample."""
    bundle.linux["resources"] = {"memory": {"limit": 16 * MIB, "swap": 16 * MIB}}
    container = rt.create(bundle.args("sleep")).start()
    process = stream(container, "--interval", f"{30 * PATIENCE:.0f}s")
    time.sleep(PATIENCE)  # it watches by then
    result = container.exec("memhog", str(64 * MIB))
    assert result.code == 137
    began = time.monotonic()
    assert process.stdout
    event = json.loads(process.stdout.readline())
    assert event == {"type": "oom", "id": container.id}
    assert time.monotonic() - began < 5 * PATIENCE
    container.kill("KILL").ok()


def test_stats_of_every_controller(rt: Runtime, bundle: Bundle) -> None:
    """The layout of runc's types/events.go, as engines and monitors read it."""
    container = rt.create(bundle.args("sleep")).start()
    data = container.verb("events", "--stats").ok().json()["data"]
    assert {"cpu", "memory", "pids", "blkio", "hugetlb", "intel_rdt"} <= set(data)
    assert {"usage", "throttling"} <= set(data["cpu"])
    assert {"usage", "swap", "kernel", "kernelTCP"} <= set(data["memory"])
    if rt.kind == "ociruntime":  # runc leaves out what is zero
        assert {"cache", "raw"} <= set(data["memory"])
    if Path("/sys/fs/cgroup/cgroup.controllers").exists() and Path("/proc/pressure/cpu").exists():
        assert {"some", "full"} <= set(data["memory"]["psi"])
        assert {"avg10", "avg60", "avg300", "total"} <= set(data["cpu"]["psi"]["some"])


def test_of_a_stopped_container(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("exit", "0")).start()
    container.wait()
    container.verb("events", "--stats").failed("is not running", code=1)

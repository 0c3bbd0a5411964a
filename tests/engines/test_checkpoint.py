"""Checkpoint and restore by the engines, with the real CRIU: a container goes on where it was."""

from __future__ import annotations

import pytest

from conformance.kit import poll
from tests.engines.drivers import IMAGE, Docker, Engine, Podman
from tests.integration.harness import why_no_criu

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(why_no_criu()), reason=f"{why_no_criu()}: make test-vm-engines"),
]
COUNT = "i=0; while :; do i=$((i+1)); echo $i; echo $i >/counted; sleep 0.1; done"


def numbers(engine: Engine, name: str) -> list[int]:
    return [int(line) for line in engine.call("logs", name).ok().out.split()]


def counting(engine: Engine) -> str:
    """A container that has counted a little."""
    name = engine.detached(IMAGE, "sh", "-c", COUNT)
    poll(lambda: len(numbers(engine, name)) > 2, "does not count")
    return name


def goes_on(engine: Engine, name: str, before: int) -> None:
    """It counts further, no number is missing and none comes twice."""
    poll(lambda: numbers(engine, name)[-1] > before + 2, "does not count further")
    said = numbers(engine, name)
    assert said == list(range(said[0], said[0] + len(said)))
    assert int(engine.execute(name, "cat /counted")[0]) > before


@pytest.mark.engines("podman")
def test_podman(engine: Podman) -> None:
    name = counting(engine)
    engine.call("container", "checkpoint", name).ok()
    assert engine.state(name)["Status"] == "exited" and engine.state(name)["Checkpointed"]
    before = numbers(engine, name)[-1]
    engine.call("container", "restore", name).ok()
    assert engine.state(name)["Status"] == "running"
    goes_on(engine, name, before)
    assert engine.call("stop", "--time", "0", name).code == 0


@pytest.mark.engines("podman")
def test_podman_leave_running(engine: Podman) -> None:
    name = counting(engine)
    engine.call("container", "checkpoint", "--leave-running", name).ok()
    assert engine.state(name)["Status"] == "running"
    goes_on(engine, name, numbers(engine, name)[-1])


@pytest.mark.engines("docker")
def test_docker(engine: Docker) -> None:
    name = counting(engine)
    engine.call("checkpoint", "create", name, "one").ok()
    engine.wait_for(name, "exited")
    before = numbers(engine, name)[-1]
    engine.call("start", "--checkpoint", "one", name).ok()
    goes_on(engine, name, before)

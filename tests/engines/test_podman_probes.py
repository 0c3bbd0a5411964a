"""Probes that fire by themselves: podman leaves the clock to systemd, whose place timers.py takes."""

from __future__ import annotations

import json

import pytest
from pytest_subtests import SubTests

from conformance.kit import poll
from tests.engines.drivers import IMAGE, Podman
from tests.engines.drivers.podman import INFRA
from tests.engines.timers import running

pytestmark = [pytest.mark.root, pytest.mark.engines("podman", "user-podman", peers=1)]
FLAGS = ("--health-cmd", "test -e /healthy", "--health-interval", "300ms", "--health-retries", "2")


def health(engine: Podman, name: str) -> str:
    state = engine.state(name)
    found: str = (state.get("Health") or state["Healthcheck"])["Status"]
    return found


def calm(engine: Podman, name: str, file: str) -> None:
    """Make the container healthy, and wait until it is, so that no restart is under way."""
    poll(lambda: engine.call("exec", name, "touch", file).code == 0, "not running")
    poll(lambda: health(engine, name) == "healthy", "not healthy again")


def test_health(engine: Podman) -> None:
    """Nobody asks: unhealthy after two probes, healthy when one succeeds, silent when the container has stopped."""
    with running(engine) as timers:
        name = engine.service(*FLAGS)
        poll(lambda: health(engine, name) == "unhealthy", "not unhealthy")
        engine.execute(name, "touch /healthy")
        poll(lambda: health(engine, name) == "healthy", "not healthy")
        engine.call("stop", "--time", "5", name).ok()
        assert [event.is_set() for event in timers.stopped.values()] == [True]
        assert sum(timers.fired.values()) >= 3


@pytest.mark.engines("podman", peers=1)
def test_actions(engine: Podman, subtests: SubTests) -> None:
    """What podman does about an unhealthy container, within the probe that finds it.

    Healthy before the end: a restart that meets `rm` leaves podman 4.3 a container that it does not know any more,
    with runc as often as with ociruntime.
    """
    script = "echo up; trap 'exit 3' TERM; sleep 1000 & wait"
    with running(engine):
        names = {
            action: engine.detached(
                *FLAGS, "--health-on-failure", action, IMAGE, "sh", "-c", script
            )
            for action in ("kill", "stop", "restart")
        }
        for action, status in (("kill", 137), ("stop", 3)):
            with subtests.test(action):
                engine.wait_for(names[action], "exited")
                assert engine.state(names[action])["ExitCode"] == status
        with subtests.test("restart"):
            poll(lambda: engine.logs(names["restart"]).count("up") >= 2, "not restarted")
            calm(engine, names["restart"], "/healthy")


def test_startup_probe(engine: Podman) -> None:
    """The probe of the start comes first; the other takes over when it has succeeded."""
    if "--health-startup-cmd" not in engine.call("run", "--help").out:
        pytest.skip(f"{engine.version()} has no --health-startup-cmd")
    with running(engine):
        start = ("--health-startup-cmd", "test -e /started", "--health-startup-interval", "300ms")
        name = engine.service(*FLAGS, *start)
        engine.execute(name, "touch /started")
        poll(lambda: health(engine, name) == "unhealthy", "the second probe does not run")
        engine.execute(name, "touch /healthy")
        poll(lambda: health(engine, name) == "healthy", "not healthy")


def test_liveness_of_a_pod(engine: Podman) -> None:
    """`kube play` with a livenessProbe: the container that fails it is started anew.

    A second container keeps the pod: podman ends a pod of `kube play` in which none but its own container runs, and a
    container that is being restarted does not run for a moment.
    """
    if engine.call("image", "exists", INFRA).code != 0:
        flags = ("--quiet", "--change", 'CMD ["sleep","1000"]', "--change", "ENV PATH=/bin")
        engine.call("import", *flags, "/run/image.tar", INFRA).ok()
    name = engine.new_name()
    probe = {
        "exec": {"command": ["test", "-e", "/alive"]},
        "periodSeconds": 1,
        "timeoutSeconds": 60,
    }
    script = "echo up; touch /alive; trap 'exit 0' TERM; sleep 1000 & wait"
    plain = {"image": INFRA, "imagePullPolicy": "Never", "command": ["sh", "-c", script]}
    probed = {**plain, "name": "main", "livenessProbe": {**probe, "failureThreshold": 1}}
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}}
    spec = {"containers": [probed, {**plain, "name": "other"}]}
    engine.world.path("/run/pod.yaml").write_text(json.dumps({**document, "spec": spec}))
    with running(engine):
        try:
            engine.call("kube", "play", "--network", "none", "/run/pod.yaml").ok()
            poll(lambda: health(engine, f"{name}-main") == "healthy", "not healthy")
            engine.execute(f"{name}-main", "rm /alive")
            poll(lambda: engine.logs(f"{name}-main").count("up") >= 2, "not restarted")
            calm(engine, f"{name}-main", "/alive")
            assert engine.logs(f"{name}-other") == ["up"]
        finally:
            engine.call("kube", "down", "/run/pod.yaml")
            engine.remove_pods_parent()

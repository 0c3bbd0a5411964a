"""docker-compose: services that depend on each other, on a network and a volume of their own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from conformance.kit import Result
from tests.engines.drivers import IMAGE, Docker
from tests.engines.groupfiles import reading

pytestmark = [pytest.mark.root, pytest.mark.engines("docker")]
PROJECT = f"""
version: "2.4"
services:
  store:
    image: {IMAGE}
    command: ["sh", "-c", "mkdir -p /data/www; echo page >/data/www/index.html; exec httpd -f -h /data/www"]
    stop_signal: SIGKILL
    volumes: ["data:/data"]
    mem_limit: 48m
    pids_limit: 20
    healthcheck: {{test: ["CMD", "test", "-e", "/data/www/index.html"], interval: 1s}}
    networks: {{inner: {{aliases: [other-name]}}}}
  client:
    build: .
    init: true
    command: ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"]
    depends_on: {{store: {{condition: service_healthy}}}}
    environment: [WORD=told]
    read_only: true
    tmpfs: [/tmp]
    cap_drop: [ALL]
    sysctls: {{net.ipv4.ip_unprivileged_port_start: 80}}
    volumes: ["data:/data:ro"]
    ports: ["127.0.0.1:8099:80"]
    networks: [inner]
networks:
  inner: {{internal: true}}
volumes:
  data: {{}}
"""


class Compose:
    """The project's command line."""

    def __init__(self, engine: Docker) -> None:
        self.engine = engine

    def __call__(self, *args: str) -> Result:
        env = {
            **self.engine.env,
            "DOCKER_HOST": "unix:///run/docker.sock",
            "COMPOSE_DOCKER_CLI_BUILD": "0",
        }
        command = (
            "docker-compose",
            "--project-directory",
            "/run/project",
            "-f",
            "/run/project/compose.yml",
        )
        return self.engine.world.call(*command, *args, env=env, timeout=120)


@pytest.fixture
def compose(engine: Docker) -> Iterator[Compose]:
    if shutil.which("docker-compose") is None:
        pytest.skip("not installed: docker-compose")
    engine.world.call("mkdir", "-p", "/run/project").ok()
    engine.world.path("/run/project/compose.yml").write_text(PROJECT)
    engine.world.path("/run/project/Dockerfile").write_text(
        f"FROM {IMAGE}\nRUN echo built >/built\n"
    )
    call = Compose(engine)
    engine.used = True
    yield call
    call("down", "--volumes", "--timeout", "0", "--rmi", "local").ok()


def test_project(engine: Docker, compose: Compose) -> None:
    """Each call costs a second of Python, so there are few."""
    compose("up", "--detach", "--scale", "store=2").ok()
    assert len(engine.containers()) == 3
    script = "cat /built /data/www/index.html; echo $WORD; touch /x 2>/dev/null || echo sealed;"
    script += "grep CapEff /proc/self/status | cut -f2;"
    for name in ("store", "other-name"):
        ask = f"$(nslookup {name} | awk '/^Address/ {{a = $NF}} END {{print a}}')"
        script += f'printf "GET / HTTP/1.0\\r\\n\\r\\n" | nc -w 5 {ask} 80 | tail -n 1;'
    lines = compose("exec", "-T", "client", "sh", "-c", script).ok().out.split()
    assert lines == ["built", "page", "told", "sealed", "0" * 16, "page", "page"], lines
    limit = reading("memory/memory.limit_in_bytes")
    assert engine.execute("project_store_1", limit) == [str(48 << 20)]
    assert compose("run", "--rm", "-T", "--no-deps", "client", "sh", "-c", "exit 9").code == 9
    compose("stop", "--timeout", "5").ok()
    assert not engine.call("ps", "--quiet").ok().out


def test_attached(engine: Docker, compose: Compose) -> None:
    """`up` in the foreground ends with the status of the service that it is told."""
    text = PROJECT.replace("while :; do sleep 0.1; done", "echo said-it; exit 6")
    engine.world.path("/run/project/compose.yml").write_text(text)
    result = compose("up", "--no-color", "--exit-code-from", "client", "--timeout", "0")
    assert result.code == 6 and "said-it" in result.out, result

"""The teller of docker_story.py, and how it starts each engine in the story's world."""

from __future__ import annotations

import json
import re
import subprocess
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from conformance.kit import poll
from tests.engines.world import PATH, World

__all__ = ["ENGINES", "REGISTRY", "Broken", "Engine", "Story"]

REGISTRY = "127.0.0.1:5000"


class Broken(Exception):
    """A claim does not hold, or a command failed."""


class Story:
    """Tells what it does and what it sees."""

    def __init__(self, world: World, engine: Engine) -> None:
        self.world = world
        self.engine = engine
        self.env = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", **engine.env}
        self.claims = 0

    def chapter(self, title: str, text: str = "") -> None:
        print(f"\n━━ {title}")
        if text:
            print(textwrap.indent(textwrap.fill(text, 110), "   "))

    def run(self, command: str, *, fails: bool = False, quiet: bool = False) -> str:
        """Run a shell line in the world and show it.  Raises Broken when it fails, or with `fails` does not."""
        command = re.sub("  +", " ", command)
        print(f"   $ {command}")
        result = self.world.call("sh", "-c", command, env=self.env, timeout=120)
        text = (result.out + result.err).rstrip()
        for line in [] if quiet else text.splitlines():
            print(f"       {line[:150]}{'…' if line[150:] else ''}", flush=True)
        if (result.code != 0) != fails:
            logs = "\n".join(line[:200] for line in self.world.story(8).splitlines())
            raise Broken(f"status {result.code}: {command}\n{text}\n{logs}")
        return text

    def look(self, command: str) -> str:
        """Run a shell line that only looks, without showing it."""
        return self.world.call("sh", "-c", command, env=self.env).ok().out.strip()

    def wait_for(self, command: str) -> None:
        """Until the shell line succeeds."""
        poll(
            lambda: self.world.call("sh", "-c", command, env=self.env).code == 0,
            f"never succeeds: {command}",
        )

    def claim(self, what: str, holds: bool) -> None:
        if not holds:
            raise Broken(f"this does not hold: {what}")
        self.claims += 1
        print(f"   ✓ {what}", flush=True)

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.look(f"{self.engine.command} inspect {name}"))[0]
        return found


class Engine:
    """How the engine is started, and where its words differ."""

    packages: tuple[str, ...] = ()
    command = ""
    env: Mapping[str, str] = MappingProxyType({})
    sees_oom = True
    remove_all = ""

    def __init__(self, runtime: Path) -> None:
        self.runtime = str(runtime)
        features = subprocess.run(
            [runtime, "features"], capture_output=True, text=True, check=False
        ).stdout
        self.time_namespaces = '"time"' in features

    def start(self, story: Story) -> None:
        """Configure it, start its daemon, show what it is."""

    def flags(self, story: Story) -> str:
        """What each `run` needs."""
        return ""

    def joined(self, name: str) -> str:
        """What `run` needs for a container in a namespace of another."""
        return ""

    def with_time(self) -> str:
        """`run` by the runtime that adds a time namespace."""
        raise NotImplementedError


class Docker(Engine):
    packages = ("docker.io", "containerd")
    command = "docker"
    remove_all = "docker rm --force $(docker ps --all --quiet)"
    env = MappingProxyType({"DOCKER_HOST": "unix:///run/docker.sock", "DOCKER_BUILDKIT": "0"})

    def start(self, story: Story) -> None:
        limits = {"nofile": {"Name": "nofile", "Hard": 1024, "Soft": 1024}}
        config = {
            "data-root": "/run/docker-data",
            "exec-root": "/run/docker-exec",
            "pidfile": "/run/docker.pid",
            "hosts": [self.env["DOCKER_HOST"]],
            "runtimes": {
                "chosen": {"path": self.runtime},
                "with-time": {"path": "/run/bin/with-time"},
            },
            "default-runtime": "chosen",
            "userns-remap": "default",
            "default-cgroupns-mode": "private",
            "cgroup-parent": f"/{story.world.name}",
            "storage-driver": "overlay2",
            "default-ulimits": limits,
        }
        ids = "dockremap:300000:65536"
        story.look(
            "mkdir -p /etc/docker; echo dockremap:x:200:200::/:/bin/false >>/etc/passwd;"
            "echo dockremap:x:200: >>/etc/group;"
            f"echo {ids} >>/etc/subuid; echo {ids} >>/etc/subgid"
        )
        story.world.path("/etc/docker/daemon.json").write_text(json.dumps(config, indent=2))
        story.run('jq -c \'{runtimes, "userns-remap", "cgroup-parent"}\' /etc/docker/daemon.json')
        print("   $ dockerd &")
        story.world.daemon(
            "dockerd",
            log="/run/dockerd.log",
            ready=lambda: story.world.call("docker", "version", env=story.env).code == 0,
            env=story.env,
        )
        words = "dockerd {{.ServerVersion}}, runtime {{.DefaultRuntime}}, storage {{.Driver}}"
        story.run(f"docker info --format '{words}'")

    def with_time(self) -> str:
        return "docker run --runtime with-time"


class Podman(Engine):
    packages = ("podman", "netavark", "aardvark-dns")
    command = "podman"
    # It may meet its own clean-up after the end of a container, with each runtime: "shm: busy".
    remove_all = "until podman rm --force --all --time 0; do sleep 1; done"
    env = MappingProxyType(
        {
            "CONTAINERS_CONF": "/run/containers.conf",
            "CONTAINERS_STORAGE_CONF": "/run/storage.conf",
            "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",  # podman 5 would warn in each answer
        }
    )
    sees_oom = False  # conmon misses some

    def start(self, story: Story) -> None:
        engine = f"""
            [containers]
            default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
            [engine]
            runtime = "chosen"
            cgroup_manager = "cgroupfs"
            events_logger = "file"
            runtime_supports_json = ["chosen"]
            [engine.runtimes]
            chosen = ["{self.runtime}"]
            [network]
            network_backend = "netavark"
            network_config_dir = "/run/networks"
        """
        storage = """
            [storage]
            driver = "overlay"
            graphroot = "/run/podman-data"
            runroot = "/run/podman-run"
        """
        story.world.path("/run/containers.conf").write_text(textwrap.dedent(engine))
        story.world.path("/run/storage.conf").write_text(textwrap.dedent(storage))
        story.look(
            "echo containers:300000:65536 >>/etc/subuid; echo containers:300000:65536 >>/etc/subgid"
        )
        story.world.path("/etc/containers/registries.conf").write_text(
            f'[[registry]]\nlocation = "{REGISTRY}"\ninsecure = true\n'
        )
        words = "podman {{.Version.Version}}, runtime {{.Host.OCIRuntime.Path}}, storage {{.Store.GraphDriverName}}"
        story.run(f"podman info --format '{words}'")

    def flags(self, story: Story) -> str:
        return f"--cgroup-parent /{story.world.name} --userns auto:size=4096 --cgroupns private"

    def joined(self, name: str) -> str:
        return f"--userns container:{name}"

    def with_time(self) -> str:
        return "podman --runtime /run/bin/with-time run"


ENGINES: dict[str, type[Engine]] = {"docker": Docker, "podman": Podman}

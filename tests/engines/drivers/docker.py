"""dockerd with a containerd of its own."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from tests.engines.drivers.base import LIMITS, Engine
from tests.engines.drivers.containerd import Containerd

__all__ = ["Docker"]


class Docker(Containerd):
    """dockerd on a containerd of its own; the runtime is its default one."""

    kind = "docker"
    common = True
    command: tuple[str, ...] = ("docker", "--host", "unix:///run/docker.sock")
    exec_codes = (126, 126)  # 20.10
    state_patterns = ("docker-exec/runtime-*/*/[!.]*",)

    def start(self) -> None:
        super().start()
        path = "/usr/sbin/runc" if self.runtime == "runc" else str(self.world.runtime)
        config = {
            "containerd": self.socket,
            "hosts": ["unix:///run/docker.sock"],
            "data-root": "/run/docker-data",
            "exec-root": "/run/docker-exec",
            "pidfile": "/run/docker.pid",
            "runtimes": {"chosen": {"path": path}},
            "default-runtime": "chosen",
            "cgroup-parent": f"/{self.world.name}",
            "live-restore": True,
            "default-ulimits": {
                limit.partition("=")[0]: {
                    "Name": limit.partition("=")[0],
                    "Hard": 1024,
                    "Soft": 1024,
                }
                for limit in LIMITS
            },
        }
        self.world.path("/run/docker.json").write_text(json.dumps(config))
        self.start_daemon()

    def start_daemon(self) -> None:
        self.daemon = self.world.daemon(
            *("dockerd", "--config-file", "/run/docker.json"),
            log="/run/dockerd.log",
            ready=lambda: self.call("version").code == 0,
            env=self.env,
        )

    def get(self, path: str) -> Any:
        """What dockerd's API answers to GET."""
        connection = http.client.HTTPConnection("localhost", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.world.path("/run/docker.sock")))
        try:
            connection.request("GET", path)
            return json.load(connection.getresponse())
        finally:
            connection.close()

    def prepare(self) -> None:
        Engine.prepare(self)

    def tidy(self) -> None:
        Engine.tidy(self)

    def own_group(self, path: Path) -> bool:
        # The parent of BuildKit's containers.  Which of several at once made it may not be the last to go.
        return path.name == "buildkit"

    def version(self) -> str:
        return Engine.version(self)

    def run_flags(self) -> list[str]:
        return ["--network", "none"]

"""dockerd with a containerd of its own."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from tests.engines.drivers.base import LIMITS, Engine
from tests.engines.drivers.containerd import Containerd
from tests.engines.world import TIMEOUT, USER_HOME, USER_ID

__all__ = ["Docker", "RemappedDocker", "UserDocker"]


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
        config: dict[str, Any] = {
            "containerd": self.socket,
            "hosts": ["unix:///run/docker.sock"],
            "data-root": "/run/docker-data",
            "exec-root": "/run/docker-exec",
            "pidfile": "/run/docker.pid",
            "runtimes": {"chosen": {"path": path}},
            "default-runtime": "chosen",
            "cgroup-parent": self.world.parent,
            "exec-opts": [f"native.cgroupdriver={self.driver()}"],
            "live-restore": True,
            "experimental": True,  # checkpoint
            "default-ulimits": {
                limit.partition("=")[0]: {
                    "Name": limit.partition("=")[0],
                    "Hard": 1024,
                    "Soft": 1024,
                }
                for limit in LIMITS
            },
        }
        config.update(self.own_config())
        self.world.path("/run/docker.json").write_text(json.dumps(config))
        self.start_daemon()

    def driver(self) -> str:
        """How dockerd makes cgroups."""
        return "systemd" if self.world.systemd else "cgroupfs"

    def own_config(self) -> dict[str, Any]:
        """What a variant adds to daemon.json."""
        return {}

    def start_daemon(self) -> None:
        self.daemon = self.world.daemon(
            *("dockerd", "--config-file", "/run/docker.json"),
            log="/run/dockerd.log",
            ready=lambda: self.call("version").code == 0,
            env=self.env,
        )

    def stop_daemon(self, signal: str) -> None:
        [pid] = [p for p, t in self.world.processes().items() if t.startswith("dockerd ")]
        self.world.call("kill", f"-{signal}", str(pid)).ok()
        self.daemon.wait(timeout=TIMEOUT)

    def note_daemon(self) -> None:
        """dockerd was started again by the test: it is no leak."""
        words = ("dockerd ", "rootlesskit", "containerd --config", "/proc/self/exe --net")
        self.idle |= {p for p, t in self.world.processes().items() if t.startswith(words)}

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

    def forget(self, name: str) -> None:
        """dockerd 26 leaves the root file system of an exported container mounted, with each runtime: no leak."""
        self.forgotten.add(f"overlay {self.inspect(name)['GraphDriver']['Data']['MergedDir']}")

    def version(self) -> str:
        return Engine.version(self)


class RemappedDocker(Docker):
    """dockerd that gives each container a user namespace."""

    kind = "docker-remapped"
    common = False
    first = 300000
    state_patterns = ("docker-exec/*/runtime-*/*/[!.]*", *Docker.state_patterns)

    def own_config(self) -> dict[str, Any]:
        ids = f"dockremap:{self.first}:65536"
        script = "echo dockremap:x:200:200::/:/bin/false >>/etc/passwd; echo dockremap:x:200: >>/etc/group;"
        script += f"echo {ids} >>/etc/subuid; echo {ids} >>/etc/subgid"
        self.world.call("sh", "-c", script).ok()
        return {"userns-remap": "default"}


class UserDocker(Docker):
    """dockerd of an ordinary user, in rootlesskit's user namespace and a network namespace of its own.

    On cgroup v1 it has no cgroups, with systemd those of the user's session.
    Debian has no dockerd-rootless.sh: this does what that does.
    """

    kind = "user-docker"
    common = False
    user = True
    place = f"/run/user/{USER_ID}"
    command: tuple[str, ...] = ("docker", "--host", f"unix://{place}/docker.sock")
    files = (Path("/usr/bin/rootlesskit"),)
    state_patterns = ("user/*/docker-exec/runtime-*/*/[!.]*", *Engine.state_patterns)

    def start(self) -> None:
        self.env |= {"HOME": USER_HOME, "XDG_RUNTIME_DIR": self.place}
        path = "/usr/sbin/runc" if self.runtime == "runc" else str(self.world.runtime)
        config: dict[str, Any] = {
            "hosts": [self.command[2]],
            "data-root": "/var/tmp/docker",
            "exec-root": f"{self.place}/docker-exec",
            "pidfile": f"{self.place}/docker.pid",
            "runtimes": {"chosen": {"path": path}},
            "default-runtime": "chosen",
        }
        if self.world.systemd:
            config |= {"exec-opts": [f"native.cgroupdriver={self.driver()}"]}
            config |= {"cgroup-parent": self.world.parent}
        self.world.path("/run/docker.json").write_text(json.dumps(config))
        self.start_daemon()

    def start_daemon(self) -> None:
        # dockerd may not read AppArmor's profiles; a rootlesskit that makes the network mounts a /sys without them.
        script = "mount -t tmpfs none /sys/kernel/security && ip link set lo up"
        script += " && exec dockerd --rootless --config-file /run/docker.json"
        if not self.world.call("docker", "--version").ok().out.startswith("Docker version 20."):
            # Later ones ask rootlesskit for its network and fall over there being none.
            script = f"unset ROOTLESSKIT_STATE_DIR; {script}"
        self.daemon = self.world.daemon(
            *("rootlesskit", "--net=host", "--copy-up=/etc", "--copy-up=/run"),
            *("--propagation=rprivate", f"--state-dir={self.place}/rootlesskit"),
            *("unshare", "--net", "sh", "-c", f"rm -f /run/docker; {script}"),
            log="/run/dockerd.log",
            ready=lambda: self.call("version").code == 0,
            env=self.env,
            user=True,
        )

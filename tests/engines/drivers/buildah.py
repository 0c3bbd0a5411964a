"""buildah, as root and as an ordinary user: working containers and builds."""

from __future__ import annotations

from pathlib import Path

from conformance.kit import Result
from tests.engines.drivers.base import IMAGE, OURS, Engine
from tests.engines.drivers.podman import Podman, UserPodman

__all__ = ["Buildah", "UserBuildah"]


class Buildah(Podman):
    """buildah as root.  It asks for the state ten times a second while a step runs."""

    kind = "buildah"
    peers = ("runc", "crun")
    common = False
    command: tuple[str, ...] = ("buildah",)

    def start(self) -> None:
        super().start()
        paths = {OURS: str(self.world.runtime), "runc": "/usr/sbin/runc", "crun": "/usr/bin/crun"}
        self.env["BUILDAH_RUNTIME"] = paths[self.runtime]

    def prepare(self) -> None:
        """buildah cannot import: a working container is filled and committed."""
        name = self.call("from", "scratch").ok().out.strip()
        self.call("add", "--quiet", name, "/run/image.tar").ok()
        self.call("config", "--cmd", "sh", name).ok()
        self.call("commit", "--quiet", "--rm", name, IMAGE).ok()

    def place_flags(self) -> list[str]:
        # buildah hands it to the runtime as the path, which for systemd is of three parts.
        if self.world.systemd:
            return ["--cgroup-parent", f"{self.world.parent}:buildah:{self._serial}"]
        return super().place_flags()

    def working(self, *flags: str) -> str:
        """A new working container."""
        name = self.new_name()
        self.call("from", "--name", name, *self.place_flags(), *flags, IMAGE).ok()
        return name

    def within(self, name: str, script: str, *flags: str, stdin: bytes | None = None) -> Result:
        """A script in a working container."""
        network = [] if "--network" in flags else ["--network", "none"]
        return self.call("run", *network, *flags, name, "--", "sh", "-c", script, stdin=stdin)

    def containers(self) -> list[str]:
        return self.call("containers", "--quiet").ok().out.split()

    def tidy(self) -> None:
        if self.containers():
            self.call("rm", "--all").ok()

    def own_group(self, path: Path) -> bool:
        return False

    def version(self) -> str:
        return Engine.version(self)


class UserBuildah(Buildah, UserPodman):
    """buildah as an ordinary user."""

    kind = "user-buildah"
    peers = ("runc",)

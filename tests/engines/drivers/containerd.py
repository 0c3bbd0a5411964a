"""containerd alone, driven by ctr."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from conformance.kit import Result
from tests.engines.drivers.base import ROOTFS, Engine

__all__ = ["Containerd"]


class Containerd(Engine):
    """ctr, with containerd alone; the runtime is the `runc` of the shim's PATH."""

    kind = "ctr"
    command: tuple[str, ...] = ("ctr", "--address", "/run/containerd.sock")
    socket = "/run/containerd.sock"
    state_patterns = ("containerd/runc/*/[!.]*",)

    def start(self) -> None:
        disabled = [f'"io.containerd.snapshotter.v1.{n}"' for n in ("btrfs", "zfs", "devmapper")]
        lines = ["version = 2", 'root = "/run/containerd-root"', 'state = "/run/containerd-state"']
        lines += [f'disabled_plugins = ["io.containerd.grpc.v1.cri", {", ".join(disabled)}]']
        lines += ["[grpc]", f'address = "{self.socket}"']
        lines += ['[plugins."io.containerd.internal.v1.opt"]', 'path = "/run/containerd-opt"']
        self.world.path("/run/containerd.toml").write_text("\n".join(lines) + "\n")
        if self.runtime == "runc":  # the control
            link = self.world.path("/run/bin/runc")
            link.unlink()
            link.symlink_to("/usr/sbin/runc")
        self.world.daemon(
            *("containerd", "--config", "/run/containerd.toml"),
            log="/run/containerd.log",
            ready=lambda: self.world.path(self.socket).exists(),
            env=self.env,
        )

    def prepare(self) -> None:
        """`ctr run --rootfs` needs no image."""

    def task_args(self, flags: Sequence[str], name: str, command: Sequence[str]) -> list[str]:
        """`run` of a task on the image's directory."""
        group = ["--cgroup", f"/{self.world.name}/{name}"]
        if self.world.systemd:
            group = ["--runc-systemd-cgroup", "--cgroup", f"{self.world.parent}:ctr:{name}"]
        path = "PATH=/bin"  # without an image there is none
        return ["run", *group, "--env", path, *flags, "--rootfs", ROOTFS, name, *command]

    def task(self, *command: str, flags: Sequence[str] = (), stdin: bytes | None = None) -> Result:
        """`run --rm` in the foreground.

        ctr may leave before it has copied the output, with each runtime: on a busy machine once in 250 times.
        """
        for _ in range(3):
            words = self.task_args(("--rm", *flags), self.new_name(), command)
            result = self.call(*words, stdin=stdin)
            if result.out:
                break
        return result

    def background(self, *command: str, flags: Sequence[str] = ()) -> str:
        """`run --detach` of a task under a new name, which is returned."""
        name = self.new_name()
        self.call(*self.task_args(("--detach", "--null-io", *flags), name, command)).ok()
        return name

    def task_status(self, name: str) -> str:
        """RUNNING, STOPPED, PAUSED …; empty for an unknown task."""
        for line in self.call("tasks", "ls").ok().out.splitlines():
            if line.split()[0] == name:
                return line.split()[-1]
        return ""

    def version(self) -> str:
        return self.world.call("containerd", "--version").ok().out.strip()

    def tidy(self) -> None:
        for name in self.call("tasks", "ls", "--quiet").ok().out.split():
            self.call("tasks", "delete", "--force", name)
        for name in self.call("containers", "ls", "--quiet").ok().out.split():
            self.call("containers", "delete", name).ok()

    def own_group(self, path: Path) -> bool:
        return False

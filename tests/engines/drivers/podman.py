"""podman, as root and as an ordinary user."""

from __future__ import annotations

import json

from conformance.kit import poll
from tests.engines.drivers.base import IMAGE, LIMITS, OURS, Engine
from tests.engines.world import USER_HOME, USER_ID

__all__ = ["INFRA", "Podman", "UserPodman"]

# The image of pods' own containers, which tests of pods make: podman would build one of its own.
INFRA = "infra"


class Podman(Engine):
    """podman as root."""

    kind = "podman"
    peers = ("runc", "crun")
    common = True
    command: tuple[str, ...] = ("podman",)
    home = "/root"

    def start(self) -> None:
        runtimes = {
            OURS: str(self.world.runtime),
            "runc": "/usr/sbin/runc",
            "crun": "/usr/bin/crun",
        }
        manager = "systemd" if self.world.systemd else "cgroupfs"
        lines = ["[containers]", f"default_ulimits = {json.dumps(LIMITS)}", "[engine]"]
        lines += [f'runtime = "{self.runtime}"', f'cgroup_manager = "{manager}"']
        lines += ['events_logger = "file"', f'runtime_supports_json = ["runc", "crun", "{OURS}"]']
        lines += [f'runtime_supports_nocgroup = ["crun", "{OURS}"]']
        lines += [f'infra_image = "{INFRA}"']  # `kube play` has no flag for it
        lines += ["[engine.runtimes]"]
        lines += [f'{name} = ["{path}"]' for name, path in runtimes.items()]
        lines += ["[network]", 'network_backend = "netavark"']
        lines += ['network_config_dir = "/run/networks"'] if not self.user else []
        self.world.path("/run/containers.conf").write_text("\n".join(lines) + "\n")
        self.env["CONTAINERS_CONF"] = "/run/containers.conf"
        # On a tmpfs: the kernel takes no overlay as an overlay's upper layer, and /var/lib is one here.
        home, run = ("/run", "/run") if not self.user else (self.home, self.env["XDG_RUNTIME_DIR"])
        store = f'graphroot = "{home}/storage"\nrunroot = "{run}/storage.run"\n'
        store = '[storage]\ndriver = "overlay"\n' + store
        self.world.path("/run/storage.conf").write_text(store)
        self.env["CONTAINERS_STORAGE_CONF"] = "/run/storage.conf"
        self.env["HOME"] = self.home
        self.env["PODMAN_IGNORE_CGROUPSV1_WARNING"] = "1"  # podman 5 would warn in each answer

    def tidy(self) -> None:
        self.remove_pods("--all")
        self._insist("rm", "--force", "--all", "--time", "0")

    def remove_pods(self, *which: str) -> None:
        self._insist("pod", "rm", "--force", "--time", "0", *which)

    def _insist(self, *command: str) -> None:
        """With each runtime podman may meet its own clean-up after the end of a container: "shm: busy"."""
        poll(lambda: self.call(*command).code == 0, f"podman cannot {command}")

    def remove_pods_parent(self) -> None:
        """podman puts the pods of `kube play` below a cgroup of its own, which it leaves."""
        if not self.user:
            parent = "/sys/fs/cgroup/*/libpod_parent"
            self.host(f"find {parent} -depth -type d -exec rmdir {{}} + 2>/dev/null; true")

    def init_flags(self) -> list[str]:
        return ["--init", "--init-path", "/usr/bin/tini-static"]

    def place_flags(self) -> list[str]:
        return ["--cgroup-parent", self.world.parent]


class UserPodman(Podman):
    """podman as an ordinary user."""

    kind = "user-podman"
    peers = ("runc",)
    user = True
    home = USER_HOME

    def start(self) -> None:
        self.env["XDG_RUNTIME_DIR"] = f"/run/user/{USER_ID}"
        super().start()

    def prepare(self) -> None:
        super().prepare()
        self.call("run", "--rm", *self.run_flags(), IMAGE, "true").ok()  # leaves the pause process

    def place_flags(self) -> list[str]:
        return super().place_flags() if self.world.systemd else []

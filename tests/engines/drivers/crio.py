"""CRI-O, called over gRPC as the kubelet calls it; it calls the runtime by conmon, as podman does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from conformance.kit import Result, poll
from tests.engines.drivers.base import OURS
from tests.engines.drivers.cri import BOX, PAUSE, Cri, documented

__all__ = ["Crio"]

# $home, $pause, $runtime and $socket stand for the world's; the handlers are those of docs/kubernetes.md.
CONFIGURATION = """
[crio]
root = "/run/crio-root"
runroot = "/run/crio-runroot"
storage_driver = "overlay"
log_dir = "/run/crio-logs"
version_file = "/run/crio-version"
clean_shutdown_file = "/run/crio-clean"
[crio.api]
listen = "$socket"
stream_address = "127.0.0.1"
stream_port = "0"
[crio.image]
pause_image = "$pause"
pause_command = ""
[crio.network]
network_dir = "/run/cni.d"
plugin_dirs = ["/usr/lib/cni"]
[crio.nri]
enable_nri = false
[crio.metrics]
enable_metrics = false
[crio.runtime]
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
pinns_path = "$home/pinns"
default_runtime = "$runtime"
namespaces_dir = "/run/crio-namespaces"
container_exits_dir = "/run/crio-exits"
container_attach_socket_dir = "/run/crio-attach"
drop_infra_ctr = true
hooks_dir = ["/run/crio-hooks"]
"""


class Crio(Cri):
    """A node with CRI-O as `build-crio` made it in the directory that OCIRUNTIME_CRIO names; both handlers."""

    kind = "crio"
    home = Path(os.environ.get("OCIRUNTIME_CRIO", "$OCIRUNTIME_CRIO"))
    files = (*Cri.files, home / "crio", home / "pinns", Path("/usr/bin/conmon"))
    command = ("podman", "--root", "/run/crio-root", "--runroot", "/run/crio-runroot")
    socket = "/run/crio.sock"
    daemon_command = str(home / "crio")
    configuration = "/run/crio.conf"
    log = "/run/crio.log"
    state_patterns = ("ociruntime/[!.]*",)
    left_files: ClassVar[dict[str, str]] = {
        "/run/netns": "*",
        "/run/cni/pods": "10.*",
        "/run/crio-runroot/overlay-containers": "?" * 64,
    }

    def config(self) -> str:
        """CRI-O's configuration: its own places, no network to reach, two handlers."""
        text = CONFIGURATION.replace("$socket", self.socket).replace("$home", str(self.home))
        text = text.replace("$pause", PAUSE).replace("$runtime", self.runtime)
        for name, path in {OURS: self.world.runtime, "runc": self.control()}.items():
            text += documented("[crio", name, path).replace('"/run/ociruntime"', f'"/run/{name}"')
        return text

    def prepare(self) -> None:
        for image, program in ((BOX, "sh"), (PAUSE, "sleep 1000000")):
            change = ("--change", f"CMD {program}", "--change", "ENV PATH=/bin")
            self.call("import", *change, "/run/image.tar", image).ok()
        poll(self.ready, "the node does not become ready", timeout=30.0)

    def tidy(self) -> None:
        """The end of a pod waits a minute for a program that does not heed SIGTERM: the containers first."""
        for number in self.containers():
            self.ask("StopContainer", container_id=number, timeout=0)
        super().tidy()

    def own_group(self, path: Path) -> bool:
        return path.name.startswith("crio-conmon-")

    def ctr(self, *args: str) -> Result:
        raise NotImplementedError

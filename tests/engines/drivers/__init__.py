"""The engines under test, one file each: how each is started in a world and called.

A new engine is a subclass of `Engine` (or of one of these) with a `kind` of its own, named in DRIVERS.
"""

from __future__ import annotations

from tests.engines.drivers.base import BUSYBOX, IMAGE, OURS, ROOTFS, Engine
from tests.engines.drivers.buildah import Buildah, UserBuildah
from tests.engines.drivers.containerd import Containerd
from tests.engines.drivers.cri import Cri, Cri2
from tests.engines.drivers.crio import Crio
from tests.engines.drivers.docker import Docker, RemappedDocker, UserDocker
from tests.engines.drivers.podman import Podman, UserPodman

__all__ = [
    "BUSYBOX",
    "DRIVERS",
    "IMAGE",
    "OURS",
    "ROOTFS",
    "Buildah",
    "Containerd",
    "Cri",
    "Cri2",
    "Crio",
    "Docker",
    "Engine",
    "Podman",
    "RemappedDocker",
    "UserBuildah",
    "UserDocker",
    "UserPodman",
]

# The order of the tables in docs; kind -> class.
DRIVERS: dict[str, type[Engine]] = {
    driver.kind: driver
    for driver in (
        *(Podman, UserPodman, Docker, RemappedDocker, UserDocker),
        *(Buildah, UserBuildah, Containerd, Cri, Cri2, Crio),
    )
}

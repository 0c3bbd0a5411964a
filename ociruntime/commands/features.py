"""`features`: what this runtime can do, as the features structure of the runtime-spec.

Hot module: dockerd and containerd ask at their start. Every list comes from the table that the code itself uses.
"""

from __future__ import annotations

import posix

import ociruntime
from ociruntime import log
from ociruntime.cgroups import systemd_annotations
from ociruntime.host import libseccomp, probe
from ociruntime.plan import mount_options, words
from ociruntime.spec import json_reader
from ociruntime.spec.context import HOOK_KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ociruntime.cli import Call

_FLAG_SINCE = {
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": (5, 19)
}  # the others are older than what is needed

_ARCHS_OF_2_6 = frozenset(("SCMP_ARCH_LOONGARCH64", "SCMP_ARCH_SH"))
"""What libseccomp knows since 2.6; those of the other byte order are left out of any filter."""


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")[:2] if part.isdecimal()]


def document() -> dict[str, Any]:
    """The features structure."""
    annotations = {
        "ociruntime.version": ociruntime.__version__,
        # runc's name, for which engines look
        "org.opencontainers.runc.checkpoint.enabled": "true" if _has_criu() else "false",
    }
    library = _libseccomp()
    if library:
        annotations["io.github.seccomp.libseccomp.version"] = library
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.3.0",
        "hooks": list(HOOK_KINDS),
        "mountOptions": mount_options.known_words(),
        "linux": {
            "namespaces": sorted(words.NAMESPACES),
            "capabilities": list(words.CAPABILITIES),
            "cgroup": {
                "v1": True,
                "v2": True,
                "systemd": True,
                "systemdUser": True,
                "rdma": True,
            },
            "seccomp": _seccomp(library),
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
            "memoryPolicy": {
                "modes": list(words.MEMORY_POLICIES),
                "flags": list(words.MEMORY_FLAGS),
            },
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "annotations": annotations,
        # What they begin with: properties of the container's unit; a file with options of CRIU.
        "potentiallyUnsafeConfigAnnotations": [systemd_annotations.PREFIX, "org.criu.config"],
    }


def _has_criu() -> bool:
    """Whether there is a program `criu` in PATH."""
    search = posix.environ.get(b"PATH", b"/usr/sbin:/usr/bin:/sbin:/bin").decode(
        "utf-8", "surrogateescape"
    )
    return any(
        posix.access(f"{directory or '.'}/criu", posix.X_OK) for directory in search.split(":")
    )


def _libseccomp() -> str:
    """Version of the library that filters are compiled with, or an empty text."""
    try:
        return libseccomp.version(posix.uname().machine)
    except (ImportError, OSError):
        return ""


def _seccomp(library: str) -> dict[str, Any]:
    if not library:
        return {"enabled": False}
    kernel = probe.kernel_version(posix.uname().release)
    return {
        "enabled": True,
        "actions": list(libseccomp.ACTIONS),
        "operators": list(libseccomp.OPERATORS),
        "archs": [
            name
            for name in libseccomp.ARCHITECTURES
            if name not in _ARCHS_OF_2_6 or _numbers(library) >= [2, 6]
        ],
        "knownFlags": list(libseccomp.FLAGS),
        "supportedFlags": [
            flag for flag in libseccomp.FLAGS if kernel >= _FLAG_SINCE.get(flag, (0, 0))
        ],
    }


def run(call: Call) -> int:
    """Print the structure, and nothing but it."""
    log.out(json_reader.dumps(document(), 4) + "\n")
    return 0

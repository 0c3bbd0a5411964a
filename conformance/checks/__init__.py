"""The checks, one module for each part of the specification."""

from __future__ import annotations

import importlib

MODULES = (
    "lifecycle",
    "top",
    "process",
    "identity",
    "hooks",
    "mounts",
    "options",
    "namespaces",
    "devices",
    "netdevices",
    "cgroups",
    "cgroups_v2",
    "cgroups_both",
    "resctrl",
    "kernel",
    "seccomp",
    "features",
)


def load() -> None:
    """Register every check, once."""
    for name in MODULES:
        importlib.import_module(f"{__name__}.{name}")

"""Rows that cannot hold, or cannot be seen, for an ordinary user's containers, and why."""

from __future__ import annotations

_IDMAP = "an id-mapped mount takes a right over the file system that an ordinary user has not"
_ATIME = "the access time flags of the host's mounts are locked in a user namespace"
_NODES = "an ordinary user makes no device nodes"
_USERNS = "an ordinary user's containers always have a user namespace of their own"

NEEDS_ROOT = {
    "5.9": _IDMAP,
    "5.idmap": _IDMAP,
    "5.ridmap": _IDMAP,
    "5.noatime": _ATIME,
    "5.nodiratime": _ATIME,
    "5.strictatime": _ATIME,
    "6.1": _USERNS,
    "6.3": _USERNS,
    "6.4": _USERNS,
    "6.6": _USERNS,
    "6.13": _NODES,
    "6.14": _NODES,
    "6.16": _NODES,
    "6.18": _NODES,
    "6.19": _NODES,
    "6.21": _NODES,
    "7.20": "an ordinary user has no device filter",
    "7.21": "an ordinary user has no device filter",
    "7.60": "the hugetlb controller is not delegated to ordinary users",
}

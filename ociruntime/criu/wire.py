"""The messages of CRIU's RPC in protobuf's encoding (protobuf.dev "Encoding"; criu(8) swrk, criu.org/RPC).

A schema maps a field's name to its number and to what it holds: ``int`` (also bool and enum), ``str``, or the schema of
a message. Field numbers are CRIU's interface and never change. A list is a repeated field.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, tuple[int, Any]]
Message = dict[str, Any]

DUMP, RESTORE, PRE_DUMP, NOTIFY, FEATURE_CHECK, VERSION = 1, 2, 4, 6, 9, 10
"""Types of requests and answers."""

NAMES = {
    DUMP: "DUMP",
    RESTORE: "RESTORE",
    PRE_DUMP: "PRE_DUMP",
    FEATURE_CHECK: "FEATURE_CHECK",
    VERSION: "VERSION",
}

_PAGE_SERVER: Schema = {"address": (1, str), "port": (2, int), "pid": (3, int), "fd": (4, int)}
_EXT_MOUNT: Schema = {"key": (1, str), "val": (2, str)}
_CGROUP_ROOT: Schema = {"ctrl": (1, str), "path": (2, str)}
_INHERIT_FD: Schema = {"key": (1, str), "fd": (2, int)}
_FEATURES: Schema = {"mem_track": (1, int), "lazy_pages": (2, int)}

OPTIONS: Schema = {
    "images_dir_fd": (1, int),
    "pid": (2, int),
    "leave_running": (3, int),
    "ext_unix_sk": (4, int),
    "tcp_established": (5, int),
    "shell_job": (7, int),
    "file_locks": (8, int),
    "log_level": (9, int),
    "log_file": (10, str),
    "ps": (11, _PAGE_SERVER),
    "notify_scripts": (12, int),
    "root": (13, str),
    "parent_img": (14, str),
    "track_mem": (15, int),
    "auto_dedup": (16, int),
    "work_dir_fd": (17, int),
    "link_remap": (18, int),
    "ext_mnt": (23, _EXT_MOUNT),
    "manage_cgroups": (24, int),
    "cg_root": (25, _CGROUP_ROOT),
    "rst_sibling": (26, int),
    "inherit_fd": (27, _INHERIT_FD),
    "manage_cgroups_mode": (34, int),
    "external": (37, str),
    "empty_ns": (38, int),
    "freeze_cgroup": (44, str),
    "tcp_skip_in_flight": (46, int),
    "lazy_pages": (48, int),
    "status_fd": (49, int),
    "orphan_pts_master": (50, int),
    "config_file": (51, str),
    "tcp_close": (52, int),
    "lsm_profile": (53, str),
    "lsm_mount_context": (63, str),
    "network_lock": (64, int),
}
REQUEST: Schema = {
    "type": (1, int),
    "opts": (2, OPTIONS),
    "notify_success": (3, int),
    "features": (5, _FEATURES),
}
RESPONSE: Schema = {
    "type": (1, int),
    "success": (2, int),
    "restore": (4, {"pid": (1, int)}),
    "notify": (5, {"script": (1, str), "pid": (2, int)}),
    "ps": (6, _PAGE_SERVER),
    "cr_errno": (7, int),
    "features": (8, _FEATURES),
    "cr_errmsg": (9, str),
    "version": (10, {"major": (1, int), "minor": (2, int), "sublevel": (4, int)}),
}


def encode(schema: Schema, message: Message) -> bytes:
    """The bytes of a message."""
    parts = []
    for name, value in message.items():
        number, kind = schema[name]
        for item in value if isinstance(value, list) else [value]:
            if kind is int:
                parts.append(_varint(number << 3) + _varint(int(item)))
                continue
            data = item.encode("utf-8", "surrogateescape") if kind is str else encode(kind, item)
            parts.append(_varint(number << 3 | 2) + _varint(len(data)) + data)
    return b"".join(parts)


def decode(schema: Schema, data: bytes) -> Message:
    """The fields of a message; unknown ones are left out, of a repeated one the last counts.

    Raises ValueError for what is no message.
    """
    names = {number: (name, kind) for name, (number, kind) in schema.items()}
    message: Message = {}
    position = 0
    while position < len(data):
        head, position = _read_varint(data, position)
        kind_of_wire = head & 7
        value: Any
        if kind_of_wire == 0:
            value, position = _read_varint(data, position)
        elif kind_of_wire in (1, 5):
            position += 8 if kind_of_wire == 1 else 4
            continue
        elif kind_of_wire == 2:
            size, position = _read_varint(data, position)
            value = data[position : position + size]
            position += size
            if position > len(data):
                raise ValueError("truncated field")
        else:
            raise ValueError(f"unknown wire type {kind_of_wire}")
        name, kind = names.get(head >> 3, ("", None))
        if not name or isinstance(value, bytes) == (kind is int):
            continue
        if kind is str:
            value = value.decode("utf-8", "surrogateescape")
        elif kind is not int:
            value = decode(kind, value)
        elif value >= 1 << 63:
            value -= 1 << 64
        message[name] = value
    return message


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers take ten bytes
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise ValueError("truncated number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position

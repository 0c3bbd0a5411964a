"""A plan for people and for programs: every operation in words, decoded, with the place that caused it.

Cold: runs in the full interpreter only.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from ociruntime.plan import attribute, mount_options, ops, words
from ociruntime.spec.locate import Places

if TYPE_CHECKING:
    from collections.abc import Callable

    from ociruntime.plan.ops import Plan

_NAMES = {
    ops.SETNS: "SETNS slot:fd namespaces:namespaces",
    ops.UNSHARE: "UNSHARE namespaces:namespaces",
    ops.CLONE: "CLONE flags:hex",
    ops.SYNC: "SYNC tag:tag",
    ops.GATE: "GATE socket:fd",
    ops.CHDIR: "CHDIR root:fd path:text",
    ops.FIND_EXE: "FIND_EXE name:text path:text",
    ops.EXEC: "EXEC argv:vector argc:skip env:vector envc:skip path:text",
    ops.CLOSE: "CLOSE slot:fd",
    ops.SYSCALL: "SYSCALL",
    ops.WRITE: "WRITE dir:fd path:text data:text flags:write",
    ops.OPEN: "OPEN to:fd dir:fd path:text flags:oct resolve:resolve type:oct rdev:device",
    ops.ROOT: "ROOT to:fd tree:fd path:text flags:hex",
    ops.MKDIR: "MKDIR root:fd path:text mode:oct uid:id gid:id",
    ops.MKFILE: "MKFILE root:fd path:text mode:oct uid:id gid:id",
    ops.SYMLINK: "SYMLINK root:fd path:text target:text",
    ops.MKNOD: "MKNOD root:fd path:text mode:oct rdev:device uid:id gid:id",
    ops.FSMOUNT: "FSMOUNT to:fd type:text source:text options:vector count:skip attributes:attributes",
    ops.TREE: "TREE to:fd dir:fd path:text flags:tree resolve:resolve",
    ops.ATTACH: "ATTACH tree:fd root:fd path:text target:target resolve:resolve keep:fd",
    ops.SETATTR: "SETATTR mount:fd set:attributes clear:attributes propagation:propagation flags:tree userns:fd",
    ops.MASK: "MASK root:fd path:text null:fd empty:fd",
    ops.READONLY: "READONLY root:fd path:text",
    ops.COPYUP: "COPYUP tree:fd root:fd path:text kept:kept",
    ops.PIVOT: "PIVOT root:fd method:pivot",
    ops.UNMOUNT: "UNMOUNT procfs:fd root:fd path:text id:number",
    ops.IDS: "IDS uid:id gid:id groups:groups flags:ids",
    ops.CAPS: (
        "CAPS bounding:capabilities effective:capabilities permitted:capabilities inheritable:capabilities"
        " ambient:capabilities flags:caps"
    ),
    ops.LOOPBACK: "LOOPBACK",
    ops.CONSOLE: "CONSOLE to:fd root:fd rows:number columns:number uid:id flags:console",
    ops.STDIO: "STDIO root:fd terminal:fd uid:id",
    ops.SECCOMP: "SECCOMP filter:filter flags:hex",
    ops.HOME: "HOME root:fd uid:id",
}
_FLAGS = (
    (ops.F_IGNORE, "ignore"),
    (ops.F_WARN, "warn"),
    (ops.F_ALT, "else next"),
    (ops.F_RETRY, "retry"),
)
_RESOLVE = (
    (words.RESOLVE_NO_XDEV, "no_xdev"),
    (words.RESOLVE_NO_MAGICLINKS, "no_magiclinks"),
    (words.RESOLVE_NO_SYMLINKS, "no_symlinks"),
    (words.RESOLVE_IN_ROOT, "in_root"),
)
_WRITE = (
    (ops.WRITE_PROCFS, "procfs"),
    (ops.WRITE_SKIP_SAME, "skip same"),
    (ops.WRITE_DUMPABLE, "dumpable"),
)
_ATTRIBUTES = tuple(
    pair for pair in attribute.ATTRIBUTE_NAMES if not pair[0] & mount_options.ATIME_MASK
)


def _flags(table: tuple[tuple[int, str], ...]) -> Callable[[Plan, Any], Any]:
    return lambda plan, value: attribute.flag_names(value, table)


def _attributes(plan: Plan, value: int) -> str:
    text = attribute.flag_names(value & ~mount_options.ATIME_MASK, _ATTRIBUTES)
    atime = value & mount_options.ATIME_MASK
    named = {
        0: "",
        mount_options.NOATIME: "noatime",
        mount_options.STRICTATIME: "strictatime",
        mount_options.ATIME_MASK: "atime",
    }
    return ",".join(part for part in (text, named.get(atime, hex(atime))) if part)


def _text(plan: Plan, value: Any) -> str | None:
    if value == ops.NONE:
        return None
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _groups(plan: Plan, value: Any) -> list[int] | None:
    if value == ops.NONE:
        return None
    return [int.from_bytes(value[at : at + 4], "little") for at in range(0, len(value), 4)]


def _device(plan: Plan, value: int) -> str:
    return f"{value >> 8 & 0xFFF}:{value & 0xFF | value >> 12 & 0xFFF00}"


_DECODERS: dict[str, Callable[[Plan, Any], Any]] = {
    "fd": lambda plan, value: None if value == ops.NONE else attribute.slot_name(plan, value),
    "id": lambda plan, value: None if value == ops.NONE else value,
    "number": lambda plan, value: value,
    "hex": lambda plan, value: hex(value) if value else "",
    "oct": lambda plan, value: f"0{value:o}" if value else "",
    "text": _text,
    "vector": lambda plan, value: [_text(plan, item) for item in value],
    "namespaces": lambda plan, value: attribute.namespace_names(value),
    "capabilities": lambda plan, value: attribute.capability_names(value) if value else "",
    "attributes": _attributes,
    "propagation": _flags(attribute.PROPAGATION_NAMES),
    "tag": lambda plan, value: ops.TAG_NAMES[value],
    "tree": _flags(((words.AT_RECURSIVE, "recursive"),)),
    "resolve": _flags(_RESOLVE),
    "write": _flags(_WRITE),
    "kept": _flags(((ops.KEEP_MODE, "mode"), (ops.KEEP_OWNER, "owner"))),
    "target": lambda plan, value: ("exists", "directory", "file", "like", "procfs")[value],
    "pivot": lambda plan, value: ("pivot_root", "move", "chroot")[value],
    "ids": _flags(
        ((ops.IDS_KEEPCAPS, "keep capabilities"), (ops.IDS_NO_SETGROUPS, "no setgroups"))
    ),
    "caps": _flags(
        (
            (ops.CAPS_DROP_BOUNDING, "bounding"),
            (ops.CAPS_SET, "set"),
            (ops.CAPS_AMBIENT, "ambient"),
        )
    ),
    "console": _flags(((ops.CONSOLE_MOUNT, "mount"),)),
    "device": _device,
    "groups": _groups,
    "filter": lambda plan, value: f"{len(value) // 8} instructions",
}


def _call_argument(call: str, value: Any) -> Any:
    """An argument of a system call: texts as such, limits as numbers, other structures in hex."""
    if not isinstance(value, bytes):
        return value
    if call == "prlimit64":
        return {
            "soft": int.from_bytes(value[:8], "little"),
            "hard": int.from_bytes(value[8:], "little"),
        }
    text = value.decode("utf-8", "replace")
    return text if text.isprintable() else value.hex()


def _arguments(plan: Plan, code: int, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Argument name → decoded value; what is empty or absent is left out."""
    if code == ops.SYSCALL:
        call = attribute.call_name(plan, arguments[0])
        return {"call": call, "arguments": [_call_argument(call, item) for item in arguments[1:]]}
    decoded: dict[str, Any] = {}
    for word, value in zip(_NAMES[code].split()[1:], arguments, strict=True):
        name, kind = word.split(":")
        if kind == "skip":
            continue
        item = _DECODERS[kind](plan, value)
        if item not in (None, "", []):
            decoded[name] = item
    return decoded


def document(plan: Plan, places: Places | None = None) -> dict[str, Any]:
    """The whole plan as data for JSON. ``places``: of config.json, for line numbers."""
    operations = []
    for index, (code, flags, errnos, arguments) in enumerate(plan.ops):
        item: dict[str, Any] = {
            "index": index,
            "operation": _NAMES[code].split()[0],
            "description": attribute.describe(plan, index),
            "arguments": _arguments(plan, code, arguments),
        }
        if flags & 15:
            item["onError"] = {
                "errors": [
                    errno.errorcode.get(errnos >> shift & 255, "?")
                    for shift in range(0, 32, 8)
                    if errnos >> shift & 255
                ],
                "action": attribute.flag_names(flags & 15, _FLAGS),
            }
        if plan.origins[index]:
            item["origin"] = plan.origins[index]
            if places is not None:
                item["line"] = places.line(plan.origins[index])
        operations.append(item)
    return {
        "cloneNamespaces": attribute.namespace_names(plan.clone_flags).split(",")
        if plan.clone_flags
        else [],
        "descriptors": _descriptors(plan),
        "syncs": [ops.TAG_NAMES[tag] for tag in plan.syncs],
        "warnings": plan.warnings,
        "operations": operations,
    }


def _descriptors(plan: Plan) -> list[dict[str, Any]]:
    """What the host hands over, in slot order."""
    binds = {bind[0]: bind for bind in plan.binds}
    found = []
    for slot, name in enumerate(plan.fds):
        item: dict[str, Any] = {"slot": slot, "name": name}
        if name in plan.systems:
            item["type"], (_, uids, gids), item["origin"], item["source"], options, _ = (
                plan.systems[name]
            )
            item["options"] = options
            item["idmap"] = {"uidMappings": uids, "gidMappings": gids}
        if name in binds:
            _, source, recursive, put, clear, tree_put, tree_clear, propagation, idmap, origin = (
                binds[name]
            )
            item["source"] = source
            if name in plan.nodes:
                mode, device, uid, gid = plan.nodes[name]
                item["node"] = {
                    "mode": oct(mode),
                    "device": f"{device >> 8 & 0xFFF}:{device & 0xFF | device >> 12 & 0xFFF00}",
                    "uid": uid,
                    "gid": gid,
                }
            if recursive:
                item["recursive"] = True
            for key, value in (
                ("set", put),
                ("clear", clear),
                ("recursiveSet", tree_put),
                ("recursiveClear", tree_clear),
            ):
                if value:
                    item[key] = _attributes(plan, value)
            item["propagation"] = [_propagation(flag) for flag in propagation]
            if idmap is not None:
                item["idmap"] = {
                    "recursive": idmap[0],
                    "uidMappings": idmap[1],
                    "gidMappings": idmap[2],
                }
            if origin:
                item["origin"] = origin
        elif name in plan.paths:
            item["source"], item["origin"] = plan.paths[name]
        found.append(item)
    return found


def _propagation(flag: int) -> str:
    recursive = "r" if flag & mount_options.MS_REC else ""
    return recursive + attribute.flag_names(
        flag & ~mount_options.MS_REC, attribute.PROPAGATION_NAMES
    )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "[" + " ".join(_shown(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + " ".join(f"{key}={_shown(item)}" for key, item in value.items()) + "}"
    text = str(value)
    plain = text.isprintable() and text and not any(char in text for char in ' "[]')
    return text if plain else '"' + text.encode("unicode_escape").decode().replace('"', '\\"') + '"'


def text(plan: Plan, places: Places | None = None, filename: str = "config.json") -> str:
    """The whole plan for people: one line an operation, a second one with its arguments."""
    data = document(plan, places)
    lines = []
    if data["cloneNamespaces"]:
        lines.append(f"init starts in new namespaces: {', '.join(data['cloneNamespaces'])}")
    lines.append("descriptors from the host:")
    for item in data["descriptors"]:
        rest = " ".join(
            f"{key}={_shown(value)}" for key, value in item.items() if key not in ("slot", "name")
        )
        lines.append(f"  {item['slot']:3} {item['name']}{'  ' + rest if rest else ''}")
    lines += [f"warning: {warning}" for warning in data["warnings"]]
    lines.append("operations:")
    for item in data["operations"]:
        where = attribute.place(item.get("origin", ""))
        if "line" in item:
            where = f"{filename}:{item['line']} {where}"
        lines.append(f"  {item['index']:3} {item['description']}{'  <- ' + where if where else ''}")
        arguments = " ".join(f"{key}={_shown(value)}" for key, value in item["arguments"].items())
        on_error = item.get("onError")
        if on_error:
            arguments += (
                f" on {','.join(on_error['errors']) or 'a failure before'}: {on_error['action']}"
            )
        lines.append(f"      {item['operation']} {arguments}".rstrip())
    return "\n".join(lines) + "\n"

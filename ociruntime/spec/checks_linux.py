"""Rules on the rest of the ``linux`` object (config-linux.md).

Hot module.
"""

from __future__ import annotations

from ociruntime.errors import pointer_step
from ociruntime.spec import sysctl
from ociruntime.spec.context import Context, number_list, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_MAJOR = (1 << 12) - 1
MAX_MINOR = (1 << 20) - 1
"""What a device number holds (the kernel's MKDEV); mknod would cut off the rest."""
IFNAMSIZ = 16
"""Size of an interface name with its NUL (netdevice(7))."""


def namespaces(spec: dict[str, Any], ctx: Context) -> None:
    """Section "Namespaces": each type once, paths absolute. An empty path is none, as Go programs write it."""
    seen: dict[str, int] = {}
    for index, entry in enumerate(ctx.linux.get("namespaces") or ()):
        kind, path = entry["type"], entry.get("path")
        if kind in seen:
            ctx.error(
                "namespace-duplicate",
                f"/linux/namespaces/{index}/type",
                f"duplicate namespace type {kind}, already in entry {seen[kind]}",
            )
        seen.setdefault(kind, index)
        if path and path[0] != "/":
            ctx.error(
                "namespace-path",
                f"/linux/namespaces/{index}/path",
                f"not an absolute path (got {shown(path)})",
            )


def time_offsets(spec: dict[str, Any], ctx: Context) -> None:
    """Section "Offset for Time Namespace": set before the first process enters (time_namespaces(7)).

    So a namespace that is joined cannot have them.
    """
    offsets = ctx.linux.get("timeOffsets")
    if not offsets:
        return
    if ctx.namespaces.get("time") != "":
        what = (
            "a time namespace joined by path" if "time" in ctx.namespaces else "no time namespace"
        )
        ctx.error(
            "time-offsets",
            "/linux/timeOffsets",
            f"time namespace offsets specified, but {what} in linux.namespaces",
            None if "time" in ctx.namespaces else 'add {"type": "time"} to linux.namespaces',
        )
    for clock in ("monotonic", "boottime"):
        nanoseconds = (offsets.get(clock) or {}).get("nanosecs", 0)
        if nanoseconds >= 1_000_000_000:
            ctx.error(
                "time-offsets",
                f"/linux/timeOffsets/{clock}/nanosecs",
                f"out of range (got {nanoseconds}), expected less than 1000000000",
            )


def devices(spec: dict[str, Any], ctx: Context) -> None:
    """Section "Devices": absolute paths; major and minor unless it is a fifo. Podman sends fileMode with type bits."""
    for index, device in enumerate(ctx.linux.get("devices") or ()):
        pointer = f"/linux/devices/{index}"
        if device["path"][:1] != "/":
            ctx.error(
                "device-path",
                f"{pointer}/path",
                f"not an absolute path (got {shown(device['path'])})",
            )
        if device["type"] != "p":
            for name, most in (("major", MAX_MAJOR), ("minor", MAX_MINOR)):
                number = device.get(name)
                if number is None:
                    ctx.error(
                        "device-number", f"{pointer}/{name}", f"missing, expected 0 to {most}"
                    )
                elif not 0 <= number <= most:
                    ctx.error(
                        "device-number",
                        f"{pointer}/{name}",
                        f"out of range (got {number}), expected 0 to {most}",
                    )
        mode = device.get("fileMode", 0)
        if mode > (0o777 if ctx.strict else 0o177777):
            ctx.error(
                "file-mode",
                f"{pointer}/fileMode",
                f"not a file mode (got {mode}), expected permission bits, at most 511 (0777)",
            )


def net_devices(spec: dict[str, Any], ctx: Context) -> None:
    """Section "Network devices": moved into the container's own network namespace."""
    wanted = ctx.linux.get("netDevices")
    if not wanted:
        return
    if "network" not in ctx.namespaces:
        ctx.error(
            "net-device",
            "/linux/netDevices",
            "network devices specified, but no network namespace in linux.namespaces",
            'add {"type": "network"} to linux.namespaces',
        )
    names: dict[str, str] = {}
    for name, device in wanted.items():
        pointer = f"/linux/netDevices/{pointer_step(name)}"
        if not _is_interface(name):
            ctx.error(
                "net-device", pointer, f"not the name of a network device (got {shown(name)})"
            )
        new = device.get("name")
        if new and not _is_interface(new):
            ctx.error(
                "net-device",
                f"{pointer}/name",
                f"not the name of a network device (got {shown(new)}), expected at most 15 bytes "
                'without "/", ":" and spaces',
            )
        new = new or name
        if new in names and "%" not in new:
            ctx.error("net-device", pointer, f"same name in the container as {names[new]}: {new}")
        names[new] = name


def _is_interface(name: str) -> bool:
    """dev_valid_name() of the kernel."""
    return (
        0 < len(name.encode("utf-8", "surrogateescape")) < IFNAMSIZ
        and name not in (".", "..")
        and "/" not in name
        and ":" not in name
        and len(name.split()) == 1
        and name == name.strip()
    )


def cgroups_path(spec: dict[str, Any], ctx: Context) -> None:
    """Section "Cgroups Path": a path within the hierarchy, or slice:prefix:name."""
    path = ctx.linux.get("cgroupsPath")
    if path and (".." in path.split("/") or "\n" in path):
        ctx.error(
            "cgroups-path",
            "/linux/cgroupsPath",
            f'invalid cgroup path (got {shown(path)}), expected none of "..", line feed',
        )


def resources(spec: dict[str, Any], ctx: Context) -> None:
    """Rules of the cgroup sections on ``linux.resources``."""
    found = ctx.linux.get("resources")
    if found:
        check_resources(found, "/linux/resources", ctx)


def check_resources(found: dict[str, Any], pointer: str, ctx: Context) -> None:
    """The same on a resources object that stands at ``pointer``."""
    for index, rule in enumerate(found.get("devices") or ()):
        _device_rule(rule, f"{pointer}/devices/{index}", ctx)
    for index, device in enumerate((found.get("blockIO") or {}).get("weightDevice") or ()):
        if "weight" not in device and "leafWeight" not in device:
            ctx.error(
                "weight-device",
                f"{pointer}/blockIO/weightDevice/{index}",
                "expected weight, leafWeight or both",
            )
    for name, limits in (found.get("rdma") or {}).items():
        if "hcaHandles" not in limits and "hcaObjects" not in limits:
            ctx.error(
                "rdma-limits",
                f"{pointer}/rdma/{pointer_step(name)}",
                "expected hcaHandles, hcaObjects or both",
            )
    for name in found.get("unified") or ():
        if not name or "/" in name or name in (".", ".."):
            ctx.error(
                "unified-name",
                f"{pointer}/unified/{pointer_step(name)}",
                f"not the name of a cgroup file (got {shown(name)})",
            )


def _device_rule(rule: dict[str, Any], pointer: str, ctx: Context) -> None:
    """Section "Allowed Device list"; a rule without type, or with an empty one, is for all."""
    if rule.get("type", "a") not in ("", "a", "b", "c"):
        ctx.error(
            "device-rule",
            f"{pointer}/type",
            f"unknown device type (got {shown(rule['type'])}), expected a, b or c",
        )
    access = rule.get("access") or ""
    if access.strip("rwm"):
        ctx.error(
            "device-rule",
            f"{pointer}/access",
            f"unknown access (got {shown(access)}), expected letters of rwm",
        )
    for name in ("major", "minor"):
        if rule.get(name, -1) < -1:
            ctx.error(
                "device-rule",
                f"{pointer}/{name}",
                f"out of range (got {rule[name]}), expected at least 0, or -1 for all",
            )


def sysctls(spec: dict[str, Any], ctx: Context) -> None:
    """Section "Sysctl": only what belongs to a namespace of the container, one parameter per entry (CVE-2022-0811)."""
    for name, value in (ctx.linux.get("sysctl") or {}).items():
        pointer = f"/linux/sysctl/{pointer_step(name)}"
        try:
            path = sysctl.path_of(name)
        except ValueError as exc:
            ctx.error("sysctl-name", pointer, f"sysctl {shown(name)} is not allowed: {exc}")
            continue
        for character in value:
            if character < " " and character != "\t":
                ctx.error(
                    "sysctl-value", pointer, f"control character in its value (got {shown(value)})"
                )
                break
        kind = sysctl.namespace_of(path)
        if path == "kernel/hostname":
            ctx.error(
                "sysctl-namespace",
                pointer,
                f'sysctl {shown(name)} is not allowed as it conflicts with the OCI "hostname" field',
            )
        elif kind is None:
            ctx.error(
                "sysctl-namespace",
                pointer,
                f"sysctl {shown(name)} is not in a separate kernel namespace",
            )
        elif kind not in ctx.namespaces:
            ctx.error(
                "sysctl-namespace",
                pointer,
                f"sysctl {shown(name)} is not allowed in the host's {kind} namespace",
                f'add {{"type": "{kind}"}} to linux.namespaces',
            )


def restricted_paths(spec: dict[str, Any], ctx: Context) -> None:
    """Section "Masked Paths", "Readonly Paths": absolute, and in a mount namespace of the container."""
    for name in ("maskedPaths", "readonlyPaths"):
        paths = ctx.linux.get(name)
        if not paths:
            continue
        if "mount" not in ctx.namespaces:
            ctx.error(
                "paths-without-mount-namespace",
                f"/linux/{name}",
                "unable to restrict sys entries without a private MNT namespace",
                'add {"type": "mount"} to linux.namespaces',
            )
        for index, path in enumerate(paths):
            if path[:1] != "/":
                ctx.error(
                    "restricted-path",
                    f"/linux/{name}/{index}",
                    f"not an absolute path (got {shown(path)})",
                )


def propagation(spec: dict[str, Any], ctx: Context) -> None:
    """Section "Rootfs Mount Propagation" has four words; engines send the recursive ones too."""
    word = ctx.linux.get("rootfsPropagation")
    if ctx.strict and word not in (None, "private", "shared", "slave", "unbindable"):
        ctx.error(
            "rootfs-propagation",
            "/linux/rootfsPropagation",
            f"not in the specification (got {shown(word)}), expected private, shared, slave or unbindable",
        )


def personality(spec: dict[str, Any], ctx: Context) -> None:
    """Section "Personality": the domain is required; no flag is supported, and unsupported ones are an error."""
    found = ctx.linux.get("personality")
    if found is None:
        return
    if "domain" not in found:
        ctx.error("personality", "/linux/personality/domain", "missing, expected LINUX or LINUX32")
    if found.get("flags"):
        ctx.error(
            "personality",
            "/linux/personality/flags",
            f"unsupported personality flags (got {shown(found['flags'])}), expected none",
        )


def memory_policy(spec: dict[str, Any], ctx: Context) -> None:
    """Section "Memory policy", with the rules of set_mempolicy(2) on each mode's nodes and flags."""
    policy = ctx.linux.get("memoryPolicy")
    if policy is None:
        return
    pointer = "/linux/memoryPolicy"
    mode, nodes = policy.get("mode"), policy.get("nodes") or ""
    flags = policy.get("flags") or ()
    if mode is None:
        ctx.error("memory-policy", f"{pointer}/mode", "missing, expected one of the MPOL_ modes")
        return
    ranges = number_list(nodes)
    if ranges is None:
        ctx.error(
            "memory-policy",
            f"{pointer}/nodes",
            f'malformed list of nodes (got {shown(nodes)}), expected one such as "0-3,7"',
        )
    elif ranges and mode in ("MPOL_DEFAULT", "MPOL_LOCAL"):
        ctx.error(
            "memory-policy", f"{pointer}/nodes", f"{mode} takes no nodes (got {shown(nodes)})"
        )
    elif not ranges and mode not in ("MPOL_DEFAULT", "MPOL_LOCAL", "MPOL_PREFERRED"):
        ctx.error("memory-policy", f"{pointer}/nodes", f"missing, {mode} needs nodes")
    static, relative = "MPOL_F_STATIC_NODES" in flags, "MPOL_F_RELATIVE_NODES" in flags
    if static and relative:
        ctx.error(
            "memory-policy",
            f"{pointer}/flags",
            "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other",
        )
    if (static or relative) and ranges == [] and mode in ("MPOL_LOCAL", "MPOL_PREFERRED"):
        ctx.error(
            "memory-policy",
            f"{pointer}/flags",
            f"{mode} without nodes takes no flag on nodes (got {shown(flags)})",
        )
    if "MPOL_F_NUMA_BALANCING" in flags and mode not in ("MPOL_BIND", "MPOL_PREFERRED_MANY"):
        ctx.error(
            "memory-policy",
            f"{pointer}/flags",
            f"MPOL_F_NUMA_BALANCING is only for MPOL_BIND and MPOL_PREFERRED_MANY (got {mode})",
        )


def intel_rdt(spec: dict[str, Any], ctx: Context) -> None:
    """Section "IntelRdt": a class of service is one directory; its schemata are lines."""
    rdt = ctx.linux.get("intelRdt")
    if rdt is None:
        return
    pointer = "/linux/intelRdt"
    name = rdt.get("closID")
    if name and name != "/" and (name in (".", "..") or "/" in name or "\n" in name):
        ctx.error(
            "intel-rdt",
            f"{pointer}/closID",
            f'not the name of a class of service (got {shown(name)}), expected none of ".", "..", "/", line feed',
        )
    l3_cache = rdt.get("l3CacheSchema")
    if l3_cache and "\n" in l3_cache:
        ctx.error(
            "intel-rdt", f"{pointer}/l3CacheSchema", f"more than one line (got {shown(l3_cache)})"
        )
    for index, line in enumerate(rdt.get("schemata") or ()):
        if "\n" in line:
            ctx.error(
                "intel-rdt",
                f"{pointer}/schemata/{index}",
                f"more than one line (got {shown(line)})",
            )

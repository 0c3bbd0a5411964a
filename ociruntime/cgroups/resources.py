"""linux.resources → control files and values, for cgroup v1 and v2. Pure. Hot module.

Spec: config-linux.md "Control groups"; kernel: Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst. What cannot be
expressed is an error, never dropped; what no kernel we support does any more is a warning.
In an update (runc's ``update``) 0 and absent mean "leave".

``read`` gives the current text of a control file of the container's own cgroup, None when there is no such file.
"""

from __future__ import annotations

from ociruntime import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    V1Write = tuple[str, str, str, str]  # controller, file, value, JSON pointer
    V2Write = tuple[str, str, str]  # file, value, JSON pointer
    V1Read = Callable[[str, str], str | None]
    V2Read = Callable[[str], str | None]
    Resources = Mapping[str, Any]

BASE = "/linux/resources"
MAX_INT64 = (1 << 63) - 1

# The (v1, v2) controller behind each object of linux.resources with a single one.
CONTROLLERS = {
    "memory": ("memory", "memory"),
    "pids": ("pids", "pids"),
    "blockIO": ("blkio", "io"),
    "hugepageLimits": ("hugetlb", "hugetlb"),
    "rdma": ("rdma", "rdma"),
}

# cpu properties that can be set to 0; a kernel without the file (< 5.14, < 5.15) does as if it were 0.
_ZERO_COUNTS = ("burst", "idle")

# Keys of ``unified`` that would move processes or change the tree, not set a limit.
_STRUCTURAL = (
    "cgroup.procs",
    "cgroup.threads",
    "cgroup.subtree_control",
    "cgroup.type",
    "cgroup.kill",
    "cgroup.freeze",
)


def fail(message: str, pointer: str, hint: str | None = None) -> errors.Error:
    """An error about one value of linux.resources."""
    return errors.Error(message, pointer=pointer, hint=hint)


def asks(key: str, resources: Resources) -> bool:
    """Whether an object of linux.resources holds any limit: engines send zeros and empty objects too."""
    value = resources.get(key)
    if not value:
        return False
    if key == "pids":
        return value.get("limit") is not None
    if key in ("memory", "blockIO"):
        return any(value.values())
    return True


def shares_to_weight(shares: int) -> int:
    """cpu.shares [2, 262144] → cpu.weight [1, 10000] through (2, 1), (1024, 100), (262144, 10000).

    ceil(10 ** ((l² + 125 l) / 612 - 7/34)) with l = log2(shares), as runc ≥ 1.3.2, crun ≥ 1.23; 0 stays 0 (unset).
    """
    if shares <= 0:
        return 0
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    log = _log2(shares)
    power = 10.0 ** ((log * log + 125 * log) / 612 - 7 / 34)
    weight = int(power)
    return weight if weight >= power else weight + 1


def _log2(number: int) -> float:
    """log2 of an integer below 2^53 (``math`` is an extension module that hot code does without)."""
    whole = number.bit_length() - 1
    rest = number / (1 << whole)
    result = float(whole)
    step = 0.5
    while step > 1e-17:
        rest *= rest
        if rest >= 2:
            rest /= 2
            result += step
        step /= 2
    return result


def _limit(value: int) -> str:
    return "max" if value < 0 else str(value)


# -- v1 --------------------------------------------------------------------------------------------


def v1_writes(
    resources: Resources,
    read: V1Read,
    *,
    update: bool = False,
    warnings: list[str] | None = None,
) -> list[V1Write]:
    """The writes for cgroup v1, devices excepted, in their natural order (v1.py copes with mutual bounds)."""
    out: list[V1Write] = []
    if resources.get("unified"):
        raise fail("cannot use unified on cgroup v1", BASE + "/unified")
    cpu = resources.get("cpu")
    if cpu:
        _v1_cpu(cpu, read, out)
    memory = resources.get("memory")
    if memory:
        _v1_memory(memory, read, update, out, warnings)
    limit = _pids_limit(resources, update)
    if limit is not None:
        out.append(("pids", "pids.max", _limit(limit), BASE + "/pids/limit"))
    if resources.get("blockIO"):
        from ociruntime.cgroups.resources_io import v1_blkio

        v1_blkio(resources["blockIO"], read, out)
    if resources.get("hugepageLimits"):
        from ociruntime.cgroups.resources_io import hugetlb_writes

        for name, value, pointer in hugetlb_writes(
            resources["hugepageLimits"], lambda name: read("hugetlb", name), "limit_in_bytes"
        ):
            out.append(("hugetlb", name, value, pointer))
    network = resources.get("network")
    if network:
        if network.get("classID"):
            pointer = BASE + "/network/classID"
            out.append(("net_cls", "net_cls.classid", str(network["classID"]), pointer))
        for index, item in enumerate(network.get("priorities") or ()):
            pointer = f"{BASE}/network/priorities/{index}"
            value = f"{item['name']} {item['priority']}"
            if len(value.split()) != 2:
                raise fail(f"invalid interface name {item['name']!r}", pointer + "/name")
            out.append(("net_prio", "net_prio.ifpriomap", value, pointer))
    if resources.get("rdma"):
        from ociruntime.cgroups.resources_io import rdma_writes

        out += [("rdma", *write) for write in rdma_writes(resources["rdma"])]
    return out


def _v1_cpu(cpu: Resources, read: V1Read, out: list[V1Write]) -> None:
    base = BASE + "/cpu"
    _check_cpu(cpu)
    shares = cpu.get("shares")
    if shares:
        # the kernel would clamp in silence
        if shares < 2:
            raise fail("the minimum allowed cpu-shares is 2", base + "/shares")
        if shares > 262144:
            raise fail("the maximum allowed cpu-shares is 262144", base + "/shares")
        out.append(("cpu", "cpu.shares", str(shares), base + "/shares"))
    for key, name in (
        ("period", "cpu.cfs_period_us"),
        ("quota", "cpu.cfs_quota_us"),
        ("burst", "cpu.cfs_burst_us"),
        ("realtimePeriod", "cpu.rt_period_us"),
        ("realtimeRuntime", "cpu.rt_runtime_us"),
        ("idle", "cpu.idle"),
    ):
        value = cpu.get(key)
        if value or (value == 0 and key in _ZERO_COUNTS and read("cpu", name) is not None):
            out.append(("cpu", name, str(value), f"{base}/{key}"))
    for key in ("cpus", "mems"):
        if cpu.get(key):
            out.append(("cpuset", "cpuset." + key, cpu[key], f"{base}/{key}"))


def _check_cpu(cpu: Resources) -> None:
    quota = cpu.get("quota") or 0
    burst = cpu.get("burst") or 0
    if 0 < quota < burst:
        raise fail(f"cpu burst {burst} is greater than quota {quota}", BASE + "/cpu/burst")
    idle = cpu.get("idle")
    if idle is not None and idle not in (0, 1):
        raise fail(f"invalid cpu idle value {idle} (0 or 1)", BASE + "/cpu/idle")


def _v1_memory(
    memory: Resources,
    read: V1Read,
    update: bool,
    out: list[V1Write],
    warnings: list[str] | None,
) -> None:
    base = BASE + "/memory"
    limit, swap = _memory_pair(memory)
    tcp = memory.get("kernelTCP")
    if tcp and read("memory", "memory.kmem.tcp.limit_in_bytes") is not None:
        out.append(("memory", "memory.kmem.tcp.limit_in_bytes", str(tcp), base + "/kernelTCP"))
        _warn_kernel_memory(memory, warnings, ("kernel",))
    else:
        _warn_kernel_memory(memory, warnings)
    if update and memory.get("checkBeforeUpdate"):
        _check_usage(limit, read("memory", "memory.usage_in_bytes"))
    if limit:
        out.append(("memory", "memory.limit_in_bytes", str(limit), base + "/limit"))
    if swap:
        out.append(("memory", "memory.memsw.limit_in_bytes", str(swap), base + "/swap"))
    elif limit == -1 and read("memory", "memory.memsw.limit_in_bytes") is not None:
        # without a limit for memory one for memory+swap makes no sense
        out.append(("memory", "memory.memsw.limit_in_bytes", "-1", base + "/limit"))
    if memory.get("reservation"):
        pointer = base + "/reservation"
        out.append(("memory", "memory.soft_limit_in_bytes", str(memory["reservation"]), pointer))
    swappiness = memory.get("swappiness")
    if swappiness is not None and swappiness != -1:
        if not 0 <= swappiness <= 100:
            raise fail(
                f"invalid memory swappiness value: {swappiness} (valid range is 0-100)",
                base + "/swappiness",
            )
        out.append(("memory", "memory.swappiness", str(swappiness), base + "/swappiness"))
    if memory.get("disableOOMKiller"):
        out.append(("memory", "memory.oom_control", "1", base + "/disableOOMKiller"))
    use_hierarchy = memory.get("useHierarchy")
    if use_hierarchy is not None:
        value = "1" if use_hierarchy else "0"
        out.append(("memory", "memory.use_hierarchy", value, base + "/useHierarchy"))


def _memory_pair(memory: Resources) -> tuple[int, int]:
    """(limit, memory+swap limit), 0 = not given, -1 = unlimited."""
    base = BASE + "/memory"
    limit = memory.get("limit") or 0
    swap = memory.get("swap") or 0
    for key, value in (("limit", limit), ("swap", swap)):
        if value < -1:
            raise fail(f"invalid memory {key} {value}", f"{base}/{key}")
    if swap > 0 and (limit > swap or limit == -1):
        raise fail(
            f"memory+swap limit {swap} is below the memory limit {limit}",
            base + "/swap",
            "linux.resources.memory.swap is the sum of memory and swap",
        )
    return limit, swap


def _warn_kernel_memory(
    memory: Resources,
    warnings: list[str] | None,
    keys: tuple[str, ...] = ("kernel", "kernelTCP"),
) -> None:
    if warnings is not None:
        for key in keys:
            if memory.get(key):
                warnings.append(f"memory.{key} is ignored: kernel memory has no limit of its own")


def _check_usage(limit: int, usage: str | None) -> None:
    """memory.checkBeforeUpdate: a limit below what is in use would end processes."""
    if limit > 0 and usage and limit < int(usage):
        raise fail(
            f"rejecting memory limit {limit}: it is below the current usage {int(usage)}",
            BASE + "/memory/limit",
        )


def _pids_limit(resources: Resources, update: bool) -> int | None:
    """0 is a limit (spec 1.3), save in an update; below 0 is unlimited."""
    pids = resources.get("pids")
    limit: int | None = pids.get("limit") if pids else None
    if limit == 0 and update:
        return None
    return limit


# -- v2 --------------------------------------------------------------------------------------------


def v2_writes(
    resources: Resources,
    read: V2Read,
    *,
    update: bool = False,
    warnings: list[str] | None = None,
) -> list[V2Write]:
    """The writes for cgroup v2, devices excepted; ``unified`` last, so that it has the last word."""
    out: list[V2Write] = []
    cpu = resources.get("cpu")
    if cpu:
        _v2_cpu(cpu, read, out)
    memory = resources.get("memory")
    if memory:
        _v2_memory(memory, read, update, out, warnings)
    limit = _pids_limit(resources, update)
    if limit is not None:
        out.append(("pids.max", _limit(limit), BASE + "/pids/limit"))
    if resources.get("blockIO"):
        from ociruntime.cgroups.resources_io import v2_io

        v2_io(resources["blockIO"], read, out)
    if resources.get("hugepageLimits"):
        from ociruntime.cgroups.resources_io import hugetlb_writes

        out += hugetlb_writes(resources["hugepageLimits"], read, "max")
    network = resources.get("network")
    if network:
        for key in ("classID", "priorities"):
            if network.get(key):
                raise fail(f"network.{key} needs cgroup v1", f"{BASE}/network/{key}")
    if resources.get("rdma"):
        from ociruntime.cgroups.resources_io import rdma_writes

        out += rdma_writes(resources["rdma"])
    if resources.get("unified"):
        _unified(resources["unified"], out)
    return out


def _v2_cpu(cpu: Resources, read: V2Read, out: list[V2Write]) -> None:
    base = BASE + "/cpu"
    _check_cpu(cpu)
    for key in ("realtimeRuntime", "realtimePeriod"):
        if cpu.get(key):
            raise fail(f"cpu.{key} needs cgroup v1", f"{base}/{key}")
    weight = shares_to_weight(cpu.get("shares") or 0)
    if weight:
        out.append(("cpu.weight", str(weight), base + "/shares"))
    quota = cpu.get("quota") or 0
    period = cpu.get("period") or 0
    if quota or period:
        # the kernel keeps the period that is not written, but has no way to keep the quota
        text = _limit(quota) if quota else ((read("cpu.max") or "").split() or ["max"])[0]
        if period:
            text += f" {period}"
        out.append(("cpu.max", text, base + ("/quota" if quota else "/period")))
    for key, name in (
        ("burst", "cpu.max.burst"),
        ("idle", "cpu.idle"),
        ("cpus", "cpuset.cpus"),
        ("mems", "cpuset.mems"),
    ):
        value = cpu.get(key)
        if value or (value == 0 and key in _ZERO_COUNTS and read(name) is not None):
            out.append((name, str(value), f"{base}/{key}"))


def _v2_memory(
    memory: Resources,
    read: V2Read,
    update: bool,
    out: list[V2Write],
    warnings: list[str] | None,
) -> None:
    base = BASE + "/memory"
    limit, swap = _memory_pair(memory)
    swappiness = memory.get("swappiness")
    if swappiness is not None and swappiness != -1:
        raise fail("memory.swappiness needs cgroup v1", base + "/swappiness")
    if memory.get("disableOOMKiller"):
        raise fail("memory.disableOOMKiller needs cgroup v1", base + "/disableOOMKiller")
    if memory.get("useHierarchy") is False:
        pointer = base + "/useHierarchy"
        raise fail("memory.useHierarchy cannot be false: cgroup v2 is a hierarchy", pointer)
    _warn_kernel_memory(memory, warnings)
    if update and memory.get("checkBeforeUpdate"):
        _check_usage(limit, read("memory.current"))
    total = limit
    if swap > 0 and not limit and update:
        current = (read("memory.max") or "").strip()
        total = int(current) if current.isdigit() else 0
    if swap > 0 and not total:
        raise fail(
            "memory.swap needs memory.limit on cgroup v2",
            base + "/swap",
            "linux.resources.memory.swap is the sum of memory and swap",
        )
    if swap or limit == -1:
        value = "max" if swap < 0 or limit == -1 else str(swap - total)
        # a kernel without swap accounting has no file; only a real limit needs it
        if value != "max" or read("memory.swap.max") is not None:
            pointer = base + ("/swap" if swap else "/limit")
            out.append(("memory.swap.max", value, pointer))
    if limit:
        out.append(("memory.max", _limit(limit), base + "/limit"))
    reservation = memory.get("reservation")
    if reservation:
        out.append(("memory.low", _limit(reservation), base + "/reservation"))


def _unified(unified: Resources, out: list[V2Write]) -> None:
    for key, value in unified.items():
        pointer = f"{BASE}/unified/{key.replace('~', '~0').replace('/', '~1')}"
        if "/" in key or key in ("", ".", "..") or "\0" in key:
            raise fail(f"unified resource {key!r} must be a file name without slashes", pointer)
        if key in _STRUCTURAL or "." not in key:
            raise fail(f"unified resource {key!r} is not a limit", pointer)
        # files such as io.max take one line per write
        for line in value.split("\n") if "\n" in value.strip("\n") else [value]:
            if line or value == "":
                out.append((key, line, pointer))

"""Writes to control files → properties of a systemd unit. Hot module.

systemd.resource-control(5), org.freedesktop.systemd1(5). When a property changes, systemd writes all files that it
knows of that controller, at `daemon-reload` those of all: a limit that it was not told of is gone then. A value that no
property can hold is told as the next one that can; a file of which systemd knows nothing is left as it is.
"""

from __future__ import annotations

from ociruntime.cgroups import resources as conversion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ociruntime.cgroups.resources import V1Read, V1Write, V2Read, V2Write
    from ociruntime.cgroups.systemd_unit import Property

INFINITY = (1 << 64) - 1
_CPU_PERIOD = 100_000  # µs, the kernel's default
_CPU_STEP = 10_000  # µs of CPU time a second: the whole percents in which systemd keeps a quota
_SET_MAX = 8192  # CPUs or memory nodes

# of the resources, what needs the cgroup to be looked at before it can be converted, and has no property
_WITHOUT_PROPERTY = ("hugepageLimits", "rdma", "devices")

# What a change of properties may write again, which systemd holds not at all or not exactly.
REWRITTEN = ("cpu.max", "pids.max", "memory.oom.group", "memory.zswap.writeback")
REWRITTEN_V1 = (
    ("cpu", "cpu.cfs_quota_us"),
    ("pids", "pids.max"),
    ("blkio", "blkio.bfq.weight"),
)

# file → (property, the least value that it takes)
_SIZES = {
    "memory.min": ("MemoryMin", 0),
    "memory.low": ("MemoryLow", 0),
    "memory.high": ("MemoryHigh", 1),
    "memory.max": ("MemoryMax", 1),
    "memory.swap.max": ("MemorySwapMax", 0),
    "memory.zswap.max": ("MemoryZSwapMax", 0),
    "pids.max": ("TasksMax", 1),
    "memory.limit_in_bytes": ("MemoryLimit", 1),
}
_WEIGHTS = {
    "cpu.weight": ("CPUWeight", 1, 10_000),
    "cpu.shares": ("CPUShares", 2, 262_144),
    "blkio.weight": ("BlockIOWeight", 10, 1_000),
}
# cpu.weight of cpu.weight.nice -20 to 19: the kernel's sched_prio_to_weight[] × 100 / 1024
_NICE = (
    *(8668, 7007, 5516, 4519, 3544, 2847, 2271, 1827, 1460, 1164),
    *(932, 744, 596, 479, 381, 305, 244, 194, 155, 125),
    *(100, 80, 64, 51, 41, 33, 27, 21, 17, 13),
    *(11, 8, 7, 5, 4, 4, 3, 2, 2, 1),
)  # fmt: skip
_SETS = {"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

# v1: devices.deny and devices.allow in systemd's words
_ALL_OF = {"c": "char-*", "b": "block-*"}
_PTS_MAJOR = 136


def for_new_v2(resources: Mapping[str, Any]) -> list[Property]:
    """The properties of linux.resources for a unit that is not there yet. Raises errors.Error for a wrong value."""
    return of_v2(conversion.v2_writes(_convertible(resources), lambda name: None))


def for_new_v1(resources: Mapping[str, Any]) -> list[Property]:
    """As ``for_new_v2``, for cgroup v1, where systemd would give up its own idea of the devices else."""
    writes = conversion.v1_writes(_convertible(resources), lambda controller, name: None)
    return [*of_v1(writes), *devices(resources.get("devices") or ())]


def update_v2(resources: Mapping[str, Any], read: V2Read) -> list[V2Write]:
    """The writes of an update of which systemd has to know."""
    return conversion.v2_writes(_convertible(resources), read, update=True)


def update_v1(resources: Mapping[str, Any], read: V1Read) -> list[V1Write]:
    """As ``update_v2``."""
    return conversion.v1_writes(_convertible(resources), read, update=True)


def _convertible(resources: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in resources.items() if key not in _WITHOUT_PROPERTY}


def of_v2(writes: Sequence[V2Write]) -> list[Property]:
    """The properties that say the same as writes to cgroup v2 files, the last one of each."""
    out: dict[str, Property] = {}
    for name, value, pointer in writes:
        if name == "cpu.max":
            quota, _, period = value.strip().partition(" ")
            _cpu_max(quota, period, pointer, out)
        elif name == "cpu.idle":
            if value.strip() == "1":
                out["CPUWeight"] = ("CPUWeight", ("t", 0), pointer)
        elif name == "cpu.weight.nice":
            word = value.strip()
            if word.removeprefix("-").isdecimal() and -20 <= int(word) <= 19:
                out["CPUWeight"] = ("CPUWeight", ("t", _NICE[int(word) + 20]), pointer)
        elif name == "memory.oom.group":  # taken when the unit is made, by systemd 253
            if value.strip() in ("0", "1"):
                policy = "kill" if value.strip() == "1" else "continue"
                out["OOMPolicy"] = ("OOMPolicy", ("s", policy), pointer)
        elif name == "memory.zswap.writeback":  # systemd 256
            if value.strip() in ("0", "1"):
                key = "MemoryZSwapWriteback"
                out[key] = (key, ("b", value.strip() == "1"), pointer)
        elif name.startswith("io."):
            from ociruntime.cgroups.systemd_io import of_write

            of_write(name, value, pointer, out)
        else:
            _simple(name, value, pointer, out)
    return list(out.values())


def of_v1(writes: Sequence[V1Write]) -> list[Property]:
    """The properties that say the same as writes to cgroup v1 files."""
    out: dict[str, Property] = {}
    quota = period = ""
    at = ""
    for _, name, value, pointer in writes:
        if name == "cpu.cfs_quota_us":
            quota, at = value, pointer
        elif name == "cpu.cfs_period_us":
            period, at = value, at or pointer
        elif name == "blkio.bfq.weight":
            # systemd makes 1 to 181 of 1 to 1,000, as if it were IOWeight= of v2
            weight = max(10, int(value))
            weight = min(1_000, 100 + (weight - 100) * 11) if weight > 100 else weight
            out["BlockIOWeight"] = ("BlockIOWeight", ("t", weight), pointer)
        elif name not in _SETS:  # systemd has no cpuset on v1
            _simple(name, value, pointer, out)
    if at:
        _cpu_max("max" if quota == "-1" else quota, period, at, out)
    return list(out.values())


def _simple(name: str, value: str, pointer: str, out: dict[str, Property]) -> None:
    """One file, one property."""
    if name in _SIZES:
        key, least = _SIZES[name]
        size = _size(value)
        if size is not None:
            out[key] = (key, ("t", max(size, least)), pointer)
    elif name in _WEIGHTS:
        key, least, most = _WEIGHTS[name]
        word = value.strip()
        if word.isdecimal() and least <= int(word) <= most:
            out[key] = (key, ("t", int(word)), pointer)
    elif name in _SETS:
        mask = bitmask(value)
        if mask is not None:
            out[_SETS[name]] = (_SETS[name], ("ay", mask), pointer)


def _size(value: str) -> int | None:
    """A limit as the kernel reads it (memparse): ``max``, -1, bytes, or a number with a unit of 1,024."""
    word = value.strip().lower()
    if word in ("max", "-1"):
        return INFINITY
    unit = _UNITS.get(word[-1:], 1)
    digits = word if unit == 1 else word[:-1]
    if digits.isascii() and digits.isdecimal() and int(digits) * unit < INFINITY:
        return int(digits) * unit
    return None


def _cpu_max(quota: str, period: str, pointer: str, out: dict[str, Property]) -> None:
    """cpu.max: CPU time in µs of each period of µs; systemd keeps CPU time a second, in whole percents.

    Rounded up, so that no container gets less than it was promised when systemd writes the file again.
    """
    if period.isdecimal() and int(period) > 0:
        out["CPUQuotaPeriodUSec"] = ("CPUQuotaPeriodUSec", ("t", int(period)), pointer)
    if quota == "max":
        out["CPUQuotaPerSecUSec"] = ("CPUQuotaPerSecUSec", ("t", INFINITY), pointer)
    elif quota.isdecimal() and int(quota) > 0:
        length = int(period) if period.isdecimal() and int(period) > 0 else _CPU_PERIOD
        per_second = -(-int(quota) * 1_000_000 // (length * _CPU_STEP)) * _CPU_STEP
        out["CPUQuotaPerSecUSec"] = ("CPUQuotaPerSecUSec", ("t", per_second), pointer)


def bitmask(text: str) -> bytes | None:
    """A list such as ``0-2,7`` (cpuset(7), "List format") as the bits of a byte string; None when it is none."""
    bits = 0
    for part in text.strip().split(","):
        first, dash, last = part.strip().partition("-")
        last, _, _ = last.partition(":")
        if not first.isdecimal() or (dash and not last.isdecimal()) or ":" in part:
            return None
        low, high = int(first), int(last) if dash else int(first)
        if low > high or high >= _SET_MAX:
            return None
        bits |= (1 << (high + 1)) - (1 << low)
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def devices(rules: Sequence[Mapping[str, Any]]) -> list[Property]:
    """linux.resources.devices, with the default rules, for cgroup v1.

    systemd knows a list of what is allowed, no exceptions from "everything": that is left to the kernel's file.
    """
    from ociruntime.cgroups.devices import ANY, target

    goal = target(rules)
    pointer = "/linux/resources/devices"
    if goal.allow:
        return [("DevicePolicy", ("s", "auto"), pointer)]
    allowed = []
    for (kind, major, minor), access in goal.exceptions.items():
        if major == ANY:
            if minor == ANY:
                allowed.append((_ALL_OF[kind], access))
        elif minor != ANY:
            folder = "char" if kind == "c" else "block"
            allowed.append((f"/dev/{folder}/{major}:{minor}", access))
        elif kind == "c" and major == _PTS_MAJOR:
            allowed.append(("char-pts", access))
    return [
        ("DevicePolicy", ("s", "strict"), pointer),
        ("DeviceAllow", ("a(ss)", allowed), pointer),
    ]

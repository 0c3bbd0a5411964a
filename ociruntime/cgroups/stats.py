"""Figures of a cgroup in the layout of ``runc events --stats`` (the ``data`` object).

Cold module: ordinary Python. Times in nanoseconds as runc has them, psi totals in microseconds. Files that are not
there leave their part out or at zero.
"""

from __future__ import annotations

import posix
from typing import Any

from ociruntime.cgroups import files

_USEC = 1000
_UNLIMITED = 18446744073709551615
_CPUS = 1 << 16  # more than any kernel has


def _number(path: str, default: int = 0) -> int:
    """A file that holds one number; ``max`` is the largest."""
    text = (files.read_or_none(path) or "").strip()
    if text == "max":
        return _UNLIMITED
    return int(text) if text.lstrip("-").isdigit() else default


def _table(path: str) -> dict[str, int]:
    """A flat keyed file."""
    out = {}
    for line in (files.read_or_none(path) or "").splitlines():
        key, _, value = line.partition(" ")
        if value.strip().isdigit():
            out[key] = int(value)
    return out


def _ticks(stat: dict[str, int], key: str) -> int:
    """cpuacct.stat counts in USER_HZ, 100 a second on our architectures; here in nanoseconds."""
    return stat.get(key, 0) * 10_000_000


def _list(path: str) -> list[int]:
    return [int(word) for word in (files.read_or_none(path) or "").split() if word.isdigit()]


def _ranges(path: str) -> list[int]:
    """``0-2,5`` → [0, 1, 2, 5] (cpuset(7) "List format")."""
    out: list[int] = []
    for part in (files.read_or_none(path) or "").strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            end = int(last or first) + 1
            if end > _CPUS:
                raise ValueError(f"processor or memory node {end - 1}")
            out += range(int(first), end)
    return out


def _percent(word: str) -> float:
    if not word.replace(".", "").isdecimal():
        raise ValueError(f"percentage {word!r}")
    return float(word)


def psi(path: str) -> dict[str, dict[str, float | int]] | None:
    """Pressure stall information (Documentation/accounting/psi.rst); None where the kernel has none."""
    out: dict[str, dict[str, float | int]] = {}
    for line in (files.read_or_none(path) or "").splitlines():
        kind, *words = line.split()
        values = dict(word.split("=", 1) for word in words)
        out[kind] = {
            key: int(value) if key == "total" else _percent(value) for key, value in values.items()
        }
    return out or None


def _with_psi(part: dict[str, Any], path: str) -> dict[str, Any]:
    found = psi(path)
    if found is not None:
        part["psi"] = found
    return part


# -- v1 --------------------------------------------------------------------------------------------


def v1(leaves: dict[str, str]) -> dict[str, Any]:
    """``leaves``: directory by controller."""
    out: dict[str, Any] = {
        "cpu": _v1_cpu(leaves),
        "cpuset": _v1_cpuset(leaves["cpuset"]) if "cpuset" in leaves else {},
        "memory": _v1_memory(leaves["memory"]) if "memory" in leaves else {},
        "pids": _pids(leaves["pids"]) if "pids" in leaves else {},
        "blkio": _v1_blkio(leaves["blkio"]) if "blkio" in leaves else {},
        "hugetlb": _hugetlb(leaves["hugetlb"], v2=False) if "hugetlb" in leaves else {},
        "intel_rdt": {},
        "network_interfaces": None,
    }
    if "hugetlb" not in leaves and "" in leaves:
        out["hugetlb"] = _hugetlb(leaves[""], v2=True)
    return out


def _v1_cpu(leaves: dict[str, str]) -> dict[str, Any]:
    usage: dict[str, Any] = {"total": 0, "kernel": 0, "user": 0}
    acct = leaves.get("cpuacct")
    if acct:
        times = _table(acct + "/cpuacct.stat")
        usage["total"] = _number(acct + "/cpuacct.usage")
        usage["kernel"] = _ticks(times, "system")
        usage["user"] = _ticks(times, "user")
        usage["percpu"] = _list(acct + "/cpuacct.usage_percpu")
        usage["percpu_kernel"] = _list(acct + "/cpuacct.usage_percpu_sys")
        usage["percpu_user"] = _list(acct + "/cpuacct.usage_percpu_user")
    stat = _table(leaves["cpu"] + "/cpu.stat") if "cpu" in leaves else {}
    throttling = {
        "periods": stat.get("nr_periods", 0),
        "throttledPeriods": stat.get("nr_throttled", 0),
        "throttledTime": stat.get("throttled_time", 0),
    }
    return {"usage": usage, "throttling": throttling}


def _v1_cpuset(leaf: str) -> dict[str, Any]:
    out: dict[str, Any] = {
        "cpus": _ranges(leaf + "/cpuset.cpus"),
        "mems": _ranges(leaf + "/cpuset.mems"),
    }
    for key in (
        "cpu_exclusive",
        "mem_hardwall",
        "mem_exclusive",
        "memory_migrate",
        "memory_spread_page",
        "memory_spread_slab",
        "memory_pressure",
        "sched_load_balance",
        "sched_relax_domain_level",
    ):
        out[key] = _number(f"{leaf}/cpuset.{key}")
    return out


def _v1_memory(leaf: str) -> dict[str, Any]:
    raw = _table(leaf + "/memory.stat")
    return {
        "cache": raw.get("cache", 0),
        "usage": _v1_counter(leaf + "/memory"),
        "swap": _v1_counter(leaf + "/memory.memsw"),
        "kernel": _v1_counter(leaf + "/memory.kmem"),
        "kernelTCP": _v1_counter(leaf + "/memory.kmem.tcp"),
        "raw": raw,
    }


def _v1_counter(prefix: str) -> dict[str, int]:
    return {
        "limit": _number(prefix + ".limit_in_bytes"),
        "usage": _number(prefix + ".usage_in_bytes"),
        "max": _number(prefix + ".max_usage_in_bytes"),
        "failcnt": _number(prefix + ".failcnt"),
    }


def _pids(leaf: str) -> dict[str, int]:
    """A limit of ``max`` is 0, as runc prints it."""
    limit = _number(leaf + "/pids.max")
    return {
        "current": _number(leaf + "/pids.current"),
        "limit": 0 if limit == _UNLIMITED else limit,
    }


_BLKIO = (
    # key, file of the (former) CFQ scheduler, of BFQ, of the throttling layer
    (
        "ioServiceBytesRecursive",
        "io_service_bytes_recursive",
        "bfq.io_service_bytes_recursive",
        "throttle.io_service_bytes_recursive",
    ),
    (
        "ioServicedRecursive",
        "io_serviced_recursive",
        "bfq.io_serviced_recursive",
        "throttle.io_serviced_recursive",
    ),
    ("ioQueueRecursive", "io_queued_recursive", "bfq.io_queued_recursive"),
    ("ioServiceTimeRecursive", "io_service_time_recursive", "bfq.io_service_time_recursive"),
    ("ioWaitTimeRecursive", "io_wait_time_recursive", "bfq.io_wait_time_recursive"),
    ("ioMergedRecursive", "io_merged_recursive", "bfq.io_merged_recursive"),
    ("ioTimeRecursive", "time_recursive", "bfq.time_recursive"),
    ("sectorsRecursive", "sectors_recursive", "bfq.sectors_recursive"),
)


def _v1_blkio(leaf: str) -> dict[str, Any]:
    """Each table from the first layer that counts anything: which one does depends on the I/O scheduler."""
    out: dict[str, Any] = {}
    for key, *names in _BLKIO:
        out[key] = []
        for name in names:
            rows = _blkio_rows(f"{leaf}/blkio.{name}")
            if rows:
                out[key] = rows
                break
    return out


def _blkio_rows(path: str) -> list[dict[str, Any]]:
    """``8:0 Read 4096`` or ``8:0 4096``; the closing ``Total`` line has no device and is left out."""
    rows = []
    for line in (files.read_or_none(path) or "").splitlines():
        words = line.split()
        major, colon, minor = words[0].partition(":") if words else ("", "", "")
        if not colon or len(words) not in (2, 3):
            continue
        rows.append(
            {
                "major": int(major),
                "minor": int(minor),
                "op": words[1] if len(words) == 3 else "",
                "value": int(words[-1]),
            }
        )
    return rows


def _hugetlb(leaf: str, *, v2: bool) -> dict[str, dict[str, int]]:
    """By page size. Sizes are found by their files."""
    suffix = ".current" if v2 else ".usage_in_bytes"
    try:
        names = posix.listdir(leaf)
    except OSError:
        return {}
    out = {}
    for name in names:
        if not name.startswith("hugetlb.") or not name.endswith(suffix) or ".rsvd." in name:
            continue
        prefix = f"{leaf}/{name.removesuffix(suffix)}"
        if v2:
            peak, failures = 0, _table(prefix + ".events").get("max", 0)
        else:
            peak, failures = _number(prefix + ".max_usage_in_bytes"), _number(prefix + ".failcnt")
        size = name.removesuffix(suffix).removeprefix("hugetlb.")
        out[size] = {"usage": _number(prefix + suffix), "max": peak, "failcnt": failures}
    return out


# -- v2 --------------------------------------------------------------------------------------------


def v2(leaf: str) -> dict[str, Any]:
    """``leaf``: the cgroup's directory."""
    return {
        "cpu": _v2_cpu(leaf),
        "cpuset": _v2_cpuset(leaf),
        "memory": _v2_memory(leaf),
        "pids": _pids(leaf),
        "blkio": _v2_io(leaf),
        "hugetlb": _hugetlb(leaf, v2=True),
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _v2_cpu(leaf: str) -> dict[str, Any]:
    stat = _table(leaf + "/cpu.stat")
    out = {
        "usage": {
            "total": stat.get("usage_usec", 0) * _USEC,
            "kernel": stat.get("system_usec", 0) * _USEC,
            "user": stat.get("user_usec", 0) * _USEC,
        },
        "throttling": {
            "periods": stat.get("nr_periods", 0),
            "throttledPeriods": stat.get("nr_throttled", 0),
            "throttledTime": stat.get("throttled_usec", 0) * _USEC,
        },
    }
    return _with_psi(out, leaf + "/cpu.pressure")


def _v2_cpuset(leaf: str) -> dict[str, Any]:
    return {
        "cpus": _ranges(leaf + "/cpuset.cpus.effective"),
        "mems": _ranges(leaf + "/cpuset.mems.effective"),
    }


def _v2_memory(leaf: str) -> dict[str, Any]:
    """Swap in runc's sense: memory and swap together."""
    raw = _table(leaf + "/memory.stat")
    events = _table(leaf + "/memory.events")
    usage = {
        "limit": _number(leaf + "/memory.max"),
        "usage": _number(leaf + "/memory.current"),
        "max": _number(leaf + "/memory.peak"),
        "failcnt": events.get("max", 0),
    }
    swap_limit = _number(leaf + "/memory.swap.max")
    both = min(swap_limit + usage["limit"], _UNLIMITED)
    out = {
        "cache": raw.get("file", 0),
        "usage": usage,
        "swap": {
            "limit": both,
            "usage": _number(leaf + "/memory.swap.current") + usage["usage"],
            "max": _number(leaf + "/memory.swap.peak"),
            "failcnt": _table(leaf + "/memory.swap.events").get("fail", 0),
        },
        "kernel": {"limit": 0, "usage": raw.get("kernel", 0), "max": 0, "failcnt": 0},
        "kernelTCP": {"limit": 0, "usage": raw.get("sock", 0), "max": 0, "failcnt": 0},
        "raw": raw,
    }
    return _with_psi(out, leaf + "/memory.pressure")


_IO = (
    # key of io.stat, list, op
    ("rbytes", "ioServiceBytesRecursive", "Read"),
    ("wbytes", "ioServiceBytesRecursive", "Write"),
    ("dbytes", "ioServiceBytesRecursive", "Discard"),
    ("rios", "ioServicedRecursive", "Read"),
    ("wios", "ioServicedRecursive", "Write"),
    ("dios", "ioServicedRecursive", "Discard"),
)


def _v2_io(leaf: str) -> dict[str, Any]:
    out: dict[str, Any] = {key: [] for key, *_ in _BLKIO}
    for line in (files.read_or_none(leaf + "/io.stat") or "").splitlines():
        device, *words = line.split()
        major, colon, minor = device.partition(":")
        values = dict(word.split("=", 1) for word in words if "=" in word)
        if not colon:
            continue
        for key, name, op in _IO:
            if key in values:
                out[name].append(
                    {
                        "major": int(major),
                        "minor": int(minor),
                        "op": op,
                        "value": int(values[key]),
                    }
                )
    return _with_psi(out, leaf + "/io.pressure")

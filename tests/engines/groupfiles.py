"""What a container's cgroup has, read inside it: the same questions on cgroup v1 and v2.

A file is named as v1 names it, below its controller; `wanted` says what v2 makes of the value that was given.
"""

from __future__ import annotations

from pathlib import Path

from tests.engines.world import GROUP

__all__ = ["UNIFIED", "reading", "wanted"]

UNIFIED = Path(GROUP, "cgroup.controllers").exists()

# v1's file -> v2's, and the number of the word there.
_V2 = {
    "memory/memory.limit_in_bytes": ("memory.max", 1),
    "memory/memory.memsw.limit_in_bytes": ("memory.swap.max", 1),  # without the memory
    "memory/memory.soft_limit_in_bytes": ("memory.low", 1),
    "cpu/cpu.shares": ("cpu.weight", 1),
    "cpu/cpu.cfs_quota_us": ("cpu.max", 1),
    "cpu/cpu.cfs_period_us": ("cpu.max", 2),
    "cpuset/cpuset.cpus": ("cpuset.cpus", 1),
    "cpuset/cpuset.mems": ("cpuset.mems", 1),
    "pids/pids.max": ("pids.max", 1),
}


def reading(*files: str) -> str:
    """A script that prints one line for each file."""
    if not UNIFIED:
        return f"(cd {GROUP} && cat {' '.join(files)})"
    return "; ".join(f"cut -d' ' -f{n} {GROUP}/{name}" for name, n in map(_V2.__getitem__, files))


def wanted(file: str, value: int | str, memory: int = 0) -> tuple[str, ...]:
    """What the file may have: `value` is v1's, `memory` the limit without swap."""
    if UNIFIED and file == "memory/memory.memsw.limit_in_bytes":
        return (str(int(value) - memory),)
    if UNIFIED and file == "cpu/cpu.shares":
        # The straight line of older runtimes; the curve of newer ones, where 1024 shares are the default weight.
        shares = int(value)
        return str(1 + (shares - 2) * 9999 // 262142), str(_curve(shares))
    return (str(value),)


def _curve(shares: int) -> int:
    """https://github.com/opencontainers/cgroups, ConvertCPUSharesToCgroupV2Value."""
    from math import ceil, log2

    log = log2(shares)
    return ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))

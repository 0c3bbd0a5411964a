"""What may grow while containers come and go: counted, compared, judged."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from tests.integration import hostlib

Figures = dict[str, int]

# Kernel memory (proc_meminfo(5), kB): per container that is leaked at least a page of one of them.
_MEMORY = {"SUnreclaim": "slab kB", "Percpu": "percpu kB", "KernelStack": "stacks kB"}
PER_CYCLE = {"kB": 2.0, "objects": 0.5}
"""How much a figure of the whole machine may grow with each cycle: what else runs there makes noise,
while a leak makes at least one object, and a page of 4 kB, of each cycle."""


# Caches of files on disks: no container of the soak touches one, whatever else runs on the machine does.
_DISK = ("buffer_head", "extent_status", "ext4_", "jbd2_", "xfs_", "btrfs_")


def exact(word: str, places: Mapping[str, Path]) -> Figures:
    """What is ours alone and so has to be the same at the end: in this process, in its mount namespace, and the
    files below `places` (name -> directory); `word` is part of the name of every container."""
    found = {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mounts": len(hostlib.mounts()),
        "cgroups": len(hostlib.cgroups(word)),
        "children": len(hostlib.children()),
    }
    for name, place in places.items():
        found[f"files of {name}"] = _count(place)
    return found


def _count(place: Path) -> int:
    """Files and directories below, of the same file system."""
    device, number = place.stat().st_dev, 0
    for top, directories, files in os.walk(place):
        number += len(directories) + len(files)
        directories[:] = [d for d in directories if os.lstat(f"{top}/{d}").st_dev == device]
    return number


def slabs() -> Figures:
    """Objects in use of each kernel cache but those of disks (slabinfo(5)); none where it cannot be read."""
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()[2:]
    except OSError:
        return {}
    return {
        f"slab {line.split()[0]}": int(line.split()[1])
        for line in lines
        if not line.startswith(_DISK)
    }


def lowest(one: Figures, other: Figures) -> Figures:
    """The lower of each two figures: what is there at both times."""
    return {name: min(number, other.get(name, number)) for name, number in one.items()}


def kernel() -> Figures:
    """What the kernel keeps for all of the machine, with what it has not let go of yet."""
    found = slabs()
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in _MEMORY:
            found[_MEMORY[name]] = int(rest.split()[0])
    # Dying ones are counted here as well, unlike the directories.
    for line in Path("/proc/cgroups").read_text().splitlines()[1:]:
        name, hierarchy, number, _ = line.split()
        if hierarchy != "0":
            found[f"cgroups of {name}"] = int(number)
    for place in (hostlib.UNIFIED, hostlib.CGROUP_ROOT):
        with contextlib.suppress(OSError):
            words = (place / "cgroup.stat").read_text().split()
            found["dying cgroups"] = int(words[words.index("nr_dying_descendants") + 1])
    with contextlib.suppress(OSError):
        lines = Path("/proc/key-users").read_text().splitlines()
        found["keys"] = sum(int(line.split()[2].partition("/")[0]) for line in lines)
    return found


def drop_caches() -> None:
    """Let the kernel forget files, dentries and inodes that nobody uses (Documentation/admin-guide/sysctl/vm.rst):
    those of whatever else the machine does would hide what the containers leave."""
    with contextlib.suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3")


def grown(before: Figures, after: Figures, cycles: int) -> list[str]:
    """Figures of the machine that have grown with the cycles, one line each.

    With too few cycles they would say nothing: a leak has to stand out from what else the machine does.
    """
    found = []
    for name, number in after.items():
        more = number - before.get(name, 0)
        unit = "kB" if name.endswith("kB") else "objects"
        if more > PER_CYCLE[unit] * cycles:
            found.append(f"{name}: {more:+} ({more / cycles:+.2f} a cycle)")
    return found


def changed(before: Figures, after: Figures) -> list[str]:
    """Exact figures that are not as they were, one line each."""
    return [
        f"{name}: {before.get(name, 0)} before, {number} after"
        for name, number in after.items()
        if number > before.get(name, 0)
    ]


def of_interest(figures: Figures) -> str:
    """A line for the progress report."""
    names = ("dentry", "net_namespace", "mnt_cache", "kernfs_node_cache", "task_struct")
    shown = [f"{name} {figures.get(f'slab {name}', 0)}" for name in names]
    shown += [f"{name} {figures[name]}" for name in (*_MEMORY.values(), "keys") if name in figures]
    shown.append(
        f"cgroups {max((n for k, n in figures.items() if k.startswith('cgroups of')), default=0)}"
    )
    shown.append(f"dying {figures.get('dying cgroups', 0)}")
    return ", ".join(shown)

"""Intel RDT figures in the layout of ``runc events --stats`` (its ``intel_rdt`` object). Cold module.

Kernel: Documentation/filesystems/resctrl.rst. What the processor lacks is left out.
"""

from __future__ import annotations

import posix
from typing import Any

from ociruntime.cgroups import files

_INFO = {
    "l3_cache_info": ("L3", ("cbm_mask", "min_cbm_bits", "num_closids")),
    "mem_bw_info": ("MB", ("bandwidth_gran", "delay_linear", "min_bandwidth", "num_closids")),
}
_MONITORED = (
    ("mbm_stats", ("mbm_total_bytes", "mbm_local_bytes")),
    ("cmt_stats", ("llc_occupancy",)),
)


def stats(path: str, monitor: str) -> dict[str, Any]:
    """``path``: directory of the class of service; ``monitor``: of the monitoring group, or ``""``."""
    out: dict[str, Any] = {}
    top = _top(path)
    for key, (name, entries) in _INFO.items():
        info = _info(f"{top}/info/{name}", entries)
        if info:
            out[key] = info
    for name, key in (("L3", "l3_cache_schema"), ("MB", "mem_bw_schema")):
        for place, suffix in ((top, "_root"), (path, "")):
            line = next((x for x in _lines(place) if x.startswith(f"{name}:")), None)
            if line is not None:
                out[key + suffix] = line
    out["schemata"] = "\n".join(_lines(path))
    for key, names in _MONITORED:
        found = _monitored(f"{monitor or path}/mon_data", names)
        if found:
            out[key] = found
    return out


def _top(path: str) -> str:
    """The root of resctrl above a class (or the class, if it is the default one)."""
    return path if files.exists(f"{path}/info") else path.rpartition("/")[0]


def _lines(path: str) -> list[str]:
    text = files.read_or_none(f"{path}/schemata") or ""
    return [line.strip() for line in text.splitlines()]


def _info(place: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Files of info/: numbers as numbers, masks as they are."""
    out: dict[str, Any] = {}
    for name in names:
        text = (files.read_or_none(f"{place}/{name}") or "").strip()
        if text:
            out[name] = int(text) if name != "cbm_mask" and text.isdigit() else text
    return out


def _monitored(place: str, names: tuple[str, ...]) -> list[dict[str, int]]:
    """One entry for each domain (mon_L3_00, …) that counts any of ``names``."""
    try:
        domains = sorted(name for name in posix.listdir(place) if name.startswith("mon_L3_"))
    except OSError:
        return []
    out = []
    for domain in domains:
        texts = {name: files.read_or_none(f"{place}/{domain}/{name}") for name in names}
        entry = {name: int(text) for name, text in texts.items() if text and text.strip().isdigit()}
        if entry:
            out.append(entry)
    return out

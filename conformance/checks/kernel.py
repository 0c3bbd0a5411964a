"""config-linux.md: Intel RDT and memory policy, as far as any host can show."""

from __future__ import annotations

from pathlib import Path

from conformance.registry import check
from conformance.trial import Skip, Trial


def without_resctrl() -> None:
    """Raises Skip on a host that has resctrl: the rules there need its hardware."""
    if any(" resctrl " in line for line in Path("/proc/mounts").read_text().splitlines()):
        raise Skip("resctrl is mounted")


@check("8.2")
def no_resctrl(t: Trial) -> None:
    without_resctrl()
    t.bundle.linux["intelRdt"] = {"closID": "probe", "l3CacheSchema": "L3:0=f"}
    t.refused("intelRdt on a host without it")


@check("8.3")
def unset(t: Trial) -> None:
    without_resctrl()
    t.equal(t.output("echo", "here"), ["here"], "output without intelRdt")


@check("8.5")
def class_name(t: Trial) -> None:
    for bad in (".", "..", "a/b", "a\nb"):
        t.bundle.linux["intelRdt"] = {"closID": bad}
        t.refused(f"closID {bad!r}")


@check("8.6")
def schemas(t: Trial) -> None:
    for name in ("l3CacheSchema", "memBwSchema"):
        t.bundle.linux["intelRdt"] = {"closID": "probe", name: "L3:0=f\nMB:0=10"}
        t.refused(f"a line feed in {name}")


@check("9.1")
def policy(t: Trial) -> None:
    t.bundle.linux["memoryPolicy"] = {"mode": "MPOL_INTERLEAVE", "nodes": "0"}
    # "N0=…" follows the policy on each line of numa_maps.
    text = " ".join(t.output("cat", "/proc/self/numa_maps"))
    if "No such" in text or "ENOENT" in text:
        raise Skip("this kernel has no numa_maps")
    t.claim("interleave:0" in text, "interleave:0", text[:100])
    t.bundle.linux["memoryPolicy"] = {"mode": "MPOL_NOSUCH", "nodes": "0"}
    t.refused("MPOL_NOSUCH")


@check("9.2")
def nodes(t: Trial) -> None:
    t.bundle.linux["memoryPolicy"] = {"mode": "MPOL_BIND"}
    t.refused("MPOL_BIND without nodes")
    t.bundle.linux["memoryPolicy"] = {"mode": "MPOL_DEFAULT"}
    t.equal(t.output("echo", "here"), ["here"], "output with MPOL_DEFAULT without nodes")


@check("9.3")
def flags(t: Trial) -> None:
    t.bundle.linux["memoryPolicy"] = {
        "mode": "MPOL_INTERLEAVE",
        "nodes": "0",
        "flags": ["MPOL_F_STATIC_NODES"],
    }
    text = " ".join(t.output("cat", "/proc/self/numa_maps"))
    if "ENOENT" in text:
        raise Skip("this kernel has no numa_maps")
    t.claim("interleave=static" in text, "interleave=static:0", text[:100])

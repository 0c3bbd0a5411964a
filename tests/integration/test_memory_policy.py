"""linux.memoryPolicy: every mode and flag, as the kernel shows it of the running program (proc(5) numa_maps)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.harness import Bundle, Runtime

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not Path("/proc/self/numa_maps").exists(), reason="a kernel without NUMA"),
]
NODES = "0-1" if Path("/sys/devices/system/node/node1").exists() else "0"


@pytest.fixture(autouse=True)
def known(rt: Runtime) -> None:
    """Policies are newer than Debian 12's peers."""
    features = rt.call("features")
    if features.code or "memoryPolicy" not in features.json().get("linux", {}):
        pytest.skip(f"{rt.kind} has no memory policies")


@pytest.mark.parametrize(
    ("mode", "nodes", "flags", "shown"),
    [
        ("MPOL_DEFAULT", None, [], "default"),
        ("MPOL_LOCAL", None, [], "local"),
        ("MPOL_PREFERRED", None, [], "local"),
        ("MPOL_PREFERRED", "", [], "local"),
        ("MPOL_PREFERRED", "0", [], "prefer:0"),
        ("MPOL_PREFERRED_MANY", NODES, [], f"prefer (many):{NODES}"),
        ("MPOL_BIND", "0", [], "bind:0"),
        ("MPOL_BIND", NODES, [], f"bind:{NODES}"),
        ("MPOL_INTERLEAVE", NODES, [], f"interleave:{NODES}"),
        ("MPOL_INTERLEAVE", NODES, ["MPOL_F_STATIC_NODES"], f"interleave=static:{NODES}"),
        ("MPOL_BIND", "0", ["MPOL_F_RELATIVE_NODES"], "bind=relative:0"),
        ("MPOL_BIND", "0", ["MPOL_F_NUMA_BALANCING"], "bind"),
        ("MPOL_PREFERRED", "0", ["MPOL_F_STATIC_NODES"], "prefer=static:0"),
    ],
)
def test_mode(
    rt: Runtime, bundle: Bundle, mode: str, nodes: str | None, flags: list[str], shown: str
) -> None:
    bundle.linux["memoryPolicy"] = {"mode": mode, "flags": flags}
    if nodes is not None:
        bundle.linux["memoryPolicy"]["nodes"] = nodes
    container = rt.create(bundle.args("sleep")).start()
    lines = container.proc("numa_maps").splitlines()
    assert lines
    # "prefer (many)" has a space in it: all up to the first attribute.
    assert all(line.partition(" ")[2].startswith(shown) for line in lines), lines


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"mode": "MPOL_NOSUCH"}, "MPOL_NOSUCH"),
        ({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_NOSUCH"]}, "MPOL_F_NOSUCH"),
        ({"mode": "MPOL_BIND"}, "nodes"),
        ({"mode": "MPOL_INTERLEAVE", "nodes": ""}, "nodes"),
        ({"mode": "MPOL_DEFAULT", "nodes": "0"}, "nodes"),
        ({"mode": "MPOL_BIND", "nodes": "x"}, "nodes"),
        ({"mode": "MPOL_BIND", "nodes": "1000"}, "set_mempolicy: invalid argument"),
        (
            {
                "mode": "MPOL_BIND",
                "nodes": "0",
                "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"],
            },
            "",
        ),
    ],
)
def test_refused(rt: Runtime, bundle: Bundle, change: dict[str, object], text: str) -> None:
    bundle.linux["memoryPolicy"] = change
    rt.try_create(bundle).result.failed("linux.memoryPolicy", text)

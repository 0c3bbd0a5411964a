"""config-linux.md: control groups, the rows that need no file of one version alone."""

from __future__ import annotations

from pathlib import Path

from conformance.checks.cgroups import MIB, need, own_path
from conformance.registry import check
from conformance.trial import Skip, Trial


@check("7.7")
def more_controllers(t: Trial) -> None:
    """It may join more than is asked for: then at its own path, nowhere else."""
    path = own_path(t)
    need("pids")
    t.bundle.linux["resources"] = {"pids": {"limit": 100}}
    container = t.create("sleep")
    caller = Path("/proc/self/cgroup").read_text().splitlines()
    for line in container.proc("cgroup").splitlines():
        t.claim(line.endswith(f":{path}") or line in caller, f"{path} or the caller's", line)


@check("7.64")
def rdma(t: Trial) -> None:
    devices = Path("/sys/class/infiniband")
    names = sorted(p.name for p in devices.iterdir()) if devices.is_dir() else []
    if not names:
        raise Skip("no rdma device (/sys/class/infiniband)")
    path = need("rdma") / own_path(t)[1:]
    t.bundle.linux["resources"] = {"rdma": {names[0]: {"hcaHandles": 3, "hcaObjects": 10000}}}
    container = t.create("sleep")
    file = path / "rdma.max"
    seen = file.read_text() if file.exists() else "no rdma.max in the cgroup"
    t.claim(f"{names[0]} hca_handle=3 hca_object=10000" in seen, "the limits in rdma.max", seen)
    t.stop(container)


@check("7.36")
def hierarchy(t: Trial) -> None:
    """The kernel knows nothing else since Linux 5.11."""
    path = need("memory", "memory.use_hierarchy") / own_path(t)[1:]
    t.bundle.linux["resources"] = {"memory": {"limit": 64 * MIB, "useHierarchy": True}}
    container = t.create("sleep")
    t.equal((path / "memory.use_hierarchy").read_text().strip(), "1", "memory.use_hierarchy")
    t.stop(container)


@check("7.37")
def check_before_update(t: Trial) -> None:
    """`update` is no part of the specification: a runtime without it is not judged."""
    need("memory")
    own_path(t)
    container = t.launch("sleep")
    if container.verb("update", "--resources", "-", stdin="{}").code != 0:
        raise Skip("the runtime has no update --resources")
    for flag, fails in ((True, True), (False, False)):
        document = f'{{"memory": {{"limit": {4096 if fails else 64 * MIB}, "checkBeforeUpdate": {str(flag).lower()}}}}}'
        result = container.verb("update", "--resources", "-", stdin=document)
        t.equal(result.code != 0, fails, f"update fails with {document}")
    t.stop(container)

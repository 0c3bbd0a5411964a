"""Engines that ask systemd for cgroups: where a container is, what limits it, what changes that, and its end.

A few long flows, because such machines are mostly emulated ones: all that each engine does with a scope.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.kit import poll
from tests.engines.drivers import IMAGE, OURS, Buildah, Containerd, Cri, Engine, Podman
from tests.engines.groupfiles import reading, wanted
from tests.engines.world import GROUP, with_systemd

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        not with_systemd(), reason="no systemd with cgroup v2 here: make test-vm-engines"
    ),
]
MIB = 1 << 20
FILES = ("memory/memory.limit_in_bytes", "pids/pids.max", "cpu/cpu.shares")


def group_of(engine: Engine, pid: int) -> Path:
    """The cgroup of a process, by the machine's view."""
    text = engine.world.path(f"/proc/{pid}/cgroup").read_text()
    return Path(GROUP + text.removeprefix("0::").strip())


def shown(engine: Engine, unit: str, *names: str) -> list[str]:
    """Properties of a unit, in this order."""
    manager = ["--user"] if engine.user else []
    fields = [f"--property={name}" for name in names]
    command = ("systemctl", *manager, "show", *fields, unit)
    lines = engine.world.call(*command, env=engine.env, user=engine.user).ok().lines
    found = dict(line.split("=", 1) for line in lines)
    return [found[name] for name in names]


def frozen(group: Path) -> bool:
    return "frozen 1" in (group / "cgroup.events").read_text()


def limits(group: Path) -> tuple[str, str]:
    return (group / "memory.max").read_text().strip(), (group / "pids.max").read_text().strip()


@pytest.mark.engines("podman", "user-podman", "docker")
def test_scope(engine: Engine) -> None:
    """Placed in a scope of the slice, limited there and in systemd's eyes, updated, paused, stopped, gone."""
    flags = ("--memory", "64m", "--memory-swap", "64m", "--pids-limit", "90", "--cpu-shares", "300")
    name = engine.service(*flags)
    group = group_of(engine, engine.state(name)["Pid"])
    scope = (
        group if group.name.endswith(".scope") else group.parent
    )  # crun: `container` in the scope
    assert scope.parent.name == engine.world.parent and scope.name.endswith(".scope")
    assert scope.name.startswith("docker-" if engine.kind == "docker" else "libpod-")
    memory, pids, shares = engine.execute(name, reading(*FILES))
    assert (memory, pids) == (str(64 * MIB), "90") and shares in wanted(FILES[2], 300)
    # What systemd knows it keeps at `daemon-reload`.
    properties = ("MemoryMax", "TasksMax", "Delegate", "ActiveState")
    assert shown(engine, scope.name, *properties) == [str(64 * MIB), "90", "yes", "active"]

    assert engine.call("exec", name, "sh", "-c", "exit 7").code == 7
    if "podman" not in engine.kind or engine.call("update", "--help").code == 0:
        engine.call("update", "--memory", "48m", "--memory-swap", "48m", name).ok()
        assert engine.execute(name, reading(FILES[0])) == [str(48 * MIB)]
    engine.call("pause", name).ok()
    assert frozen(group)
    engine.call("unpause", name).ok()
    assert engine.execute(name, "echo on") == ["on"]
    engine.call("stop", "--time", "20", name).ok()
    assert engine.state(name)["ExitCode"] == 0
    poll(lambda: not scope.exists(), f"{scope} stays")
    assert shown(engine, scope.name, "ActiveState") != ["failed"]


@pytest.mark.engines("podman", "user-podman", "docker")
def test_out_of_memory(engine: Engine) -> None:
    """The kernel's end of a container reaches the engine through the scope."""
    name = engine.detached(
        *("--memory", "16m", "--memory-swap", "16m"), IMAGE, "testprog", "memhog", str(100 * MIB)
    )
    engine.wait_for(name, "exited")
    state = engine.state(name)
    assert state["ExitCode"] == 137
    assert (
        state["OOMKilled"] is True or engine.kind != "docker" or not engine.ours
    )  # others miss some


@pytest.mark.engines("podman", "user-podman")
def test_pod_and_systemd_inside(engine: Podman) -> None:
    """A pod's slice limits its containers; --systemd=always gives a cgroup that the container may divide."""
    pod = engine.new_name()
    flags = ["--infra=false", "--share=", *engine.place_flags(), "--memory", "64m", "--name", pod]
    limited = engine.call("pod", "create", *flags)
    if limited.code:  # podman 4 has no limits of pods
        flags.remove("--memory")
        flags.remove("64m")
        engine.call("pod", "create", *flags).ok()
    flags = ["--systemd=always", "--network", "none"]
    command = (
        "sh",
        "-c",
        "mkdir /sys/fs/cgroup/sub && cat /proc/self/cgroup; trap 'exit 5' 37; sleep 1000 & wait",
    )
    name = engine.new_name()
    engine.call("run", "--detach", "--pod", pod, "--name", name, *flags, IMAGE, *command).ok()
    engine.wait_for_log(name, "0::")
    group = group_of(engine, engine.state(name)["Pid"])
    slices = [part for part in group.parts if part.endswith(".slice")]
    assert slices[-1].endswith(".slice") and "pod" in slices[-1], group
    if not limited.code:
        assert limits(Path(*group.parts[: group.parts.index(slices[-1]) + 1]))[0] == str(64 * MIB)
    engine.call("stop", "--time", "20", name).ok()
    assert engine.state(name)["ExitCode"] == 5
    engine.call("pod", "rm", "--force", "--time", "0", pod).ok()


@pytest.mark.engines("ctr")
def test_task(engine: Containerd) -> None:
    """`--runc-systemd-cgroup` with a path of slice, prefix and name."""
    name = engine.background("sleep", "1000", flags=("--memory-limit", str(64 * MIB)))
    [group] = [path for path in engine.world.groups() if path.name == f"ctr-{name}.scope"]
    assert group.parent.name == engine.world.parent and limits(group)[0] == str(64 * MIB)
    assert shown(engine, group.name, "MemoryMax", "Slice") == [str(64 * MIB), engine.world.parent]
    engine.call("tasks", "pause", name).ok()
    assert frozen(group) and engine.task_status(name) == "PAUSED"
    engine.call("tasks", "resume", name).ok()
    metrics = engine.call("tasks", "metrics", name).ok().out
    assert "memory.usage" in metrics and "pids.current" in metrics
    engine.call("tasks", "kill", "--signal", "KILL", name).ok()
    poll(lambda: not group.exists(), f"{group} stays")


@pytest.mark.engines("cri")
def test_pod(engine: Cri) -> None:
    """SystemdCgroup = true: as a kubelet with `cgroupDriver: systemd` asks, both classes of runtime."""
    for handler in {engine.runtime, OURS}:
        pod = engine.pod(handler=handler, linux={"cgroup_parent": engine.world.deeper})
        resources = {
            "memory_limit_in_bytes": 64 * MIB,
            "cpu_quota": 50000,
            "cpu_period": 100000,
            "cpu_shares": 300,
        }
        container = pod.service(resources=resources)
        group = container.group("memory")
        assert group.name == f"cri-containerd-{container.id}.scope"
        assert group.parent.name == engine.world.deeper and limits(group)[0] == str(64 * MIB)
        assert (group / "cpu.max").read_text().split() == ["50000", "100000"]
        assert (group / "cpu.weight").read_text().strip() in wanted("cpu/cpu.shares", 300)
        assert shown(engine, group.name, "MemoryMax", "CPUQuotaPerSecUSec") == [
            str(64 * MIB),
            "500ms",
        ]
        assert container.exec("sh", "-c", "echo said; exit 3").code == 3
        container.ask("UpdateContainerResources", linux={"memory_limit_in_bytes": 48 * MIB})
        assert limits(group)[0] == str(48 * MIB)
        ended = pod.start(
            "testprog", "memhog", str(256 * MIB), resources={"memory_limit_in_bytes": 32 * MIB}
        ).wait()
        assert (ended.exit_code, ended.reason) == (137, "OOMKilled")
        container.stop(timeout=20)
        pod.stop()
        pod.remove()
        poll(lambda path=group: not path.exists(), f"{group} stays")


@pytest.mark.engines("buildah")
def test_step(engine: Buildah) -> None:
    """buildah runs a step, limited, and a build's RUN; nothing of either stays."""
    name = engine.working("--memory", "64m")
    assert engine.within(name, "echo said >/made; exit 4").code == 4
    engine.host(
        f"mkdir -p /run/context; printf 'FROM {IMAGE}\\nRUN echo built >/made\\n' >/run/context/Dockerfile"
    )
    engine.call("bud", "--network", "none", "--tag", "built", "/run/context").ok()
    engine.call("rmi", "built").ok()

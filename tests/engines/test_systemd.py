"""Engines that ask systemd for cgroups: where a container is, what limits it, what changes that, and its end.

A few long flows, because such machines are mostly emulated ones: all that each engine does with a scope.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from conformance.kit import Result, poll
from tests.engines import systemd_image
from tests.engines.drivers import IMAGE, OURS, ROOTFS, Buildah, Containerd, Cri, Engine, Podman
from tests.engines.drivers.podman import INFRA
from tests.engines.groupfiles import reading, wanted
from tests.engines.world import GROUP, TIMEOUT, with_systemd

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        not with_systemd(), reason="no systemd with cgroup v2 here: make test-vm-engines"
    ),
]
MIB = 1 << 20
SERVE = "trap 'exit 0' TERM; sleep 1000 & wait"
DOCKERS = ("docker", "docker-remapped", "user-docker")
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


@pytest.mark.engines("podman", "user-podman", *DOCKERS)
def test_scope(engine: Engine) -> None:
    """Placed in a scope of the slice, limited there and in systemd's eyes, updated, paused, stopped, gone."""
    flags = ("--memory", "64m", "--memory-swap", "64m", "--pids-limit", "90", "--cpu-shares", "300")
    name = engine.service(*flags)
    group = group_of(engine, engine.state(name)["Pid"])
    scope = (
        group if group.name.endswith(".scope") else group.parent
    )  # crun: `container` in the scope
    assert scope.parent.name == engine.world.parent and scope.name.endswith(".scope")
    assert scope.name.startswith("docker-" if engine.kind in DOCKERS else "libpod-")
    memory, pids, shares = engine.execute(name, reading(*FILES))
    assert (memory, pids) == (str(64 * MIB), "90") and shares in wanted(FILES[2], 300)
    assert shown(engine, scope.name, "Delegate", "ActiveState") == ["yes", "active"]
    if engine.runtime != "crun":  # crun 1.8 limits its cgroup below the scope alone
        # What systemd knows it keeps at `daemon-reload`.
        assert shown(engine, scope.name, "MemoryMax", "TasksMax") == [str(64 * MIB), "90"]

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


@pytest.mark.engines("podman", "user-podman", *DOCKERS)
def test_out_of_memory(engine: Engine) -> None:
    """The kernel's end of a process reaches the engine through the scope.

    systemd removes a scope as soon as it is empty: what the engine has not read of it by then is lost, with each
    runtime.  So a process stays there.  conmon 2.1.6 looks away after the first sign that memory is short.
    """
    flags = ("--memory", "16m", "--memory-swap", "16m")
    hog = f"testprog memhog {100 * MIB}"
    script = f"{hog}; code=$?; sleep 2; exit $code"
    names = [engine.detached(*flags, IMAGE, "sh", "-c", text) for text in (script, f"exec {hog}")]
    for name in names:
        engine.wait_for(name, "exited")
        assert engine.state(name)["ExitCode"] == 137
    assert engine.state(names[0])["OOMKilled"] is True or "podman" in engine.kind


@pytest.mark.engines("podman", "user-podman")
def test_pod(engine: Podman) -> None:
    """A pod's containers are in scopes of the pod's slice, which limits them where podman has limits of pods."""
    if engine.call("image", "exists", INFRA).code:
        flags = ("--quiet", "--change", f"CMD {SERVE}", "--change", "ENV PATH=/bin")
        engine.call("import", *flags, "/run/image.tar", INFRA).ok()
    pod = engine.new_name()
    flags = [*engine.place_flags(), "--network", "none", "--name", pod]
    limited = engine.call("pod", "create", *flags, "--memory", "64m")
    if limited.code:  # podman 4 has none
        engine.call("pod", "create", *flags).ok()
    try:
        name = engine.new_name()
        words = ("--detach", "--pod", pod, "--name", name)
        engine.call("run", *words, IMAGE, "sh", "-c", "trap 'exit 5' TERM; sleep 1000 & wait").ok()
        group = group_of(engine, engine.state(name)["Pid"])
        place = next(path for path in group.parents if path.suffix == ".slice")
        assert "pod" in place.name and place.parent.name == engine.world.parent, group
        if not limited.code:
            assert limits(place)[0] == str(64 * MIB)
        engine.call("stop", "--time", "20", name).ok()
        assert engine.state(name)["ExitCode"] == 5
    finally:
        engine.call("pod", "rm", "--force", "--time", "0", pod).ok()
    poll(lambda: not group.exists(), f"{group} stays")


@pytest.mark.engines("podman", "user-podman", peers=2)
def test_systemd_inside(engine: Podman) -> None:
    """A real systemd as first process: it comes up, limits units in the cgroup it was given, and ends when told."""
    if not systemd_image.available():
        pytest.skip("no systemd to put into an image")
    if engine.call("image", "exists", "systemd").code:
        systemd_image.make_archive(engine.world.path(ROOTFS), engine.world.path("/run/systemd.tar"))
        change = f"CMD {systemd_image.INIT}"
        engine.call("import", "--quiet", "--change", change, "/run/systemd.tar", "systemd").ok()
    # By its name alone podman takes it for systemd.
    name = engine.detached("--tty", "--memory", "128m", "--memory-swap", "128m", "systemd")
    group = group_of(engine, engine.state(name)["Pid"])
    # systemd puts itself into a scope of its own below.
    scope = next(path for path in (group, *group.parents) if path.name.startswith("libpod-"))
    state = ("exec", name, "systemctl", "is-system-running")
    poll(lambda: engine.call(*state).out == "running\n", "systemd does not come up")

    limit = systemd_image.MIB * MIB
    assert engine.execute(name, f"cat {systemd_image.PLACE}") == [
        "0::/system.slice/limited.service",
        str(limit),
    ]
    script = "tr '\\0' '\\n' </proc/1/environ | grep ^container="
    assert engine.execute(name, script) in (["container=podman"], ["container=oci"])
    inside = scope / "container"  # crun's
    assert limits(inside if inside.exists() else scope)[0] == str(128 * MIB)
    inner = next(scope.glob("**/system.slice/steady.service"))
    assert (inner / "cgroup.procs").read_text().split()

    engine.call("stop", "--time", "30", name).ok()
    assert engine.state(name)["ExitCode"] == 0  # SIGRTMIN+3 was heeded
    poll(lambda: not scope.exists(), f"{scope} stays")


def in_unit(engine: Podman, *args: str) -> Result:
    """podman in a unit of its own whose cgroup is delegated, as a service of an administrator would start it."""
    command = ["systemd-run", *(["--user"] if engine.user else []), "--scope", "--quiet"]
    command += ["--property", "Delegate=yes", "--unit", f"{engine.new_name()}-unit.scope"]
    return engine.world.call(*command, *engine.command, *args, env=engine.env, user=engine.user)


@pytest.mark.engines("podman", "user-podman", peers=2)
def test_ways_of_cgroups(engine: Podman, subtests: SubTests) -> None:
    """--cgroups: in podman's own cgroup (split), in a scope with or without one for conmon, and none."""
    limit = ("--memory", "64m", "--memory-swap", "64m")
    with subtests.test("split"):
        flags = ("--network", "none", "--cgroups", "split", *limit)
        where = f"cat /proc/self/cgroup; {reading(FILES[0])}"
        wanted = ["0::/", str(64 * MIB)]
        assert in_unit(engine, "run", "--rm", *flags, IMAGE, "sh", "-c", where).ok().lines == wanted
        name = engine.new_name()
        words = ("--detach", "--name", name, *flags, IMAGE, "sh", "-c", SERVE)
        in_unit(engine, "run", *words).ok()
        group = group_of(engine, engine.state(name)["Pid"])
        payload = next(p for p in (group, *group.parents) if p.name.startswith("libpod-payload-"))
        unit = payload.parent
        assert unit.name.endswith("-unit.scope") and limits(group)[0] == str(64 * MIB)
        conmon = group_of(engine, engine.state(name)["ConmonPid"])
        assert conmon.parent == unit and conmon.name in ("runtime", "supervisor")
        assert engine.execute(name, where) == wanted
        engine.call("pause", name).ok()
        assert frozen(group)
        engine.call("unpause", name).ok()
        engine.call("stop", "--time", "20", name).ok()
        assert engine.state(name)["ExitCode"] == 0
        poll(lambda: not payload.exists(), f"{payload} stays")
        poll(lambda: not unit.exists(), f"{unit} stays")
    for way in ("enabled", "no-conmon"):
        with subtests.test(way):
            name = engine.service("--cgroups", way, *limit)
            group = group_of(engine, engine.state(name)["Pid"])
            assert engine.world.parent in group.parts and limits(group)[0] == str(64 * MIB)
            conmon = group_of(engine, engine.state(name)["ConmonPid"])
            assert conmon.name.startswith("libpod-conmon-") == (way == "enabled")
    with subtests.test("disabled"):
        if engine.runtime == "runc":
            pytest.skip("runc has no such option, and podman refuses")
        flags = ("--detach", "--network", "none", "--cgroups", "disabled")
        name = engine.new_name()
        engine.call("run", "--name", name, *flags, IMAGE, "sh", "-c", SERVE).ok()
        assert engine.call("exec", name, "sh", "-c", "exit 7").code == 7
        pids = (engine.state(name)["Pid"], engine.state(name)["ConmonPid"])
        assert group_of(engine, pids[0]) == group_of(engine, pids[1])
        engine.call("stop", "--time", "20", name).ok()
        assert engine.state(name)["ExitCode"] == 0


@pytest.mark.engines("podman")
def test_service(engine: Podman) -> None:
    """As Quadlet runs a container: a service of Type=notify whose cgroup is split; conmon is its main process."""
    name = engine.new_name()
    unit = f"{name}.service"
    env = {**engine.env, "NOTIFY_SOCKET": "/run/systemd/notify"}
    flags = ("--rm", "--replace", "--network", "none", "--cgroups", "split", "--sdnotify", "conmon")
    words = ("run", "--detach", "--name", name, *flags, IMAGE, "sh", "-c", SERVE)
    properties = [f"--property={p}" for p in ("Type=notify", "NotifyAccess=all", "Delegate=yes")]
    command = ["systemd-run", "--quiet", "--unit", unit, *properties]
    command += engine.world.argv([*engine.command, *words], env)
    subprocess.run(command, check=True, timeout=TIMEOUT)
    assert shown(engine, unit, "ActiveState") == ["active"]
    state = engine.state(name)
    assert shown(engine, unit, "MainPID") == [str(state["ConmonPid"])]
    assert unit in group_of(engine, state["Pid"]).parts
    engine.call("stop", "--time", "20", name).ok()
    poll(lambda: shown(engine, unit, "ActiveState") == ["inactive"], f"{unit} does not end")


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
def test_sandbox(engine: Cri) -> None:
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
        # Its cgroup is there until containerd has read it, see test_out_of_memory.
        script = f"testprog memhog {256 * MIB}; code=$?; sleep 2; exit $code"
        little = {"memory_limit_in_bytes": 32 * MIB}
        ended = pod.start("sh", "-c", script, resources=little).wait()
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

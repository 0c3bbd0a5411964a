"""The systemd driver with the real systemd: the system's as root, the user's in a session (tests/vm)."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import Bundle, Container, Runtime, alive, by_kind, poll

ROOT = Path("/sys/fs/cgroup")
USER = os.geteuid() != 0
MIB = 1 << 20
OURS = "ociruntime"
ACCEPTS = ("43", "288", "202", "242")  # accept(2) and accept4(2) of x86-64 and arm64


def booted() -> bool:
    """sd_booted(3), and somebody to ask."""
    if not Path("/run/systemd/system").is_dir():
        return False
    return not USER or Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent"), "systemd").is_dir()


pytestmark = [
    pytest.mark.skipif(
        not booted(),
        reason="needs systemd as pid 1, for an ordinary user with a session: make test-vm",
    ),
    pytest.mark.skipif(not (ROOT / "cgroup.controllers").exists(), reason="needs cgroup v2"),
]


def systemctl(*args: str) -> str:
    command = ["systemctl", *(["--user"] if USER else []), *args]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return run.stdout.strip()


def prop(unit: str, *names: str) -> dict[str, str]:
    lines = systemctl("show", "-p", ",".join(names), unit).splitlines()
    return dict(line.split("=", 1) for line in lines)


def known(unit: str) -> bool:
    return unit in systemctl("list-units", "--all", "--plain", "--no-legend", unit)


def place(container: Container) -> Path:
    """The cgroup of init, as the kernel tells it."""
    return ROOT / container.proc("cgroup").strip().removeprefix("0::/")


def value(container: Container, name: str) -> str:
    return (place(container) / name).read_text().strip()


@pytest.fixture
def unit(rt: Runtime, bundle: Bundle) -> str:
    rt.options = ["--systemd-cgroup"]
    name = rt.root.name
    bundle.linux["cgroupsPath"] = f"{'user' if USER else 'system'}.slice:{name}:c"
    bundle.args("sleep")
    return f"{name}-c.scope"


def limits(bundle: Bundle, **resources: Any) -> Bundle:
    bundle.linux.setdefault("resources", {}).update(resources)
    return bundle


def gone(unit: str) -> None:
    poll(lambda: not known(unit), f"{unit} is still there: {systemctl('status', unit)}")


def test_scope(rt: Runtime, bundle: Bundle, unit: str) -> None:
    """The unit is there with create, and nothing of it when delete is through, at once."""
    container = rt.create(bundle)
    scope = place(container)
    if rt.kind == "crun":
        scope = scope.parent
    assert scope.name == unit
    found = prop(unit, "ActiveState", "Delegate", "DefaultDependencies", "Slice", "ControlGroup")
    assert found["ActiveState"] == "active"
    assert found["Delegate"] == "yes"
    assert found["DefaultDependencies"] == "no"
    assert found["ControlGroup"] == f"/{scope.relative_to(ROOT)}"
    container.start()
    container.kill()
    container.wait()
    container.delete().ok()
    assert not scope.exists()
    if rt.kind == OURS:
        assert not known(unit)
    gone(unit)


def test_delete_of_a_running_one(rt: Runtime, bundle: Bundle, unit: str) -> None:
    """Again and again under one name: what is deleted is forgotten, not about to be."""
    for _ in range(3):
        container = rt.create(bundle).start()
        scope = place(container)
        container.delete("--force").ok()
        assert not scope.exists()
    gone(unit)


def test_default_name(rt: Runtime, bundle: Bundle, unit: str) -> None:
    del bundle.linux["cgroupsPath"]
    container = rt.create(bundle)
    assert f"{rt.kind}-{container.id}.scope" in str(place(container))


@pytest.mark.skipif(USER, reason="slices of a user are those of the system")
def test_slices_are_made(rt: Runtime, bundle: Bundle, unit: str) -> None:
    word = rt.root.name.replace("_", "")
    bundle.linux["cgroupsPath"] = f"{word}-b.slice:{rt.root.name}:c"
    container = rt.create(bundle)
    assert f"/{word}.slice/{word}-b.slice/{unit}" in str(place(container))
    container.delete("--force").ok()
    systemctl("stop", f"{word}.slice")


def test_limits_are_the_kernels_and_systemds(rt: Runtime, bundle: Bundle, unit: str) -> None:
    limits(
        bundle,
        memory={"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 16 * MIB},
        cpu={"quota": 50_555, "period": 100_000, "cpus": "0"},
        pids={"limit": 100},
    )
    container = rt.create(bundle)
    read = {
        name: value(container, name)
        for name in ("memory.max", "memory.swap.max", "memory.low", "cpu.max", "pids.max")
    }
    assert read == {
        "memory.max": str(64 * MIB),
        "memory.swap.max": str(32 * MIB),
        "memory.low": str(16 * MIB),
        "cpu.max": "50555 100000",
        "pids.max": "100",
    }
    assert value(container, "cpuset.cpus") == "0"
    if rt.kind == "crun":
        return  # below the scope, where systemd does not come
    found = prop(unit, "MemoryMax", "MemorySwapMax", "TasksMax", "AllowedCPUs")
    assert found == {
        "MemoryMax": str(64 * MIB),
        "MemorySwapMax": str(32 * MIB),
        "TasksMax": "100",
        "AllowedCPUs": "0",
    }
    assert prop(unit, "CPUQuotaPerSecUSec") == {"CPUQuotaPerSecUSec": "510ms"}


def test_reload_keeps_limits_and_devices(rt: Runtime, bundle: Bundle, unit: str) -> None:
    limits(bundle, memory={"limit": 64 * MIB}, pids={"limit": 100})
    limits(bundle, unified={"memory.high": str(32 * MIB)}, cpu={"shares": 2048})
    container = rt.create(bundle).start()
    names = ("memory.max", "memory.high", "pids.max", "cpu.weight")
    before = [value(container, name) for name in names]
    systemctl("daemon-reload")
    assert [value(container, name) for name in names] == before
    assert container.exec("exit", "3").code == 3


@pytest.mark.skipif(USER, reason="the device filter is for root only")
def test_reload_keeps_devices(rt: Runtime, bundle: Bundle, unit: str) -> None:
    """systemd writes its own device rules again: neither more nor less may be allowed then."""
    limits(
        bundle,
        devices=[
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "rwm"},
        ],
    )
    bundle.process["capabilities"] = {
        name: ["CAP_MKNOD"] for name in ("bounding", "effective", "permitted")
    }
    container = rt.create(bundle).start()
    for _ in range(2):
        for name, numbers, opens in (
            ("kmsg", "1:11", True),
            ("loop", "10:237", False),
            ("null", "1:3", True),
        ):
            node = f"/tmp/{name}"
            container.exec("unlink", node)
            container.exec("mknod", node, "c", *numbers.split(":")).ok()
            opened = container.exec("open", node, "w").code == 0
            assert opened == opens, name
        systemctl("daemon-reload")


def test_update(rt: Runtime, bundle: Bundle, unit: str) -> None:
    limits(bundle, memory={"limit": 64 * MIB}, pids={"limit": 100})
    container = rt.create(bundle)
    memory = str(80 * MIB)
    rt.call("update", "--memory", memory, "--pids-limit", "50", container.id).ok()
    rt.call("update", "--cpu-quota", "33333", "--cpu-period", "100000", container.id).ok()
    if rt.kind == OURS:
        # systemd writes all that it knows again, the quota rounded
        rt.call("update", "--cpu-share", "512", container.id).ok()
    for _ in range(2):
        assert value(container, "memory.max") == memory
        assert value(container, "pids.max") == "50"
        assert value(container, "cpu.max") == "33333 100000"
        time.sleep(0.2)  # what systemd might still write
    if rt.kind == OURS:
        assert prop(unit, "MemoryMax", "TasksMax") == {"MemoryMax": memory, "TasksMax": "50"}
        assert prop(unit, "CPUQuotaPerSecUSec") == {"CPUQuotaPerSecUSec": "340ms"}


def test_annotations(rt: Runtime, bundle: Bundle, unit: str) -> None:
    bundle.config["annotations"] = {
        "org.systemd.property.KillSignal": "15",
        "org.systemd.property.TimeoutStopUSec": "uint64 7000000",
        "org.systemd.property.Description": "'of the test'",
    }
    rt.create(bundle)
    assert prop(unit, "TimeoutStopUSec", "KillSignal") == {
        "TimeoutStopUSec": "7s",
        "KillSignal": "15",
    }
    # crun adds its own after the annotations
    text = by_kind(rt, "of the test", crun="libcrun container")
    assert prop(unit, "Description") == {"Description": text}


def test_unknown_annotation(rt: Runtime, bundle: Bundle, unit: str) -> None:
    bundle.config["annotations"] = {"org.systemd.property.Nonsense": "true"}
    result = rt.try_create(bundle).result.failed("Nonsense")
    if rt.kind == OURS:
        result.failed("config.json:", "unknown property")
    gone(unit)


def test_out_of_range(rt: Runtime, bundle: Bundle, unit: str) -> None:
    bundle.config["annotations"] = {"org.systemd.property.CPUWeight": "uint64 77777"}
    result = rt.try_create(bundle).result.failed("CPUWeight")
    if rt.kind == OURS:
        result.failed("config.json:")
    gone(unit)


@pytest.mark.known("runc", "1.1.5 takes a cgroup in use, with a warning")
def test_second_container_in_a_unit(rt: Runtime, bundle: Bundle, unit: str) -> None:
    """The name is taken: refused, and the first goes on."""
    first = rt.create(bundle).start()
    rt.try_create(bundle).result.failed()
    assert alive(first.pid)
    assert known(unit)


def test_exec_joins(rt: Runtime, bundle: Bundle, unit: str) -> None:
    container = rt.create(bundle).start()
    pid_file = bundle.path / "exec.pid"
    container.exec("sleep", flags=["--detach", "--pid-file", str(pid_file)]).ok()
    pid = int(pid_file.read_text())
    assert str(pid) in value(container, "cgroup.procs").split()
    os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(not USER, reason="an ordinary user's")
def test_exec_from_outside_of_the_session(rt: Runtime, bundle: Bundle, unit: str) -> None:
    """Only systemd may move a process between cgroups whose common parent is not the user's."""
    container = rt.create(bundle).start()
    pid_file = bundle.path / "exec.pid"
    inside = (
        f"{rt.path} --root {rt.root} exec --detach --pid-file {pid_file} {container.id} /init sleep"
    )
    command = ["sudo", "-n", "systemd-run", "--quiet", "--wait", f"--uid={os.geteuid()}"]
    command += [f"--setenv=XDG_RUNTIME_DIR={os.environ['XDG_RUNTIME_DIR']}", "sh", "-c", inside]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if "password" in run.stderr or "not found" in run.stderr:
        pytest.skip(f"needs sudo: {run.stderr.strip()}")
    assert run.returncode == 0, run.stderr
    pid = int(pid_file.read_text())
    assert str(pid) in value(container, "cgroup.procs").split()
    os.kill(pid, signal.SIGKILL)


def test_pause(rt: Runtime, bundle: Bundle, unit: str) -> None:
    container = rt.create(bundle).start()
    container.verb("pause").ok()
    assert container.status == "paused"
    assert value(container, "cgroup.freeze") == "1"
    container.verb("resume").ok()
    assert container.status == "running"
    container.verb("pause").ok()
    container.delete("--force").ok()
    gone(unit)


def test_out_of_memory(rt: Runtime, bundle: Bundle, unit: str) -> None:
    """systemd marks such a unit as failed: it must not stay."""
    limits(bundle, memory={"limit": 16 * MIB, "swap": 16 * MIB})
    container = rt.create(bundle.args("memhog", str(64 * MIB))).start()
    container.wait()
    container.delete().ok()
    gone(unit)


def test_update_below_what_is_in_use(rt: Runtime, bundle: Bundle, unit: str) -> None:
    """The kernel takes a limit by killing, and systemd forgets the unit in the midst of it."""
    container = rt.create(bundle.args("memhog", str(64 * MIB), "60")).start()
    container.wait_out("touched")
    limit, swap = str(16 * MIB), ["--memory-swap", str(16 * MIB)]
    rt.call("update", "--memory", limit, *swap, container.id).ok()
    container.wait("stopped").delete().ok()
    gone(unit)


def test_killed_runtime(rt: Runtime, bundle: Bundle, unit: str) -> None:
    """kill -9 at several moments of create leaves no unit behind delete --force."""
    if rt.kind == "crun":
        pytest.skip("crun 1.8.1 left an active unit without processes in one of two runs")
    bundle.write()
    for delay in (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6):
        container = rt.track(bundle)
        argv = rt.argv("create", "--bundle", str(bundle.path), container.id)
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet)
        time.sleep(delay)
        process.kill()
        process.wait()
        container.delete("--force")
        gone(unit)


def at_gate(group: Path) -> bool:
    """Whether the only process of a cgroup waits for a connection."""
    with contextlib.suppress(OSError):
        pids = (group / "cgroup.procs").read_text().split()
        return bool(pids) and Path(f"/proc/{pids[0]}/syscall").read_text().split()[0] in ACCEPTS
    return False


@pytest.mark.skipif(USER, reason="an ordinary user's init is always written down early")
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_killed_runtime_when_init_is_at_its_gate(rt: Runtime, bundle: Bundle, unit: str) -> None:
    """It does not end with the runtime any more, and `delete` has to know whom to kill."""
    if rt.kind != OURS:
        pytest.skip("others have no such gate")
    bundle.write()
    container = rt.track(bundle)
    # Until what create has made is written down takes its time.
    slow = ["strace", "-qq", "-o", os.devnull, "-e", "inject=renameat:delay_enter=2000000"]
    argv = [*slow, *rt.argv("create", "--bundle", str(bundle.path), container.id)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet) as process:
        group = ROOT / "system.slice" / unit
        poll(lambda: at_gate(group), "init does not come to its gate")
        [runtime] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(runtime), signal.SIGKILL)
    container.delete("--force").ok()
    gone(unit)


@pytest.mark.skipif(not USER, reason="an ordinary user's")
def test_no_session(rt: Runtime, bundle: Bundle, unit: str) -> None:
    variables = {k: v for k, v in os.environ.items() if k != "DBUS_SESSION_BUS_ADDRESS"}
    environment = {**variables, "XDG_RUNTIME_DIR": str(bundle.path)}
    result = rt.try_create(bundle, env=environment).result.failed()
    if rt.kind == OURS:
        result.failed("no user bus", "XDG_RUNTIME_DIR=/run/user/", "loginctl enable-linger")

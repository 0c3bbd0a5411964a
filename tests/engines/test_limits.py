"""Limits: enforced, changed, and shown by the engine."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from conformance.kit import poll
from tests.engines.drivers import IMAGE, Engine, Podman
from tests.engines.groupfiles import UNIFIED, reading, wanted
from tests.engines.world import GROUP

pytestmark = [pytest.mark.root, pytest.mark.engines("podman", "docker")]


def values(engine: Engine, name: str, *files: str) -> list[str]:
    """One-line files of the container's cgroups, as seen inside."""
    return engine.execute(name, reading(*files))


def test_memory(engine: Engine, subtests: SubTests) -> None:
    """An OOM kill is seen by the program's parent and by the engine."""
    flags = ("--memory", "16m", "--memory-swap", "16m")
    for script, status in {
        "testprog memhog 100000000; echo status $?; sleep 0.5": 0,
        "sleep 0.3; exec testprog memhog 100000000": 137,
    }.items():
        with subtests.test(script):
            name = engine.detached(*flags, IMAGE, "sh", "-c", script)
            engine.wait_for(name, "exited")
            state = engine.state(name)
            assert state["ExitCode"] == status and (status or "137" in engine.logs(name))
            # conmon is not told by this kernel, whatever the runtime; containerd misses some of runc 1.1.
            assert state["OOMKilled"] is True or "podman" in engine.command or not engine.ours


def test_cpu_quota(engine: Engine) -> None:
    """No more time is used than allowed."""
    name = engine.service("--cpus", "0.2")
    busy = "timeout 1 sh -c 'while :; do :; done'"
    before = time.monotonic()
    usage, unit = f"cat {GROUP}/cpuacct/cpuacct.usage", 1e9
    if UNIFIED:
        usage, unit = f"sed -n 's/usage_usec //p' {GROUP}/cpu.stat", 1e6
    first, last = engine.execute(name, f"{usage}; {busy}; {usage}")
    used = (int(last) - int(first)) / unit
    assert used < 0.2 * (time.monotonic() - before) + 0.2


def test_processes(engine: Engine) -> None:
    """The limit holds for `exec` too: what it cannot fork fails."""
    name = engine.service("--pids-limit", "20")  # runc itself needs a dozen
    assert values(engine, name, "pids/pids.max") == ["20"]
    script = "i=0; while [ $((i += 1)) -lt 30 ]; do sleep 9 & done; echo all"
    result = engine.call("exec", name, "sh", "-c", script)
    assert "all" not in result.out and "fork" in result.err, result


def test_device_rule(engine: Engine) -> None:
    """--device-cgroup-rule allows what the program then makes itself."""
    script = "mknod /dev/n c 10 229; (: </dev/n) && echo open; (: >/dev/n) || echo sealed"
    flags = ("--cap-add", "MKNOD")  # podman 5 gives none
    assert engine.shell(*flags, script=script) == ["sealed"]
    flags = (*flags, "--device-cgroup-rule", "c 10:229 rm")
    assert engine.shell(*flags, script=script) == ["open", "sealed"]


def test_devices_of_a_folder(engine: Engine) -> None:
    """A folder of devices stands for each in it."""
    if "docker" not in engine.command and "podman" not in engine.command:
        pytest.skip("not this engine")
    script = "ls /dev/inside | wc -l; test -c /dev/inside/null && echo node"
    engine.host(
        "mkdir -p /run/nodes; mknod -m 666 /run/nodes/null c 1 3; mknod -m 666 /run/nodes/zero c 1 5"
    )
    assert engine.shell("--device", "/run/nodes:/dev/inside", script=script) == ["2", "node"]
    engine.host("rm -r /run/nodes")


# Flag of `run` and `update` -> the file and the value that it makes.
FLAGS = {
    "--memory=64m": ("memory/memory.limit_in_bytes", str(64 << 20)),
    "--memory-swap=96m": ("memory/memory.memsw.limit_in_bytes", str(96 << 20)),
    "--memory-reservation=32m": ("memory/memory.soft_limit_in_bytes", str(32 << 20)),
    "--cpu-shares=300": ("cpu/cpu.shares", "300"),
    "--cpu-period=50000": ("cpu/cpu.cfs_period_us", "50000"),
    "--cpu-quota=25000": ("cpu/cpu.cfs_quota_us", "25000"),
    "--cpuset-cpus=0": ("cpuset/cpuset.cpus", "0"),
    "--cpuset-mems=0": ("cpuset/cpuset.mems", "0"),
    "--pids-limit=77": ("pids/pids.max", "77"),
}
ONLY_RUN = {"--memory-swappiness=30": ("memory/memory.swappiness", "30")}


def check(engine: Engine, name: str, flags: dict[str, tuple[str, str]], subtests: SubTests) -> None:
    found = values(engine, name, *(file for file, _ in flags.values()))
    for (flag, (file, asked)), value in zip(flags.items(), found, strict=True):
        with subtests.test(flag):
            assert value in wanted(file, asked, memory=64 << 20)


def test_every_flag_of_run(engine: Engine, subtests: SubTests) -> None:
    flags = {**FLAGS, **({} if UNIFIED else ONLY_RUN)}
    check(engine, engine.service(*flags), flags, subtests)


def test_every_flag_of_update(engine: Engine, subtests: SubTests) -> None:
    name = engine.service()
    known = engine.call("update", "--help").out
    flags = {flag: what for flag, what in FLAGS.items() if flag.partition("=")[0] in known}
    assert len(flags) > 7  # podman 4 has no limit of processes there
    engine.call("update", *flags, name).ok()
    check(engine, name, flags, subtests)
    engine.execute(name, "echo x >/dev/null")  # its devices are still there


def test_update_of_what_is_too_small(engine: Engine) -> None:
    """Less memory than is in use: v1's kernel refuses, the user is told, the container goes on.  v2's kills."""
    name = engine.detached(
        *("--memory", "64m", "--memory-swap", "64m"), "--tmpfs", "/mem:size=60m", IMAGE,
        *("sh", "-c", "head -c 40m /dev/zero >/mem/x; echo ready; sleep 1000"),
    )  # fmt: skip
    engine.wait_for_log(name, "ready")
    result = engine.call("update", "--memory", "8m", "--memory-swap", "8m", name)
    if UNIFIED:
        engine.wait_for(name, "exited")
        assert engine.state(name)["ExitCode"] == 137 and result.code == 0, result
        return
    assert result.code == (1 if "docker" in engine.command else 125), result
    assert engine.runtime == "runc" or "busy" in result.err.lower(), result
    assert values(engine, name, "memory/memory.limit_in_bytes") == [str(64 << 20)]


def test_throttled_devices(engine: Engine) -> None:
    """Limits of a block device."""
    names = ("vda", "sda", "nvme0n1", "loop0")
    devices = [f"/dev/{n}" for n in names if engine.world.path(f"/dev/{n}").is_block_device()]
    files = [f"{GROUP}/blkio/blkio.throttle.{n}_device" for n in ("read_bps", "write_iops")]
    if UNIFIED:
        files = [f"{GROUP}/io.max"]
    if not devices or (not UNIFIED and engine.world.call("ls", *files).code):
        pytest.skip("no block device, or no blkio.throttle")
    flags = [f"--device-read-bps={devices[0]}:1mb", f"--device-write-iops={devices[0]}:50"]
    name = engine.service(*flags)
    lines = engine.execute(name, f"cat {' '.join(files)}")
    if not UNIFIED:
        assert [line.split()[1] for line in lines] == [str(1 << 20), "50"]
        return
    if not lines and not shows_limits(group_of(engine, name), devices[0]):
        pytest.skip("this kernel shows no limits of such a device, whoever writes them")
    [line] = lines
    assert {f"rbps={1 << 20}", "wiops=50"} <= set(line.split())


def group_of(engine: Engine, name: str) -> Path:
    """The only cgroup, on v2, by the machine's view."""
    pid = engine.state(name)["Pid"]
    text = engine.world.path(f"/proc/{pid}/cgroup").read_text()
    return Path(GROUP + text.removeprefix("0::").strip())


def shows_limits(group: Path, device: str) -> bool:
    number = os.stat(device).st_rdev
    (group / "io.max").write_text(f"{os.major(number)}:{os.minor(number)} rbps=4194304")
    return bool((group / "io.max").read_text())


def test_score_of_the_out_of_memory_killer(engine: Engine) -> None:
    assert engine.shell("--oom-score-adj", "500", script="cat /proc/self/oom_score_adj") == ["500"]


def test_no_out_of_memory_killer(engine: Engine) -> None:
    if UNIFIED:
        pytest.skip("cgroup v2 has no switch for it")
    script = f"head -n 1 {GROUP}/memory/memory.oom_control"
    flags = ("--memory", "32m", "--oom-kill-disable")
    assert engine.shell(*flags, script=script) == ["oom_kill_disable 1"]


def size(text: str) -> float:
    """ "3.5MiB", "12kB" … in bytes."""
    units = {"B": 1, "kB": 1e3, "KiB": 2**10, "MB": 1e6, "MiB": 2**20, "GB": 1e9, "GiB": 2**30}
    number = text.rstrip("BkKMGTi")
    return float(number) * units[text[len(number) :]]


def test_stats(engine: Engine) -> None:
    """The numbers are those of the container: its memory, its limit, its processes, its CPU."""
    name = engine.detached(
        *("--memory", "64m", "--memory-swap", "64m", "--tmpfs", "/mem"), IMAGE,
        *("sh", "-c", "head -c 20m /dev/zero >/mem/x; sleep 1000 & echo ready; while :; do :; done"),
    )  # fmt: skip
    engine.wait_for_log(name, "ready")
    form = '{"cpu":"{{.CPUPerc}}","mem":"{{.MemUsage}}","pids":"{{.PIDs}}"}'

    def look() -> dict[str, str]:
        found: dict[str, str] = json.loads(
            engine.call("stats", "--no-stream", "--format", form, name).ok().out
        )
        return found

    poll(lambda: float(look()["cpu"].rstrip("%")) > 1, "no CPU time is seen")
    found = look()
    used, limit = (size(text.strip()) for text in found["mem"].split("/"))
    assert 20 << 20 <= used <= 40 << 20 and abs(limit - (64 << 20)) < 4 << 20, found
    assert int(found["pids"]) == 2


@pytest.mark.engines("podman")
def test_parent(engine: Podman) -> None:
    """The container's cgroup is below the one asked for, and gone with it."""
    name = engine.service("--cgroup-parent", engine.world.deeper)
    number = engine.call("inspect", "--format", "{{.Id}}", name).ok().out.strip()
    names = (f"libpod-{number}", f"libpod-{number}.scope")
    found = [path for path in engine.world.groups() if path.name in names]
    assert found and all(path.parent.name == engine.world.deeper.split("/")[-1] for path in found)


@pytest.mark.engines("podman")
def test_ways_of_cgroups(engine: Podman, subtests: SubTests) -> None:
    """--cgroups=no-conmon makes one for the container alone; disabled is tested elsewhere."""
    flags = ("run", "--rm", *engine.run_flags())
    for way in ("enabled", "no-conmon"):
        with subtests.test(way):
            lines = (
                engine.call(*flags, "--cgroups", way, IMAGE, "cat", "/proc/self/cgroup").ok().lines
            )
            assert any("libpod-" in line for line in lines) or all(
                line.endswith(":/") for line in lines
            )
    with subtests.test("split"):
        if UNIFIED:
            pytest.skip("needs a cgroup that was delegated to podman: test_systemd")
        flags = ("--network", "none", "--cgroups", "split")
        result = engine.call("run", "--rm", *flags, IMAGE, "true")
        # podman's on v1.
        assert result.code in (125, 126) and "could not find cgroup mount" in result.err, result

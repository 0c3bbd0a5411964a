"""Every flag of `ctr run` that reaches the runtime, the separate verbs of a task, and what fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from conformance.kit import poll
from tests.engines.drivers import ROOTFS, Containerd
from tests.engines.test_ctr import FOREVER, execute

pytestmark = [pytest.mark.root, pytest.mark.engines("ctr")]
STATUS = "cat /proc/self/status"


def test_flags(engine: Containerd, subtests: SubTests) -> None:
    """One task each: the flag, what it prints, and a part of that."""
    engine.world.path("/run/words.env").write_text("FIRST=a b\n")
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    }
    engine.world.path("/run/profile.json").write_text(json.dumps(profile))
    usual = dict(line.split(":\t") for line in engine.task("sh", "-c", STATUS).ok().lines)
    capabilities = int(usual["CapEff"], 16)
    assert capabilities >> 5 & 1 and not capabilities >> 21 & 1
    own = ("--seccomp", "--seccomp-profile", "/run/profile.json")
    cases: dict[str, tuple[tuple[str, ...], str, str]] = {
        "cap-add": (("--cap-add", "CAP_SYS_ADMIN"), STATUS, f"{capabilities | 1 << 21:016x}"),
        "cap-drop": (("--cap-drop", "CAP_KILL"), STATUS, f"{capabilities & ~(1 << 5):016x}"),
        "allow-new-privs": (("--allow-new-privs",), STATUS, "NoNewPrivs:\t0"),
        "seccomp-profile": (own, "mkdir /x 2>&1; true", "not supported"),
        "env-file": (("--env-file", "/run/words.env"), 'echo "[$FIRST]"', "[a b]"),
        "device": (("--device", "/dev/fuse"), "ls -l /dev/fuse; : </dev/fuse", "10, 229"),
        "rootfs-propagation": (
            ("--rootfs-propagation", "slave"),
            """awk '$5 == "/" {print "root", $7}' /proc/self/mountinfo""",
            "root",
        ),
        "no-pivot": (("--no-pivot",), "cat /etc/plain-file", "not a program"),
        "pid-file": (("--pid-file", "/run/task.pid"), "echo on", "on"),
    }
    for what, (flags, script, wanted) in cases.items():
        with subtests.test(what):
            result = engine.task("sh", "-c", script, flags=flags)
            assert wanted in result.ok().out, result
    assert int(engine.world.path("/run/task.pid").read_text()) > 0


def test_limits(engine: Containerd, subtests: SubTests) -> None:
    """Seen from outside: ctr mounts no cgroups."""
    cases = {
        "cpus": (("--cpus", "0.5"), "cpu/cpu.cfs_quota_us", "50000"),
        "cpu-shares": (("--cpu-shares", "300"), "cpu/cpu.shares", "300"),
        "cpu-quota": (
            ("--cpu-quota", "20000", "--cpu-period", "80000"),
            "cpu/cpu.cfs_period_us",
            "80000",
        ),
        "memory-limit": (
            ("--memory-limit", "33554432"),
            "memory/memory.limit_in_bytes",
            "33554432",
        ),
    }
    for what, (flags, file, wanted) in cases.items():
        with subtests.test(what):
            name = engine.background(*FOREVER, flags=flags)
            controller, _, leaf = file.partition("/")
            [group] = [p for p in engine.world.groups() if p.name == name and controller in p.parts]
            assert (group / leaf).read_text().strip() == wanted
    with subtests.test("killed for its memory"):
        result = engine.task(
            "testprog", "memhog", "100000000", flags=("--memory-limit", "16777216")
        )
        assert result.code == 137


def test_created_then_started(engine: Containerd) -> None:
    """`containers create`, `tasks start`, `tasks metrics`, `tasks kill`, `tasks delete`."""
    name = engine.new_name()
    script = engine.world.path("/run/rootfs/tmp/script")  # ctr would take -c for a flag of its own
    script.write_text("trap 'exit 9' USR1\nsleep 1000 & wait\n")
    words = ("--env", "PATH=/bin", "--rootfs", ROOTFS, name, "sh", "/tmp/script")
    engine.call("containers", "create", *words).ok()  # without --cgroup: /default/NAME
    assert engine.task_status(name) == ""
    engine.call("tasks", "start", "--detach", "--null-io", name).ok()
    assert engine.task_status(name) == "RUNNING"
    metrics = engine.call("tasks", "metrics", "--format", "json", name).ok().out
    assert "usage" in metrics and "pids" in metrics, metrics
    poll(lambda: len(engine.call("tasks", "ps", name).ok().lines) == 3, "no sleep")
    engine.call("tasks", "kill", "--signal", "SIGUSR1", name).ok()
    poll(lambda: engine.task_status(name) == "STOPPED", "not stopped")
    engine.call("tasks", "delete", name).ok()
    engine.call("containers", "delete", name).ok()
    if not engine.ours:  # runc leaves the parent
        engine.host("rmdir /sys/fs/cgroup/*/default 2>/dev/null; true")


def test_exec_flags(engine: Containerd, subtests: SubTests) -> None:
    name = engine.background(*FOREVER)
    cases = {
        "user": (("--user", "1000:2000"), "id -u; id -g", "1000\n2000\n"),
        "cwd": (("--cwd", "/tmp"), "pwd", "/tmp\n"),
    }
    for what, (flags, script, wanted) in cases.items():
        with subtests.test(what):
            assert execute(engine, name, "sh", "-c", script, flags=flags) == wanted
    with subtests.test("detach"):
        words = ("--exec-id", "away", "--detach", name, "sh", "-c", "sleep 0.2; touch /done")
        engine.call("tasks", "exec", *words).ok()
        made = engine.world.path("/run/rootfs/done")
        poll(made.exists, "exec did nothing")
        made.unlink()
    with subtests.test("killed"):
        words = ("--exec-id", "killed", name, "sh", "-c", "kill -9 $$")
        assert engine.call("tasks", "exec", *words).code == 137


def log_of(engine: Containerd, name: str) -> Path:
    """What the shim has the runtime write to, while the task is there."""
    place = "/run/containerd-state/io.containerd.runtime.v2.task/default"
    return engine.world.path(f"{place}/{name}/log.json")


def test_last_line_of_the_log(engine: Containerd) -> None:
    """What ctr tells is the message of the last error in log.json, each time."""
    name = engine.background(*FOREVER)
    told = []
    for program in ("no-such-program", "/etc/plain-file", "other-program"):
        words = ("--exec-id", engine.new_name(), name, program)
        result = engine.call("tasks", "exec", *words)
        assert result.code == 1, result
        last = json.loads(log_of(engine, name).read_text().splitlines()[-1])
        assert last["level"] == "error" and last["msg"] in result.err.replace('\\"', '"'), result
        told.append(last["msg"])
    assert "no-such-program" in told[0] and "permission denied" in told[1]
    assert "other-program" in told[2]


def test_checkpoint(engine: Containerd) -> None:
    """With CRIU the images are there; without, or where it fails, the reason is told.  The task goes on."""
    name = engine.background(*FOREVER)
    place = f"/run/{engine.new_name()}"
    engine.world.call("mkdir", place).ok()
    result = engine.call("tasks", "checkpoint", "--image-path", place, name)
    assert result.code == 0 or "criu" in result.err.lower(), result
    images = engine.world.call("ls", place).ok().out.split()
    assert result.code != 0 or "inventory.img" in images
    assert engine.task_status(name) == "RUNNING"
    assert execute(engine, name, "echo", "on") == "on\n"

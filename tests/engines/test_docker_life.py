"""What users do with containers under dockerd alone: exec, top, signals, events, logs, errors."""

from __future__ import annotations

import json
import re
import time

import pytest
from pytest_subtests import SubTests

from conformance.kit import poll
from tests.engines.drivers import IMAGE, Docker

pytestmark = [pytest.mark.root, pytest.mark.engines("docker")]


def test_exec_flags(engine: Docker, subtests: SubTests) -> None:
    """Each flag of `exec`, in one container that lacks what the flag gives."""
    name = engine.service("--env", "KEPT=1", "--cap-drop", "SYS_CHROOT", "--user", "app")
    engine.world.path("/run/words.env").write_text("FIRST=a b\nSECOND=2\n")
    cases = {
        "env": (("--env", "KEPT=2"), "echo $KEPT", "2"),
        "env-file": (("--env-file", "/run/words.env"), 'echo "$FIRST $SECOND"', "a b 2"),
        "workdir": (("--workdir", "/etc"), "pwd", "/etc"),
        "user": (("--user", "0:2000"), "id -u; id -g", "0\n2000"),
        "none": ((), "id -un; tty", "app\nnot a tty"),
    }
    for what, (flags, script, wanted) in cases.items():
        with subtests.test(what):
            result = engine.call("exec", *flags, name, "sh", "-c", script)
            assert result.out.strip() == wanted, result


def test_exec_privileged(engine: Docker) -> None:
    """It has every capability that there is, and no seccomp filter is left out of the container's."""
    name = engine.service("--cap-drop", "all")
    status = ("grep", "-E", "CapEff|Seccomp:", "/proc/self/status")
    plain = engine.call("exec", name, *status).ok().out
    assert "CapEff:\t0000000000000000" in plain
    result = engine.call("exec", "--privileged", name, *status)
    if not engine.ours and "unable to apply caps" in result.out:
        pytest.skip("this root lacks a capability, so runc 1.1 refuses")
    effective = int(result.ok().out.split()[1], 16)
    assert effective >> 21 & 1, result


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (("no-such-program",), 126, 'exec: "no-such-program": executable file not found in $PATH'),
        (("/etc/plain-file",), 126, "permission denied"),
        (("sh", "-c", "kill -9 $$"), 137, ""),
        (("sh", "-c", "exit 42"), 42, ""),
    ],
)
def test_exec_status(engine: Docker, command: tuple[str, ...], code: int, words: str) -> None:
    name = engine.service()
    result = engine.call("exec", name, *command)
    assert result.code == code and words in result.out + result.err, result


def test_exec_in_a_missing_directory(engine: Docker) -> None:
    name = engine.service()
    result = engine.call("exec", "--workdir", "/not/there", name, "true")
    assert result.code == 126 and "/not/there" in result.out + result.err, result
    if engine.ours:
        assert "no such file or directory" in result.out + result.err


def test_exec_detached_is_seen(engine: Docker) -> None:
    """Its process is listed, and its status is kept for `docker inspect`."""
    name = engine.service()
    engine.call("exec", "--detach", name, "sleep", "543").ok()
    poll(lambda: "sleep 543" in engine.call("top", name).out, "not listed")
    [number] = engine.inspect(name)["ExecIDs"]
    assert engine.get(f"/exec/{number}/json")["Running"] is True


def test_top_with_options(engine: Docker) -> None:
    """ps runs on the host; dockerd filters by the pids that the runtime names."""
    name = engine.service()
    titles, *lines = engine.call("top", name, "-o", "pid,ppid,user,args").ok().out.splitlines()
    assert titles.split() == ["PID", "PPID", "USER", "COMMAND"]
    assert sorted(line.split(maxsplit=3)[3] for line in lines)[-1] == "sleep 1000", lines
    assert len(lines) == 2
    assert len(engine.call("top", name, "-ef").ok().out.splitlines()) == 3


def test_wait_for_many(engine: Docker) -> None:
    names = [engine.detached(IMAGE, "sh", "-c", f"sleep 0.5; exit {code}") for code in (3, 0, 137)]
    assert engine.call("wait", *names).ok().out.split() == ["3", "0", "137"]


def test_events(engine: Docker) -> None:
    """What is told of a life: exec, out of memory, kill, death with its status."""
    before = engine.world.call("date", "+%s.%N").ok().out.strip()
    flags = ("--memory", "24m", "--memory-swap", "24m")
    script = "trap 'exit 40' USR2; sleep 1000 & wait"
    name = engine.detached(*flags, IMAGE, "sh", "-c", script)
    engine.call("exec", name, "sh", "-c", "exit 6")
    engine.call("exec", name, "tail", "-c", "100m", "/dev/zero")
    engine.call("kill", "--signal", "USR2", name).ok()
    engine.wait_for(name, "exited")
    after = engine.world.call("date", "+%s.%N").ok().out.strip()
    flags = ("--since", before, "--until", after, "--filter", f"container={name}")
    lines = engine.call("events", *flags, "--format", "{{json .}}").ok().lines
    found: dict[str, list[dict[str, str]]] = {}
    for event in map(json.loads, lines):
        found.setdefault(event["Action"].partition(":")[0], []).append(event["Actor"]["Attributes"])
    assert {"create", "start", "exec_create", "exec_start", "exec_die", "kill", "die"} <= set(found)
    assert found["exec_die"][0]["exitCode"] == "6"
    assert found["kill"][-1]["signal"] == "12" and found["die"][-1]["exitCode"] == "40", found
    assert "oom" in found, sorted(found)


def wait_for_starts(engine: Docker, name: str, starts: int) -> None:
    poll(lambda: len(engine.logs(name)) >= starts, "not started often enough")


def test_restart_policy(engine: Docker, subtests: SubTests) -> None:
    """Policy, status -> how often it is started; more is not made of it."""
    cases = {("no", 1): 1, ("on-failure:1", 1): 2, ("on-failure:1", 0): 1, ("always", 0): 3}
    names = {
        (policy, status): engine.detached(
            "--restart", policy, IMAGE, "sh", "-c", f"echo up; exit {status}"
        )
        for policy, status in cases
    }
    for case, starts in cases.items():
        with subtests.test(case):
            name = names[case]
            wait_for_starts(engine, name, starts)
            if case[0] == "always":
                engine.call("stop", name).ok()
            engine.wait_for(name, "exited")
    time.sleep(0.5)
    for (policy, status), starts in cases.items():
        name = names[policy, status]
        assert len(engine.logs(name)) == starts or policy == "always"
        assert engine.state(name)["Status"] == "exited"


def test_health(engine: Docker) -> None:
    """Unhealthy after failed probes, healthy again; what the probe says is kept."""
    flags = ("--health-cmd", "echo probed; test -e /ok", "--health-interval", "300ms")
    name = engine.service(*flags, "--health-retries", "2", "--health-timeout", "5s")
    poll(lambda: engine.state(name)["Health"]["Status"] == "unhealthy", "not unhealthy")
    log = engine.state(name)["Health"]["Log"][-1]
    assert log["ExitCode"] == 1 and log["Output"] == "probed\n"
    engine.call("exec", name, "touch", "/ok").ok()
    poll(lambda: engine.state(name)["Health"]["Status"] == "healthy", "not healthy")


def test_probe_that_takes_too_long(engine: Docker) -> None:
    """Its process is killed with its time."""
    flags = ("--health-cmd", "exec sleep 765", "--health-interval", "200ms")
    name = engine.service(*flags, "--health-timeout", "500ms", "--health-retries", "1")
    poll(lambda: engine.state(name)["Health"]["Status"] == "unhealthy", "not unhealthy")
    assert "exceeded timeout" in engine.state(name)["Health"]["Log"][0]["Output"]
    engine.call("rm", "--force", name).ok()
    assert not [t for t in engine.world.processes().values() if "sleep 765" in t]


def test_logs(engine: Docker) -> None:
    """--log-opt, both streams (what comes last is not rotated away), what has no end of line, and following."""
    script = "for i in $(seq 200); do echo line-$i; done; sleep 0.5; echo err >&2; printf tail"
    flags = ("--log-driver", "json-file", "--log-opt", "max-size=2k", "--log-opt", "max-file=2")
    name = engine.detached(*flags, IMAGE, "sh", "-c", script)
    engine.call("wait", name).ok()
    result = engine.call("logs", name).ok()
    assert result.out.endswith("line-200\ntail") and "line-1\n" not in result.out
    assert result.err == "err\n"
    assert engine.call("logs", "--tail", "1", name).ok().out == "tail"
    name = engine.detached(IMAGE, "sh", "-c", "for i in 1 2 3; do sleep 0.2; echo $i; done")
    assert engine.call("logs", "--follow", "--timestamps", name).ok().out.count("Z ") == 3
    name = engine.detached("--log-driver", "none", IMAGE, "echo", "x")
    assert engine.call("logs", name).code != 0


@pytest.mark.parametrize(
    ("flags", "command", "code", "words"),
    [
        (
            (),
            ("no-such-program",),
            127,
            'exec: "no-such-program": executable file not found in $PATH',
        ),
        ((), ("/etc/plain-file",), 126, "permission denied"),
        ((), ("/no/such/file",), 127, "no such file or directory"),
        (("--no-such-flag",), ("true",), 125, "unknown flag"),
        (("--sysctl", "kernel.no_such=1"), ("true",), 125, "kernel.no_such"),
        (("--security-opt", "apparmor=nothing"), ("true",), None, "apparmor"),
        (("--user", "nobody-knows"), ("true",), 125, "nobody-knows"),
        (("--workdir", "/etc/passwd"), ("true",), None, ""),
        (("--device", "/dev/no-such"), ("true",), 127, "no-such"),
        (("--memory", "1m"), ("true",), 125, "memory"),
        (("--cpuset-cpus", "99"), ("true",), 125, "99"),
    ],
)
def test_errors(
    engine: Docker, flags: tuple[str, ...], command: tuple[str, ...], code: int | None, words: str
) -> None:
    """What cannot run: the status, and words that say why, in one line of the daemon's."""
    result = engine.run(*flags, IMAGE, *command)
    if "apparmor=nothing" in flags and result.code == 0:
        pytest.skip("the kernel has no AppArmor")
    assert result.code == code if code is not None else result.code in (125, 126, 127), result
    assert words.lower() in result.err.lower(), result


def test_error_of_the_runtime(engine: Docker) -> None:
    """`Error response from daemon` ends in the last error line of the runtime's log, as it is."""
    result = engine.run("--sysctl", "net.core.no_such_name=1", IMAGE, "true")
    assert result.code == 127  # dockerd goes by the words "no such file or directory"
    told = result.err.split("OCI runtime create failed: ")[1]
    assert "net.core.no_such_name" in told or "no_such_name" in told
    if engine.ours:
        assert told.startswith("config.json") and "level=" not in told, told
        assert "no such file or directory" in told


def test_last_line_of_the_log(engine: Docker) -> None:
    """What `exec` tells is the message of the last error in the shim's log.json."""
    name = engine.service()
    number = engine.inspect(name)["Id"]
    place = "/run/containerd-state/io.containerd.runtime.v2.task/moby"
    log = engine.world.path(f"{place}/{number}/log.json")
    for program in ("no-such-program", "/etc/plain-file"):
        result = engine.call("exec", name, program)
        last = json.loads(log.read_text().splitlines()[-1])
        assert last["level"] == "error" and program in last["msg"], last
        assert last["msg"] in result.out + result.err, result


def test_log_of_the_daemon(engine: Docker) -> None:
    """An admin who was not there reads the same words in dockerd's own log, which tells of execs alone."""
    name = engine.service()
    path = engine.world.path("/run/dockerd.log")
    before = path.stat().st_size
    result = engine.call("exec", name, "no-such-program")
    told = (result.out + result.err).split("exec failed: ")[-1].partition(": unknown")[0].strip()
    said = re.sub(r'\\+"', '"', path.read_text()[before:])
    assert "not found in $PATH" in told and told in said, (told, said)


def test_checkpoint(engine: Docker) -> None:
    """With CRIU it can be started from; without, or where it fails, the reason is told.  The container goes on."""
    name = engine.service()
    result = engine.call("checkpoint", "create", "--leave-running", name, "one")
    assert result.code == 0 or "criu" in result.err.lower(), result
    listed = engine.call("checkpoint", "ls", name).ok().out
    assert ("one" in listed.split()) == (result.code == 0)
    assert engine.state(name)["Status"] == "running"
    assert engine.execute(name, "echo on") == ["on"]


def test_init(engine: Docker) -> None:
    """docker-init is the first process, reaps, and hands signals on."""
    script = "trap 'echo got; exit 12' TERM; echo up; sleep 1000 & wait"
    name = engine.detached("--init", IMAGE, "sh", "-c", script)
    engine.wait_for_log(name, "up")
    assert "docker-init" in engine.call("exec", name, "cat", "/proc/1/cmdline").ok().out
    engine.call("stop", name).ok()
    assert engine.state(name)["ExitCode"] == 12


def test_pause_with_a_daemon(engine: Docker) -> None:
    """A paused container is not stopped by SIGTERM until it goes on; a kill ends it."""
    name = engine.service()
    engine.call("pause", name).ok()
    assert engine.call("exec", name, "true").code != 0
    assert "is not paused" in engine.call("unpause", engine.service()).err
    assert "already paused" in engine.call("pause", name).err
    engine.call("unpause", name).ok()
    engine.call("pause", name).ok()
    engine.call("rm", "--force", name).ok()


def test_rename_and_attach(engine: Docker) -> None:
    """stdin of `docker attach` reaches the process, whose end ends it."""
    name = engine.new_name()
    flags = ("--interactive", "--detach", "--name", name, *engine.run_flags())
    engine.call(
        "run", *flags, IMAGE, "sh", "-c", "read -r line; echo got-$line; sleep 1; exit 7"
    ).ok()
    engine.call("rename", name, name + "x").ok()
    result = engine.call("attach", name + "x", stdin=b"word\n")
    # What comes at once after the end of stdin may miss the client, with runc as well.
    assert result.code == 7 and engine.logs(name + "x") == ["got-word"], result

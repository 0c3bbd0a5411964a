"""Containers in the background: exec, logs, signals, pause, restart, and many things at once."""

from __future__ import annotations

import hashlib
import threading
import time

import pytest
from pytest_subtests import SubTests

from conformance.kit import poll
from tests.engines.drivers import IMAGE, Engine
from tests.engines.groupfiles import reading, wanted

pytestmark = pytest.mark.root
LIMITED = pytest.mark.engines("podman", "docker")  # a user has no freezer on v1


def test_whole_life(engine: Engine) -> None:
    """run -d, ps, logs, exec, stop, start again, rm."""
    script = "echo started; trap 'echo stopping; exit 3' TERM; sleep 1000 & wait"
    name = engine.detached(IMAGE, "sh", "-c", script)
    assert name in engine.call("ps", "--format", "{{.Names}}").ok().out.split()
    engine.wait_for_log(name, "started")
    result = engine.call("exec", name, "sh", "-c", "echo out; echo err >&2; exit 5")
    assert (result.code, result.out, result.err.splitlines()[:1]) == (5, "out\n", ["err"])
    engine.call("stop", "--time", "10", name).ok()
    assert engine.state(name)["ExitCode"] == 3
    assert engine.logs(name) == ["started", "stopping"]
    engine.call("start", name).ok()
    poll(lambda: engine.logs(name).count("started") == 2, "not started again")
    engine.call("rm", "--force", name).ok()
    assert engine.call("inspect", name).code != 0


def test_create_start_wait(engine: Engine) -> None:
    name = engine.new_name()
    engine.call("create", "--name", name, *engine.run_flags(), IMAGE, "sh", "-c", "exit 9").ok()
    assert engine.state(name)["Status"] == "created"
    engine.call("start", name).ok()
    assert engine.call("wait", name).ok().out == "9\n"


def test_remove_a_created_one(engine: Engine) -> None:
    name = engine.new_name()
    engine.call("create", "--name", name, *engine.run_flags(), IMAGE, "true").ok()
    engine.call("rm", name).ok()


def test_start_attached(engine: Engine) -> None:
    name = engine.new_name()
    flags = ("--interactive", "--name", name, *engine.run_flags())
    engine.call("create", *flags, IMAGE, "sh", "-c", "cat; exit 4").ok()
    result = engine.call("start", "--attach", "--interactive", name, stdin=b"hello\n")
    assert (result.code, result.out) == (4, "hello\n")


def test_stop_by_force(engine: Engine) -> None:
    """A program that does not react to SIGTERM is killed after the time."""
    name = engine.detached(IMAGE, "sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    before = time.monotonic()
    engine.call("stop", "--time", "1", name).ok()
    assert engine.state(name)["ExitCode"] == 137
    assert 0.9 < time.monotonic() - before < 20


def test_stop_signal_and_timeout(engine: Engine) -> None:
    """Those that the container was made with."""
    script = "trap 'echo got-usr1; exit 9' USR1; echo up; sleep 1000 & wait"
    name = engine.detached("--stop-signal", "USR1", IMAGE, "sh", "-c", script)
    engine.wait_for_log(name, "up")
    engine.call("stop", name).ok()
    assert engine.logs(name) == ["got-usr1", "up"] and engine.state(name)["ExitCode"] == 9
    deaf = "trap '' TERM; echo up; while :; do sleep 0.1; done"
    name = engine.detached("--stop-timeout", "1", IMAGE, "sh", "-c", deaf)
    engine.wait_for_log(name, "up")
    before = time.monotonic()
    engine.call("stop", name).ok()
    assert time.monotonic() - before < 8 and engine.state(name)["ExitCode"] == 137


def test_kill(engine: Engine) -> None:
    name = engine.service()
    engine.call("kill", name).ok()
    engine.wait_for(name, "exited")
    assert engine.state(name)["ExitCode"] == 137


@pytest.mark.parametrize("word", ["SIGUSR1", "10"])
def test_kill_with_a_signal(engine: Engine, word: str) -> None:
    name = engine.detached(IMAGE, "sh", "-c", "trap 'exit 21' USR1; echo up; sleep 1000 & wait")
    engine.wait_for_log(name, "up")
    engine.call("kill", "--signal", word, name).ok()
    assert engine.call("wait", name).ok().out == "21\n"


def test_kill_of_a_stopped_one(engine: Engine) -> None:
    name = engine.detached(IMAGE, "true")
    engine.wait_for(name, "exited")
    assert engine.call("kill", name).code != 0


def test_exec_environment(engine: Engine) -> None:
    name = engine.service("--env", "OUTER=1", "--hostname", "inner")
    flags = ("--env", "WORD=x y", "--workdir", "/tmp", "--user", "app")
    result = engine.call(
        "exec", *flags, name, "sh", "-c", 'id -u; pwd; echo "$WORD$OUTER"; hostname'
    )
    assert result.ok().out.splitlines() == ["1000", "/tmp", "x y1", "inner"]


def test_exec_is_confined(engine: Engine) -> None:
    """An exec has the capabilities, the seccomp filter and the namespaces of the container."""
    name = engine.service()
    wanted = "grep -E 'Cap|Seccomp:|NoNew' /proc/%s/status; cd /proc/%s/ns; stat -c %%N *"
    own = engine.call("exec", name, "sh", "-c", wanted % ("self", "self")).ok().out
    first = engine.call("exec", name, "sh", "-c", wanted % (1, 1)).ok().out
    assert own == first and "Seccomp:\t2" in own


def test_exec_much_through_stdin(engine: Engine) -> None:
    """In one command to a file inside as well, all at its end: nothing is lost or added."""
    data = bytes(range(256)) * (5 << 12)  # 5 MiB
    name = engine.service()
    script = "tee /tmp/copy | sha256sum; wc -c </tmp/copy"
    result = engine.call("exec", "--interactive", name, "sh", "-c", script, stdin=data).ok()
    assert result.out.split() == [hashlib.sha256(data).hexdigest(), "-", str(len(data))]


def test_exec_failures(engine: Engine, subtests: SubTests) -> None:
    name = engine.service()
    for what, code in zip(("no-such-program", "/etc/plain-file"), engine.exec_codes, strict=True):
        with subtests.test(what):
            assert engine.call("exec", name, what).code == code


def test_exec_detached(engine: Engine) -> None:
    name = engine.service()
    engine.call("exec", "--detach", name, "sh", "-c", "sleep 0.2; touch /done").ok()
    poll(lambda: engine.call("exec", name, "test", "-e", "/done").code == 0, "exec did nothing")


def test_exec_outlives_nothing(engine: Engine) -> None:
    """What exec started ends with the container."""
    name = engine.service()
    engine.call("exec", "--detach", name, "sleep", "4321").ok()
    engine.call("stop", "--time", "5", name).ok()
    found = [t for t in engine.world.processes().values() if t == "sleep 4321"]
    assert not found


def test_exec_of_a_stopped_one(engine: Engine) -> None:
    name = engine.detached(IMAGE, "true")
    engine.wait_for(name, "exited")
    assert engine.call("exec", name, "true").code != 0


def test_many_execs_at_once(engine: Engine) -> None:
    name = engine.service()
    codes: dict[int, int] = {}

    def run(number: int) -> None:
        script = f"sleep 0.3; exit {number}"
        codes[number] = engine.call("exec", name, "sh", "-c", script).code

    threads = [threading.Thread(target=run, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {number: number for number in range(1, 9)}


def test_many_containers_at_once(engine: Engine) -> None:
    outputs: dict[int, str] = {}

    def run(number: int) -> None:
        outputs[number] = engine.run(IMAGE, "echo", str(number)).out

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == {number: f"{number}\n" for number in range(6)}


@LIMITED
def test_pause(engine: Engine) -> None:
    name = engine.detached(IMAGE, "sh", "-c", "while :; do echo tick; sleep 0.05; done")
    engine.wait_for_log(name, "tick")
    engine.call("pause", name).ok()
    assert engine.state(name)["Status"] == "paused"
    before = len(engine.logs(name))
    time.sleep(0.3)
    assert len(engine.logs(name)) == before
    assert engine.call("exec", name, "true").code != 0
    engine.call("unpause", name).ok()
    poll(lambda: len(engine.logs(name)) > before, "does not go on")


@LIMITED
def test_remove_a_paused_one(engine: Engine) -> None:
    name = engine.service()
    engine.call("pause", name).ok()
    engine.call("rm", "--force", name).ok()


def test_restart(engine: Engine) -> None:
    name = engine.detached(IMAGE, "sh", "-c", "echo up; trap 'exit 0' TERM; sleep 1000 & wait")
    engine.wait_for_log(name, "up")
    engine.call("restart", "--time", "5", name).ok()
    poll(lambda: engine.logs(name) == ["up", "up"], "not started twice")
    assert engine.call("exec", name, "true").code == 0


def test_restart_policy(engine: Engine) -> None:
    """The same id is created again at once after its delete."""
    name = engine.detached("--restart", "on-failure:2", IMAGE, "sh", "-c", "echo up; exit 1")
    poll(lambda: len(engine.logs(name)) == 3, "not started three times")
    engine.wait_for(name, "exited")
    # podman cleans up by itself; what meets `rm` there may stay, with each runtime.
    poll(lambda: not engine.strangers(), "the clean-up does not end")


def test_unless_stopped(engine: Engine) -> None:
    """This policy starts it again whatever its status, until it is told to stop."""
    script = "echo up; trap 'exit 0' TERM; [ -e /second ] || { touch /second; exit 0; }; sleep 1000 & wait"
    name = engine.detached("--restart", "unless-stopped", IMAGE, "sh", "-c", script)
    poll(lambda: len(engine.logs(name)) == 2, "not started again")
    poll(lambda: engine.call("exec", name, "true").code == 0, "not running")
    engine.call("stop", "--time", "5", name).ok()
    engine.wait_for(name, "exited")
    time.sleep(0.5)
    assert engine.state(name)["Status"] == "exited" and len(engine.logs(name)) == 2


def test_signal_to_the_client(engine: Engine) -> None:
    """Without a terminal `run` hands its own signals on to the program, and ends with its status."""
    name = engine.new_name()
    script = "trap 'echo got; exit 23' TERM; echo up; sleep 1000 & wait"
    args = ("run", "--name", name, *engine.run_flags(), IMAGE, "sh", "-c", script)
    results = []
    thread = threading.Thread(target=lambda: results.append(engine.call(*args)))
    thread.start()
    poll(lambda: engine.call("logs", name).out == "up\n", "not up")
    clients = [p for p, t in engine.world.processes().items() if f"run --name {name} " in t]
    # An ordinary user's podman is two processes: the first one waits for the one in the user namespace.
    engine.world.call("kill", "-TERM", str(min(clients))).ok()
    thread.join()
    assert (results[0].code, results[0].out) == (23, "up\ngot\n"), results


def test_killed_from_outside(engine: Engine) -> None:
    """A container whose first process somebody on the host kills comes back if its policy says so."""
    name = engine.service("--restart", "always")
    first = engine.state(name)["Pid"]
    engine.world.call("kill", "-9", str(first)).ok()
    poll(lambda: engine.state(name)["Pid"] not in (0, first), "does not come back")
    poll(lambda: engine.call("exec", name, "true").code == 0, "not running")
    assert engine.inspect(name)["RestartCount"] == 1


def test_top(engine: Engine) -> None:
    name = engine.service()
    text = engine.call("top", name).ok().out
    assert "sleep 1000" in text


def test_copy_in_and_out(engine: Engine) -> None:
    name = engine.service()
    # Below the home: it is the user's own.
    there = f"{engine.env['HOME']}/copied"
    engine.call("cp", f"{name}:/etc/plain-file", there).ok()
    engine.call("cp", there, f"{name}:/tmp/back").ok()
    assert engine.call("exec", name, "cat", "/tmp/back").ok().out == "not a program\n"
    engine.world.call("rm", there).ok()


def test_healthcheck_command(engine: Engine) -> None:
    """A probe is an exec; docker runs it by itself, podman when asked (there is no systemd)."""
    flags = ["--health-cmd", "test -e /healthy"]
    flags += ["--health-interval", "1s" if engine.command[0] == "docker" else "disable"]
    name = engine.service(*flags)

    def probe() -> str:
        if engine.command[0] == "podman":
            engine.call("healthcheck", "run", name)
        state = engine.state(name)
        health: str = (state.get("Health") or state["Healthcheck"])["Status"]
        return health

    assert probe() != "healthy"
    engine.call("exec", name, "touch", "/healthy").ok()
    poll(lambda: probe() == "healthy", "never healthy")


@LIMITED
def test_update(engine: Engine) -> None:
    name = engine.service("--memory", "32m", "--memory-swap", "64m")
    engine.call(
        "update", "--memory", "48m", "--memory-swap", "96m", "--cpu-shares", "300", name
    ).ok()
    script = reading("memory/memory.limit_in_bytes", "cpu/cpu.shares") + "; echo x >/dev/null"
    memory, shares = engine.call("exec", name, "sh", "-c", script).ok().out.split()
    assert memory == str(48 << 20) and shares in wanted("cpu/cpu.shares", 300)


@LIMITED
def test_update_above_the_swap(engine: Engine) -> None:
    """The new limit is above the old sum of memory and swap: the order of the writes matters."""
    name = engine.service("--memory", "16m", "--memory-swap", "16m")
    engine.call("update", "--memory", "64m", "--memory-swap", "64m", name).ok()
    engine.call("update", "--memory", "16m", "--memory-swap", "16m", name).ok()
    script = reading("memory/memory.limit_in_bytes")
    assert engine.call("exec", name, "sh", "-c", script).ok().out == f"{16 << 20}\n"

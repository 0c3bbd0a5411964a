"""What podman alone has: notification, sockets, hooks, secrets, logs, checkpoints, modes of systemd."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator

import pytest
from pytest_subtests import SubTests

from conformance.kit import poll
from tests.engines.drivers import IMAGE, Podman
from tests.engines.groupfiles import UNIFIED

pytestmark = [pytest.mark.root, pytest.mark.engines("podman", "user-podman")]
ROOT = pytest.mark.engines("podman")


@contextlib.contextmanager
def notify_socket(engine: Podman) -> Iterator[socket.socket]:
    """What systemd would listen on, in the world."""
    path = engine.world.path("/run/notified")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        path.chmod(0o777)
        listener.settimeout(30)
        engine.env["NOTIFY_SOCKET"] = "/run/notified"
        try:
            yield listener
        finally:
            del engine.env["NOTIFY_SOCKET"]
            path.unlink()


def test_notification(engine: Podman, subtests: SubTests) -> None:
    """READY=1 comes from the container itself, or from conmon as soon as it runs, or not at all."""
    script = 'testprog notify "READY=1"; sleep 1000'
    for mode in ("container", "conmon"):
        with subtests.test(mode), notify_socket(engine) as listener:
            name = engine.detached("--sdnotify", mode, IMAGE, "sh", "-c", script)
            text = ""
            while not ("READY=1" in text and "MAINPID=" in text):  # in any order
                text += listener.recv(4096).decode() + "\n"
            inside = engine.execute(name, "tr '\\0' '\\n' </proc/1/environ")
            assert ("NOTIFY_SOCKET=/run/notify/notify.sock" in inside) == (mode == "container")
            engine.tidy()
    with subtests.test("ignore"), notify_socket(engine) as listener:
        listener.settimeout(0.3)
        engine.run("--sdnotify", "ignore", IMAGE, "true").ok()
        with pytest.raises(TimeoutError):
            listener.recv(4096)


def test_sockets_from_outside(engine: Podman) -> None:
    """LISTEN_FDS: the descriptors of a socket unit arrive at 3 and following."""
    script = (
        "import os, socket, sys\n"
        "for n in (3, 4):\n"
        "    s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\n"
        "    os.dup2(s.fileno(), n) if s.fileno() != n else None\n"
        "    os.set_inheritable(n, True); s.detach()\n"
        "os.environ.update(LISTEN_FDS='2', LISTEN_PID=str(os.getpid()))\n"
        "os.execvp(sys.argv[1], sys.argv[1:])\n"
    )
    flags = ("run", "--rm", *engine.run_flags(), IMAGE, "testprog", "listen-fds")
    command = ("/usr/bin/python3", "-c", script, *engine.command, *flags)
    lines = engine.world.call(*command, env=engine.env, user=engine.user).ok().lines
    assert lines[0].startswith("LISTEN_FDS=2 LISTEN_PID=1")
    assert lines[1:] == ["3 socket", "4 socket"]


@contextlib.contextmanager
def hooks(engine: Podman, timeout: int = 10, **hooks: str) -> Iterator[tuple[str, ...]]:
    """A folder of hooks, stage -> script; yields the flags that name it."""
    place = f"{engine.env['HOME']}/hooks.d"
    engine.host(f"rm -rf {place}; mkdir {place}; mkdir -m 777 -p /run/hooked; rm -f /run/hooked/*")
    for stage, script in hooks.items():
        args = ["sh", "-c", script]
        hook = {"path": "/bin/sh", "args": args, "env": [f"STAGE={stage}"], "timeout": timeout}
        document = {"version": "1.0.0", "hook": hook, "when": {"always": True}, "stages": [stage]}
        engine.world.path(f"{place}/{stage}.json").write_text(json.dumps(document))
    try:
        yield ("--hooks-dir", place)
    finally:
        engine.host(f"rm -rf {place} /run/hooked")


@pytest.mark.engines("podman", "user-podman", peers=2)
def test_hooks(engine: Podman, subtests: SubTests) -> None:
    """Every stage runs once, with its environment alone and the state on its stdin."""
    into = "/run/hooked/$STAGE"
    write = f"cat >{into}.state; env >{into}.env; pwd >{into}.cwd"
    outside = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    scripts = dict.fromkeys(outside, write) | {"startContainer": "echo in >/tmp/hooked"}
    with hooks(engine, **scripts) as flags:
        command = (*flags, "run", "--rm", *engine.run_flags(), IMAGE, "cat", "/tmp/hooked")
        assert engine.call(*command).ok().out == "in\n"
        poll(lambda: engine.world.path("/run/hooked/poststop.env").exists(), "no poststop")
        for stage in outside:
            with subtests.test(stage):
                env = engine.host(f"cat /run/hooked/{stage}.env").split()
                assert f"STAGE={stage}" in env and not any("XDG" in word for word in env)
                state = json.loads(engine.host(f"cat /run/hooked/{stage}.state"))
                assert {"ociVersion", "id", "status", "bundle"} <= set(state)
                cwd = engine.host(f"cat /run/hooked/{stage}.cwd").strip()
                if stage == "createContainer" and engine.runtime == "runc":
                    assert cwd.endswith("/merged")  # the root file system, of which no spec speaks
                else:
                    # podman 4 deletes from /, podman 5 from the bundle.
                    assert cwd == state["bundle"] or (stage == "poststop" and cwd == "/")


def test_hooks_of_the_configuration(engine: Podman) -> None:
    """`hooks_dir` of containers.conf: run without a flag, for the containers that the hook's file names."""
    place, usual = f"{engine.env['HOME']}/hooks.d", engine.env["CONTAINERS_CONF"]
    engine.host(f"mkdir {place}; mkdir -m 777 -p /run/hooked")
    text = engine.world.path(usual).read_text()
    own = text.replace("[engine]\n", f'[engine]\nhooks_dir = ["{place}"]\n')
    engine.world.path("/run/hooked.conf").write_text(own)
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "cat >/run/hooked/state"]}
    when = {"annotations": {"^word$": "^wanted$"}}
    document = {"version": "1.0.0", "hook": hook, "when": when, "stages": ["createRuntime"]}
    engine.world.path(f"{place}/own.json").write_text(json.dumps(document))
    engine.env["CONTAINERS_CONF"] = "/run/hooked.conf"
    try:
        engine.run(IMAGE, "true").ok()
        assert not engine.world.path("/run/hooked/state").exists()
        engine.run("--annotation", "word=wanted", IMAGE, "true").ok()
        state = json.loads(engine.host("cat /run/hooked/state"))
        assert state["annotations"]["word"] == "wanted" and state["pid"] > 0, state
    finally:
        engine.env["CONTAINERS_CONF"] = usual
        engine.host(f"rm -r {place} /run/hooked /run/hooked.conf")


def test_hooks_that_fail(engine: Podman, subtests: SubTests) -> None:
    """The container does not start, and podman says why."""
    for stage in ("prestart", "createRuntime", "createContainer", "startContainer"):
        with subtests.test(stage), hooks(engine, **{stage: "echo reason >&2; exit 3"}) as flags:
            result = engine.call(*flags, "run", "--rm", *engine.run_flags(), IMAGE, "echo", "ran")
            assert result.code != 0 and "ran" not in result.out, result
            assert not engine.ours or ("exit status 3" in result.err and "reason" in result.err)
    # runc waits for the hook's children, who hold its streams, for as long as they like.
    for script in ("exec sleep 100", *([] if engine.runtime == "runc" else ["sleep 100; true"])):
        with subtests.test(f"time-out {script}"), hooks(engine, 1, createRuntime=script) as flags:
            result = engine.call(*flags, "run", "--rm", *engine.run_flags(), IMAGE, "echo", "ran")
            assert result.code != 0 and "ran" not in result.out, result


def test_secret(engine: Podman) -> None:
    """As a file and in the environment; never part of the image."""
    name = engine.new_name()
    engine.call("secret", "create", name, "-", stdin=b"hidden").ok()
    flags = (
        "--secret",
        f"{name},uid=1000,gid=1000,mode=0400",
        "--secret",
        f"{name},type=env,target=WORD",
    )
    script = f"cat /run/secrets/{name}; echo; stat -c '%u %a' /run/secrets/{name}; echo $WORD"
    assert engine.shell(*flags, script=script) == ["hidden", "1000 400", "hidden"]
    engine.call("secret", "rm", name).ok()


def test_drivers_of_logs(engine: Podman, subtests: SubTests) -> None:
    for driver, wanted in {"k8s-file": ["err", "out"], "none": None}.items():
        with subtests.test(driver):
            name = engine.detached(
                "--log-driver", driver, IMAGE, "sh", "-c", "echo out; echo err >&2"
            )
            engine.wait_for(name, "exited")
            result = engine.call("logs", name)
            assert (
                (result.code != 0)
                if wanted is None
                else sorted(result.out.split() + result.err.split()) == wanted
            )
    with subtests.test("path and size"):
        path = f"{engine.env['HOME']}/own.log"
        name = engine.detached("--log-opt", f"path={path}", IMAGE, "echo", "there")
        engine.wait_for(name, "exited")
        assert "stdout F there" in engine.host(f"cat {path}; rm {path}")
    with subtests.test("passthrough"):
        result = engine.call(
            "run", "--rm", "--log-driver", "passthrough", *engine.run_flags(), IMAGE, "echo", "hi"
        )
        assert result.ok().out == "hi\n"


def test_replace(engine: Podman) -> None:
    name = engine.service()
    flags = ("run", "--detach", "--replace", "--name", name, *engine.run_flags())
    engine.call(*flags, IMAGE, "sh", "-c", "echo second").ok()
    engine.wait_for(name, "exited")
    assert engine.logs(name) == ["second"]


def test_time_limit(engine: Podman) -> None:
    """--timeout: conmon kills the container."""
    result = engine.run("--timeout", "1", IMAGE, "sleep", "1000")
    assert result.code in (137, 255), result


def test_modes_of_systemd(engine: Podman, subtests: SubTests) -> None:
    """--systemd=always: tmpfs on /run and the like, an own /sys/fs/cgroup/systemd, SIGRTMIN+3 to stop."""
    flags = ("--systemd", "always")
    name = engine.detached(*flags, IMAGE, "sh", "-c", "trap 'exit 7' 37; sleep 1000 & wait")
    mounts = [line.split() for line in engine.execute(name, "cat /proc/mounts")]
    for place in ("/run", "/run/lock", "/tmp", "/var/log/journal"):
        with subtests.test(place):
            assert any(words[1:3] == [place, "tmpfs"] for words in mounts)
    with subtests.test("environment"):
        assert any(
            "container_uuid=" in w for w in engine.execute(name, "tr '\\0' '\\n' </proc/1/environ")
        )
    if UNIFIED or not engine.user:
        with subtests.test("cgroup"):
            below = "/sys/fs/cgroup/sub" if UNIFIED else "/sys/fs/cgroup/systemd/sub"
            engine.execute(name, f"mkdir {below}; rmdir {below}")
    with subtests.test("signal"):
        engine.call("stop", "--time", "10", name).ok()
        assert engine.state(name)["ExitCode"] == 7


def test_checkpoint(engine: Podman, subtests: SubTests) -> None:
    """No CRIU here: podman's own refusal, and the container goes on."""
    name = engine.service()
    for command in (("checkpoint", name), ("checkpoint", "--export", "/run/home/c.tar", name)):
        with subtests.test(" ".join(command[:-1])):
            result = engine.call("container", *command)
            assert result.code == 125, result
            said = result.err.lower()
            assert "criu" in said or "root" in said or "runtime" in said, result
    assert engine.execute(name, "echo on") == ["on"]
    assert engine.call("container", "restore", name).code == 125


def test_error_line(engine: Podman, subtests: SubTests) -> None:
    """What the runtime says last in its log is what podman shows, with its exit status."""
    cases = {
        "executable": (127, "executable file", ("no-such-program",)),
        "permission": (126, "ermission denied", ("/etc/plain-file",)),
        "user": (126, "", ("--user", "no-such-user")),
    }
    for what, (code, text, words) in cases.items():
        with subtests.test(what):
            flags, command = (words, ("true",)) if words[0].startswith("-") else ((), words)
            result = engine.run(*flags, IMAGE, *command)
            assert result.code == code and text in result.err, result
    with subtests.test("log"):
        name = engine.new_name()
        engine.call("create", "--name", name, *engine.run_flags(), IMAGE, "no-such-program").ok()
        result = engine.call("start", name)
        assert result.code == 125, result
        number = engine.inspect(name)["Id"]
        run = f"{engine.env['XDG_RUNTIME_DIR']}/containers" if engine.user else "/run/storage.run"
        log = engine.world.path(f"{run}/overlay-containers/{number}/userdata/oci-log")
        last = json.loads(log.read_text().splitlines()[-1])
        assert last["level"] == "error" and "not found in $PATH" in last["msg"]
        assert last["msg"] in result.err, result


def test_masks(engine: Podman, subtests: SubTests) -> None:
    """--security-opt mask, unmask, proc-opts; what the machine has no AppArmor for is refused by podman."""
    with subtests.test("mask"):
        flags = ("--security-opt", "mask=/etc/plain-file:/seeded")
        assert engine.shell(*flags, script="wc -c </etc/plain-file; ls /seeded | wc -l") == [
            "0",
            "0",
        ]
    with subtests.test("unmask"):
        script = "grep -c -E ' /proc/(timer_list|acpi|kcore) ' /proc/mounts; true"
        [usual], [none] = (
            engine.shell(script=script),
            engine.shell("--security-opt", "unmask=ALL", script=script),
        )
        assert int(usual) > 0 and none == "0"
        one = engine.shell(
            "--security-opt",
            "unmask=/proc/timer_list",
            script="grep -c /proc/timer_list /proc/mounts; true",
        )
        assert one == ["0"]
    with subtests.test("proc-opts"):
        flags = ("--security-opt", "proc-opts=hidepid=2")
        [line] = engine.shell(*flags, script="grep '^proc /proc ' /proc/mounts")
        assert "hidepid=" in line
    with subtests.test("apparmor"):
        result = engine.run("--security-opt", "apparmor=some-profile", IMAGE, "true")
        assert result.code in (125, 126) and "apparmor" in result.err.lower(), result


def test_privileged(engine: Podman) -> None:
    """No masks, no filter, every capability that there is, /sys that can be written by root."""
    script = (
        "grep -c ' /proc/timer_list ' /proc/mounts; grep -E 'Seccomp:|CapEff' /proc/self/status"
    )
    masks, capabilities, seccomp = engine.shell("--privileged", script=script)
    assert masks == "0" and seccomp == "Seccomp:\t0"
    assert int(capabilities.split()[1], 16) & 1 << 21


def test_exec_privileged(engine: Podman) -> None:
    """The capabilities of the runtime itself; without the flag those of the container."""
    name = engine.service("--cap-drop", "all")
    script = "grep CapEff /proc/self/status | cut -f2"
    masks = [int(engine.execute(name, script, *flags)[0], 16) for flags in ((), ("--privileged",))]
    assert masks[0] == 0 and masks[1] >> 21 & 1, masks


def test_exec_with_descriptors(engine: Podman) -> None:
    """--preserve-fds of `exec`."""
    name = engine.service()
    words = (*engine.command, "exec", "--preserve-fds", "2", name, "cat", "/proc/self/fd/4")
    script = 'exec "$@" 3</dev/null 4</etc/hostname'
    result = engine.world.call(
        "sh", "-c", script, "sh", *words, env=engine.env, user=engine.user
    ).ok()
    assert result.out == engine.world.path("/etc/hostname").read_text()


def test_clock_and_passwd(engine: Podman) -> None:
    """Small things that podman does by binds and environment."""
    flags = ("--tz", "UTC", "--passwd-entry", "x:x:4321:4321::/:/bin/sh", "--user", "4321")
    result = engine.run(*flags, IMAGE, "sh", "-c", "id -u; id -un")
    assert result.ok().out.split() == ["4321", "x"]


@ROOT
def test_two_on_a_private_network(engine: Podman) -> None:
    """They reach each other by name and address; a third on the other network does not."""
    network = engine.new_name()
    engine.call("network", "create", network).ok()
    try:
        flags = [*engine.place_flags(), "--network", network]
        name = engine.new_name()
        server = "mkdir /www; echo page >/www/index.html; exec httpd -f -h /www"
        engine.call("run", "--detach", "--name", name, *flags, IMAGE, "sh", "-c", server).ok()
        script = f"for i in 1 2 3 4 5 6 7 8 9; do wget -q -O - http://{name}/ && exit; sleep 0.5; done; exit 1"
        assert engine.call("run", "--rm", *flags, IMAGE, "sh", "-c", script).ok().out == "page\n"
        address = engine.inspect(name)["NetworkSettings"]["Networks"][network]["IPAddress"]
        assert (
            engine.shell(script=f"wget -T 1 -q -O - http://{address}/ || echo none")[-1] == "none"
        )
        engine.tidy()
    finally:
        engine.call("network", "rm", "--force", "--time", "0", network)
        poll(
            lambda: not any("aardvark" in t for t in engine.world.processes().values()),
            "aardvark stays",
        )

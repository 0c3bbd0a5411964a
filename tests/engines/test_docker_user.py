"""dockerd of an ordinary user: everything is in a user namespace that is there before the runtime runs."""

from __future__ import annotations

import pytest

from conformance.kit import poll
from tests.engines.drivers import IMAGE, UserDocker
from tests.engines.world import USER_ID

pytestmark = [pytest.mark.root, pytest.mark.engines("user-docker")]


def test_identity(engine: UserDocker) -> None:
    """Root inside is the user outside; limits are left out where there is no cgroup for them."""
    script = "id -u; cat /proc/self/uid_map; stat -c %u /etc/passwd; hostname"
    flags = ("--memory", "32m", "--hostname", "inner")
    lines = engine.run(*flags, IMAGE, "sh", "-c", script).ok().out.split()
    assert lines == ["0", "0", str(USER_ID), "1", "1", "200000", "65536", "0", "inner"], lines


def test_isolation(engine: UserDocker) -> None:
    """Seccomp, capabilities, masks, /dev and namespaces are those of a container of root's daemon."""
    script = "grep -E 'Seccomp:|CapEff' /proc/self/status; wc -c </proc/timer_list; ls -d /proc/[0-9]* | wc -l;"
    script += "echo x >/dev/null && head -c 1 /dev/zero | wc -c; mount -t tmpfs x /mnt 2>/dev/null || echo confined"
    lines = engine.run(IMAGE, "sh", "-c", script).ok().lines
    mask = int(lines[0].split()[1], 16)
    assert mask & 1 << 5 and not mask & 1 << 21
    assert lines[1].split() == ["Seccomp:", "2"] and lines[2] == "0" and int(lines[3]) < 5
    assert lines[4:] == ["1", "confined"], lines


def test_life(engine: UserDocker) -> None:
    """exec, logs, restart, stop, cp, commit, start again, rm."""
    script = "echo up; trap 'exit 3' TERM; sleep 1000 & wait"
    name = engine.detached(IMAGE, "sh", "-c", script)
    engine.wait_for_log(name, "up")
    result = engine.call(
        "exec", "--user", "app", "--workdir", "/tmp", name, "sh", "-c", "pwd; id -u; exit 5"
    )
    assert (result.code, result.out) == (5, "/tmp\n1000\n")
    engine.call("restart", "--time", "5", name).ok()
    engine.call("cp", "/etc/hostname", f"{name}:/tmp/copied").ok()
    engine.call("stop", "--time", "5", name).ok()
    assert engine.state(name)["ExitCode"] == 3
    engine.call("commit", name, "committed").ok()
    assert engine.run("committed", "cat", "/tmp/copied").code == 0
    engine.call("rmi", "committed").ok()


@pytest.mark.parametrize(
    ("command", "code"), [("no-such-program", 127), ("/etc/plain-file", 126), ("/no/such", 127)]
)
def test_errors(engine: UserDocker, command: str, code: int) -> None:
    assert engine.run(IMAGE, command).code == code


def test_terminal(engine: UserDocker) -> None:
    args = ("run", "--rm", "-it", *engine.run_flags(), IMAGE, "sh")
    with engine.on_terminal(*args) as terminal:
        terminal.type("tty; stat -c %u:%g $(tty); echo $((40 + 2))\n")
        terminal.expect("/dev/pts/0")
        terminal.expect("42")
        terminal.type("exit 3\n")
        assert terminal.wait() == 3


def test_mounts(engine: UserDocker) -> None:
    engine.world.call(
        "sh", "-c", "mkdir -p /run/home/given; echo word >/run/home/given/file", user=True
    ).ok()
    flags = (
        "--volume",
        "/run/home/given:/given:ro",
        "--volume",
        "named:/seeded",
        "--tmpfs",
        "/scratch:size=1m",
    )
    script = "cat /given/file /seeded/file; touch /given/x 2>/dev/null || echo sealed; touch /seeded/x /scratch/x;"
    script += "stat -c %u /given/file /seeded/x"
    lines = engine.run(*flags, "--read-only", IMAGE, "sh", "-c", script).ok().out.splitlines()
    assert lines == ["word", "from the image", "sealed", "0", "0"], lines
    engine.call("volume", "rm", "named").ok()


def test_bridge(engine: UserDocker) -> None:
    """The prestart hook of dockerd runs in its user namespace as well."""
    script = "set -- $(ip route | grep default); ping -c 1 -W 5 $3 >/dev/null && echo answers"
    assert engine.call("run", "--rm", IMAGE, "sh", "-c", script).ok().out == "answers\n"


@pytest.mark.parametrize("buildkit", ["0", "1"])
def test_build(engine: UserDocker, buildkit: str) -> None:
    dockerfile = (
        f"FROM {IMAGE}\nRUN echo step >/made && test $(id -u) = 0\nUSER app\nRUN id -u >/tmp/user\n"
    )
    engine.world.path("/run/home/Dockerfile").write_text(dockerfile)
    env = {**engine.env, "DOCKER_BUILDKIT": buildkit}
    command = (*engine.command, "build", "--network", "none", "--tag", "built", "-")
    script = ("sh", "-c", '"$@" </run/home/Dockerfile', "sh", *command)
    engine.world.call(*script, env=env, user=True).ok()
    assert engine.run("built", "cat", "/made", "/tmp/user").ok().out == "step\n1000\n"


def test_what_needs_a_cgroup(engine: UserDocker) -> None:
    """Without one pause is refused in words; top asks for processes, which runc 1.1 cannot name then."""
    name = engine.service()
    paused = engine.call("pause", name)
    if engine.world.systemd:
        assert paused.code == 0 and engine.state(name)["Status"] == "paused"
        engine.call("unpause", name).ok()
    else:
        assert paused.code == 1 and "cgroup" in paused.err and "freezer" in paused.err, paused
    engine.call("update", "--restart", "no", name).ok()
    top = engine.call("top", name)
    assert "sleep 1000" in top.out or not engine.ours, top


def test_daemon_ends(engine: UserDocker) -> None:
    """Without live-restore a daemon that ends takes its containers along; the next one starts them."""
    name = engine.service("--restart", "always")
    engine.stop_daemon("TERM")
    assert "sleep 1000" not in engine.world.processes().values()
    engine.start_daemon()
    engine.note_daemon()
    poll(lambda: engine.state(name)["Running"], "not started")
    assert engine.call("exec", name, "true").code == 0
    engine.call("rm", "--force", name).ok()

"""Containers and execs on a real terminal."""

from __future__ import annotations

import time

import pytest

from tests.engines.drivers import IMAGE, Engine

pytestmark = pytest.mark.root


def test_run(engine: Engine) -> None:
    args = ("run", "--rm", "-it", *engine.run_flags(), IMAGE, "sh")
    with engine.on_terminal(*args) as terminal:
        terminal.type("tty; echo $((40 + 2))\n")
        terminal.expect("/dev/pts/0")
        terminal.expect("42")
        terminal.type("exit 3\n")
        assert terminal.wait() == 3


def test_run_interrupted(engine: Engine) -> None:
    """Ctrl-C reaches the program inside as SIGINT of its own terminal."""
    script = "trap 'echo caught; exit 6' INT; echo ready; while :; do sleep 0.1; done"
    args = ("run", "--rm", "-it", *engine.run_flags(), IMAGE, "sh", "-c", script)
    with engine.on_terminal(*args) as terminal:
        terminal.expect("ready")
        terminal.type("\x03")
        terminal.expect("caught")
        assert terminal.wait() == 6


def test_size(engine: Engine) -> None:
    script = "until [ \"$(stty size)\" = '30 90' ]; do sleep 0.05; done; echo first;"
    script += "until [ \"$(stty size)\" = '21 81' ]; do sleep 0.05; done; echo second"
    args = ("run", "--rm", "-it", *engine.run_flags(), IMAGE, "sh", "-c", script)
    with engine.on_terminal(*args) as terminal:
        terminal.expect("first")
        terminal.resize(21, 81)
        terminal.expect("second")
        assert terminal.wait() == 0


def test_console_device(engine: Engine) -> None:
    script = "echo through-console >/dev/console; ls -l /dev/console | cut -c1"
    args = ("run", "--rm", "-it", *engine.run_flags(), IMAGE, "sh", "-c", script)
    with engine.on_terminal(*args) as terminal:
        terminal.expect("through-console")
        terminal.expect("c")
        assert terminal.wait() == 0


def test_user_owns_the_terminal(engine: Engine) -> None:
    args = ("run", "--rm", "-it", "--user", "app", *engine.run_flags(), IMAGE)
    with engine.on_terminal(*args, "sh", "-c", "stat -c %u:%a $(tty); echo x >$(tty)") as terminal:
        terminal.expect("1000:6")
        assert terminal.wait() == 0


def test_exec(engine: Engine) -> None:
    name = engine.service()
    with engine.on_terminal("exec", "-it", name, "sh") as terminal:
        terminal.type("tty; echo $((40 + 2))\n")
        terminal.expect("/dev/pts/")
        terminal.expect("42")
        terminal.type("exit 8\n")
        assert terminal.wait() == 8


def test_size_of_an_exec(engine: Engine) -> None:
    """Its own: the first one, and what the user makes of it."""
    name = engine.service()
    script = "until [ \"$(stty size)\" = '30 90' ]; do sleep 0.05; done; echo first;"
    script += "until [ \"$(stty size)\" = '21 81' ]; do sleep 0.05; done; echo second"
    with engine.on_terminal("exec", "-it", name, "sh", "-c", script) as terminal:
        terminal.expect("first")
        terminal.resize(21, 81)
        terminal.expect("second")
        assert terminal.wait() == 0


def test_exec_beside_a_terminal(engine: Engine) -> None:
    """Two terminals in one container do not meet."""
    name = engine.detached("-it", IMAGE, "sh")
    with engine.on_terminal("exec", "-it", name, "sh", "-c", "tty; exit 2") as terminal:
        terminal.expect("/dev/pts/1")
        assert terminal.wait() == 2


def test_attach_and_detach(engine: Engine) -> None:
    name = engine.detached("-it", IMAGE, "sh", "-c", "while read -r line; do echo got-$line; done")
    with engine.on_terminal("attach", name) as terminal:
        terminal.type("word\n")
        terminal.expect("got-word")
        for key in "\x10\x11":  # Ctrl-P Ctrl-Q
            terminal.type(key)
            time.sleep(0.2)  # podman wants each in a read of its own
        assert terminal.wait() == (
            1 if engine.command[0] == "docker" else 0
        )  # 20.10: read escape sequence
    assert engine.state(name)["Status"] == "running"


def test_missing_program(engine: Engine) -> None:
    with engine.on_terminal(
        "run", "--rm", "-it", *engine.run_flags(), IMAGE, "nothing"
    ) as terminal:
        assert terminal.wait() == 127

"""Terminals: the console socket, `run` on a terminal, sizes, /dev/console."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Iterator

import pytest

from tests.integration.harness import Bundle, Container, Runtime, by_kind, fields
from tests.integration.ttylib import ConsoleSocket, read_until

pytestmark = pytest.mark.root


@pytest.fixture
def console(rt: Runtime, bundle: Bundle) -> Iterator[ConsoleSocket]:
    """A console socket; the bundle asks for a terminal."""
    bundle.process["terminal"] = True
    waiting = ConsoleSocket(bundle.path / "console.sock")
    yield waiting
    waiting.close()


def create(rt: Runtime, bundle: Bundle, console: ConsoleSocket) -> tuple[Container, int]:
    container = rt.create(bundle, "--console-socket", str(console.path))
    return container, console.receive()


def test_console_socket(rt: Runtime, bundle: Bundle, console: ConsoleSocket) -> None:
    container, master = create(rt, bundle.args("tty", ";", "ctty"), console)
    container.start()
    text = read_until(master, "foreground=1")
    for fd, line in enumerate(text.splitlines()[:3]):
        assert line.startswith(f"{fd} /dev/pts/0 rdev=136:0") or "/dev/console" in line, text


def test_typed_input_reaches_the_program(
    rt: Runtime, bundle: Bundle, console: ConsoleSocket
) -> None:
    container, master = create(rt, bundle.args("fdread", "0"), console)
    container.start()
    os.write(master, b"typed\n")
    assert read_until(master, "typed\r\ntyped").count("typed") == 2


def test_console_size(rt: Runtime, bundle: Bundle, console: ConsoleSocket) -> None:
    bundle.process["consoleSize"] = {"height": 33, "width": 120}
    container, master = create(rt, bundle.args("winsize"), console)
    container.start()
    assert "rows=33 columns=120" in read_until(master, "columns=120")


def test_console_size_of_zero_is_absent(
    rt: Runtime, bundle: Bundle, console: ConsoleSocket
) -> None:
    bundle.process["consoleSize"] = {"height": 0, "width": 0}
    container, master = create(rt, bundle.args("winsize"), console)
    container.start()
    read_until(master, "columns=0")


def test_console_size_without_a_terminal_is_ignored(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["consoleSize"] = {"height": 33, "width": 120}
    rt.run(bundle.args("echo", "x")).ok()


def test_dev_console(rt: Runtime, bundle: Bundle, console: ConsoleSocket) -> None:
    container, master = create(rt, bundle.args("write", "/dev/console", "to-console"), console)
    container.start()
    read_until(master, "to-console")


def test_terminal_belongs_to_the_user(rt: Runtime, bundle: Bundle, console: ConsoleSocket) -> None:
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    container, master = create(rt, bundle.args("stat", "/dev/pts/0"), console)
    container.start()
    words = fields(read_until(master, "dev="))
    assert words["uid"] == "1000"


def test_terminal_in_a_user_namespace(rt: Runtime, bundle: Bundle, console: ConsoleSocket) -> None:
    container, master = create(rt, bundle.user_namespace().args("tty"), console)
    container.start()
    read_until(master, "2 /dev/")


def test_terminal_is_on_a_readonly_root(
    rt: Runtime, bundle: Bundle, console: ConsoleSocket
) -> None:
    bundle.config["root"]["readonly"] = True
    container, master = create(rt, bundle.args("tty"), console)
    container.start()
    read_until(master, "2 /dev/")


def test_create_with_a_terminal_needs_a_socket(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["terminal"] = True
    rt.try_create(bundle).result.failed(
        by_kind(
            rt,
            "cannot allocate tty if runc will detach without setting console socket",
            ociruntime="console socket",
            crun="console",
        )
    )


def test_a_socket_without_a_terminal_is_refused(rt: Runtime, bundle: Bundle) -> None:
    console = ConsoleSocket(bundle.path / "console.sock")
    try:
        result = rt.try_create(bundle, "--console-socket", str(console.path)).result
        if rt.kind != "crun":
            result.failed("console socket")
    finally:
        console.close()


def test_socket_that_is_not_there(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["terminal"] = True
    result = rt.try_create(bundle, "--console-socket", "/nosuch/socket").result
    result.failed(by_kind(rt, "/nosuch/socket", crun=""))


def test_exec_with_a_terminal(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep")).start()
    console = ConsoleSocket(bundle.path / "console.sock")
    flags = ["--tty", "--detach", "--console-socket", str(console.path)]
    try:
        container.exec("tty", ";", "ctty", flags=flags).ok()
        read_until(console.receive(), "foreground=1")
    finally:
        console.close()


def test_exec_process_file_with_a_terminal(rt: Runtime, bundle: Bundle) -> None:
    """As the containerd shim: `terminal` stands in the file, Docker adds a size of 0 x 0."""
    container = rt.create(bundle.args("sleep")).start()
    console = ConsoleSocket(bundle.path / "console.sock")
    document = {
        **bundle.process,
        "args": ["/init", "tty"],
        "terminal": True,
        "consoleSize": {"height": 0, "width": 0},
    }
    path = bundle.path / "process.json"
    path.write_text(json.dumps(document))
    try:
        container.verb(
            "exec", "--process", str(path), "--detach", "--console-socket", str(console.path)
        ).ok()
        read_until(console.receive(), "2 /dev/")
    finally:
        console.close()


class Terminal:
    """A pseudo terminal to run a command on, as a user at a keyboard does."""

    def __init__(self, argv: list[str], rows: int = 40, columns: int = 100) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            try:
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
                os.execv(argv[0], argv)
            finally:
                os._exit(127)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextlib.contextmanager
def run_on_terminal(rt: Runtime, bundle: Bundle) -> Iterator[Terminal]:
    """`run` on a terminal of its own, which is hung up at the end."""
    bundle.process["terminal"] = True
    container = rt.track(bundle.write())
    terminal = Terminal(rt.argv("run", "--bundle", str(bundle.path), container.id))
    try:
        yield terminal
    finally:
        os.close(terminal.master)


def test_run_on_a_terminal(rt: Runtime, bundle: Bundle) -> None:
    with run_on_terminal(rt, bundle.args("tty", ";", "ctty", ";", "exit", "3")) as terminal:
        text = read_until(terminal.master, "foreground=1")
        assert "0 /dev/pts/0" in text or "0 /dev/console" in text
        assert terminal.wait() == 3


def test_run_on_a_terminal_passes_keys(rt: Runtime, bundle: Bundle) -> None:
    with run_on_terminal(rt, bundle.args("echo", "go", ";", "fdread", "0")) as terminal:
        read_until(terminal.master, "go")
        os.write(terminal.master, b"keys\n")
        read_until(terminal.master, "keys\r\nkeys")
        assert terminal.wait() == 0


def test_run_on_a_terminal_interrupts(rt: Runtime, bundle: Bundle) -> None:
    """Ctrl-C is a byte for the inner terminal, whose foreground job gets the signal."""
    with run_on_terminal(rt, bundle.args("trap", "2")) as terminal:
        read_until(terminal.master, "ready")
        os.write(terminal.master, b"\x03")
        read_until(terminal.master, "caught 2")
        assert terminal.wait() == 0


@pytest.mark.known("crun", "1.8.1 does not give the new terminal the size of the old one")
def test_run_on_a_terminal_resizes(rt: Runtime, bundle: Bundle) -> None:
    bundle.args("wait-winsize", "40", "100", ";", "wait-winsize", "21", "81")
    with run_on_terminal(rt, bundle) as terminal:
        assert "rows=40 columns=100" in read_until(terminal.master, "columns=")
        fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", 21, 81, 0, 0))
        assert "rows=21 columns=81" in read_until(terminal.master, "columns=")
        assert terminal.wait() == 0


def test_run_restores_the_terminal(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["terminal"] = True
    container = rt.track(bundle.args("echo", "x").write())
    argv = rt.argv("run", "--bundle", str(bundle.path), container.id)
    pid, master = pty.fork()
    if pid == 0:
        before = termios.tcgetattr(0)
        code = subprocess.run(argv, check=False).returncode
        same = termios.tcgetattr(0) == before
        os.write(1, b"same" if same and code == 0 else b"different")
        os._exit(0)
    text = read_until(master, "e")
    while "same" not in text and "different" not in text:
        text += read_until(master, "")
        chunk = os.read(master, 4096).decode()
        text += chunk
    os.waitpid(pid, 0)
    os.close(master)
    assert "same" in text, text

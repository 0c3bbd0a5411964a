"""Standard streams, console sockets and signals as a careless or hostile caller may give them."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from conformance.kit import PATIENCE
from tests.faults.test_environment import FULL, one_line
from tests.integration.harness import Bundle, Container, Result, Runtime, alive, poll

pytestmark = [pytest.mark.root]

MAKING = ("create", "run --detach")
LIMIT = 5.0 * PATIENCE  # seconds that a call may take to fail
STREAMS = [set(fds) for size in (1, 2, 3) for fds in itertools.combinations(range(3), size)]


def shut(fds: set[int]) -> None:
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("closed", STREAMS, ids=str)
def test_closed_streams(rt: Runtime, bundle: Bundle, closed: set[int]) -> None:
    """The container never gets a file of the runtime's in their place."""
    container = rt.create(bundle.args("sleep"), preexec=lambda: shut(closed))
    for fd in closed:
        assert os.readlink(f"/proc/{container.pid}/fd/{fd}") == "/dev/null"
    assert set(os.listdir(f"/proc/{container.pid}/fd")) >= {"0", "1", "2"}
    for verb in ("start", "state", "ps", "pause", "resume"):
        container.verb(verb, preexec=lambda: shut(closed)).ok()
    container.exec("ls-fds", preexec=lambda: shut(closed))
    container.exec("echo", "here", preexec=lambda: shut(closed)).ok()
    container.verb("delete", "--force", preexec=lambda: shut(closed)).ok()


@pytest.fixture
def full() -> Iterator[int]:
    fd = os.open("/dev/full", os.O_WRONLY)
    yield fd
    os.close(fd)


SPEAKING = [
    ("state", "ID"),
    ("list",),
    ("list", "--quiet"),
    ("list", "--format", "json"),
    ("ps", "ID"),
    ("ps", "--format", "json", "ID"),
    ("events", "--stats", "ID"),
    ("features",),
    ("--version",),
    ("--help",),
    ("spec", "--help"),
    ("plan", "--bundle", "BUNDLE"),
]


@pytest.mark.parametrize("words", SPEAKING, ids=" ".join)
def test_output_that_nobody_takes(
    rt: Runtime, bundle: Bundle, full: int, words: tuple[str, ...]
) -> None:
    container = rt.create(bundle.args("sleep")).start()
    names = {"ID": container.id, "BUNDLE": str(bundle.path)}
    argv = rt.argv(*(names.get(word, word) for word in words))
    assert subprocess.run(argv, capture_output=True, check=True).stdout, "it says nothing"
    done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    one_line(Result(argv, done.returncode, "", done.stderr), "standard output", FULL)
    # A reader that went away: no words needed.
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode != 0 and "Traceback" not in done.stderr, done
    assert len(done.stderr.splitlines()) <= 1, done
    # Neither has it words to lose.
    done = subprocess.run(argv, stdout=full, stderr=full, check=False)
    assert done.returncode > 0


def test_errors_that_nobody_takes(rt: Runtime, bundle: Bundle, full: int, place: Path) -> None:
    log = place / "log"
    argv = rt.argv("state", "nobody", options=["--log", str(log), "--log-format", "json"])
    done = subprocess.run(argv, stdout=full, stderr=full, check=False)
    assert done.returncode == 1
    assert "does not exist" in log.read_text()
    bundle.config["process"]["cwd"] = "relative"
    bundle.write()
    argv = rt.argv("create", "--bundle", str(bundle.path), "c")
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=full, stderr=full, check=False)
    assert done.returncode == 1
    assert not (rt.root / "c").exists()


def one_process(container: Container) -> None:
    """What `exec` began has ended again."""
    poll(lambda: container.verb("ps", "--format", "json").out.count(",") == 0, "exec left one")


def refused_console(
    rt: Runtime, bundle: Bundle, path: str, *parts: str, verbs: Iterable[str] = MAKING
) -> None:
    """Each verb with a terminal fails in time and leaves nothing."""
    bundle.process["terminal"] = True
    bundle.args("sleep").write()
    for verb in verbs:
        container = rt.track(bundle)
        before = time.monotonic()
        result = rt.call(
            *verb.split(), "--bundle", str(bundle.path), "--console-socket", path, container.id
        )
        assert time.monotonic() - before < LIMIT
        one_line(result, *parts)
        container.verb("state").failed("does not exist")
    bundle.process["terminal"] = False
    container = rt.create(bundle).start()
    before = time.monotonic()
    flags = ["--tty", "--detach", "--console-socket", path]
    result = container.exec("sleep", flags=flags)
    assert time.monotonic() - before < LIMIT
    one_line(result, *parts)
    one_process(container)


def test_console_socket_is_missing(rt: Runtime, bundle: Bundle, place: Path) -> None:
    path = str(place / "console")
    refused_console(rt, bundle, path, path, "No such file")


def test_console_socket_is_a_file(rt: Runtime, bundle: Bundle, place: Path) -> None:
    path = place / "console"
    path.touch()
    refused_console(rt, bundle, str(path), str(path), "Connection refused")


def test_console_socket_of_nobody(rt: Runtime, bundle: Bundle, place: Path) -> None:
    path = str(place / "console")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
    refused_console(rt, bundle, path, path, "Connection refused")


def test_console_socket_of_another_kind(rt: Runtime, bundle: Bundle, place: Path) -> None:
    path = str(place / "console")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        refused_console(rt, bundle, path, path, "wrong type for socket")


def test_console_socket_that_is_overrun(rt: Runtime, bundle: Bundle, place: Path) -> None:
    """connect(2) waits as long as the queue is full: nobody is to wait for ever."""
    path = str(place / "console")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(path)
        listener.listen(0)
        for _ in range(2):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(path)
        parts = (path, "Resource temporarily unavailable")
        refused_console(rt, bundle, path, *parts, verbs=["create"])


def test_console_socket_that_hangs_up(rt: Runtime, bundle: Bundle, place: Path) -> None:
    """Nobody takes the pty: a program that writes to it must not hang, and the container can be deleted."""
    path = str(place / "console")
    bundle.process["terminal"] = True
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.shutdown(socket.SHUT_RD)
        container = rt.try_create(bundle.args("sleep"), "--console-socket", path)
    if container.result.code:
        one_line(container.result, "console socket")


SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


def interrupted(argv: list[str], delay: float, signum: signal.Signals, log: Path) -> int:
    """The exit status of a command that gets a signal after some seconds; what it says goes to ``log``."""

    def mind_it() -> None:  # a shell's background job ignores SIGINT, until the runtime begins
        signal.signal(signum, signal.SIG_DFL)

    with log.open("wb") as err:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=err,
            preexec_fn=mind_it,
        )
        time.sleep(delay)
        process.send_signal(signum)
        try:
            return process.wait(LIMIT)
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
@pytest.mark.parametrize("verb", ["create", "run", "run --detach"])
def test_signals_while_it_is_made(
    rt: Runtime, bundle: Bundle, place: Path, verb: str, signum: signal.Signals
) -> None:
    """At any time: the container is there, whole, or nothing is left of it."""
    bundle.args(*(("echo", "done") if verb == "run" else ("sleep",))).write()
    log = place / "log"
    codes = set()
    for step in range(12):
        container = rt.track(bundle)
        argv = rt.argv(*verb.split(), "--bundle", str(bundle.path), container.id)
        code = interrupted(argv, step * 0.0015, signum, log)
        codes.add(code)
        assert "Traceback" not in log.read_text()
        state = container.verb("state")
        if code == 0 and verb != "run":
            assert state.ok().json()["status"] == ("created" if verb == "create" else "running")
        container.delete("--force").ok()
        rt.create(bundle, container_id=container.id).delete("--force").ok()
    assert codes - {0}, "no signal came in time"


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
@pytest.mark.parametrize("verb", ["start", "exec", "pause", "update", "delete", "kill"])
def test_signals_of_the_other_verbs(
    rt: Runtime, bundle: Bundle, place: Path, verb: str, signum: signal.Signals
) -> None:
    flags, after = {
        "exec": ([], ["/init", "sleep"]),
        "update": (["--pids-limit", "100"], []),
        "delete": (["--force"], []),
        "kill": ([], ["KILL"]),
    }.get(verb, ([], []))
    log = place / "log"
    for step in range(6):
        container = rt.create(bundle.args("sleep"))
        if verb != "start":
            container.start()
        argv = rt.argv(verb, *flags, container.id, *after)
        interrupted(argv, step * 0.001, signum, log)
        assert "Traceback" not in log.read_text()
        container.verb("resume")
        if container.verb("state").code == 0:
            one_process(container)
        container.delete("--force").ok()
        poll(lambda pid=container.pid: not alive(pid), "it lives on")

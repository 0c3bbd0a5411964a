"""What crosses from the caller into the container: descriptors, signals, the environment."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.integration.harness import Bundle, Runtime, fields, poll

pytestmark = pytest.mark.root


def open_files(count: int) -> list[int]:
    return [os.open("/etc/hostname", os.O_RDONLY) for _ in range(count)]


def test_only_stdio_is_open(rt: Runtime, bundle: Bundle) -> None:
    dirty = open_files(8)
    os.set_blocking(dirty[0], False)
    try:
        assert rt.run(bundle.args("fds"), pass_fds=dirty).ok().lines == ["0", "1", "2"]
    finally:
        for fd in dirty:
            os.close(fd)


def test_only_stdio_is_open_in_exec(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep")).start()
    dirty = open_files(4)
    try:
        assert container.exec("fds", pass_fds=dirty).ok().lines == ["0", "1", "2"]
    finally:
        for fd in dirty:
            os.close(fd)


@pytest.mark.known("crun", "1.8.1 closes leaked descriptors only at exec")
def test_the_waiting_init_holds_no_leaked_descriptor(rt: Runtime, bundle: Bundle) -> None:
    """Engines leak pipes and wait for their end (engines, 1.9): close them at once."""
    reader, writer = os.pipe()
    try:
        container = rt.create(bundle.args("sleep"), pass_fds=[writer])
        targets = [os.readlink(p) for p in Path(f"/proc/{container.pid}/fd").iterdir()]
        assert os.readlink(f"/proc/self/fd/{writer}") not in targets
        os.close(writer)
        writer = -1
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)


def at_three(*fds: int) -> tuple[str, ...]:
    """A prefix that moves descriptors to 3, 4, … before the runtime starts."""
    moves = " ".join(f"{3 + i}<&{fd}" for i, fd in enumerate(fds))
    return ("bash", "-c", f'exec {moves}; exec "$@"', "bash")


def test_preserve_fds(rt: Runtime, bundle: Bundle) -> None:
    first, second = os.pipe()
    third = os.dup(second)
    try:
        result = rt.call(
            "run",
            "--preserve-fds",
            "1",
            "--bundle",
            str(bundle.args("fds", ";", "fdwrite", "3", "through").write().path),
            rt.track(bundle).id,
            pass_fds=[second, third],
            prefix=at_three(second),
        ).ok()
        assert result.lines == ["0", "1", "2", "3"]
        assert os.read(first, 100) == b"through"
    finally:
        for fd in (first, second, third):
            os.close(fd)


def test_preserve_fds_in_exec(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep")).start()
    first, second = os.pipe()
    try:
        container.exec(
            "fdwrite",
            "3",
            "again",
            flags=["--preserve-fds", "1"],
            pass_fds=[second],
            prefix=at_three(second),
        ).ok()
        assert os.read(first, 100) == b"again"
    finally:
        os.close(first)
        os.close(second)


@pytest.mark.known("crun", "1.8.1 does not pass LISTEN_FDS on")
def test_listen_fds(rt: Runtime, bundle: Bundle) -> None:
    """Socket activation by the runtime's own environment (sd_listen_fds(3))."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(bundle.path / "socket"))
    server.listen()
    bundle.args("listen-fds").write()
    env = {**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "name"}
    with server:
        result = rt.call(
            "run",
            "--bundle",
            str(bundle.path),
            rt.track(bundle).id,
            env=env,
            pass_fds=[server.fileno()],
            prefix=(*at_three(server.fileno())[:2], *_listen_pid(server.fileno())),
        ).ok()
    words = fields(result.lines[0])
    assert (words["LISTEN_FDS"], words["LISTEN_PID"]) == ("1", "1")
    assert result.lines[1] == "3 socket"


def _listen_pid(fd: int) -> tuple[str, str]:
    return f'export LISTEN_PID=$$; exec 3<&{fd}; exec "$@"', "bash"


@pytest.mark.known("crun", "1.8.1: start goes on waiting for a container that is dead")
def test_notify_socket(rt: Runtime, bundle: Bundle) -> None:
    """READY=1 of the program reaches the manager's socket."""
    path = bundle.path / "notify"
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(str(path))
    server.settimeout(10)
    env = {**os.environ, "NOTIFY_SOCKET": str(path)}
    with server:
        container = rt.create(bundle.args("notify", "READY=1", ";", "sleep"), env=env)
        process = subprocess.Popen(rt.argv("start", container.id), env=env)
        try:
            text = server.recv(4096).decode()
            while "READY=1" not in text:
                text += server.recv(4096).decode()
        finally:
            container.kill()
            try:
                process.wait(10)
            finally:
                process.kill()
                process.wait()


@pytest.mark.known("runc", "1.1.5 passes the caller's signal mask on")
def test_signal_dispositions_are_default(rt: Runtime, bundle: Bundle) -> None:
    """SIGPIPE ignored (conmon) or SIGUSR1 blocked (buildah) must not leak (engines, 1.10)."""

    def dirty() -> None:
        for number in (signal.SIGPIPE, signal.SIGHUP, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})

    assert rt.run(bundle.args("signals"), preexec=dirty).ok().lines == ["end"]


@pytest.mark.known("runc", "1.1.5 passes the caller's signal mask on")
def test_signal_dispositions_of_exec(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep")).start()

    def dirty() -> None:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})

    assert container.exec("signals", preexec=dirty).ok().lines == ["end"]


def test_nothing_of_the_callers_environment_leaks(rt: Runtime, bundle: Bundle) -> None:
    env = {**os.environ, "SECRET": "x", "_LIBCONTAINER_X": "1", "PYTHONPATH": "/nosuch"}
    result = rt.run(bundle.args("env"), env=env).ok()
    assert {line.split("=")[0] for line in result.lines} == {"PATH", "HOME"}


def test_stdio_of_the_caller_is_used(rt: Runtime, bundle: Bundle) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"piped")
    os.close(writer)
    try:
        assert rt.run(bundle.args("stdin"), stdin=reader).ok().out == "piped"
    finally:
        os.close(reader)


@pytest.mark.known("runc", "1.1.5: a descriptor of /sys/fs/cgroup takes a closed number")
def test_closed_stdio(rt: Runtime, bundle: Bundle) -> None:
    """With 0, 1, 2 closed no file of the runtime may land on those numbers."""
    bundle.args("fds", ";", "sleep").write()
    container = rt.track(bundle)
    argv = rt.argv("create", "--bundle", str(bundle.path), container.id)
    process = subprocess.run(
        ["bash", "-c", 'exec 0<&- 1>&- 2>&-; exec "$@"', "bash", *argv], check=False
    )
    if process.returncode == 0:
        container.start()
        container.pid = int(container.state()["pid"])
        for fd in range(3):
            target = os.readlink(f"/proc/{container.pid}/fd/{fd}")
            assert target == "/dev/null", target


def test_readonly_null_as_output(rt: Runtime, bundle: Bundle) -> None:
    """containerd's sandboxes: fd 1 and 2 are /dev/null opened for reading (engines, 1.11)."""
    bundle.process["args"] = ["/nosuch"]
    bundle.write()
    log = bundle.path / "log"
    container = rt.track(bundle)
    argv = rt.argv("create", "--bundle", str(bundle.path), container.id)
    argv[3:3] = ["--log", str(log), "--log-format", "json"]
    with open("/dev/null", "rb") as null:
        process = subprocess.run(argv, stdin=null, stdout=null, stderr=null, check=False)
    assert process.returncode == 1
    assert '"level":"error"' in log.read_text().replace('": "', '":"')


def test_output_of_a_container_survives_the_runtime(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("echo", "one", ";", "sleep", "0.2", ";", "echo", "two"))
    container.start()
    container.wait_out("one\ntwo\n")
    poll(lambda: container.status == "stopped", "not stopped")

"""The sd_notify proxy with real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ociruntime import errors
from ociruntime.host import notify


class Caller:
    """Whoever waits for readiness: reads in a thread, and lets barriers through by closing what comes with them."""

    def __init__(self, path: Path) -> None:
        self.said: list[bytes] = []
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        while True:
            data, fds, _, _ = socket.recv_fds(self.sock, 4096, 4)
            if data == b"end":
                return
            self.said.append(data)
            for fd in fds:
                os.close(fd)

    def end(self, path: Path) -> list[bytes]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"end", str(path))
        self.thread.join()
        self.sock.close()
        return self.said


@pytest.fixture
def caller(tmp_path: Path) -> Iterator[Callable[[], list[bytes]]]:
    """Call it for what the caller has been told."""
    path = tmp_path / "caller"
    receiver = Caller(path)
    ended: list[list[bytes]] = []

    def end() -> list[bytes]:
        if not ended:
            ended.append(receiver.end(path))
        return ended[0]

    yield end
    end()


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[int]:
    notify.prepare(str(tmp_path))
    directory = os.open(tmp_path, os.O_PATH)
    fd = notify.listen(directory)
    os.close(directory)
    yield fd
    os.close(fd)


def say(tmp_path: Path, text: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text, str(tmp_path / "notify" / "notify.sock"))


def test_directory_and_variable(tmp_path: Path) -> None:
    for _ in range(2):
        path, variable = notify.prepare(str(tmp_path))
        assert path == str(tmp_path / "notify")
        assert Path(path).stat().st_mode & 0o777 == 0o755
        assert variable == "NOTIFY_SOCKET=/run/notify/notify.sock"


def test_socket_is_open_to_all_and_rebound(tmp_path: Path, listening: int) -> None:
    path = tmp_path / "notify" / "notify.sock"
    assert path.stat().st_mode & 0o777 == 0o777
    directory = os.open(tmp_path, os.O_PATH)
    os.close(notify.listen(directory))
    os.close(directory)


@pytest.mark.parametrize(
    ("message", "ready"),
    [
        (b"READY=1", True),
        (b"STATUS=up\nREADY=1\n", True),
        (b"READY=0", False),
        (b"XREADY=1", False),
        (b"READY=11", False),
        (b"", False),
        (b"STATUS=READY=1", False),
    ],
)
def test_is_ready(message: bytes, ready: bool) -> None:
    assert notify.is_ready(message) is ready


def test_only_readiness_and_our_pid_go_out(
    tmp_path: Path, listening: int, caller: Callable[[], list[bytes]]
) -> None:
    say(tmp_path, b"STATUS=starting\nMAINPID=1")
    say(tmp_path, b"READY=1\nMAINPID=1\nFDSTORE=1")
    pidfd = os.pidfd_open(os.getpid())
    assert notify.wait_ready(listening, pidfd, str(tmp_path / "caller"), 4711)
    os.close(pidfd)
    assert caller() == [b"READY=1\nMAINPID=4711", b"BARRIER=1"]


def test_the_end_of_the_process_ends_the_wait(tmp_path: Path, listening: int) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    pidfd = os.pidfd_open(child.pid)
    assert not notify.wait_ready(listening, pidfd, str(tmp_path / "caller"), child.pid)
    child.wait()
    os.close(pidfd)


def test_last_words_of_a_process_count(
    tmp_path: Path, listening: int, caller: Callable[[], list[bytes]]
) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    pidfd = os.pidfd_open(child.pid)
    child.wait()
    say(tmp_path, b"READY=1")
    assert notify.wait_ready(listening, pidfd, str(tmp_path / "caller"), child.pid)
    os.close(pidfd)


def test_caller_that_knows_no_barriers(
    tmp_path: Path, listening: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "_BARRIER_TIMEOUT", 50)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "caller"))
        say(tmp_path, b"READY=1")
        assert notify.take(listening, str(tmp_path / "caller"), 1)
        assert sock.recv(100) == b"READY=1\nMAINPID=1"


def test_barrier_of_the_container_is_let_through(tmp_path: Path, listening: int) -> None:
    reader, writer = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(str(tmp_path / "notify" / "notify.sock"))
        socket.send_fds(sock, [b"BARRIER=1"], [writer])
    os.close(writer)
    assert not notify.take(listening, "/nobody", 1)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_caller_that_is_gone(tmp_path: Path, listening: int) -> None:
    say(tmp_path, b"READY=1")
    with pytest.raises(errors.Error, match=r"notify .*: no such file or directory"):
        notify.take(listening, str(tmp_path / "gone"), 1)

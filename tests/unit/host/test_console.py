"""The console socket and the rules around it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ociruntime import errors
from ociruntime.host import console

pytestmark = pytest.mark.usefixtures("no_leaks")

NO_SOCKET = "cannot allocate tty if ociruntime will detach without setting console socket"
NO_USE = "cannot use console socket if ociruntime will not detach or allocate tty"


@pytest.mark.parametrize(
    ("terminal", "socket_path", "detach", "text"),
    [
        (True, "/s", True, None),
        (True, None, False, None),
        (False, None, True, None),
        (False, None, False, None),
        (False, "", True, None),
        (True, None, True, NO_SOCKET),
        (True, "", True, NO_SOCKET),
        (True, "/s", False, NO_USE),
        (False, "/s", True, NO_USE),
        (False, "/s", False, NO_USE),
    ],
)
def test_rules(terminal: bool, socket_path: str | None, detach: bool, text: str | None) -> None:
    if text is None:
        console.check(terminal, socket_path, detach)
        return
    with pytest.raises(errors.Error) as caught:
        console.check(terminal, socket_path, detach)
    assert caught.value.message == text
    assert caught.value.pointer == "/process/terminal"


@pytest.mark.parametrize("depth", [1, 30])
def test_master_arrives_whatever_the_length_of_the_path(tmp_path: Path, depth: int) -> None:
    directory = tmp_path.joinpath(*["console-directory"] * depth)
    directory.mkdir(parents=True)
    receiver = socket.socket(socket.AF_UNIX)
    here = os.open(directory, os.O_PATH)
    receiver.bind(f"/proc/self/fd/{here}/sock")
    os.close(here)
    receiver.listen()
    connected = console.connect(str(directory / "sock"))
    peer, _ = receiver.accept()
    master, slave = os.openpty()
    os.close(slave)
    console.send(connected, master)
    data, fds, _, _ = socket.recv_fds(peer, 100, 4)
    assert data == b"/dev/ptmx"
    assert len(fds) == 1 and os.isatty(fds[0])
    assert peer.recv(1) == b""  # and nothing keeps the connection open
    os.close(fds[0])
    peer.close()
    receiver.close()


def test_nobody_listens(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with pytest.raises(errors.Error, match=f"connect to console socket {path}: no such file"):
        console.connect(str(path))
    receiver = socket.socket(socket.AF_UNIX)
    receiver.bind(str(path))
    receiver.close()
    with pytest.raises(errors.Error, match=f"connect to console socket {path}: connection refused"):
        console.connect(str(path))


def test_receiver_that_is_gone(tmp_path: Path) -> None:
    """Both descriptors are closed all the same, which the fixture sees."""
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(errors.Error, match="send pty master over console socket: broken pipe"):
        console.send(ours.detach(), os.open("/dev/null", os.O_RDONLY))

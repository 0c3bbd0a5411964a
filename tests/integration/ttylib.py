"""Terminals for tests: a console socket as a monitor has, and reading until a text comes."""

from __future__ import annotations

import array
import os
import select
import socket
import time
from pathlib import Path

from conformance.kit import PATIENCE


class ConsoleSocket:
    """What conmon and the containerd shim do: accept, and take the pty master."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen()
        self.server.settimeout(15)
        self.masters: list[int] = []

    def receive(self) -> int:
        """The master; raises TimeoutError when nobody connects."""
        connection, _ = self.server.accept()
        with connection:
            connection.settimeout(15)
            data, control, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(64))
        assert data, "no byte came with the descriptor"
        fds = array.array("i")
        for _, _, payload in control:
            fds.frombytes(payload)
        assert len(fds) == 1
        self.masters.append(fds[0])
        return fds[0]

    def close(self) -> None:
        self.server.close()
        for fd in self.masters:
            os.close(fd)


def read_until(fd: int, text: str, timeout: float = 10 * PATIENCE) -> str:
    """Output of a terminal until `text` came, or its end."""
    data = b""
    end = time.monotonic() + timeout
    while text.encode() not in data and time.monotonic() < end:
        if not select.select([fd], [], [], 0.2)[0]:
            continue
        try:
            chunk = os.read(fd, 4096)
        except OSError:
            break
        if not chunk:
            break
        data += chunk
    assert text.encode() in data, data
    return data.decode().replace("\r\n", "\n")

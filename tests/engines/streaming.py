"""Kubernetes' streams (exec, attach, port-forward) over a WebSocket, as API servers and kubelets use them."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import struct
import threading
import time
from typing import Self
from urllib.parse import urlsplit

__all__ = ["Forward", "Stream"]

TIMEOUT = 30.0
CLONE_NEWNET = 0x40000000
STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
PROTOCOL = "v4.channel.k8s.io"


def _dial(init: int, host: str, port: int) -> socket.socket:
    """A connection from within the network namespace of process `init`.  Raises OSError."""
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def within() -> None:
        # A socket stays in the namespace it was made in; the thread ends at once.
        try:
            namespace = os.open(f"/proc/{init}/ns/net", os.O_RDONLY)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(namespace, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(namespace)
            made.append(socket.create_connection((host, port), timeout=TIMEOUT))
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=within)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


class _Channels:
    """Channels of bytes over one WebSocket: the first byte of each frame is the channel.

    A context manager, which closes the connection.
    """

    def __init__(self, init: int, url: str) -> None:
        from websockets.sync.client import connect
        from websockets.typing import Subprotocol

        place = urlsplit(url)
        assert place.hostname is not None and place.port is not None
        self.received = dict.fromkeys(range(5), b"")
        self.connection = contextlib.ExitStack()
        self.socket = self.connection.enter_context(
            connect(
                f"ws://{place.netloc}{place.path}?{place.query}",
                sock=_dial(init, place.hostname, place.port),
                subprotocols=[Subprotocol(PROTOCOL)],
                compression=None,
                proxy=None,
                max_size=None,
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def send(self, data: bytes, channel: int = STDIN) -> None:
        self.socket.send(bytes([channel]) + data)

    def read(self, end: float) -> bool:
        """Take one frame; False when the other side has closed.  Raises AssertionError at `end`."""
        from websockets.exceptions import ConnectionClosed

        try:
            frame = self.socket.recv(timeout=max(0.0, end - time.monotonic()))
        except ConnectionClosed:
            return False
        except TimeoutError:
            raise AssertionError(f"nothing comes: {self.received}") from None
        assert isinstance(frame, bytes)
        if frame:
            self.received[frame[0]] += frame[1:]
        return True


class Stream(_Channels):
    """The streams of a process: exec or attach.

    Args:
        init: a process of the network namespace of the server.
        url: where the server said that the streams are.
    """

    def resize(self, rows: int, columns: int) -> None:
        self.send(json.dumps({"Width": columns, "Height": rows}).encode(), RESIZE)

    def expect(self, text: str) -> None:
        """Read until the text was on standard output, and forget all up to its end.

        Raises AssertionError when it does not come.
        """
        end = time.monotonic() + TIMEOUT
        while text.encode() not in self.received[STDOUT]:
            assert self.read(end), f"{text!r} did not come: {self.received}"
        self.received[STDOUT] = self.received[STDOUT].partition(text.encode())[2]

    def wait(self) -> int:
        """The exit status, after the end of the streams."""
        end = time.monotonic() + TIMEOUT
        while self.read(end):
            pass
        verdict = json.loads(self.received[ERROR])
        if verdict["status"] == "Success":
            return 0
        assert verdict.get("reason") == "NonZeroExitCode", verdict
        [cause] = verdict["details"]["causes"]
        return int(cause["message"])

    def out(self) -> str:
        return self.received[STDOUT].decode()

    def err(self) -> str:
        return self.received[STDERR].decode()


class Forward(_Channels):
    """A connection to one port of a pod: channel 0 has the data, channel 1 errors."""

    def __init__(self, init: int, url: str, port: int) -> None:
        super().__init__(init, f"{url}?port={port}")
        self.port = port

    def expect(self, data: bytes) -> None:
        """Read until the data came.  Raises AssertionError otherwise."""
        end = time.monotonic() + TIMEOUT
        head = struct.pack("<H", self.port)  # each channel begins with it
        while data not in self.received[0].removeprefix(head):
            assert self.read(end), f"{data!r} did not come: {self.received}"

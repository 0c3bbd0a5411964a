"""A systemd that is none: it answers on a bus of its own, makes cgroups and writes down what it was asked.

What the real one does with the same calls is checked by test_systemd.py where it is pid 1. Messages are read and made
by jeepney, not by the code under test.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageType,
    new_error,
    new_method_return,
    new_signal,
)
from jeepney.low_level import Parser

ROOT = Path("/sys/fs/cgroup")
NAME = "org.freedesktop.systemd1"
MANAGER = DBusAddress("/org/freedesktop/systemd1", NAME, NAME + ".Manager")
OK = b"OK 0123456789abcdef0123456789abcdef\r\n"
ITSELF = ":1.1"  # the unique name that a bus puts into every message of systemd
Answer = Callable[["FakeSystemd", "Peer", Message], bool]


def hierarchies() -> list[Path]:
    """The hierarchies of which systemd makes cgroups: on v1 not all of them."""
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    names = ("systemd", "unified", "cpu,cpuacct", "cpu", "memory", "pids", "devices", "blkio")
    return [ROOT / name for name in names if (ROOT / name / "cgroup.procs").exists()]


class FakeSystemd:
    """A server at the socket ``path``.

    ``started``: (unit, properties) of each StartTransientUnit; ``changed``: of each SetUnitProperties; ``calls``: every
    method called. ``rules``: by method, asked first; one that returns True has dealt with the call.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started: list[tuple[str, dict[str, Any]]] = []
        self.changed: list[tuple[str, dict[str, Any]]] = []
        self.calls: list[str] = []
        self.units: dict[str, str] = {}
        self.peer_type = Peer
        self.rules: dict[str, Answer] = {}
        self.result = "done"
        self._jobs = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={self.path}"}

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
        for unit in list(self.units):
            self.remove(unit)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                thread = threading.Thread(target=self.peer_type(self, sock).serve, daemon=True)
                self._threads.append(thread)
                thread.start()

    # -- units -------------------------------------------------------------------------------------

    def make(self, unit: str, properties: dict[str, Any]) -> None:
        path = f"{properties['Slice']}/{unit}"
        self.units[unit] = path
        for root in hierarchies():
            (root / path).mkdir(parents=True, exist_ok=True)
            for pid in properties["PIDs"]:
                (root / path / "cgroup.procs").write_text(str(pid))

    def remove(self, unit: str) -> None:
        path = self.units.pop(unit)
        for root in hierarchies():
            for place in (root / path, (root / path).parent):
                with contextlib.suppress(OSError):
                    place.rmdir()

    def job(self, peer: Peer, message: Message, unit: str, result: str) -> None:
        """Answer with a job that ends at once; in front of the real end goes one that somebody else has made up."""
        self._jobs += 1
        path = f"/org/freedesktop/systemd1/job/{self._jobs}"
        body = (self._jobs, path, unit, "failed")
        peer.send(new_signal(MANAGER, "JobRemoved", "uoss", body), sender=":1.666")
        peer.send(new_method_return(message, "o", (path,)))
        peer.send(new_signal(MANAGER, "JobRemoved", "uoss", (0, path + "0", unit, "failed")))
        peer.send(new_signal(MANAGER, "JobRemoved", "uoss", (*body[:3], result)))

    def handle(self, peer: Peer, message: Message) -> None:
        member = message.header.fields[HeaderFields.member]
        self.calls.append(member)
        rule = self.rules.get(member)
        if rule is not None and rule(self, peer, message):
            return
        answer = getattr(self, "do_" + member, None)
        if answer is None:
            peer.send(new_error(message, "org.freedesktop.DBus.Error.UnknownMethod", "s", ("?",)))
        else:
            answer(peer, message)

    def do_Hello(self, peer: Peer, message: Message) -> None:
        peer.send(new_method_return(message, "s", (":1.2",)), sender="org.freedesktop.DBus")

    def do_AddMatch(self, peer: Peer, message: Message) -> None:
        peer.send(new_method_return(message), sender="org.freedesktop.DBus")

    def do_Ping(self, peer: Peer, message: Message) -> None:
        peer.send(new_method_return(message))

    def do_ResetFailedUnit(self, peer: Peer, message: Message) -> None:
        peer.send(new_method_return(message))

    def do_StartTransientUnit(self, peer: Peer, message: Message) -> None:
        unit, _, properties, _ = message.body
        values = {name: value for name, (_, value) in properties}
        self.started.append((unit, dict(properties)))
        if self.result == "done":
            self.make(unit, values)
        self.job(peer, message, unit, self.result)

    def do_SetUnitProperties(self, peer: Peer, message: Message) -> None:
        unit, runtime, properties = message.body
        assert runtime is True
        self.changed.append((unit, dict(properties)))
        peer.send(new_method_return(message))

    def do_StopUnit(self, peer: Peer, message: Message) -> None:
        unit = message.body[0]
        if unit not in self.units:
            refuse(f"{NAME}.NoSuchUnit", f"Unit {unit} not loaded.")(self, peer, message)
            return
        self.remove(unit)
        self.job(peer, message, unit, "done")


def refuse(name: str, text: str, times: int = 1 << 30) -> Answer:
    """A rule: answer with an error, so many times."""
    left = [times]

    def answer(_: FakeSystemd, peer: Peer, message: Message) -> bool:
        if not left[0]:
            return False
        left[0] -= 1
        peer.send(new_error(message, name, "s", (text,)))
        return True

    return answer


class Peer:
    """One connection, seen from the server."""

    def __init__(self, systemd: FakeSystemd, sock: socket.socket) -> None:
        self.systemd = systemd
        self.sock = sock
        self._serial = 0

    def send(self, message: Message, sender: str = ITSELF) -> None:
        self._serial += 1
        message.header.fields[HeaderFields.sender] = sender
        with contextlib.suppress(OSError):  # the client may be gone
            self.sock.sendall(message.serialise(serial=self._serial))

    def greet(self) -> bytes | None:
        """What comes before the messages; the beginning of these, or None if the client went away."""
        data = b""
        while b"BEGIN\r\n" not in data:
            more = self.sock.recv(4096)
            if not more:
                return None
            data += more
        assert data == b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n"
        self.sock.sendall(OK)
        return b""

    def serve(self) -> None:
        with self.sock, contextlib.suppress(ConnectionError):
            more = self.greet()
            if more is None:
                return
            parser = Parser()
            while more := more or self.sock.recv(65536):
                parser.add_data(more)
                more = b""
                while (message := parser.get_next_message()) is not None:
                    assert message.header.message_type is MessageType.method_call
                    self.systemd.handle(self, message)


@contextlib.contextmanager
def running(directory: Path) -> Iterator[FakeSystemd]:
    """A fake systemd as long as it lasts."""
    fake = FakeSystemd(directory / "bus")
    try:
        yield fake
    finally:
        fake.close()

"""Timers for podman's probes where no systemd is: a `systemd-run` that takes notes, and a bus that acts on them.

podman asks `systemd-run` for a transient timer, has its service run once by D-Bus (over systemd's private socket), and
stops the timer in the end.  Here a thread of the test runs the command as often as was asked.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator

import pytest
from jeepney import Message, new_method_return, new_signal

from tests.engines.drivers import Podman
from tests.engines.world import USER_ID
from tests.integration.fake_systemd import MANAGER, OK, FakeSystemd, Peer

__all__ = ["Timers", "running"]

# systemd-run [--user] … --unit NAME --on-unit-inactive=TIME … COMMAND…: one word a line, in a file called NAME.
_NOTES = "/run/timers"
_RUN = f"""#!/bin/sh
set -e
name=
previous=
for word; do
    case $previous in --unit) name=$word ;; esac
    case $word in --unit=*) name=${{word#--unit=}} ;; esac
    previous=$word
done
printf '%s\\n' "$@" >"{_NOTES}/$name"
"""
_TIMES = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class _Client(Peer):
    """One connection of go-systemd, which negotiates line by line."""

    def greet(self) -> bytes | None:
        answers = {
            b"AUTH": b"REJECTED EXTERNAL\r\n",
            b"AUTH EXTERNAL": OK,
            b"NEGOTIATE_UNIX_FD": b"ERROR\r\n",
        }
        data = b""
        while True:
            line, end, rest = data.partition(b"\r\n")
            if not end:
                more = self.sock.recv(4096)
                if not more:
                    return None
                data += more
                continue
            words = line.lstrip(b"\0").split(b" ")
            if words == [b"BEGIN"]:
                assert isinstance(self.systemd, Timers)
                self.systemd.peers.append(self)  # not before: signals would meet the greeting
                return rest
            self.sock.sendall(answers[b" ".join(words[:2])])
            data = rest


class Timers(FakeSystemd):
    """The bus.  ``fired``: how often each unit ran; ``stopped``: the units that podman has stopped."""

    def __init__(self, engine: Podman) -> None:
        place = f"/run/user/{USER_ID}" if engine.user else "/run"
        engine.host(f"mkdir -p -m 755 {place}/systemd; mkdir -p -m 777 {_NOTES}")
        # podman 5 looks for the mark that systemd runs.
        self.mark = "" if " 4." in engine.version() else "/run/systemd/system"
        engine.host(f"mkdir -p {self.mark}") if self.mark else None
        command = engine.world.path("/run/bin/systemd-run")
        command.write_text(_RUN)
        command.chmod(0o755)
        self.engine = engine
        self.peers: list[Peer] = []
        self.fired: dict[str, int] = {}
        self.stopped: dict[str, threading.Event] = {}
        self._clocks: list[threading.Thread] = []
        super().__init__(engine.world.path(f"{place}/systemd/private"))
        self.path.chmod(0o777)
        self.peer_type = _Client

    def close(self) -> None:
        for event in self.stopped.values():
            event.set()
        for clock in self._clocks:
            clock.join(30)
        for peer in self.peers:
            with contextlib.suppress(OSError):
                peer.sock.shutdown(2)
        super().close()
        self.engine.host(f"rm -r {_NOTES} /run/bin/systemd-run {self.mark}")
        self.path.unlink()

    def ended(self, peer: Peer, message: Message, unit: str) -> None:
        """Answer with a job, and tell every connection that it is done: signals go to one of its own."""
        self._jobs += 1
        path = f"/org/freedesktop/systemd1/job/{self._jobs}"
        peer.send(new_method_return(message, "o", (path,)))
        for each in list(self.peers):
            each.send(new_signal(MANAGER, "JobRemoved", "uoss", (self._jobs, path, unit, "done")))

    def do_RestartUnit(self, peer: Peer, message: Message) -> None:
        unit = message.body[0].removesuffix(".service")
        words = self.engine.host(f"cat {_NOTES}/{unit}").splitlines()
        command = words[next(i for i, word in enumerate(words) if word.startswith("/")) :]
        [time] = [w.partition("=")[2] for w in words if w.startswith("--on-unit-inactive=")]
        parts = re.findall(r"([0-9.]+)(ms|s|m|h)", time)
        interval = sum(float(number) * _TIMES[mark] for number, mark in parts)
        if unit in self.stopped:
            self.stopped[unit].set()
        stopped = self.stopped[unit] = threading.Event()

        def clock() -> None:
            while not stopped.is_set():
                self.engine.world.call(*command, env=self.engine.env, user=self.engine.user)
                self.fired[unit] = self.fired.get(unit, 0) + 1
                stopped.wait(interval)

        self._clocks.append(threading.Thread(target=clock, daemon=True))
        self._clocks[-1].start()
        self.ended(peer, message, message.body[0])

    def do_StopUnit(self, peer: Peer, message: Message) -> None:
        unit = message.body[0].rpartition(".")[0]
        if unit in self.stopped:
            self.stopped[unit].set()
        self.ended(peer, message, message.body[0])


@contextlib.contextmanager
def running(engine: Podman) -> Iterator[Timers]:
    """Timers as long as it lasts."""
    if engine.world.systemd:
        pytest.skip("the machine's systemd would run the probe outside of this world")
    timers = Timers(engine)
    try:
        yield timers
    finally:
        engine.tidy()
        timers.close()

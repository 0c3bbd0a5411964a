"""Many callers of one runtime at the same time, with what each was answered and when."""

from __future__ import annotations

import itertools
import json
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from conformance.kit import PATIENCE, Bundle, Result, Runtime
from tests.concurrency.model import Answer, Call

LIMIT = 10.0  # seconds that a verb may take on a machine that has a processor for it
EXEC_CODE = 7

# What stderr says -> the kind of the answer, and the group of the status word. The first that is found counts.
_TEXTS = (
    (r"container does not exist", "absent"),
    (r"container with given ID already exists", "exists"),
    (r"cannot start an? (already running) container", "is"),
    (r"cannot start a container that has (stopped)", "is"),
    (r"cannot start a container in the (paused) state", "is"),
    (r"cannot delete container \S+ that is not stopped: (\w+)", "is"),
    (r"container not running or created: (\w+)", "is"),
    (r"cannot exec in a (paused|stopped) container", "is"),
    (r"container not running", "not running"),
    (r"container with id \S+ is not running", "not running"),
    (r"container not paused", "not paused"),
    (r"container init died before it executed the program", "died"),
)
_WORDS = {"already running": "running"}


def limit() -> float:
    """Seconds that a verb may take now: on a machine with more to do than processors, each waits its turn."""
    return LIMIT * PATIENCE * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def understand(verb: str, container_id: str, result: Result, pid_file: Path) -> Answer:
    """The answer of a verb. Its kind is `unknown` when the model has no word for it."""
    if result.code == 0 or (verb == "exec" and result.code == EXEC_CODE):
        return _success(verb, container_id, result, pid_file)
    for pattern, kind in _TEXTS:
        found = re.search(pattern, result.err)
        if found:
            if verb == "exec" and kind == "not running":
                return Answer("died")
            word = found[1] if found.groups() else ""
            return Answer(kind, _WORDS.get(word, word))
    # Killed with the container, by its init's SIGKILL.
    if verb == "exec" and result.code == 137 and not result.err:
        return Answer("died")
    return Answer("unknown")


def _success(verb: str, container_id: str, result: Result, pid_file: Path) -> Answer:
    if verb == "create":
        return Answer("ok", pids=(int(pid_file.read_text()),))
    if verb == "state":
        one = json.loads(result.out)
        return Answer("status", one["status"], (one["pid"],))
    if verb == "list":
        for one in json.loads(result.out) or []:
            if one["id"] == container_id:
                return Answer("status", one["status"], (one["pid"],))
        return Answer("absent")
    if verb == "ps":
        return Answer("ok", pids=tuple(json.loads(result.out) or ()))
    if verb == "events --stats":
        assert json.loads(result.out)["id"] == container_id
    return Answer("ok")


class Reader(threading.Thread):
    """Reads state.json all the time: it has to be whole whenever it is there."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.reads = 0
        self.broken: list[str] = []
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.0002):
            with suppress(FileNotFoundError):
                text = self.path.read_text()
                self.reads += 1
                try:
                    json.loads(text)
                except ValueError:
                    self.broken.append(text)

    def end(self) -> None:
        self._over.set()
        self.join()


class Storm:
    """Callers of one container; `calls` is their history, in the order of the answers."""

    def __init__(self, runtime: Runtime, bundle: Bundle, container_id: str) -> None:
        self.runtime, self.bundle, self.id = runtime, bundle, container_id
        self.calls: list[Call] = []
        self.errors: list[BaseException] = []
        self._numbers = itertools.count()

    def _words(self, verb: str, pid_file: Path) -> tuple[str, ...]:
        name, *options = verb.split()
        if name == "create":
            return "create", "--bundle", str(self.bundle.path), "--pid-file", str(pid_file), self.id
        if name == "kill":
            return "kill", self.id, *options
        if name == "exec":
            return "exec", self.id, "/init", "exit", str(EXEC_CODE)
        if name == "update":
            return "update", "--cpu-share", "512", self.id
        if name == "list":
            return "list", "--format", "json"
        if name == "ps":
            return "ps", "--format", "json", self.id
        return name, *options, self.id

    def call(self, caller: int, verb: str) -> Call:
        """One verb. Raises TimeoutError when it takes longer than it may."""
        number = next(self._numbers)
        pid_file = self.bundle.path / f"{self.id}.{number}.pid"
        begin = time.monotonic()
        result = self.runtime.call(*self._words(verb, pid_file), timeout=limit())
        end = time.monotonic()
        answer = understand(verb, self.id, result, pid_file)
        pid_file.unlink(missing_ok=True)
        text = result.err.strip() if answer.kind == "unknown" else ""
        if answer.kind == "unknown":
            text = f"[exit {result.code}] {text}"
        made = Call(number, caller, verb, answer, begin, end, text)
        self.calls.append(made)
        return made

    def rage(self, programs: Sequence[Sequence[str]]) -> Reader:
        """Each caller calls its verbs, all at the same time; returns when all are over.

        A caller that waits in a paused container (exec, let in before the pause) is let go on in the end by resume.
        """
        path = self.runtime.root / self.id / "state.json"
        reader = Reader(path)
        together = threading.Barrier(len(programs))

        def work(caller: int, verbs: Sequence[str]) -> None:
            try:
                together.wait()
                for verb in verbs:
                    self.call(caller, verb)
            except BaseException as error:
                self.errors.append(error)

        threads = [
            threading.Thread(target=work, args=(caller, verbs))
            for caller, verbs in enumerate(programs)
        ]
        with self.runtime.reaping():
            for thread in [reader, *threads]:
                thread.start()
            last, number = time.monotonic(), 0
            while any(thread.is_alive() for thread in threads):
                time.sleep(0.05)
                if len(self.calls) != number:
                    last, number = time.monotonic(), len(self.calls)
                elif time.monotonic() - last > 0.5:
                    self.call(len(programs), "resume")
            reader.end()
        return reader

    def settle(self, condition: Callable[[Call], bool], caller: int) -> Call:
        """Ask for the state until `condition`. Raises TimeoutError."""
        end = time.monotonic() + limit()
        while True:
            with self.runtime.reaping():
                call = self.call(caller, "state")
            if condition(call):
                return call
            if time.monotonic() > end:
                raise TimeoutError(f"the container stays {call.answer.word}")
            time.sleep(0.05)

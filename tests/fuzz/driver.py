"""Runs one target of targets.py over and over: python -m tests.fuzz.driver TARGET SECONDS SEED FOUND [BROKEN].

FOUND: the directory where the input of a finding goes, as short as it can be made. BROKEN: a guard of targets.BROKEN
that is taken out first. Prints one line: inputs, accepted ones, lines of the package reached, MiB of memory at most.
Each input has LIMIT seconds and MEMORY bytes. Exit status 1 after a finding.
"""

from __future__ import annotations

import hashlib
import random
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz import targets

LIMIT = 10
MEMORY = 2 << 30
LEAST = 60  # inputs, on a machine however busy
TRACED = 8  # one input of so many is traced
PACKAGE = str(Path(targets.__file__).parents[2] / "ociruntime") + "/"


class Hang(BaseException):
    """An input took longer than LIMIT seconds."""


def _alarm(number: int, frame: FrameType | None) -> None:
    raise Hang(f"no end within {LIMIT} s")


class Runner:
    """One target with the inputs that reach the most of it."""

    def __init__(self, target: targets.Target, dice: random.Random) -> None:
        self.target = target
        self.dice = dice
        self.pool = target.inputs()
        self.lines: set[tuple[str, int]] = set()
        self.count = self.accepted = 0

    def attempt(self, data: bytes) -> BaseException | None:
        """Run one input; what it should not have raised."""
        signal.setitimer(signal.ITIMER_REAL, LIMIT)
        try:
            self.accepted += self.target.run(data)
        except (Hang, Exception) as exc:
            return exc
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return None

    def traced(self, data: bytes) -> BaseException | None:
        """As ``attempt``; an input that reaches a new line joins the pool."""
        before = len(self.lines)
        sys.settrace(self._enter)
        try:
            failure = self.attempt(data)
        finally:
            sys.settrace(None)
        if len(self.lines) > before and len(data) < 1 << 16:
            self.pool.append(data)
        return failure

    def _enter(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            self.lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line

    def shorter(self, data: bytes, failure: BaseException) -> bytes:
        """A shorter input with the same kind of failure."""
        end = time.monotonic() + 20
        size = max(1, len(data) // 2)
        while size and time.monotonic() < end and not isinstance(failure, Hang):
            at = 0
            while at < len(data) and time.monotonic() < end:
                candidate = data[:at] + data[at + size :]
                found = self.attempt(candidate)
                if type(found) is type(failure) and _place(found) == _place(failure):
                    data = candidate
                else:
                    at += size
            size //= 2
        return data

    def run(self, seconds: float) -> tuple[bytes, BaseException] | None:
        """Fuzz; the first finding."""
        for data in list(self.pool):
            self.count += 1
            failure = self.traced(data)
            if failure is not None:
                return data, failure
        end = time.monotonic() + seconds
        while time.monotonic() < end or self.count < LEAST:
            data = self.target.mutate(self.dice.choice(self.pool), self.dice)
            self.count += 1
            once = self.traced if self.count % TRACED == 0 else self.attempt
            failure = once(data)
            if failure is not None:
                return data, failure
        return None


def _place(failure: BaseException | None) -> tuple[str, int] | None:
    """Where an exception was raised."""
    frames = traceback.extract_tb(failure.__traceback__) if failure is not None else None
    return (frames[-1].filename, frames[-1].lineno or 0) if frames else None


def main(name: str, seconds: str, seed: str, found: str, broken: str = "") -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, _alarm)
    targets.quiet()
    if broken:
        targets.BROKEN[broken][1]()
    runner = Runner(targets.TARGETS[name], random.Random(seed))
    finding = runner.run(float(seconds))
    if finding is not None:
        data, failure = finding
        data = runner.shorter(data, failure)
        path = Path(found) / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
        path.write_bytes(data)
        traceback.print_exception(failure)
        print(f"{name}: after {runner.count} inputs, in {path}: {data[:300]!r}")
        return 1
    # of this program alone: ru_maxrss has what its parent had when it forked
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) // 1024
    print(
        f"{name}: {runner.count} inputs, {runner.accepted} accepted, {len(runner.lines)} lines, {peak} MiB"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))

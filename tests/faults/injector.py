"""One system call of a command, or of what it starts, made to fail: the Python side of tracer.c."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
HANG = 8  # seconds after which a command has hung; tracer kills it then


class Point(NamedTuple):
    """The ``nth`` system call ``call`` of one process: task 0 is the runtime, the others are what it starts."""

    task: int
    call: str
    nth: int

    def __str__(self) -> str:
        who = f"child {self.task}" if self.task else "runtime"
        return f"{who} {self.call}#{self.nth}"


class Outcome(NamedTuple):
    """``hit``: the fault took place. ``code``: as of subprocess. ``seconds``: until the command ended."""

    hit: bool
    code: int
    hung: bool
    seconds: float
    out: str
    err: str


@functools.cache
def tracer() -> Path:
    """The compiled tracer.c, in a folder of the user among the temporary ones."""
    source = HERE / "tracer.c"
    folder = Path(tempfile.gettempdir()) / f"ociruntime-tracer-{os.geteuid()}"
    folder.mkdir(mode=0o755, exist_ok=True)
    target = folder / f"tracer-{source.stat().st_mtime_ns}"
    if not target.exists():
        draft = target.with_suffix(f".{os.getpid()}")
        compiler = os.environ.get("CC", "cc")
        flags = ["-O1", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([compiler, *flags, "-o", str(draft), str(source)], check=True)
        draft.rename(target)
    return target


@functools.cache
def numbers() -> dict[str, int]:
    """The system calls of this machine by name, as its headers have them."""
    compiler = os.environ.get("CC", "cc")
    macros = subprocess.run(
        [compiler, "-E", "-dM", "-include", "sys/syscall.h", "-x", "c", os.devnull],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = re.findall(r"^#define __NR_(\w+) (\d+)$", macros, re.MULTILINE)
    return {name: int(number) for name, number in found}


@functools.cache
def names() -> dict[int, str]:
    return {number: name for name, number in numbers().items()}


class Command(NamedTuple):
    """What is run: ``argv``; ``init``: a process that belongs to it already (the waiting init), or 0; ``user``: uid and
    gid, None for those of the caller."""

    argv: Sequence[str]
    init: int = 0
    user: int | None = None

    def run(self, folder: Path, options: Sequence[str]) -> Outcome:
        """Run it under the tracer; its output goes to files of ``folder``."""
        more: list[str] = []
        if self.init:
            more += ["-p", str(self.init)]
        if self.user is not None:
            more += ["-u", f"{self.user}:{self.user}"]
        result = folder / "result"
        result.unlink(missing_ok=True)
        before = time.monotonic()
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            subprocess.run(
                [tracer(), *options, *more, "-o", result, "-t", str(HANG), *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                check=True,
                timeout=60,
            )
        seconds = time.monotonic() - before
        hit, status, hung = map(int, result.read_text().split())
        texts = [(folder / name).read_text(errors="replace") for name in ("out", "err")]
        code = os.waitstatus_to_exitcode(status)
        return Outcome(bool(hit), code, bool(hung), seconds, *texts)

    def record(self, folder: Path) -> list[Point]:
        """Every system call that is the runtime's or init's, in order.

        What a task calls after it has executed another program (a hook, the container's own) is not.
        """
        path = folder / "record"
        outcome = self.run(folder, ["-r", str(path)])
        assert outcome.code == 0, f"{' '.join(self.argv)}: {outcome}"
        seen: Counter[tuple[int, str]] = Counter()
        gone: set[int] = set()
        points = []
        for line in path.read_text().splitlines():
            task, number = map(int, line.split())
            call = names().get(number, "")
            if task in gone or not call:
                continue
            if task and call == "execve":
                gone.add(task)
            seen[task, call] += 1
            points.append(Point(task, call, seen[task, call]))
        return points

    def strike(self, folder: Path, point: Point, action: str) -> Outcome:
        """Run it with one fault: ``eN``: errno N, ``kM``: task M killed."""
        target = f"{point.task}:{numbers()[point.call]}:{point.nth}:{action}"
        return self.run(folder, ["-f", target])

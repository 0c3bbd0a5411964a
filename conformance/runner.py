"""Running checks on one runtime in a process of its own, and what came of each."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from conformance import world
from conformance.kit import Bundle, base_config, build_testprog, remove_tree
from conformance.ordinary import NEEDS_ROOT
from conformance.registry import CHECKS
from conformance.rows import MUST, ROWS, Row
from conformance.trial import Failure, RecordedRuntime, Skip, Trial, brief

PASS, FAIL, SKIP = "pass", "fail", "skip"


class Unusable(Exception):
    """The runtime cannot even run the base configuration; the argument says why."""


class Outcome(NamedTuple):
    """What came of one check on one runtime."""

    number: str
    verdict: str
    expected: str
    observed: str
    seconds: float
    changes: list[str]  # of config.json against the base configuration, one for each bundle
    commands: list[str]
    kept: str  # the directory of the bundles, with --keep

    @property
    def row(self) -> Row:
        return ROWS[self.number]

    @property
    def violation(self) -> bool:
        """Whether a MUST is broken."""
        return self.verdict == FAIL and self.row.level == MUST


class Target(NamedTuple):
    """A runtime as the user names it: a program, perhaps with options."""

    words: list[str]

    @classmethod
    def parse(cls, text: str) -> Target:
        """Raises ValueError when there is no such program."""
        words = shlex.split(text)
        program = shutil.which(words[0]) if words else None
        if program is None:
            raise ValueError(f"{text}: no such runtime")
        return cls([str(Path(program).absolute()), *words[1:]])

    @property
    def name(self) -> str:
        return " ".join([Path(self.words[0]).name, *self.words[1:]])


class Report(NamedTuple):
    """All outcomes of a runtime; `claims` is the version of the specification that it names."""

    name: str
    version: str
    claims: str
    notes: list[str]
    outcomes: list[Outcome]


def difference(config: Any, base: Any, pointer: str = "") -> dict[str, Any]:
    """What of `config` differs from `base`: JSON pointer -> value, None where it was removed."""
    if isinstance(config, dict) and isinstance(base, dict):
        found: dict[str, Any] = {}
        for name in [*base, *(n for n in config if n not in base)]:
            step = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
            if name not in config:
                found[step] = None
            elif name not in base:
                found[step] = config[name]
            else:
                found |= difference(config[name], base[name], step)
        return found
    return {} if config == base else {pointer: config}


def _changes(bundle: Bundle) -> str:
    return json.dumps(difference(bundle.config, base_config()), ensure_ascii=False)


def run_check(number: str, runtime: RecordedRuntime, scratch: Path, keep: Path | None) -> Outcome:
    """Run one check, clean up after it, and judge."""
    program = build_testprog()
    path = scratch / f"check-{number}"
    path.mkdir(mode=0o711)
    trial = Trial(runtime, path, program)
    runtime.commands.clear()
    begin = time.monotonic()
    verdict, expected, observed = PASS, ROWS[number].title, "as expected"
    try:
        if os.geteuid() != 0 and number in NEEDS_ROOT:
            raise Skip(f"needs root: {NEEDS_ROOT[number]}")
        CHECKS[number](trial)
    except Skip as reason:
        verdict, observed = SKIP, str(reason)
    except Failure as failure:
        verdict, expected, observed = FAIL, failure.expected, failure.observed
    except TimeoutError as error:
        verdict, expected, observed = FAIL, "an end in time", str(error).splitlines()[0]
    except PermissionError as error:
        if os.geteuid() == 0:
            verdict, expected, observed = FAIL, "the check can be carried out", str(error)
        else:
            # The call or the file, not where in the scratch directory.
            words = str(error.filename).split()
            what = words[0] if len(words) > 1 else Path(words[0]).name
            verdict = SKIP
            observed = f"an ordinary user cannot prepare it: {what}: {error.strerror}"
    except Exception as error:  # a runtime that answers nonsense must not end the suite
        where = traceback.extract_tb(error.__traceback__)[-1]
        verdict, expected = FAIL, "the check can be carried out"
        observed = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    seconds = time.monotonic() - begin
    commands = [shlex.join(argv) for argv in runtime.commands]
    kept = ""
    if keep and verdict == FAIL:
        target = keep / Path(runtime.path).name / number
        world.keep_tree(path, target)
        kept = str(target)
        commands = [command.replace(str(path), kept) for command in commands]
    trial.clean()
    changes = [_changes(bundle) for bundle in trial.bundles]
    remove_tree(path)
    return Outcome(number, verdict, expected, observed, seconds, changes, commands, kept)


def claimed_version(runtime: RecordedRuntime) -> str:
    """The version of the specification that a runtime says it implements; empty if it does not."""
    result = runtime.call("features")
    try:
        return str(result.json()["ociVersionMax"])
    except (ValueError, KeyError, TypeError):
        text = runtime.call("--version").out
    found = re.search(r"^spec: *(\S+)", text, re.MULTILINE)
    return found[1] if found else ""


def numbers(version: str) -> tuple[int, ...]:
    """A version for comparisons: 1.0.2-dev counts as 1.0.2."""
    return tuple(int(n) for n in re.findall(r"\d+", version.split("-")[0].split("+")[0])[:3])


def excuse(outcome: Outcome, claims: str) -> Outcome:
    """What a runtime lacks of a later specification than it claims is no failure."""
    since = outcome.row.since
    if outcome.verdict != FAIL or not claims or numbers(since) <= numbers(claims):
        return outcome
    reason = f"new in {since}, it claims {claims}: {outcome.observed}"
    return outcome._replace(verdict=SKIP, observed=reason)


def _usable(runtime: RecordedRuntime, scratch: Path) -> str:
    """Why this runtime cannot even run the base configuration; empty if it can."""
    path = scratch / "first"
    path.mkdir(mode=0o711)
    trial = Trial(runtime, path, build_testprog())
    try:
        container = runtime.try_create(trial.bundle)
        if container.result.code == 0:
            trial.start(container)
            trial.finish(container)
            trial.forget(container)
            return ""
        return brief(container.result)
    except Exception as error:  # whatever it does instead, it is no runtime
        return str(error) or type(error).__name__
    finally:
        trial.clean()
        remove_tree(path)


def prepare(runtime: RecordedRuntime, scratch: Path) -> list[str]:
    """Make sure that the runtime works here at all; notes about what that took.  Raises Unusable.

    crun refuses a hybrid host whose cgroup2 tree has controllers: it is hidden from it.
    """
    reason = _usable(runtime, scratch)
    if not reason:
        return []
    if os.geteuid() == 0 and os.path.ismount(world.UNIFIED):
        world.umount(world.UNIFIED)
        # Some runtimes make directories there all the same.
        world.mount("hidden", world.UNIFIED, "tmpfs")
        if not _usable(runtime, scratch):
            return [f"{world.UNIFIED} is hidden from it: with it, {reason}"]
    raise Unusable(reason)


def _work(
    target: Target, numbers: Sequence[str], keep: Path | None, send: Callable[[Any], None]
) -> None:
    world.enter()
    scratch = Path(tempfile.mkdtemp(prefix=f"ociconf{os.getpid()}x"))
    scratch.chmod(0o711)
    word = scratch.name
    try:
        runtime = RecordedRuntime(target.words[0], scratch / word, target.words[1:])
        try:
            notes = prepare(runtime, scratch)
        except Unusable as reason:
            send({"unusable": str(reason)})
            return
        claims = claimed_version(runtime)
        send({"version": runtime.version, "claims": claims, "notes": notes})
        for number in numbers:
            send(run_check(number, runtime, scratch, keep)._asdict())
    finally:
        world.kill_children()
        world.remove_cgroups(word)
        remove_tree(scratch)


def in_child(
    work: Callable[[Callable[[Any], None]], int], receive: Callable[[dict[str, Any]], None]
) -> int:
    """Do `work` in a child process; each document that it sends is received here.

    Returns the child's exit status, what `work` returned; 1 after an exception, negative for a signal.
    """
    source, sink = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(source)

            def send(document: Any) -> None:
                os.write(sink, json.dumps(document).encode() + b"\n")

            status = work(send)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(sink)
    try:
        with open(source, encoding="utf-8") as lines:
            for line in lines:
                receive(json.loads(line))
    finally:
        # An interrupt has reached the child too: let it clean up.
        _, code = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(code)


def run(
    target: Target,
    rows: Sequence[Row],
    keep: Path | None = None,
    progress: Callable[[Outcome], None] | None = None,
    newest: bool = False,
) -> Report:
    """Run the checks of `rows` on a runtime, in a child with mounts of its own.

    `newest`: judge by the newest specification, whatever the runtime claims to implement.
    Raises Unusable, and RuntimeError when the child dies.
    """
    build_testprog()
    chosen = [row.number for row in rows if row.number in CHECKS]
    head: dict[str, Any] = {}
    outcomes: list[Outcome] = []

    def work(send: Callable[[Any], None]) -> int:
        _work(target, chosen, keep, send)
        return 0

    def receive(document: dict[str, Any]) -> None:
        if "number" not in document:
            head.update(document)
            return
        outcome = Outcome(**document)
        outcomes.append(outcome if newest else excuse(outcome, head["claims"]))
        if progress:
            progress(outcomes[-1])

    code = in_child(work, receive)
    if code != 0:
        raise RuntimeError(f"{target.name}: the checks ended early ({code})")
    if "unusable" in head:
        raise Unusable(f"{target.name} cannot run the base configuration: {head['unusable']}")
    return Report(target.name, outcomes=outcomes, **head)

"""Playing recipes on one runtime in a corner of the machine of its own, and what came of each."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from conformance import world
from conformance.attacks.field import Attack, Compromised, NotApplicable, stand_ins, unshare_all
from conformance.attacks.registry import RECIPES, Recipe
from conformance.kit import build_testprog, remove_tree
from conformance.runner import Target, Unusable, in_child, prepare
from conformance.trial import Failure, RecordedRuntime

SAFE, VULNERABLE, INAPPLICABLE = "safe", "vulnerable", "not applicable"


class Outcome(NamedTuple):
    """What came of one recipe on one runtime.

    Args:
        observed: what the attack got, how it was contained, or why it does not apply.
        said: the distinct words of the runtime's refusals.
    """

    name: str
    verdict: str
    observed: str
    said: list[str]
    seconds: float

    @property
    def recipe(self) -> Recipe:
        return RECIPES[self.name]


class Report(NamedTuple):
    """All outcomes of a runtime."""

    name: str
    version: str
    notes: list[str]
    outcomes: list[Outcome]


def play(
    recipe: Recipe, runtime: RecordedRuntime, scratch: Path, guarded: Sequence[Path], rounds: int
) -> Outcome:
    """Play one recipe, clean up after it, and judge.  A success is cleaned up as well."""
    path = scratch / f"attack-{recipe.name}"
    path.mkdir(mode=0o711)
    attack = Attack(runtime, path, build_testprog(), guarded, rounds)
    begin = time.monotonic()
    verdict = SAFE
    try:
        try:
            recipe.function(attack)
        except (Failure, TimeoutError) as error:
            # A container that does not end, or a verb that hangs, is no success by itself.
            attack.intact()
            raise NotApplicable(f"the recipe cannot be carried out: {error}") from None
        attack.conclude()
        observed = attack.account
    except Compromised as success:
        verdict, observed = VULNERABLE, str(success)
    except NotApplicable as reason:
        verdict, observed = INAPPLICABLE, str(reason).splitlines()[0]
    except Exception as error:  # a runtime that answers nonsense must not end the kit
        where = traceback.extract_tb(error.__traceback__)[-1]
        verdict = INAPPLICABLE
        observed = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    if verdict == INAPPLICABLE:
        # A runtime that has been overwritten answers no more.
        try:
            attack.intact()
        except Compromised as success:
            verdict, observed = VULNERABLE, str(success)
    world.kill_children()
    attack.restore()
    attack.clean()
    world.remove_cgroups(runtime.root.name)
    remove_tree(path)
    said = list(dict.fromkeys(attack.refusals))
    return Outcome(recipe.name, verdict, observed, said, time.monotonic() - begin)


def _files(target: Target) -> list[Path]:
    """What an attack on the runtime's own file would overwrite: the program and its interpreter."""
    program = Path(target.words[0]).resolve()
    files = [program]
    with program.open("rb") as stream:
        first = stream.readline(200)
    if first.startswith(b"#!"):
        interpreter = Path(os.fsdecode(first[2:].split()[0]))
        if interpreter.exists():
            files.append(interpreter.resolve())
    return files


def _work(
    target: Target, names: Sequence[str], rounds: int, scratch: Path, send: Callable[[Any], None]
) -> None:
    """Process 1 of the corner: whatever an attack leaves running ends with it."""
    files = _files(target)
    copies = stand_ins(scratch, files)
    world.become_subreaper()
    runtime = RecordedRuntime(target.words[0], scratch / scratch.name, target.words[1:])
    runtime.spares_null = False  # put back by the recipe that looks at it
    try:
        notes = prepare(runtime, scratch)
    except Unusable as reason:
        send({"unusable": str(reason)})
        return
    send({"version": runtime.version, "notes": notes})
    for name in names:
        send(play(RECIPES[name], runtime, scratch, copies, rounds)._asdict())


def _forked(function: Callable[[], int]) -> int:
    """The exit status of `function` in a child."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = function()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    _, code = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(code)


def _corner(target: Target, names: Sequence[str], rounds: int, send: Callable[[Any], None]) -> int:
    """Make the corner, play in it, and sweep; the exit status of its process 1."""
    world.enter()
    scratch = Path(tempfile.mkdtemp(prefix=f"ociatt{os.getpid()}x"))
    scratch.chmod(0o711)

    def inside() -> int:
        _work(target, names, rounds, scratch, send)
        return 0

    def door() -> int:
        # Who has unshared the pid namespace can make no process any more once its process 1 has gone.
        unshare_all()
        return _forked(inside)

    try:
        return _forked(door)
    finally:
        with contextlib.suppress(OSError):
            world.umount(Path("/proc"))  # that of the corner, if it came so far
        world.remove_cgroups(scratch.name)
        remove_tree(scratch)


def run(
    target: Target,
    recipes: Sequence[Recipe],
    rounds: int = 40,
    progress: Callable[[Outcome], None] | None = None,
) -> Report:
    """Play `recipes` on a runtime; races are run `rounds` times.

    Raises Unusable, and RuntimeError when the corner collapses.
    """
    build_testprog()
    head: dict[str, Any] = {}
    outcomes: list[Outcome] = []

    def work(send: Callable[[Any], None]) -> int:
        return _corner(target, [one.name for one in recipes], rounds, send)

    def receive(document: dict[str, Any]) -> None:
        if "verdict" not in document:
            head.update(document)
            return
        outcomes.append(Outcome(**document))
        if progress:
            progress(outcomes[-1])

    code = in_child(work, receive)
    if "unusable" in head:
        raise Unusable(f"{target.name} cannot run the base configuration: {head['unusable']}")
    if code != 0 or len(outcomes) != len(recipes):
        raise RuntimeError(f"{target.name}: the attacks ended early ({code})")
    return Report(target.name, outcomes=outcomes, **head)

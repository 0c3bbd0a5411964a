"""The lifecycle of one container as a machine, and which answer each verb may give in which state.

After runtime-spec runtime.md (State, Lifecycle, Operations); what the specification leaves open is as this runtime's
documentation says.  A verb is a few steps, each of which happens at once and somewhere between call and answer: create
claims the id and then has a container, delete --force kills and then removes.  Death takes its time after the signal,
so it is a step of nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

ABSENT, CREATING, CREATED, RUNNING, STOPPED = "absent", "creating", "created", "running", "stopped"
PAUSED = "paused"
DONE = -1


class State(NamedTuple):
    """`life`: without regard to the freezer; `dying`: SIGKILL was sent; `pid`: of init, also of one that is gone."""

    life: str = ABSENT
    frozen: bool = False
    dying: bool = False
    pid: int = 0

    @property
    def alive(self) -> bool:
        return self.life in (CREATED, RUNNING)

    @property
    def status(self) -> str:
        """The word that `state` prints."""
        return PAUSED if self.alive and self.frozen else self.life


class Answer(NamedTuple):
    """What a caller got: `kind` (`ok`, `absent`, `exists`, `status`, …) and what came with it: a status word, pids."""

    kind: str
    word: str = ""
    pids: tuple[int, ...] = ()


class Call(NamedTuple):
    """One verb: `verb` may have an option in it (`delete --force`, `kill KILL`); times in seconds."""

    number: int
    caller: int
    verb: str
    answer: Answer
    begin: float
    end: float
    text: str = ""


Step = tuple[int, State]
"""What comes of a step: the next phase of the call (DONE when it is over), and the state."""


def deaths(state: State) -> Iterator[State]:
    """What may happen without a caller."""
    if state.dying and state.alive:
        yield State(STOPPED, False, False, state.pid)


def steps(call: Call, phase: int, state: State) -> Iterator[Step]:
    """The steps by which a call may go on, given what it was answered in the end."""
    kind = call.answer.kind
    if kind == "absent":
        if state.life == ABSENT:
            yield DONE, state
        return
    yield from _STEPS[call.verb](call.answer, phase, state)


def _create(answer: Answer, phase: int, state: State) -> Iterator[Step]:
    if answer.kind == "exists" and state.life != ABSENT:
        yield DONE, state
    elif answer.kind == "ok":
        if phase == 0 and state.life == ABSENT:
            yield 1, State(CREATING)
        elif phase == 1 and state.life == CREATING:
            yield DONE, State(CREATED, pid=answer.pids[0])


def _start(answer: Answer, phase: int, state: State) -> Iterator[Step]:
    """`died`: init was let go on, and killed before it executed the program."""
    if answer.kind == "ok":
        if state.status == CREATED:
            yield DONE, state._replace(life=RUNNING)
    elif answer.kind == "is":
        if state.status == answer.word:
            yield DONE, state
        elif answer.word == STOPPED and state.dying and state.alive:
            yield DONE, state  # it does not answer any more
    elif answer.kind == "died":
        if phase == 0 and state.status == CREATED:
            yield 1, state
        elif phase == 1 and (state.dying or not state.alive):
            yield DONE, state


def _kill(answer: Answer, phase: int, state: State) -> Iterator[Step]:
    if (answer.kind == "ok" and state.alive) or (
        answer.kind == "not running" and state.life in (STOPPED, CREATING)
    ):
        yield DONE, state


def _kill_hard(answer: Answer, phase: int, state: State) -> Iterator[Step]:
    """Two steps where the container is frozen: it is thawed in order to die."""
    if answer.kind != "ok":
        yield from _kill(answer, phase, state)
    elif phase == 0 and state.alive:
        yield (1 if state.frozen else DONE), state._replace(dying=True)
    elif phase == 1:
        yield DONE, state._replace(frozen=False)


def _delete(answer: Answer, phase: int, state: State) -> Iterator[Step]:
    """A created container is killed first, and thawed where cgroup v1 holds it."""
    if answer.kind == "is" and state.status == answer.word:
        yield DONE, state
    elif answer.kind == "ok":
        if state.life == STOPPED:
            yield DONE, State()
        elif phase == 0 and state.status == CREATED:
            yield 1, state._replace(dying=True)
        elif phase == 1 and state.frozen:
            yield 1, state._replace(frozen=False)


def _delete_force(answer: Answer, phase: int, state: State) -> Iterator[Step]:
    if answer.kind != "ok":
        return
    if state.life in (ABSENT, STOPPED):
        yield DONE, State()
    elif phase == 0 and state.alive:
        yield 1, state._replace(dying=True)
    elif phase == 1 and state.frozen:
        yield 1, state._replace(frozen=False)


def _pause(answer: Answer, phase: int, state: State) -> Iterator[Step]:
    """`not running`: it was killed meanwhile, and is thawed again so that it can die.

    Who kills thaws as well; cgroup v1 is asked to freeze until every task is frozen, so it may be frozen once more.
    """
    if answer.kind == "ok" and state.alive and not state.frozen:
        yield DONE, state._replace(frozen=True)
    elif answer.kind == "is" and answer.word in (PAUSED, STOPPED) and state.status == answer.word:
        yield DONE, state
    elif answer.kind == "not running":
        if state.alive and not state.frozen:
            yield 1, state._replace(frozen=True)
            yield 1, state
        if phase == 1 and (state.dying or not state.alive):
            yield DONE, state._replace(frozen=False)


def _resume(answer: Answer, phase: int, state: State) -> Iterator[Step]:
    if answer.kind == "ok" and state.status == PAUSED:
        yield DONE, state._replace(frozen=False)
    elif answer.kind == "not paused" and state.status in (CREATED, RUNNING, STOPPED):
        yield DONE, state


def _exec(answer: Answer, phase: int, state: State) -> Iterator[Step]:
    """`died`: it was let in, and then the container ended around it."""
    if (
        (answer.kind == "ok" and state.status in (CREATED, RUNNING))
        or (answer.kind == "is" and answer.word == PAUSED and state.status == PAUSED)
        or (answer.kind == "is" and answer.word == STOPPED and state.life in (STOPPED, CREATING))
    ):
        yield DONE, state
    elif answer.kind == "died":
        if phase == 0 and state.status in (CREATED, RUNNING):
            yield 1, state
        elif phase == 1 and (state.dying or not state.alive):
            yield DONE, state


def _update(answer: Answer, phase: int, state: State) -> Iterator[Step]:
    if (answer.kind == "ok" and state.alive) or (
        answer.kind == "not running" and state.life == STOPPED
    ):
        yield DONE, state


def _ps(answer: Answer, phase: int, state: State) -> Iterator[Step]:
    """A process that joined may outlive init for a moment, and init joins the cgroup before create has ended."""
    if answer.kind != "ok":
        return
    if state.alive:
        fits = state.pid in answer.pids or state.dying
    else:
        fits = state.life == CREATING or (state.life == STOPPED and state.pid not in answer.pids)
    if fits:
        yield DONE, state


def _state(answer: Answer, phase: int, state: State) -> Iterator[Step]:
    """`state`, and the container's line in `list`; without a living init the pid is 0."""
    if answer.kind != "status" or state.life == ABSENT or answer.word != state.status:
        return
    if answer.pids[0] == (state.pid if state.alive else 0):
        yield DONE, state


def _events(answer: Answer, phase: int, state: State) -> Iterator[Step]:
    if (answer.kind == "ok" and (state.alive or state.life == CREATING)) or (
        answer.kind == "not running" and state.life == STOPPED
    ):
        yield DONE, state


_STEPS = {
    "create": _create,
    "start": _start,
    "kill USR1": _kill,
    "kill KILL": _kill_hard,
    "delete": _delete,
    "delete --force": _delete_force,
    "pause": _pause,
    "resume": _resume,
    "exec": _exec,
    "update": _update,
    "ps": _ps,
    "state": _state,
    "list": _state,
    "events --stats": _events,
}
VERBS = tuple(_STEPS)
_LOOKS = frozenset(("kill USR1", "exec", "update", "ps", "state", "list", "events --stats"))


def only_looks(call: Call) -> bool:
    """Whether no step of the call can change the state: it is over as soon as its answer fits."""
    return call.verb in _LOOKS or (call.answer.kind != "ok" and call.verb != "pause")

"""The verbs against one container from 16 callers at once: every answer is one that some sequential order allows.

`python -m tests.concurrency` is the long form, and counts what peers answer.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.kit import Runtime
from tests.concurrency import trial
from tests.concurrency.checker import Unexplained, explain
from tests.concurrency.model import CREATED, PAUSED, RUNNING, STOPPED, Answer, Call, State
from tests.concurrency.storm import limit
from tests.integration.harness import Bundle

pytestmark = pytest.mark.root
MakeBundle = Callable[[], Bundle]
EXAMPLES = int(os.environ.get("CONCURRENCY_EXAMPLES", "4"))


@pytest.fixture
def ours(rt: Runtime) -> Runtime:
    if rt.kind != "ociruntime":
        pytest.skip(
            "the model has ociruntime's texts; python -m tests.concurrency counts peers' answers"
        )
    return rt


def test_every_answer_has_an_order(ours: Runtime, bundle: Bundle) -> None:
    histories = trial.trials(ours, trial.prepare(bundle), EXAMPLES, verbs=6)
    assert trial.slowest(histories).end - trial.slowest(histories).begin < limit()
    given = trial.answers(histories)
    print(given)
    # The storms were some: containers were made, and callers stood in each other's way.
    assert given.get("create: ok", 0) >= EXAMPLES / 2
    assert given.get("create: exists", 0) > 0


# --- what the judge finds, and what it does not


def history(*rows: tuple[float, float, str, Answer]) -> list[Call]:
    return [
        Call(number, number, verb, answer, begin, end)
        for number, (begin, end, verb, answer) in enumerate(rows)
    ]


OK = Answer("ok")
MADE = (0.0, 1.0, "create", Answer("ok", pids=(7,)))
GONE = Answer("absent")


def status(word: str, pid: int = 7) -> Answer:
    return Answer("status", word, (pid,))


EXPLAINED = [
    # one after the other
    [MADE, (2, 3, "start", OK), (4, 5, "state", status(RUNNING))],
    # before or after the start that goes on meanwhile
    [MADE, (2, 9, "start", OK), (3, 4, "state", status(CREATED)), (5, 6, "state", status(RUNNING))],
    # half-made
    [(0, 9, "create", Answer("ok", pids=(7,))), (1, 2, "state", status("creating", 0))],
    # death takes its time
    [
        *(MADE, (2, 3, "kill KILL", OK), (4, 5, "state", status(CREATED))),
        *((6, 7, "state", status(STOPPED, 0)), (8, 9, "delete", OK), (10, 11, "state", GONE)),
    ],
    # killed, thawed and then dead
    [
        *(MADE, (2, 3, "pause", OK), (4, 9, "delete --force", OK)),
        *((5, 6, "state", status(PAUSED)), (7, 8, "state", status(CREATED))),
    ],
    # exec was let in, and killed with the container
    [MADE, (2, 9, "exec", Answer("died")), (3, 4, "delete --force", OK), (5, 6, "state", GONE)],
]
UNEXPLAINED = [
    # nobody has started it
    [MADE, (2, 3, "state", status(RUNNING))],
    # back in time
    [MADE, (2, 9, "start", OK), (3, 4, "state", status(RUNNING)), (5, 6, "state", status(CREATED))],
    # two containers of one id
    [MADE, (2, 3, "create", Answer("ok", pids=(8,)))],
    # another process
    [MADE, (2, 3, "state", status(CREATED, 8))],
    # a claimed id is no stopped container
    [(0, 9, "create", Answer("ok", pids=(7,))), (1, 2, "state", status(STOPPED, 0))],
    # alive again
    [MADE, (2, 3, "kill KILL", OK), (4, 5, "state", status(STOPPED, 0)), (6, 7, "start", OK)],
    # nobody has paused it
    [MADE, (2, 3, "exec", Answer("is", PAUSED))],
    # deleted twice
    [MADE, (2, 9, "delete", OK), (3, 8, "delete", OK)],
    # an answer that the model has no word for
    [MADE, (2, 9, "start", Answer("unknown")), (3, 4, "kill KILL", OK)],
]


@pytest.mark.parametrize("rows", EXPLAINED)
def test_judge_explains(rows: list[tuple[float, float, str, Answer]]) -> None:
    assert explain(history(*rows))


@pytest.mark.parametrize("rows", UNEXPLAINED)
def test_judge_can_fail(rows: list[tuple[float, float, str, Answer]]) -> None:
    with pytest.raises(Unexplained):
        explain(history(*rows))


def test_judge_knows_where_it_ends() -> None:
    calls = history(MADE, (2, 3, "start", OK), (2, 3, "delete --force", OK))
    assert explain(calls) == {State()}
    assert {s.life for s in explain(history(MADE, (2, 3, "kill KILL", OK)))} == {CREATED}


def test_control_a_runtime_without_locks(ours: Runtime, bundle: Bundle, place: Path) -> None:
    """flock(2) that does nothing: storms on it are not explained."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    wrapper = place / "careless"
    # The delay is for what an idle machine would get done between two looks.
    inject = "-e trace=flock -e inject=flock:retval=0:delay_exit=20000"
    wrapper.write_text(f'#!/bin/sh\nexec strace -qq -o /dev/null {inject} {ours.path} "$@"\n')
    wrapper.chmod(0o755)
    honest, ours.path = ours.path, str(wrapper)
    failures: list[Exception] = []
    drawn = [["create", "state", "start", "delete --force", "state"]] * 8
    trial.prepare(bundle)
    for number in range(80):
        container = ours.track(bundle, f"{ours.root.name}-{number}")
        try:
            trial.judged(ours, bundle, container.id, drawn)
        except (Unexplained, AssertionError, TimeoutError) as error:
            failures.append(error)
            break
    ours.path = honest
    assert failures

"""Storms with random programs, each judged: what a test and the long run have in common."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from conformance.kit import Bundle, Runtime
from tests.concurrency.checker import Unexplained, explain
from tests.concurrency.model import STOPPED, VERBS, Call
from tests.concurrency.storm import Storm

CALLERS = 16
# How often each verb is drawn: enough that makes a container, and brings it on, for the rest to have one.
_WEIGHTS = {"create": 10, "start": 14, "state": 10, "resume": 9, "exec": 9, "pause": 7, "update": 6}
_WEIGHTS |= {"events --stats": 1}  # the full interpreter, many times slower than the others
_DRAWN = [verb for verb in VERBS for _ in range(_WEIGHTS.get(verb, 4))]

Programs = Sequence[Sequence[str]]


def programs(callers: int, most: int) -> st.SearchStrategy[list[list[str]]]:
    """For each caller some verbs, in order."""
    one = st.lists(st.sampled_from(_DRAWN), min_size=most // 2, max_size=most)
    return st.lists(one, min_size=callers, max_size=callers)


def judged(runtime: Runtime, bundle: Bundle, container_id: str, verbs: Programs) -> list[Call]:
    """One storm: its history.

    Raises AssertionError, Unexplained or TimeoutError: state.json was half-written, no order explains an answer,
    a verb took too long, or a container that was killed did not end.
    """
    storm = Storm(runtime, bundle, container_id)
    reader = storm.rage(verbs)
    if storm.errors:
        raise storm.errors[0]
    assert not reader.broken, f"state.json was half-written: {reader.broken[0]!r}"
    # Who was killed ends, whatever the callers after that have asked for.
    if all(state.dying for state in explain(storm.calls)):
        ended = (STOPPED, "absent")
        storm.settle(lambda c: c.answer.word in ended or c.answer.kind in ended, len(verbs) + 1)
    storm.call(len(verbs) + 1, "state")
    explain(storm.calls)
    return storm.calls


def trials(
    runtime: Runtime,
    bundle: Bundle,
    count: int,
    *,
    verbs: int,
    callers: int = CALLERS,
    failed: Callable[[Exception], None] | None = None,
) -> list[list[Call]]:
    """So many storms with programs that hypothesis draws; the histories.

    Raises as `judged` does, or gives that to `failed` and goes on.
    """
    histories: list[list[Call]] = []
    numbers = itertools.count()

    # Nothing is shrunk: the same programs give another history the next time.
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(programs(callers, verbs))
    def trial(drawn: list[list[str]]) -> None:
        name = f"{runtime.root.name}-{next(numbers)}"
        container = runtime.track(bundle, name)
        try:
            histories.append(judged(runtime, bundle, name, drawn))
        except (Unexplained, AssertionError, TimeoutError) as error:
            if failed is None:
                raise
            failed(error)
        container.delete("--force").ok()

    trial()
    return histories


def answers(histories: list[list[Call]]) -> dict[str, int]:
    """How often each verb was answered how."""
    found: dict[str, int] = {}
    for call in (call for history in histories for call in history):
        key = f"{call.verb}: {' '.join(filter(None, (call.answer.kind, call.answer.word)))}"
        found[key] = found.get(key, 0) + 1
    return dict(sorted(found.items()))


def slowest(histories: list[list[Call]]) -> Call:
    """The longest call."""
    calls = (call for history in histories for call in history)
    return max(calls, key=lambda call: call.end - call.begin)


def prepare(bundle: Bundle) -> Bundle:
    """A program that ends only by SIGKILL."""
    return bundle.args("sleep").write()


def place_for(directory: Path, program: Path) -> Bundle:
    return prepare(Bundle(directory / "bundle", program))

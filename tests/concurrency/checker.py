"""Whether some order explains what concurrent callers were answered: linearizability, by search.

Wing and Gong, "Testing and Verifying Concurrent Objects" (1993), with the memory of Lowe, "Testing for
Linearizability" (2017): the answers are gone through in time; what is kept are all pairs of a state and of how far
each pending call has got.  Steps are taken only where the next answer needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.concurrency.model import DONE, Call, State, deaths, only_looks, steps

Pending = tuple[tuple[int, int], ...]
"""(number of a call, its phase), sorted by number."""
Config = tuple[State, Pending]
_MOST = 200_000  # configurations; beyond that the history is no test any more


class Unexplained(Exception):
    """No order of the calls allows the answer of `call`; the message tells the calls around it."""

    def __init__(self, call: Call, states: Iterable[State], calls: Sequence[Call]) -> None:
        self.call = call
        around = [c for c in calls if c.begin <= call.end and c.end >= call.begin - 0.1]
        lines = [f"  {line(c)}{'   <-- this one' if c is call else ''}" for c in around]
        super().__init__(
            f"{call.verb} cannot have been answered so; before it the container was "
            + " or ".join(sorted({f"{s.status}{' (dying)' * s.dying} {s.pid}" for s in states}))
            + "; around it:\n"
            + "\n".join(lines)
        )


def line(call: Call) -> str:
    """A call in words; times in ms."""
    pids = ",".join(map(str, call.answer.pids))
    words = " ".join(word for word in (call.answer.kind, call.answer.word, pids, call.text) if word)
    return f"{call.begin * 1e3:9.1f} … {call.end * 1e3:9.1f}  {call.caller:2} {call.verb}: {words}"


def explain(calls: Sequence[Call], start: State = State()) -> set[State]:  # noqa: B008
    """The states that the container may be in after all calls. Raises Unexplained when there is none."""
    table = {call.number: call for call in calls}
    # At the same time: first the calls, so that the two count as concurrent.
    events = sorted(
        [(call.begin, 0, call.number) for call in calls]
        + [(call.end, 1, call.number) for call in calls]
    )
    configs: set[Config] = {(start, ())}
    for _, answered, number in events:
        if not answered:
            configs = {(state, _with(pending, number, 0)) for state, pending in configs}
            continue
        after = _reach(configs, number, table)
        if not after:
            ordered = sorted(calls, key=lambda c: c.begin)
            raise Unexplained(table[number], {state for state, _ in configs}, ordered)
        configs = after
    return {state for state, _ in configs}


def _with(pending: Pending, number: int, phase: int) -> Pending:
    return tuple(sorted([item for item in pending if item[0] != number] + [(number, phase)]))


def _settled(config: Config, table: dict[int, Call]) -> Config:
    """Let those who only look go on as far as they can: nobody loses anything by it."""
    state, pending = config
    found = []
    for number, phase in pending:
        moved = only_looks(table[number])
        while moved and phase != DONE:
            moved = False
            for then, result in steps(table[number], phase, state):
                if result == state and then != phase:
                    phase, moved = then, True
                    break
        found.append((number, phase))
    return state, tuple(found)


def _reach(configs: set[Config], number: int, table: dict[int, Call]) -> set[Config]:
    """The configurations in which a call is over, by as few steps as it needs; the call is left out of them."""
    found: set[Config] = set()
    todo = [_settled(config, table) for config in configs]
    seen = set(todo)
    while todo:
        state, pending = todo.pop()
        if (number, DONE) in pending:
            found.add((state, tuple(item for item in pending if item[0] != number)))
            continue
        after = [(then, pending) for then in deaths(state)]
        for other, phase in pending:
            if phase != DONE:
                after += [
                    (then, _with(pending, other, next_phase))
                    for next_phase, then in steps(table[other], phase, state)
                ]
        for config in after:
            config = _settled(config, table)
            if config not in seen:
                seen.add(config)
                todo.append(config)
        if len(seen) > _MOST:
            raise MemoryError(f"more than {_MOST} ways to explain the calls")
    return found

"""Steps: each undone in reverse when a later one fails, whatever fails, and whatever undoing runs into."""

from __future__ import annotations

import pytest

from ociruntime import container, errors, log

Trace = list[str]


def step(
    name: str, failure: BaseException | None = None, undo: BaseException | None = None
) -> object:
    def do(trace: Trace) -> None:
        trace.append(name)
        if failure is not None:
            raise failure

    def back(trace: Trace) -> None:
        trace.append(f"-{name}")
        if undo is not None:
            raise undo

    return name, do, back


def run(*steps: object) -> tuple[Trace, BaseException | None]:
    trace: Trace = []
    try:
        container.run_steps(steps, trace)  # type: ignore[arg-type]
    except BaseException as exc:
        return trace, exc
    return trace, None


def test_all_is_well() -> None:
    assert run(step("a"), step("b")) == (["a", "b"], None)


@pytest.mark.parametrize(
    "failure", [errors.Error("x"), OSError(1, "x"), KeyboardInterrupt(), ValueError()]
)
def test_undone_in_reverse_with_the_failing_step_itself(failure: BaseException) -> None:
    trace, raised = run(step("a"), step("b"), step("c", failure), step("d"))
    assert trace == ["a", "b", "c", "-c", "-b", "-a"]
    assert raised is failure


def test_error_names_its_step() -> None:
    _, raised = run(step("a"), step("b", errors.Error("x", extra={"k": "v"})))
    assert isinstance(raised, errors.Error)
    assert raised.extra == {"step": "b", "k": "v"}


def test_undoing_goes_on_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(log, "warning", warnings.append)
    trace, raised = run(
        step("a"),
        step("b", undo=errors.Error("stuck")),
        step("c", undo=OSError(16, "busy")),
        step("d", errors.Error("first")),
    )
    assert trace == ["a", "b", "c", "d", "-d", "-c", "-b", "-a"]
    assert str(raised) == "first"
    assert [text.split(":")[0] for text in warnings] == ["undo c", "undo b"]


def test_step_without_undo() -> None:
    trace, _ = run(step("a"), ("b", lambda trace: trace.append("b"), None), step("c", OSError()))
    assert trace == ["a", "b", "c", "-c", "-a"]

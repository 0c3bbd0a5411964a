"""Fixtures of the engine tests: one world per engine and runtime, and nothing left after a test."""

from __future__ import annotations

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.drivers import BUSYBOX, DRIVERS, OURS, Engine
from tests.integration.harness import runtime_path

# What `engine` stands for where a test does not say which: they speak nearly one language.
COMMON = tuple(kind for kind, driver in DRIVERS.items() if driver.common)
# How many controls each engine has: one is enough to tell its limits from the runtime's; `all` for the tables in docs.
CONTROLS = None if os.environ.get("OCIRUNTIME_TEST_CONTROLS") == "all" else 1
NEEDS = ("unshare", "nsenter", "setpriv", "tini", "ip")
_serial = itertools.count(1)
_started: list[Engine] = []
# (engine, runtime, test) → the outcomes of its phases
_outcomes: dict[tuple[str, str, str], set[str]] = {}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "engines(*names, peers=N): the engines, the first N controls (1)"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("engines")
    peers = marker.kwargs.get("peers", CONTROLS) if marker else CONTROLS
    pairs = [
        (kind, runtime)
        for kind in (marker.args if marker else COMMON)
        for runtime in (OURS, *DRIVERS[kind].peers[:peers])
    ]
    ids = [f"{kind}-{runtime}" for kind, runtime in pairs]
    metafunc.parametrize("engine", pairs, ids=ids, indirect=True, scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of one engine together: each is started once.  Then those of no engine.  Controls have a second try."""
    here = Path(__file__).parent
    places = [i for i, item in enumerate(items) if here in item.path.parents]
    ordered = sorted((items[i] for i in places), key=_order)
    for place, item in zip(places, ordered, strict=True):
        items[place] = item
        if _params(item).get("engine", ("", OURS))[1] != OURS:
            # A control tells an engine's limits from ours; that it was slow once beside other work tells nothing.
            item.add_marker(pytest.mark.flaky(reruns=1))


def _params(item: pytest.Item) -> dict[str, Any]:
    """The parameters of a test."""
    callspec = getattr(item, "callspec", None)
    return callspec.params if callspec else {}


def _order(item: pytest.Item) -> tuple[bool, tuple[str, ...]]:
    engine = _params(item).get("engine")
    return engine is None, engine or ()


def _missing(kind: str, runtime: str) -> str:
    """What of this machine keeps the engine from running; empty if nothing does."""
    if os.geteuid() != 0:
        return "needs root"
    tools = [*NEEDS, DRIVERS[kind].command[0], *([runtime] if runtime != OURS else [])]
    absent = [tool for tool in tools if shutil.which(tool) is None]
    absent += [str(file) for file in (BUSYBOX, *DRIVERS[kind].files) if not file.exists()]
    if runtime == OURS and runtime_path() is None:
        absent.append("the runtime under test")
    return f"not installed: {', '.join(absent)}" if absent else ""


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine, ready to run containers of the busybox image."""
    kind, runtime = request.param
    if reason := _missing(kind, runtime):
        pytest.skip(reason)
    path = shutil.which(runtime) if runtime != OURS else runtime_path()
    assert path is not None
    made = DRIVERS[kind](f"engines{os.getpid()}x{next(_serial)}", runtime, Path(path).absolute())
    _started.append(made)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def nothing_left(engine: Engine) -> Iterator[None]:
    """After each test its containers are removed; with our runtime nothing may be left of them."""
    if engine.used:
        engine.tidy()
    yield
    if engine.used:
        engine.tidy()
        engine.used = False
    leaks = engine.leaks() if engine.ours else []
    engine.used = bool(leaks)  # so that the next test starts clean
    assert not leaks, "left behind:\n" + "\n".join(leaks) + "\n" + engine.world.story()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, None, None]:
    """The last engine does not run on while other tests run."""
    yield
    if "engine" not in _params(item) or (nextitem is not None and "engine" in _params(nextitem)):
        return
    # A control that failed has a second try; pytest-rerunfailures counts them from 1.
    outcomes = _outcomes[(*_params(item)["engine"], item.nodeid)]
    second = getattr(item, "execution_count", 1) > 1
    if "failed" not in outcomes or second or _params(item)["engine"][1] == OURS:
        for made in _started:  # its finalizer may be lost: a second try forgets them
            made.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    made = getattr(item, "funcargs", {}).get("engine")
    if report.failed and made is not None:
        report.sections.append(("daemons", made.world.story()))
    if pair := _params(item).get("engine"):
        outcomes = _outcomes.setdefault((*pair, item.nodeid), set())
        if report.when == "setup":  # its second try counts
            outcomes.clear()
        outcomes.add(report.outcome)
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many flows of each engine passed with each runtime: what docs/compatibility/engines.md counts."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for (kind, runtime, _), outcomes in _outcomes.items():
        worst = next(word for word in ("failed", "skipped", "passed") if word in outcomes)
        counts.setdefault((kind, runtime), Counter())[worst] += 1
    if counts:
        terminalreporter.section("flows by engine and runtime")
    for (kind, runtime), found in sorted(counts.items()):
        words = ", ".join(f"{found[word]} {word}" for word in ("passed", "failed", "skipped"))
        terminalreporter.write_line(f"{kind} {runtime}: {words}")

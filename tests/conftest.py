"""Settings common to all tests: the repository on sys.path, the markers, who may run what."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

_known: set[int] = set()  # children that were there before, or were reported


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "root: needs root's privileges; skipped for an ordinary user",
        "known(runtime, reason): that runtime is known to behave otherwise; the test must fail on it",
        "leaks(runtime, reason): that runtime is known to leave something behind in this test",
    ):
        config.addinivalue_line("markers", line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root")
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(skip)


def pytest_runtest_logfinish() -> None:
    """crun 1.8 gives its standard input to the container's user, /dev/null of the machine as well: take it back."""
    if os.geteuid() == 0 and os.stat(os.devnull).st_uid != 0:
        os.chown(os.devnull, 0, 0)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """No test leaves a running child to those that follow.  Engines run as long as their tests do."""
    from conformance.kit import poll
    from tests.integration.hostlib import children

    yield

    def running() -> dict[int, str]:
        return {p: text for p, text in children().items() if p not in _known and " Z " not in text}

    if "engine" not in getattr(item, "fixturenames", ()):
        with contextlib.suppress(TimeoutError):
            poll(lambda: not running(), "children", timeout=2)
        left = running()
        _known.update(left)  # each fails one test
        assert not left, f"left running: {left}"


@pytest.fixture(scope="session")
def repository() -> Path:
    """The top of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def open_tree() -> None:
    """For tests that run something of the source tree as an ordinary user; skips where no such user may go there."""
    for folder in (REPOSITORY, *REPOSITORY.parents):
        if not folder.stat().st_mode & 1:
            pytest.skip(f"{folder} is closed to other users")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference material beside the source tree (or $OCIRUNTIME_SHARED); skips if absent."""
    path = Path(os.environ.get("OCIRUNTIME_SHARED", REPOSITORY.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"no reference material at {path}")
    return path

"""Fixtures of the integration tests, and the rule that a test leaves nothing behind."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conformance.kit import become_subreaper, build_testprog, remove_tree
from tests.integration import hostlib
from tests.integration.harness import Bundle, Runtime, Snapshot, runtime_path

_serial = itertools.count(1)
MakeBundle = Callable[[], Bundle]


def _kind(path: str | None) -> str:
    if path is None:
        return ""
    return Runtime.describe(path).split(" ", 1)[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    path = runtime_path()
    kind = _kind(path)
    here = Path(__file__).parent
    for item in items:
        if here not in item.path.parents:
            continue
        if path is None:
            item.add_marker(pytest.mark.skip(reason="the runtime under test is not built"))
        for marker in item.iter_markers("known"):
            if marker.args[0] == kind:
                item.add_marker(pytest.mark.xfail(reason=f"{kind}: {marker.args[1]}", strict=True))


@pytest.fixture(scope="package")
def machine() -> Iterator[None]:
    """The test process adopts orphans and, if it may, has mounts of its own, as long as these tests run."""
    before = hostlib.children()
    if os.geteuid() != 0:
        become_subreaper()
        yield
        become_subreaper(False)
        hostlib.reap(before)
        return
    with hostlib.private_mount_namespace():
        become_subreaper()
        controllers = None
        if _kind(runtime_path()) == "crun":
            try:
                controllers = hostlib.AllControllersOnV1()
            except hostlib.Busy as error:
                pytest.skip(f"crun needs all controllers on cgroup v1: {error}")
        yield
        if controllers:
            controllers.give_back()
        become_subreaper(False)
    hostlib.reap(before)


@pytest.fixture(scope="package")
def program(machine: None) -> Path:
    """The compiled test program."""
    return build_testprog()


@pytest.fixture
def place(machine: None) -> Iterator[Path]:
    """A directory of the test that mapped users may pass through (unlike tmp_path)."""
    path = Path(tempfile.mkdtemp(prefix=f"it{os.getpid()}x{next(_serial)}x"))
    path.chmod(0o711)
    yield path
    remove_tree(path)


@pytest.fixture
def rt(place: Path, request: pytest.FixtureRequest) -> Iterator[Runtime]:
    """The runtime under test, with a state directory of its own and a watch on leaks."""
    path = runtime_path()
    assert path is not None
    runtime = Runtime(path, place / place.name)
    snapshot = Snapshot(place.name, runtime.root)
    yield runtime
    runtime.clean()
    leaks = snapshot.leaks()
    snapshot.sweep()
    excused = [m for m in request.node.iter_markers("leaks") if m.args[0] == runtime.kind]
    if excused:
        assert leaks, f"{runtime.kind} was expected to leave something: {excused[0].args[1]}"
    else:
        assert not leaks, "left behind:\n" + "\n".join(leaks)


@pytest.fixture
def make_bundle(place: Path, program: Path) -> MakeBundle:
    """A function that makes one more bundle."""
    count = itertools.count(1)
    return lambda: Bundle(place / f"bundle{next(count)}", program)


@pytest.fixture
def bundle(make_bundle: MakeBundle) -> Bundle:
    """A bundle with the base configuration."""
    return make_bundle()

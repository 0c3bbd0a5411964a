"""Verbs that meet: the moments between the steps of one, stretched by strace, in which another comes; and engines'
crowds of callers."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from conformance.kit import Result
from tests.integration.harness import Bundle, Container, Runtime, alive, poll

pytestmark = pytest.mark.root
MakeBundle = Callable[[], Bundle]
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
STRETCH = 0.15  # seconds; `state` waits 0.25 s for a create that has not locked its directory


@pytest.fixture(autouse=True)
def ours_only(rt: Runtime) -> None:
    if rt.kind != "ociruntime":
        pytest.skip("a promise of this runtime; python -m tests.concurrency counts peers' answers")


def slow(calls: str, *, after: bool = False) -> list[str]:
    """A prefix that lets a verb's first of these system calls take longer."""
    delay = f"delay_{'exit' if after else 'enter'}={int(STRETCH * 1e6)}"
    return ["strace", "-qq", "-o", os.devnull, "-e", f"inject={calls}:{delay}:when=1"]


@contextmanager
def meanwhile(
    container: Container, verb: str, *flags: str, prefix: list[str]
) -> Iterator[list[Result]]:
    """Run a slow verb beside the block; its result is in the list after it."""
    results: list[Result] = []

    def work() -> None:
        results.append(container.runtime.call(verb, *flags, container.id, prefix=prefix))

    thread = threading.Thread(target=work)
    with container.runtime.reaping():
        thread.start()
        try:
            yield results
        finally:
            thread.join()


@contextmanager
def claimed(container: Container) -> Iterator[list[Result]]:
    """A `create` that has made its directory and has not locked it yet."""
    where = ("--bundle", str(container.bundle.path))
    directory = container.runtime.root / container.id
    with meanwhile(container, "create", *where, prefix=slow("flock")) as results:
        poll(directory.exists, "create makes no directory")
        yield results


@needs_strace
def test_state_between_claim_and_lock(rt: Runtime, bundle: Bundle) -> None:
    """Not stopped: podman would take it for one that has ended."""
    container = rt.track(bundle.args("sleep").write())
    with claimed(container) as results:
        documents = [container.state(), rt.call("list", "-f", "json").ok().json()[0]]
    results[0].ok()
    for document in documents:
        assert document["status"] in ("creating", "created"), document
        assert document["bundle"] == str(bundle.path)


@needs_strace
def test_delete_between_claim_and_lock(rt: Runtime, bundle: Bundle) -> None:
    """It waits for the container to be there: what it would remove is not abandoned."""
    container = rt.track(bundle.args("sleep").write())
    with claimed(container) as results:
        container.verb("delete").ok()
    results[0].ok()
    container.verb("state").failed("container does not exist")


@needs_strace
def test_delete_force_between_claim_and_lock(rt: Runtime, bundle: Bundle) -> None:
    """It comes before create, which makes its directory once more."""
    container = rt.track(bundle.args("sleep").write())
    with claimed(container) as results:
        container.verb("delete", "--force").ok()
    results[0].ok()
    assert container.status == "created"


@needs_strace
def test_two_creates_beside_delete_force(rt: Runtime, bundle: Bundle) -> None:
    """The second makes the directory that the first then locks: one of them has the container."""
    container = rt.track(bundle.args("sleep").write())
    where = ("--bundle", str(bundle.path))
    # The one opens its directory late, when the other has made another of that name, the other locks it late.
    slow_open = ["strace", "-qq", "-P", str(rt.root / container.id), *slow("?openat,?open")[2:]]
    with meanwhile(container, "create", *where, prefix=slow_open) as first:
        poll((rt.root / container.id).exists, "create makes no directory")
        container.verb("delete", "--force").ok()
        with meanwhile(container, "create", *where, prefix=slow("flock")) as second:
            pass
    codes = sorted((first[0].code, second[0].code))
    assert codes == [0, 1], (first, second)
    failed = first[0] if first[0].code else second[0]
    failed.failed("container with given ID already exists")
    assert container.status == "created"
    assert alive(container.state()["pid"])


@needs_strace
@pytest.mark.parametrize("running", [False, True])
def test_state_beside_delete_force(rt: Runtime, bundle: Bundle, running: bool) -> None:
    """First as it was, then stopped, then gone: never half-made, and never without its bundle."""
    container = rt.create(bundle.args("sleep"))
    if running:
        container.start()
    seen: list[str] = []
    # Each file of the state directory, the first of which is state.json, and the directory itself.
    prefix = [*slow("unlinkat,unlink")[:-1], "inject=?unlinkat,?unlink,?rmdir:delay_exit=50000"]
    with meanwhile(container, "delete", "--force", prefix=prefix) as results:
        while not results:
            answer = container.verb("state")
            if answer.code == 0:
                assert answer.json()["bundle"] == str(bundle.path), answer
                seen.append(answer.json()["status"])
            else:
                answer.failed("container does not exist")
                seen.append("gone")
    order = ["running" if running else "created", "stopped", "gone"]
    assert [word for word, _ in itertools.groupby(seen)] == [w for w in order if w in seen], seen
    assert seen[-1] == "gone"


@needs_strace
@pytest.mark.parametrize("call", ["mkdir", "flock", "clone3", "recvmsg", "rename,?renameat"])
def test_delete_force_of_a_container_being_created(rt: Runtime, bundle: Bundle, call: str) -> None:
    """Before or after it, as one likes; what is left fits the two answers."""
    container = rt.track(bundle.args("sleep").write())
    where = ("--bundle", str(bundle.path))
    with meanwhile(container, "create", *where, prefix=slow(f"?{call}", after=True)) as results:
        poll((rt.root / container.id).exists, "create makes no directory")
        container.verb("delete", "--force").ok()
    results[0].ok()
    answer = container.verb("state")
    if answer.code == 0:
        assert answer.json()["status"] == "created"
        assert alive(answer.json()["pid"])
    else:
        answer.failed("container does not exist")


@needs_strace
def test_killed_while_it_is_paused(rt: Runtime, bundle: Bundle) -> None:
    """What cgroup v1 has frozen does not die: a kill that came before the freezer, unseen, must not be lost."""
    container = rt.create(bundle.args("sleep")).start()
    freezer = json.loads((rt.root / container.id / "state.json").read_text())["freezer"]
    prefix = ["strace", "-qq", "-P", freezer, *slow("write", after=True)[2:]]
    with meanwhile(container, "pause", prefix=prefix) as results:
        poll(lambda: container.status == "paused", "it is not paused")
        os.kill(container.pid, signal.SIGKILL)
    results[0].failed("container not running")
    container.wait("stopped")


def test_list_beside_sixteen_that_create_and_delete(rt: Runtime, bundle: Bundle) -> None:
    """Who is there during all of a `list` is listed, who is not there is not, and nobody's half of a life breaks it."""
    bundle.args("sleep").write()
    lives: dict[str, tuple[float, float, float]] = {}  # id -> created, about to be deleted, deleted
    births: dict[str, float] = {}
    listed: list[tuple[float, float, dict[str, str]]] = []
    problems: list[str] = []

    def live(caller: int) -> None:
        for turn in range(3):
            container = rt.track(bundle, f"{rt.root.name}-{caller}-{turn}")
            births[container.id] = time.monotonic()
            made = rt.call("create", "--bundle", str(bundle.path), container.id)
            begin = time.monotonic()
            time.sleep(0.05)
            end = time.monotonic()
            gone = rt.call("delete", *(["--force"] if turn else []), container.id)
            lives[container.id] = (begin, end, time.monotonic())
            problems.extend(repr(result) for result in (made, gone) if result.code or result.err)

    threads = [threading.Thread(target=live, args=(number,)) for number in range(16)]
    with rt.reaping():
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            begin = time.monotonic()
            result = rt.call("list", "--format", "json")
            if result.code or result.err:
                problems.append(repr(result))
                break
            found = {one["id"]: one["status"] for one in result.json()}
            listed.append((begin, time.monotonic(), found))
        for thread in threads:
            thread.join()
    assert not problems, problems[0]
    assert len(listed) > 2
    for begin, end, found in listed:
        assert set(found.values()) <= {"creating", "created", "stopped"}, found
        for name in found:
            assert births[name] < end, f"{name} was listed before its create"
            assert lives[name][2] > begin, f"{name} was listed after its delete"
        for name, (created, last, _) in lives.items():
            if created < begin and end < last:
                assert name in found, f"{name} was not listed"
    assert any(found for _, _, found in listed)

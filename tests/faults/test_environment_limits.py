"""A machine or a caller with too little: processes, descriptors, memory, file sizes.

With less and less of each, up to where a call works: whatever runs out, the call ends in time with one line that says
so, and leaves nothing.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from conformance.kit import PATIENCE
from tests.faults.test_environment import one_line
from tests.integration.harness import Bundle, Result, Runtime

pytestmark = [pytest.mark.root]

LIMIT = 5.0 * PATIENCE  # seconds that a call may take to fail
NO_FILES, NO_PROCESS = "Too many open files", "Resource temporarily unavailable"
MIB = 1 << 20


def limited(which: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(which, (value, value))


def climb(
    call: Callable[[Callable[[], None]], Result],
    which: int,
    values: Iterable[int],
    check: Callable[[Result], None],
) -> None:
    """Call with one limit after another until it works; every failure is checked."""
    for value in values:
        before = time.monotonic()
        result = call(limited(which, value))
        assert time.monotonic() - before < LIMIT, (value, result)
        if result.code == 0:
            return
        check(result)
    raise AssertionError(f"it fails with all of them: {result!r}")


@pytest.mark.parametrize("verb", ["create", "run", "run --detach"])
def test_few_descriptors(rt: Runtime, bundle: Bundle, verb: str) -> None:
    args = ("sleep",) if verb != "run" else ("echo", "here")
    bundle.config["mounts"].append(
        {"destination": "/bound", "source": str(bundle.path), "type": "bind", "options": ["bind"]}
    )
    bundle.args(*args).write()
    container = rt.track(bundle)
    failures = []

    def call(limit: Callable[[], None]) -> Result:
        argv = [*verb.split(), "--bundle", str(bundle.path), container.id]
        return rt.call(*argv, preexec=limit)

    def check(result: Result) -> None:
        failures.append(one_line(result, NO_FILES))
        container.verb("state").failed("does not exist")

    climb(call, resource.RLIMIT_NOFILE, range(4, 100), check)
    assert len(failures) > 4


@pytest.mark.parametrize(
    ("verb", "flags", "after"),
    [
        ("exec", [], ["/init", "echo", "here"]),
        ("exec", ["--detach"], ["/init", "echo", "here"]),
        ("state", [], []),
        ("kill", [], ["USR1"]),
        ("ps", [], []),
        ("pause", [], []),
        ("update", ["--pids-limit", "50"], []),
        ("events", ["--stats"], []),
        ("delete", ["--force"], []),
    ],
    ids=lambda word: word if isinstance(word, str) else " ".join(word[:1]),
)
def test_few_descriptors_for_the_other_verbs(
    rt: Runtime, bundle: Bundle, verb: str, flags: list[str], after: list[str]
) -> None:
    container = rt.create(bundle.args("sleep")).start()

    def call(limit: Callable[[], None]) -> Result:
        with rt.reaping():
            return container.verb(verb, *flags, after=after, preexec=limit)

    def check(result: Result) -> None:
        one_line(result, NO_FILES)

    climb(call, resource.RLIMIT_NOFILE, range(4, 100), check)


def test_no_file_may_be_written(rt: Runtime, bundle: Bundle) -> None:
    """RLIMIT_FSIZE: write(2) sends SIGXFSZ as well, which must not end the runtime halfway."""
    bundle.args("sleep").write()
    container = rt.track(bundle)

    def call(limit: Callable[[], None]) -> Result:
        flags = ["--bundle", str(bundle.path), "--pid-file", str(bundle.path / "pid")]
        argv = rt.argv("create", *flags, container.id)
        # Through a pipe, for which there is no limit; nothing holds it once it was refused.
        with subprocess.Popen(argv, stderr=subprocess.PIPE, preexec_fn=limit) as process:
            assert process.stderr
            process.wait(LIMIT)
            err = process.stderr.read().decode() if process.returncode else ""
        return Result(argv, process.returncode, "", err)

    def check(result: Result) -> None:
        one_line(result, "File too large")
        container.verb("state").failed("does not exist")

    climb(call, resource.RLIMIT_FSIZE, [0, 1, 100, 1000, 1 << 20], check)


@pytest.mark.parametrize("verb", ["create", "state", "exec"])
def test_little_memory(rt: Runtime, bundle: Bundle, verb: str) -> None:
    """RLIMIT_AS: the loader, Python and init each run out of it at a time of their own."""
    bundle.args("sleep").write()
    container = rt.create(bundle).start() if verb != "create" else rt.track(bundle)
    outcomes = set()

    def call(limit: Callable[[], None]) -> Result:
        if verb == "create":
            return rt.call("create", "--bundle", str(bundle.path), container.id, preexec=limit)
        after = ["/init", "echo", "here"] if verb == "exec" else []
        return container.verb(verb, after=after, preexec=limit)

    def check(result: Result) -> None:
        outcomes.add(result.code)
        # Below what execve(2) needs nobody is there to say a word; then come the loader's and CPython's own words.
        if result.code in (-signal.SIGKILL, -signal.SIGSEGV):
            assert not result.err, result
        elif result.code == -signal.SIGABRT:
            assert "Out of memory" in result.err, result
        else:
            one_line(result)
            words = ("memory", "load a part of the runtime", "cannot start", "shared librar")
            assert any(word in result.err for word in words), result
        if verb == "create":
            container.verb("state").failed("does not exist")

    climb(call, resource.RLIMIT_AS, [size * MIB // 2 for size in range(2, 200)], check)
    assert outcomes


@pytest.fixture
def crowd(rt: Runtime, place: Path) -> Iterator[Path]:
    """A cgroup for a limited number of processes; the runtime is to run in its `caller`, containers beside that."""
    pids = Path("/sys/fs/cgroup/pids")
    top = (pids if pids.is_dir() else pids.parent) / place.name
    top.mkdir()
    if top.parent != pids:
        (top / "cgroup.subtree_control").write_text("+pids")
    (top / "caller").mkdir()
    yield top
    rt.clean()
    (top / "caller").rmdir()
    top.rmdir()


@pytest.mark.parametrize("verb", ["create", "run", "exec"])
def test_no_more_processes(rt: Runtime, bundle: Bundle, crowd: Path, verb: str) -> None:
    """clone(2) gives EAGAIN."""
    bundle.args(*(("echo", "here") if verb == "run" else ("sleep",)))
    bundle.linux["cgroupsPath"] = f"/{crowd.name}/c"
    bundle.write()
    container = rt.create(bundle).start() if verb == "exec" else rt.track(bundle)
    failures = []

    def enter() -> None:
        (crowd / "caller/cgroup.procs").write_text("0")

    for count in range(1, 12):
        (crowd / "pids.max").write_text(str(count))
        if verb == "exec":
            result = container.exec("echo", "here", preexec=enter)
        else:
            result = rt.call(verb, "--bundle", str(bundle.path), container.id, preexec=enter)
        if result.code == 0:
            break
        failures.append(one_line(result, NO_PROCESS))
        if verb != "exec":
            container.verb("state").failed("does not exist")
    assert failures and result.code == 0, result

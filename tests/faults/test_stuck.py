"""An init that was stopped by a signal: no verb waits for it for ever."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from tests.integration.harness import Bundle, Runtime, poll
from tests.integration.test_hooks import shell

pytestmark = [pytest.mark.root]

LIMIT = 5.0  # seconds that a verb may take for it
STOP_INIT = """kill -STOP "$(sed 's/.*"pid": *\\([0-9]*\\).*/\\1/')" """


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    before = time.monotonic()
    yield
    assert time.monotonic() - before < LIMIT


def letter(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


@pytest.mark.parametrize(
    ("verb", "user_namespace"), [("create", False), ("run", True), ("run --detach", False)]
)
def test_stopped_while_it_is_made(
    rt: Runtime, bundle: Bundle, verb: str, user_namespace: bool
) -> None:
    if user_namespace:
        bundle.user_namespace()
    shell(bundle, "createRuntime", STOP_INIT)
    bundle.write()
    container = rt.track(bundle)
    with in_time():
        result = rt.call(*verb.split(), "--bundle", str(bundle.path), container.id)
    result.failed("init (pid ", ") is stopped")
    lines = [line for line in result.err.splitlines() if not line.startswith("hint: ")]
    assert len(lines) == 1, result
    assert not (rt.root / container.id).exists()
    del bundle.config["hooks"]
    rt.create(bundle, container_id=container.id).start().delete("--force").ok()


def test_start_of_a_stopped_init(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep"))
    os.kill(container.pid, signal.SIGSTOP)
    poll(lambda: letter(container.pid) == "T", "it does not stop")
    with in_time():
        container.verb("start").failed(f"init (pid {container.pid}) is stopped")
    # Nothing was asked of it: it goes on waiting, and can be started.
    os.kill(container.pid, signal.SIGCONT)
    time.sleep(0.1)
    assert container.status == "created"
    container.start()
    assert container.status == "running"


def test_stopped_after_it_was_asked(rt: Runtime, bundle: Bundle) -> None:
    """Once the hook is done the look at the status is long past."""
    bundle.config["hooks"] = {
        "startContainer": [{"path": "/init", "args": ["init", "wait-file", "/go"]}]
    }
    container = rt.create(bundle.args("sleep"))
    results = []
    thread = threading.Thread(target=lambda: results.append(container.verb("start")))
    thread.start()
    time.sleep(0.5)
    os.kill(container.pid, signal.SIGSTOP)
    poll(lambda: letter(container.pid) == "T", "it does not stop")
    (bundle.rootfs / "go").touch()
    with in_time():
        thread.join()
    results[0].failed(f"init (pid {container.pid}) is stopped")
    with in_time():
        container.delete("--force").ok()


def test_what_stops_for_a_moment_is_waited_for(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep"))
    os.kill(container.pid, signal.SIGSTOP)
    poll(lambda: letter(container.pid) == "T", "it does not stop")
    timer = threading.Timer(0.4, os.kill, (container.pid, signal.SIGCONT))
    timer.start()
    container.start()
    timer.join()
    assert container.status == "running"


@pytest.mark.parametrize("started", [False, True], ids=["created", "running"])
def test_the_other_verbs_of_a_stopped_init(rt: Runtime, bundle: Bundle, started: bool) -> None:
    container = rt.create(bundle.args("sleep"))
    if started:
        container.start()
    os.kill(container.pid, signal.SIGSTOP)
    poll(lambda: letter(container.pid) == "T", "it does not stop")
    for step in (
        lambda: container.exec("echo", "here"),
        lambda: container.verb("pause"),
        lambda: container.verb("resume"),
        lambda: container.verb("update", "--pids-limit", "50"),
        lambda: container.kill("TERM"),
        lambda: container.kill("KILL"),
    ):
        with in_time():
            step().ok()
    container.wait("stopped", LIMIT)
    container.delete().ok()


@pytest.mark.parametrize("started", [False, True], ids=["created", "running"])
def test_delete_force_of_a_stopped_init(rt: Runtime, bundle: Bundle, started: bool) -> None:
    container = rt.create(bundle.args("sleep"))
    if started:
        container.start()
    os.kill(container.pid, signal.SIGSTOP)
    poll(lambda: letter(container.pid) == "T", "it does not stop")
    with in_time():
        container.delete("--force").ok()


def test_run_is_asked_to_end_meanwhile(rt: Runtime, bundle: Bundle) -> None:
    """`run` in the foreground holds its signals back for the program; there may never be one."""
    shell(bundle, "createRuntime", f'{STOP_INIT}; kill -TERM "$PPID"')
    with in_time():
        rt.run(bundle).failed("SIGTERM came before the program was executed", code=143)

"""The states of a container and the verbs that move it between them."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable

import pytest

from tests.integration.harness import Bundle, Runtime, alive, by_kind, poll

pytestmark = pytest.mark.root
MakeBundle = Callable[[], Bundle]


def unknown(rt: Runtime) -> str:
    """What an unknown id is answered with; engines look for these words."""
    return by_kind(rt, "container does not exist", crun="No such file or directory")


def test_create_start_state_kill_delete(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("echo", "hello", ";", "sleep"))
    assert container.status == "created"
    assert container.out == ""
    container.start()
    container.wait_out("hello\n")
    assert container.status == "running"
    container.kill().ok()
    container.wait("stopped")
    assert container.wait_exit() == -signal.SIGKILL
    container.delete().ok()
    container.verb("state").failed(unknown(rt))


def test_state_document(rt: Runtime, bundle: Bundle) -> None:
    bundle.config["annotations"] = {"org.example.key": "value"}
    container = rt.create(bundle.args("sleep"))
    state = container.state()
    assert state["id"] == container.id
    assert state["pid"] == container.pid
    assert state["bundle"] == str(bundle.path)
    assert state["annotations"]["org.example.key"] == "value"
    assert state["ociVersion"].startswith("1.")
    assert bundle.path / state["rootfs"] == bundle.rootfs
    assert state["created"].endswith("Z")
    assert state["owner"] == by_kind(rt, "", crun="root")


def test_state_of_a_stopped_container_has_pid_zero(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle).start()
    container.wait("stopped")
    assert container.state()["pid"] == 0


def test_program_does_not_run_before_start(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("write", "/mark", "x", ";", "sleep"))
    assert not (bundle.rootfs / "mark").exists()
    container.start()
    poll((bundle.rootfs / "mark").exists, "the program has not run")


def test_pid_file_holds_the_pid_of_init(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep"))
    assert alive(container.pid)
    text = (bundle.path / f"{container.id}.pid").read_text()
    assert text == str(container.state()["pid"])


def test_pid_file_replaces_an_old_one(rt: Runtime, bundle: Bundle) -> None:
    path = bundle.path / "old.pid"
    path.write_text("99999999999999")
    container = rt.create(bundle.args("sleep"), "--pid-file", str(path))
    assert path.read_text() == str(container.state()["pid"])


def test_init_is_reparented_to_the_subreaper(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep"))
    assert f"PPid:\t{os.getpid()}\n" in container.proc("status")


@pytest.mark.parametrize("status", [0, 1, 42, 255])
def test_run_returns_the_exit_status(rt: Runtime, bundle: Bundle, status: int) -> None:
    result = rt.run(bundle.args("echo", "out", ";", "error", "err", ";", "exit", str(status)))
    assert (result.code, result.out) == (status, "out\n")
    assert "err\n" in result.err


def test_run_returns_128_and_the_signal(rt: Runtime, bundle: Bundle) -> None:
    # A signal that pid 1 sends itself is ignored by the kernel, one from outside is not.
    bundle.without_namespace("pid")
    assert rt.run(bundle.args("kill", "self", "9", ";", "sleep")).code == 137
    assert rt.run(bundle.args("kill", "self", "15", ";", "sleep")).code == 143


def test_run_removes_the_container(rt: Runtime, bundle: Bundle) -> None:
    rt.run(bundle).ok()
    rt.containers[-1].verb("state").failed(unknown(rt))


@pytest.mark.known("crun", "1.8.1 has no --keep")
def test_run_keep(rt: Runtime, bundle: Bundle) -> None:
    rt.run(bundle, "--keep").ok()
    container = rt.containers[-1]
    assert container.status == "stopped"
    container.delete().ok()


def test_run_detached(rt: Runtime, bundle: Bundle) -> None:
    pid_file = bundle.path / "pid"
    rt.run(bundle.args("sleep"), "--detach", "--pid-file", str(pid_file)).ok()
    container = rt.containers[-1]
    container.pid = int(pid_file.read_text())
    assert container.status == "running"


def test_run_passes_stdin(rt: Runtime, bundle: Bundle) -> None:
    assert rt.run(bundle.args("stdin"), stdin="some input").ok().out == "some input"


def test_run_forwards_signals(rt: Runtime, bundle: Bundle) -> None:
    bundle.args("trap", "10").write()
    container = rt.track(bundle)
    argv = rt.argv("run", "--bundle", str(bundle.path), container.id)
    with container.out_path.open("wb") as out:
        pid = os.posix_spawn(
            argv[0], argv, dict(os.environ), file_actions=[(os.POSIX_SPAWN_DUP2, out.fileno(), 1)]
        )
    container.wait_out("ready")
    os.kill(pid, signal.SIGUSR1)
    container.wait_out("caught 10")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_run_ends_when_killed_by_another_call(rt: Runtime, bundle: Bundle) -> None:
    """BuildKit cancels a step so: `kill ID 9` while `run` is still there."""
    bundle.args("echo", "up", ";", "sleep").write()
    container = rt.track(bundle)
    results = []

    def call() -> None:
        results.append(rt.call("run", "--bundle", str(bundle.path), container.id))

    thread = threading.Thread(target=call)
    thread.start()
    poll(lambda: container.verb("state").code == 0 and container.status == "running", "not up")
    container.kill("9").ok()
    thread.join(15)
    assert results[0].code == 137


@pytest.mark.parametrize("name", ["TERM", "SIGTERM", "15", "USR1", "SIGUSR1", "10", "HUP"])
def test_kill_signal_forms(rt: Runtime, bundle: Bundle, name: str) -> None:
    container = rt.create(bundle.args("trap", "1", "10", "15")).start()
    container.wait_out("ready")
    container.kill(name).ok()
    number = {"T": 15, "U": 10, "H": 1}.get(name.removeprefix("SIG")[0]) or int(name)
    container.wait_out(f"caught {number}")


def test_kill_default_is_sigterm(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("trap", "15")).start()
    container.wait_out("ready")
    container.verb("kill").ok()
    container.wait_out("caught 15")


@pytest.mark.known("crun", "takes an unknown signal's name for 0 and succeeds")
def test_kill_unknown_signal(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep"))
    container.kill("NOSUCH").failed('unknown signal "NOSUCH"')
    assert container.status == "created"


def test_kill_a_created_container(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep"))
    container.kill().ok()
    container.wait("stopped")


def test_kill_stopped(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle).start().wait()
    container.wait_exit()
    container.kill().failed(by_kind(rt, "container not running", crun="No such process"))


def test_kill_all_of_a_stopped_container_succeeds(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle).start().wait()
    container.verb("kill", "--all", after=["9"]).ok()
    container.verb("kill", "-a", after=["KILL"]).ok()


def test_kill_all_reaches_every_process(rt: Runtime, bundle: Bundle) -> None:
    bundle.without_namespace("pid")
    container = rt.create(bundle.args("fork", "3", ";", "echo", "up", ";", "sleep")).start()
    container.wait_out("up")
    pids = [int(p) for p in container.verb("ps", "--format", "json").ok().json()]
    assert len(pids) == 4
    container.verb("kill", "--all", after=["KILL"]).ok()
    poll(lambda: not any(map(alive, pids)), "some process survives kill --all")


def test_delete_running_is_refused(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep")).start()
    container.delete().failed(
        by_kind(
            rt,
            f"cannot delete container {container.id} that is not stopped: running",
            crun="is not in `created` or `stopped` state",
        ),
        code=1,
    )
    assert container.status == "running"


def test_delete_force_running(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep")).start()
    container.delete("--force").ok()
    poll(lambda: not alive(container.pid), "the process survives delete --force")


def test_delete_created(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep"))
    container.delete().ok()
    poll(lambda: not alive(container.pid), "init survives delete")


def test_delete_unknown(rt: Runtime) -> None:
    rt.call("delete", "nosuch").failed(unknown(rt), code=1)


def test_delete_force_unknown_is_silent(rt: Runtime) -> None:
    result = rt.call("delete", "--force", "nosuch").ok()
    assert (result.out, result.err) == ("", "")
    assert rt.call("delete", "-f", "nosuch").ok().err == ""


@pytest.mark.parametrize("verb", ["start", "state", "kill", "pause", "resume", "ps", "exec"])
def test_unknown_container(rt: Runtime, verb: str) -> None:
    args = {"kill": ["nosuch", "9"], "exec": ["nosuch", "true"]}.get(verb, ["nosuch"])
    rt.call(verb, *args).failed(unknown(rt))


def test_start_twice(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep")).start()
    container.verb("start").failed(
        by_kind(rt, "cannot start an already running container", crun="exec.fifo"), code=1
    )
    assert container.status == "running"


def test_start_stopped(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle).start().wait()
    container.verb("start").failed(
        by_kind(rt, "cannot start a container that has stopped", crun="is not running"), code=1
    )


def test_duplicate_id(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep"))
    second = rt.call("create", "--bundle", str(bundle.path), container.id)
    second.failed(
        by_kind(rt, "container with given ID already exists", crun="already exists"), code=1
    )
    assert container.status == "created"


def test_id_is_free_after_delete(rt: Runtime, bundle: Bundle) -> None:
    for _ in range(3):
        container = rt.create(bundle.args("sleep"), container_id=f"{rt.root.name}-same")
        container.delete("--force").ok()


CRUN_ID = pytest.mark.known("crun", "1.8.1 takes every id without a slash")


@pytest.mark.parametrize(
    "bad",
    [
        "bad/id",
        "../up",
        ".",
        "..",
        "a\nb",
        *(pytest.param(text, marks=CRUN_ID) for text in ("a b", "ü")),
    ],
)
def test_invalid_ids(rt: Runtime, bundle: Bundle, bad: str) -> None:
    bundle.write()
    result = rt.call("create", "--bundle", str(bundle.path), bad)
    result.failed(by_kind(rt, "invalid container ID format", crun=""), code=1)
    assert not rt.root.exists() or list(rt.root.iterdir()) == []


def test_empty_id(rt: Runtime, bundle: Bundle) -> None:
    bundle.write()
    assert rt.call("create", "--bundle", str(bundle.path), "").code != 0


@pytest.mark.parametrize("good", ["a", "0", "A.b", "a_b-c+d", "x" * 64, "x" * 200])
def test_valid_ids(rt: Runtime, bundle: Bundle, good: str) -> None:
    container = rt.create(bundle.args("sleep"), container_id=good)
    assert container.state()["id"] == good


def test_pause_and_resume(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep")).start()
    container.verb("pause").ok()
    assert container.status == "paused"
    container.verb("resume").ok()
    assert container.status == "running"


def test_pause_needs_a_running_container(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle).start().wait()
    container.verb("pause").failed()
    container.verb("resume").failed()


def test_resume_needs_a_paused_container(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep")).start()
    if rt.kind != "crun":
        container.verb("resume").failed("container not paused")
    assert container.status == "running"


def test_delete_force_of_a_paused_container(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep")).start()
    container.verb("pause").ok()
    container.delete("--force").ok()


def test_kill_of_a_paused_container_acts_after_resume(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("trap", "15")).start()
    container.wait_out("ready")
    container.verb("pause").ok()
    container.kill("TERM").ok()
    assert "caught" not in container.out
    container.verb("resume").ok()
    container.wait_out("caught 15")


def test_later_edits_of_the_config_have_no_effect(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("echo", "first"))
    bundle.args("echo", "second").write()
    container.start().wait()
    assert container.out == "first\n"


def test_the_bundle_may_be_gone(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep"))
    (bundle.path / "config.json").unlink()
    container.start()
    assert container.status == "running"
    container.kill().ok()
    container.wait()
    container.delete().ok()


def test_twelve_lives_at_once(rt: Runtime, make_bundle: MakeBundle) -> None:
    bundles = [make_bundle().args("sleep") for _ in range(12)]
    failures: list[BaseException] = []

    def life(bundle: Bundle) -> None:
        try:
            container = rt.create(bundle).start()
            container.kill().ok()
            container.wait()
            container.delete().ok()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=life, args=(b,)) for b in bundles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def test_verbs_print_nothing_on_stdout(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep"))
    assert container.result.out == ""
    for verb in ("start", "pause", "resume", "kill"):
        assert container.verb(verb, after=["KILL"] if verb == "kill" else []).ok().out == ""
    container.wait()
    assert container.delete().ok().out == ""


def test_state_directory_is_private(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep"))
    directory = rt.root / container.id
    assert directory.stat().st_mode & 0o077 in (0, 0o011)
    assert directory.stat().st_uid == 0


def test_failed_create_leaves_nothing(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["args"] = ["/nosuch"]
    rt.try_create(bundle).result.failed(
        by_kind(rt, "no such file or directory", crun="No such file or directory"), code=1
    )
    assert not (rt.root / rt.containers[-1].id).exists()


def test_state_json_is_all_of_stdout(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep"))
    result = container.verb("state").ok()
    assert isinstance(json.loads(result.out), dict)
    assert result.err == ""

"""The state directory: claims, locks, atomic files, and the status worked out of a process."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ociruntime import container as lifecycle
from ociruntime import errors, state


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "root" / "deep")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def ready(root: str, pid: int, **more: object) -> state.Container:
    """A container whose init is the process ``pid``."""
    container = state.claim(root, "c1")
    found = state.process_stat(pid)
    assert found is not None
    container.data = {"phase": "ready", "pid": pid, "start": found[1], "comm": found[2], **more}
    container.save()
    container.unlock()
    return container


@pytest.mark.parametrize("good", ["a", "0", "A-b_c+d.e", "..a", "a" * 1024, "-x", "_"])
def test_good_ids(good: str) -> None:
    state.check_id(good)


@pytest.mark.parametrize(
    "bad", ["", ".", "..", "a/b", "a b", "é", "a\n", "a" * 1025, "a:b", "\udcff"]
)
def test_bad_ids(bad: str) -> None:
    with pytest.raises(errors.Error, match=r"invalid container ID format|cannot be empty"):
        state.check_id(bad)


def test_claim_makes_the_root_private(root: str) -> None:
    state.claim(root, "c1")
    assert os.stat(root).st_mode & 0o7777 == 0o700
    assert os.stat(f"{root}/c1").st_mode & 0o7777 == 0o700


def test_second_claim_is_refused(root: str) -> None:
    state.claim(root, "c1")
    with pytest.raises(errors.Error) as caught:
        state.claim(root, "c1")
    assert caught.value.message == "container with given ID already exists"


def test_a_lock_that_is_refused_is_named(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, operation: int) -> None:
        raise PermissionError(errno.EPERM, "no")

    container = state.claim(root, "c1")
    monkeypatch.setattr(state, "_flock", refuse)
    with pytest.raises(errors.Error, match=f"^lock {root}/c1: operation not permitted$"):
        container.lock()


def test_unknown_container(root: str) -> None:
    with pytest.raises(errors.Error) as caught:
        state.load(root, "nope")
    assert caught.value.message == "container does not exist"


def test_a_symlink_is_no_container(root: str, tmp_path: Path) -> None:
    state.claim(root, "c1")
    os.symlink(tmp_path, f"{root}/c2")
    with pytest.raises(errors.Error):
        state.load(root, "c2")


def test_save_is_atomic_and_private(root: str) -> None:
    container = state.claim(root, "c1")
    container.data = {"bundle": "/b", "phase": "creating"}
    container.save()
    container.data["phase"] = "ready"
    container.save()
    assert sorted(os.listdir(container.path)) == ["state.json"]
    assert os.stat(f"{container.path}/state.json").st_mode & 0o777 == 0o600
    assert state.load(root, "c1").data == {"bundle": "/b", "phase": "ready"}


def test_half_made_without_a_creator_is_stopped(root: str) -> None:
    container = state.claim(root, "c1")
    assert state.load(root, "c1").status() == state.CREATING
    container.unlock()
    assert state.load(root, "c1").status() == state.STOPPED


def test_status_follows_the_process(root: str, sleeper: subprocess.Popen[bytes]) -> None:
    container = ready(root, sleeper.pid)
    assert container.status() == state.RUNNING
    Path(container.path, "gate").touch()
    assert container.status() == state.CREATED
    container.data["comm"] = "init"  # start was killed after the program was executed
    assert container.status() == state.RUNNING
    sleeper.kill()
    while container.process() is not None:
        time.sleep(0.01)
    # A zombie until it is reaped: dead all the same.
    assert container.status() == state.STOPPED


def test_a_recycled_pid_is_no_container(root: str, sleeper: subprocess.Popen[bytes]) -> None:
    container = ready(root, sleeper.pid)
    container.data["start"] -= 1
    assert container.status() == state.STOPPED
    with pytest.raises(errors.Error) as caught:
        lifecycle.send_signal(container, 9)
    assert caught.value.message == "container not running"
    assert sleeper.poll() is None


def test_signal_by_pidfd(root: str, sleeper: subprocess.Popen[bytes]) -> None:
    container = ready(root, sleeper.pid)
    lifecycle.send_signal(container, 15)
    assert sleeper.wait(5) == -15
    with pytest.raises(errors.Error, match="container not running"):
        lifecycle.send_signal(container, 15)


@pytest.mark.parametrize(
    ("text", "status"),
    [("FROZEN\n", "paused"), ("FREEZING\n", "paused"), ("THAWED\n", "running"), ("1\n", "paused")]
    + [("0\n", "running")],
)
def test_paused(
    root: str, sleeper: subprocess.Popen[bytes], tmp_path: Path, text: str, status: str
) -> None:
    freezer = tmp_path / "freezer.state"
    freezer.write_text(text)
    assert ready(root, sleeper.pid, freezer=str(freezer)).status() == status


def test_document_as_runc_prints_it(root: str, sleeper: subprocess.Popen[bytes]) -> None:
    container = ready(
        root, sleeper.pid, bundle="/b", rootfs="/b/rootfs", created="2026-01-01T00:00:00.000000001Z"
    )
    document = container.document("running")
    assert list(document) == [
        *("ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "owner")
    ]
    assert document["pid"] == sleeper.pid
    assert container.document("stopped")["pid"] == 0
    container.data["annotations"] = {"a": "b"}
    assert container.document("running")["annotations"] == {"a": "b"}


def test_lock_of_a_deleted_container(root: str) -> None:
    container = state.claim(root, "c1")
    second = state.load(root, "c1")
    container.remove()
    container.unlock()
    with pytest.raises(errors.Error, match="container does not exist"):
        second.lock()


def test_lock_excludes_another_process(root: str) -> None:
    container = state.claim(root, "c1")
    fd = os.open(container.path, os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


def test_names(root: str) -> None:
    assert state.names(root) == []
    for name in ("b", "a"):
        state.claim(root, name)
    os.mkdir(f"{root}/.cache")
    assert state.names(root) == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "result"),
    [("/", "/"), ("/a//b/./c/", "/a/b/c"), ("/a/../b", "/a/../b"), ("x", f"{os.getcwd()}/x")]
    + [("./x/", f"{os.getcwd()}/x"), ("/.a", "/.a")],
)
def test_absolute(path: str, result: str) -> None:
    assert state.absolute(path) == result


ROOTS = [
    # euid, in a user namespace, environment, root
    (0, False, {}, "/run/ociruntime"),
    (0, False, {"XDG_RUNTIME_DIR": "/x"}, "/run/ociruntime"),
    (0, True, {"XDG_RUNTIME_DIR": "/x"}, "/x/ociruntime"),
    (0, True, {"XDG_RUNTIME_DIR": "/x", "USER": "root"}, "/run/ociruntime"),
    (0, True, {"XDG_RUNTIME_DIR": ""}, "/run/ociruntime"),
    (1000, False, {"XDG_RUNTIME_DIR": "/x"}, "/x/ociruntime"),
    (1000, False, {"XDG_RUNTIME_DIR": ""}, "/run/ociruntime"),
    (1000, False, {}, "/run/ociruntime"),
]


@pytest.mark.parametrize(("euid", "userns", "environment", "result"), ROOTS)
def test_default_root(
    monkeypatch: pytest.MonkeyPatch,
    euid: int,
    userns: bool,
    environment: dict[str, str],
    result: str,
) -> None:
    encoded = {key.encode(): value.encode() for key, value in environment.items()}
    monkeypatch.setattr(state.posix, "environ", encoded)
    monkeypatch.setattr(state.posix, "geteuid", lambda: euid)
    monkeypatch.setattr(state, "_in_user_namespace", lambda: userns)
    assert state.default_root() == result


def test_replace_file_in_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "pid"
    target.write_text("old")
    state.replace_file(str(target), b"12", 0o644)
    assert target.read_text() == "12"
    monkeypatch.chdir(tmp_path)
    state.replace_file("pid", b"13", 0o644)
    assert target.read_text() == "13"
    assert os.listdir(tmp_path) == ["pid"]


def test_replace_file_leaves_nothing_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "pid").mkdir()  # rename(2) replaces no directory
    with pytest.raises(IsADirectoryError):
        state.replace_file(str(tmp_path / "pid"), b"12", 0o644)
    assert os.listdir(tmp_path) == ["pid"]


def test_timestamp_is_rfc3339() -> None:
    stamp = state.timestamp()
    assert len(stamp) == len("2026-01-01T00:00:00.000000000Z")
    assert time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S")


def test_state_of_a_broken_file(root: str) -> None:
    container = state.claim(root, "c1")
    Path(container.path, "state.json").write_text("{")
    with pytest.raises(errors.Error, match=r"state\.json"):
        state.load(root, "c1")


def test_process_stat_of_a_name_with_parentheses(tmp_path: Path) -> None:
    program = tmp_path / "a) S 1 ("
    os.symlink(sys.executable, program)
    with subprocess.Popen(
        [str(program), "-c", "import sys; sys.stdin.read()"], stdin=-1
    ) as process:
        while (found := state.process_stat(process.pid)) is None or found[2] != "a) S 1 (":
            time.sleep(0.01)
        assert found[1] > 0
        process.communicate(b"")
    assert json.dumps(state.process_stat(process.pid)) == "null"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EPERM])
def test_a_process_that_cannot_be_looked_at_is_not_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """`delete` without --force would remove a running container, `start` start one twice."""
    container = state.claim(str(tmp_path), "c")
    container.data = {"phase": "ready", "pid": os.getpid(), "start": 1, "freezer": "/f"}

    def refuse(path: str, directory: int | None = None) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(state, "read_file", refuse)
    for look in (container.process, container.status, container.frozen):
        with pytest.raises(errors.Error, match=os.strerror(number).lower()):
            look()

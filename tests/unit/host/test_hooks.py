"""Hooks on the host: real programs, with what they get and what happens when they fail."""

from __future__ import annotations

import json
import os
import posix
import time
from pathlib import Path

import pytest

from ociruntime import errors, log
from ociruntime.host import hooks
from tests.leaks import nothing_left

STATE = json.dumps({"id": "x", "status": "creating", "pid": 1}).encode()


def script(tmp_path: Path, body: str, name: str = "hook") -> str:
    path = tmp_path / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def run(hook: dict[str, object], cwd: Path, **more: object) -> None:
    hooks.run("createRuntime", [hook], STATE, cwd=str(cwd), **more)  # type: ignore[arg-type]


def failure(hook: dict[str, object], cwd: Path) -> str:
    with pytest.raises(errors.Error) as caught:
        run(hook, cwd)
    assert caught.value.pointer == "/hooks/createRuntime/0"
    return caught.value.message


@pytest.fixture(autouse=True)
def nothing_leaks() -> object:
    with nothing_left():
        yield


def test_state_on_stdin_cwd_and_args(tmp_path: Path) -> None:
    path = script(tmp_path, 'cat > state; pwd > cwd; echo "$0 $*" > args')
    here = os.getcwd()
    run({"path": path, "args": ["ignored-by-sh", "a", "b c"]}, tmp_path)
    assert (tmp_path / "state").read_bytes() == STATE
    assert (tmp_path / "cwd").read_text().strip() == str(tmp_path)
    assert (tmp_path / "args").read_text() == f"{path} a b c\n"
    assert os.getcwd() == here


def test_argv_is_as_given(tmp_path: Path) -> None:
    run({"path": "/bin/busybox", "args": ["touch", "made"]}, tmp_path)
    assert (tmp_path / "made").exists()


def test_a_large_state_is_no_problem_for_a_hook_that_does_not_read(tmp_path: Path) -> None:
    hooks.run("prestart", [{"path": "/bin/true"}], b"x" * (1 << 20), cwd=str(tmp_path))


def test_every_hook_reads_the_state_from_its_start(tmp_path: Path) -> None:
    path = script(tmp_path, "cat >> states")
    hooks.run("prestart", [{"path": path}] * 2, STATE, cwd=str(tmp_path))
    assert (tmp_path / "states").read_bytes() == STATE * 2


def test_env_is_exactly_that_of_the_hook(tmp_path: Path) -> None:
    run({"path": "/usr/bin/env", "env": ["A=1", "B=x=y"]}, tmp_path)
    path = script(tmp_path, "/usr/bin/env -u PWD -u OLDPWD -u SHLVL -u _ > env")
    run({"path": path, "env": ["A=1", "B=x=y"]}, tmp_path)
    assert sorted((tmp_path / "env").read_text().split()) == ["A=1", "B=x=y"]


@pytest.mark.parametrize("env", [None, []])
def test_without_env_it_is_the_runtimes(tmp_path: Path, env: object) -> None:
    path = script(tmp_path, "cat /proc/$$/environ > env")
    run({"path": path} if env is None else {"path": path, "env": env}, tmp_path)
    assert (tmp_path / "env").read_bytes().split(b"\0")[0] in (
        b"%s=%s" % item for item in posix.environ.items()
    )


def test_env_entry_without_equals_sign(tmp_path: Path) -> None:
    assert "env: 'A' has no '='" in failure({"path": "/bin/true", "env": ["A"]}, tmp_path)


def test_exit_status_and_last_line_of_stderr(tmp_path: Path) -> None:
    path = script(tmp_path, "echo out; echo first >&2; echo boom >&2; echo >&2; exit 3")
    expected = f"hooks.createRuntime[0] ({path}): exit status 3: boom"
    assert failure({"path": path}, tmp_path) == expected


def test_stdout_is_shown_when_stderr_is_silent(tmp_path: Path) -> None:
    path = script(tmp_path, "echo only out; exit 1")
    assert failure({"path": path}, tmp_path).endswith("exit status 1: only out")


def test_killed_by_signal(tmp_path: Path) -> None:
    path = script(tmp_path, "kill -SEGV $$")
    assert failure({"path": path}, tmp_path).endswith("killed by signal 11")


def test_output_is_bounded(tmp_path: Path) -> None:
    path = script(tmp_path, "head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 1")
    assert len(failure({"path": path}, tmp_path)) < 700


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/nonexistent/hook", "no such file or directory"),
        ("/etc/passwd", "permission denied"),
        ("/etc", "permission denied"),
    ],
)
def test_hook_that_cannot_be_executed(tmp_path: Path, path: str, text: str) -> None:
    assert failure({"path": path}, tmp_path) == f"hooks.createRuntime[0] ({path}): {text}"


def test_timeout_kills_the_whole_process_group(tmp_path: Path) -> None:
    path = script(tmp_path, "sleep 100 & echo $! > pid; while :; do echo noise; done")
    begin = time.monotonic()
    assert failure({"path": path, "timeout": 1}, tmp_path).endswith("timed out after 1 s")
    assert 0.9 < time.monotonic() - begin < 5
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().split()[2]
        except FileNotFoundError:
            break
        if state == "Z":
            break
        time.sleep(0.02)
    else:
        pytest.fail("the hook's child lives on")


def test_what_a_hook_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    path = script(tmp_path, "sleep 3 & exit 0")
    begin = time.monotonic()
    run({"path": path}, tmp_path)
    assert time.monotonic() - begin < 2


def test_closed_output_is_not_the_end(tmp_path: Path) -> None:
    path = script(tmp_path, "exec >&- 2>&-; sleep 0.3; touch done")
    run({"path": path}, tmp_path)
    assert (tmp_path / "done").exists()


def test_the_first_failure_stops(tmp_path: Path) -> None:
    after = script(tmp_path, "touch later", "after")
    with pytest.raises(errors.Error, match=r"hooks.prestart\[1\]"):
        hooks.run(
            "prestart",
            [{"path": "/bin/true"}, {"path": "/bin/false"}, {"path": after}],
            STATE,
            cwd=str(tmp_path),
        )
    assert not (tmp_path / "later").exists()


def test_poststop_goes_on_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(log, "warning", warnings.append)
    after = script(tmp_path, "touch later", "after")
    hooks.run(
        "poststop",
        [{"path": "/bin/false"}, {"path": after}],
        STATE,
        cwd=str(tmp_path),
        keep_going=True,
    )
    assert (tmp_path / "later").exists()
    assert warnings == ["hooks.poststop[0] (/bin/false): exit status 1"]


def test_a_bundle_that_is_gone_means_root(tmp_path: Path) -> None:
    path = script(tmp_path, f"pwd > {tmp_path}/cwd")
    run({"path": path}, tmp_path / "gone")
    assert (tmp_path / "cwd").read_text() == "/\n"


def test_descriptors_signals_and_umask(tmp_path: Path) -> None:
    """Nothing but stdio is inherited, not even what is preserved for the container; SIGPIPE is not ignored."""
    fd = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(fd, True)
    path = script(tmp_path, "grep SigIgn /proc/$$/status > signals; ls /proc/$$/fd > fds")
    try:
        assert fd >= 3
        run({"path": path}, tmp_path)
    finally:
        os.close(fd)
    assert int((tmp_path / "signals").read_text().split()[1], 16) & 1 << 12 == 0
    # dash keeps its script at 10.
    assert [n for n in (tmp_path / "fds").read_text().split() if int(n) < 10] == ["0", "1", "2"]

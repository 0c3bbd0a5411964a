"""`exec`: options, the process file, what is inherited, exit codes, errors."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conformance.kit import PATIENCE
from tests.integration.harness import Bundle, Container, Result, Runtime, by_kind, fields, poll

pytestmark = pytest.mark.root
MakeBundle = Callable[[], Bundle]


@pytest.fixture
def container(rt: Runtime, bundle: Bundle) -> Container:
    """A running container with a few capabilities and an environment."""
    kinds = ("bounding", "permitted", "effective")
    bundle.process["capabilities"] = {key: ["CAP_KILL"] for key in kinds}
    bundle.process["env"].append("FROM_CONFIG=1")
    return rt.create(bundle.args("sleep")).start()


def exec_file(container: Container, *args: str, flags: tuple[str, ...] = (), **more: Any) -> Result:
    """`exec --process FILE`; `more` replaces members of the config's process."""
    document = {**container.bundle.process, "args": ["/init", *args], **more}
    path = container.bundle.path / "process.json"
    path.write_text(json.dumps(document))
    return container.verb("exec", "--process", str(path), *flags)


@pytest.mark.parametrize("status", [0, 1, 42, 255])
def test_exit_status(container: Container, status: int) -> None:
    assert container.exec("exit", str(status)).code == status


def test_killed_by_a_signal(container: Container) -> None:
    assert container.exec("kill", "self", "9").code == 137


def test_output_and_input(container: Container) -> None:
    result = container.exec("stdin", ";", "error", "to stderr", stdin="through")
    assert (result.code, result.out) == (0, "through")
    assert "to stderr" in result.err


def test_env_and_cwd(container: Container) -> None:
    flags = ["--env", "A=1", "--env", "B=2 3", "--cwd", "/tmp"]
    result = container.exec("env", "A", "B", ";", "cwd", flags=flags).ok()
    assert result.lines == ["1", "2 3", "/tmp"]


def test_config_environment_is_the_default(container: Container) -> None:
    assert container.exec("env", "FROM_CONFIG").ok().out == "1\n"


@pytest.mark.parametrize(
    ("text", "uid", "gid"),
    [("1000", "1000", "0"), ("1000:1001", "1000", "1001"), ("0:5", "0", "5")],
)
def test_user(container: Container, text: str, uid: str, gid: str) -> None:
    ids = fields(container.exec("id", flags=["--user", text]).ok().out)
    assert (ids["uid"].split(",")[0], ids["gid"].split(",")[0]) == (uid, gid)


def no_user(text: str, **kinds: str) -> Any:
    return pytest.param(text, marks=[pytest.mark.known(k, why) for k, why in kinds.items()])


@pytest.mark.parametrize(
    "text",
    [
        no_user("1:", crun="takes it for 1:0"),
        no_user(":1", crun="takes it for 0:1"),
        no_user("4294967296", runc="becomes uid 0", crun="becomes uid 0"),
        no_user("-1", crun="becomes uid 4294967295"),
        no_user("0x1"),
        no_user("+1", runc="is 1", crun="is 1"),
        no_user("root"),
        no_user("1:2:3"),
        no_user(" 1", crun="is 1"),
    ],
)
def test_user_that_is_no_number(container: Container, text: str) -> None:
    """CVE-2026-30892 and its kind: exactly as meant or an error, never another user."""
    result = container.exec("id", flags=[f"--user={text}"])
    assert result.code != 0, result


def test_numeric_user_is_never_a_name(container: Container) -> None:
    """CVE-2016-3697: a line of /etc/passwd named 1000 with uid 0."""
    passwd = container.bundle.rootfs / "etc/passwd"
    passwd.write_text("1000:x:0:0::/:/bin/sh\n")
    assert fields(container.exec("id", flags=["-u", "1000"]).ok().out)["uid"].startswith("1000,")


@pytest.mark.known("crun", "1.8.1 has no --additional-gids")
def test_additional_gids(container: Container) -> None:
    result = container.exec("id", flags=["-g", "7", "-g", "8"]).ok()
    assert set(fields(result.out)["groups"].split(",")) >= {"7", "8"}


@pytest.mark.known("crun", "1.8.1 replaces the sets")
def test_cap_is_added_but_never_inheritable(container: Container) -> None:
    """CVE-2022-29162."""
    result = container.exec("caps", flags=["--cap", "CAP_CHOWN"]).ok()
    sets = {k: int(v, 16) for k, v in fields(result.out).items()}
    assert sets["effective"] & 1 << 0 and sets["effective"] & 1 << 5
    assert sets["inheritable"] == 0


def test_no_new_privs(container: Container) -> None:
    assert "nnp=1" in container.exec("flags", flags=["--no-new-privs"]).ok().out


def test_detach_and_pid_file(container: Container) -> None:
    pid_file = container.bundle.path / "exec.pid"
    container.exec("sleep", flags=["--detach", "--pid-file", str(pid_file)]).ok()
    pid = int(pid_file.read_text())
    assert f"PPid:\t{os.getpid()}\n" in Path(f"/proc/{pid}/status").read_text()
    assert pid in container.verb("ps", "--format", "json").ok().json()


def test_pid_file_is_replaced(container: Container) -> None:
    pid_file = container.bundle.path / "exec.pid"
    pid_file.write_text("1234567890123")
    container.exec("sleep", flags=["-d", "--pid-file", str(pid_file)]).ok()
    assert int(pid_file.read_text()) < 2**22


# --- process file


def test_process_file(container: Container) -> None:
    result = exec_file(
        container,
        "id",
        ";",
        "cwd",
        ";",
        "env",
        "X",
        ";",
        "caps",
        user={"uid": 5, "gid": 6, "additionalGids": [7]},
        cwd="/tmp",
        env=["PATH=/", "X=y"],
        capabilities={},
    ).ok()
    assert fields(result.lines[0])["uid"] == "5,5,5"
    assert "7" in fields(result.lines[0])["groups"].split(",")
    assert result.lines[1:3] == ["/tmp", "y"]
    assert fields(result.lines[3])["bounding"] == "0"


def test_process_file_limits(container: Container) -> None:
    result = exec_file(
        container,
        "rlimits",
        ";",
        "flags",
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 99}],
        noNewPrivileges=True,
    ).ok()
    assert "RLIMIT_NOFILE 77 99" in result.lines
    assert "nnp=1" in result.lines[-1]


@pytest.mark.known("runc", "1.1.5 keeps the adjustment of the caller")
@pytest.mark.known("crun", "1.8.1 keeps the adjustment of the caller")
def test_process_file_oom_score_adj(container: Container) -> None:
    result = exec_file(container, "cat", "/proc/self/oom_score_adj", oomScoreAdj=321)
    assert result.ok().out == "321\n"


@pytest.mark.known("runc", "1.1.5 ignores the umask of exec")
def test_process_file_umask(container: Container) -> None:
    result = exec_file(container, "flags", user={"uid": 0, "gid": 0, "umask": 0o027}).ok()
    assert "umask=0027" in result.out


def test_process_file_that_is_missing_or_broken(container: Container) -> None:
    container.verb("exec", "--process", "/nosuch").failed("/nosuch")
    path = container.bundle.path / "broken.json"
    path.write_text('{"args": ["/init"], ')
    assert container.verb("exec", "--process", str(path)).code != 0


def test_process_file_without_args(container: Container) -> None:
    assert exec_file(container, args=[]).code != 0


def test_home_is_set_when_absent(container: Container) -> None:
    (container.bundle.rootfs / "etc/passwd").write_text("u:x:9:9::/home/nine:/sh\n")
    result = exec_file(container, "env", "HOME", user={"uid": 9, "gid": 9}, env=["PATH=/"])
    assert result.ok().out == "/home/nine\n"


# --- errors


def test_missing_program(container: Container) -> None:
    result = container.verb("exec", after=["/nosuch"])
    result.failed(by_kind(container.runtime, "no such file or directory", crun="No such file"))
    assert result.code == 255


def test_missing_program_of_path(container: Container) -> None:
    result = container.verb("exec", after=["nosuch"])
    result.failed("executable file", "not found in $PATH")


def test_program_that_is_not_executable(container: Container) -> None:
    (container.bundle.rootfs / "data").write_text("x")
    container.verb("exec", after=["/data"]).failed(
        by_kind(container.runtime, "permission denied", crun="Permission denied")
    )


def test_no_program(container: Container) -> None:
    assert container.verb("exec").code != 0


def test_exec_in_a_created_container(rt: Runtime, bundle: Bundle) -> None:
    """Docker's and Kubernetes' life-cycle never does it, runc allows it."""
    container = rt.create(bundle.args("sleep"))
    assert container.exec("echo", "early").ok().out == "early\n"
    assert container.status == "created"


def test_exec_in_a_stopped_container(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle).start().wait()
    container.exec("echo").failed(
        by_kind(rt, "cannot exec in a stopped container", crun="not running")
    )


@pytest.mark.known("crun", "1.8.1 waits in the frozen cgroup")
def test_exec_in_a_paused_container(container: Container) -> None:
    container.verb("pause").ok()
    try:
        result = container.exec("echo", timeout=3 * PATIENCE)
    finally:
        container.verb("resume").ok()
    result.failed("cannot exec in a paused container")


def test_exec_ignore_paused(container: Container) -> None:
    """It waits in the frozen cgroup and goes on after `resume`."""
    if container.runtime.kind == "crun":
        pytest.skip("crun 1.8.1 has no --ignore-paused")
    container.verb("pause").ok()
    results: list[Result] = []
    flags = ["--ignore-paused"]
    thread = threading.Thread(target=lambda: results.append(container.exec("echo", flags=flags)))
    thread.start()
    thread.join(0.3)
    assert not results
    container.verb("resume").ok()
    thread.join(15)
    results[0].ok()


# --- what it shares with the container


def test_exec_is_in_the_containers_cgroup(container: Container) -> None:
    result = container.exec("cat", "/proc/self/cgroup").ok()
    assert all(container.id in line for line in result.lines if ":pids:" in line)


def test_exec_sees_the_same_files(container: Container) -> None:
    container.exec("write", "/tmp/x", "shared").ok()
    assert container.exec("cat", "/tmp/x").ok().out == "shared"


@pytest.mark.known("runc", "reads the bundle's config.json again")
def test_exec_survives_changes_of_the_bundle(container: Container) -> None:
    (container.bundle.path / "config.json").unlink()
    container.exec("echo").ok()


def test_eight_at_once(container: Container) -> None:
    """containerd 2 runs probes so: none may wait for another's end (engines, trap 22)."""
    results: list[Result] = []
    seconds = 0.5 if PATIENCE == 1 else 4 * PATIENCE  # all of them start one after another there

    def call() -> None:
        results.append(container.exec("sleep", str(seconds), ";", "echo", "x"))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    poll(lambda: len(container.verb("ps", "--format", "json").ok().json()) == 9, "not all at once")
    for thread in threads:
        thread.join()
    assert [r.out for r in results] == ["x\n"] * 8


def test_kill_is_not_held_up_by_exec(container: Container) -> None:
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(container.exec("sleep")))
    thread.start()
    poll(lambda: len(container.verb("ps", "--format", "json").ok().json()) == 2, "no exec")
    container.kill().ok()
    thread.join(15)
    assert results[0].code == 137


def test_children_of_exec_go_with_the_container(container: Container) -> None:
    container.exec("fork", "3", ";", "sleep", flags=["--detach"]).ok()
    poll(lambda: len(container.verb("ps", "--format", "json").ok().json()) == 5, "not forked")
    container.delete("--force").ok()


def test_seccomp_of_the_container_applies(rt: Runtime, make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}],
    }
    container = rt.create(bundle.args("sleep")).start()
    assert "EACCES" in container.exec("mkdir", "/x").err

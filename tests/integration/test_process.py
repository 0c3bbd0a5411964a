"""The process object: who the program is, where it runs, and what it may use."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import Bundle, Runtime, by_kind, fields

pytestmark = pytest.mark.root

CAP_CHOWN, CAP_KILL, CAP_NET_ADMIN = 0, 5, 12


def output(rt: Runtime, bundle: Bundle, *args: str, **kw: Any) -> str:
    """What the program prints when it is run in the foreground."""
    return rt.run(bundle.args(*args), **kw).ok().out


# --- user


def test_user_and_groups(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [5, 1001, 7]}
    ids = fields(output(rt, bundle, "id"))
    assert (ids["uid"], ids["gid"]) == ("1000,1000,1000", "1001,1001,1001")
    assert set(ids["groups"].split(",")) - {"1001"} == {"5", "7"}


def test_supplementary_groups_of_the_caller_are_dropped(rt: Runtime, bundle: Bundle) -> None:
    def groups() -> None:
        os.setgroups([4, 27, 1234])

    ids = fields(output(rt, bundle, "id", preexec=groups))
    assert "1234" not in ids["groups"].split(",")


def test_largest_ids(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 4294967294, "gid": 4294967294}
    if rt.kind == "runc":
        # Its limit is 2^31 - 1, refused with a clear error: nothing to compare.
        rt.run(bundle.args("id")).failed("uids and gids must be in range")
        return
    assert fields(output(rt, bundle, "id"))["uid"].startswith("4294967294,")


@pytest.mark.parametrize(
    "uid",
    [
        pytest.param(2**32 - 1, marks=pytest.mark.known("crun", "takes (uid_t) -1 for a user")),
        2**32,
        -1,
        2**63,
    ],
)
def test_impossible_uid(rt: Runtime, bundle: Bundle, uid: int) -> None:
    """A number that does not fit must never become another user (CVE-2024-40635)."""
    bundle.process["user"] = {"uid": uid, "gid": 0}
    assert rt.run(bundle.args("id")).code != 0


def test_umask_given(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["user"]["umask"] = 0o027
    assert fields(output(rt, bundle, "flags"))["umask"] == "0027"


def test_umask_default_is_0022_whatever_the_caller_has(rt: Runtime, bundle: Bundle) -> None:
    def preexec() -> None:
        os.umask(0o077)

    assert fields(output(rt, bundle, "flags", preexec=preexec))["umask"] == "0022"


# --- capabilities


def capability_sets(rt: Runtime, bundle: Bundle) -> dict[str, int]:
    return {k: int(v, 16) for k, v in fields(output(rt, bundle, "caps")).items()}


def test_no_capabilities_object_means_none(rt: Runtime, bundle: Bundle) -> None:
    sets = capability_sets(rt, bundle)
    assert sets["effective"] == sets["permitted"] == sets["inheritable"] == sets["ambient"] == 0


def test_empty_capabilities_object_means_none(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["capabilities"] = {}
    assert set(capability_sets(rt, bundle).values()) == {0}


def test_capability_sets(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["capabilities"] = {
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_ADMIN"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN"],
    }
    bounding = 1 << CAP_CHOWN | 1 << CAP_KILL | 1 << CAP_NET_ADMIN
    # At execve root's permitted and effective sets become the bounding set (capabilities(7)).
    assert capability_sets(rt, bundle) == {
        "bounding": bounding,
        "permitted": bounding,
        "effective": bounding,
        "inheritable": 0,
        "ambient": 0,
    }


def test_capabilities_of_another_user(rt: Runtime, bundle: Bundle) -> None:
    """Without ambient capabilities execve leaves an ordinary user none."""
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    names = ["CAP_CHOWN", "CAP_KILL"]
    bundle.process["capabilities"] = dict.fromkeys(("bounding", "permitted", "effective"), names)
    sets = capability_sets(rt, bundle)
    assert (sets["effective"], sets["permitted"]) == (0, 0)
    assert sets["bounding"] == 1 << CAP_CHOWN | 1 << CAP_KILL


def test_ambient_capabilities(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    kinds = ("bounding", "permitted", "effective", "inheritable", "ambient")
    bundle.process["capabilities"] = {key: ["CAP_KILL"] for key in kinds}
    assert set(capability_sets(rt, bundle).values()) == {1 << CAP_KILL}


def test_ambient_without_inheritable_only_warns(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    kinds = ("bounding", "permitted", "effective", "ambient")
    bundle.process["capabilities"] = {key: ["CAP_KILL"] for key in kinds}
    assert capability_sets(rt, bundle)["ambient"] == 0


def test_unknown_capability_only_warns(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["capabilities"] = {"bounding": ["CAP_KILL", "CAP_TIME_TRAVEL"]}
    assert capability_sets(rt, bundle)["bounding"] == 1 << CAP_KILL


@pytest.mark.known("runc", "fails: unable to apply caps")
@pytest.mark.known("crun", "fails: capset: Operation not permitted")
def test_capability_beyond_the_callers_bounding_set(rt: Runtime, bundle: Bundle) -> None:
    """Docker sends all for --privileged, also those the host has given up (engines, trap 12)."""
    if int(Path("/proc/self/status").read_text().split("CapBnd:\t")[1][:16], 16) & 1 << 24:
        pytest.skip("this machine has every capability: nothing is out of reach")
    kinds = ("bounding", "permitted", "effective")
    bundle.process["capabilities"] = {key: ["CAP_KILL", "CAP_SYS_RESOURCE"] for key in kinds}
    assert capability_sets(rt, bundle)["bounding"] == 1 << CAP_KILL


def test_no_new_privileges(rt: Runtime, bundle: Bundle) -> None:
    assert fields(output(rt, bundle, "flags"))["nnp"] == "0"
    bundle.process["noNewPrivileges"] = True
    assert fields(output(rt, bundle, "flags"))["nnp"] == "1"


def test_no_traces_of_the_runtime_in_the_process(rt: Runtime, bundle: Bundle) -> None:
    flags = fields(output(rt, bundle, "flags"))
    assert (flags["keepcaps"], flags["pdeathsig"], flags["subreaper"]) == ("0", "0", "0")
    assert flags["securebits"] == "0"


# --- limits and scheduling


def test_rlimits(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_NPROC", "soft": 100, "hard": 200},
    ]
    lines = output(rt, bundle, "rlimits").splitlines()
    assert "RLIMIT_NOFILE 512 1024" in lines
    assert "RLIMIT_CORE 0 0" in lines
    assert "RLIMIT_NPROC 100 200" in lines


def test_rlimit_unlimited(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["rlimits"] = [{"type": "RLIMIT_STACK", "soft": 2**64 - 1, "hard": 2**64 - 1}]
    assert "RLIMIT_STACK -1 -1" in output(rt, bundle, "rlimits").splitlines()


def test_unknown_rlimit(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOSUCH", "soft": 1, "hard": 1}]
    rt.run(bundle).failed("RLIMIT_NOSUCH")


def test_duplicate_rlimit_is_an_error(rt: Runtime, bundle: Bundle) -> None:
    limit = {"type": "RLIMIT_NOFILE", "soft": 512, "hard": 512}
    bundle.process["rlimits"] = [limit, limit]
    result = rt.run(bundle)
    if rt.kind in ("runc", "crun"):
        assert result.code == 0
        return
    result.failed("RLIMIT_NOFILE")


@pytest.mark.parametrize("value", [0, 500, 1000])
def test_oom_score_adj(rt: Runtime, bundle: Bundle, value: int) -> None:
    bundle.process["oomScoreAdj"] = value
    assert output(rt, bundle, "cat", "/proc/self/oom_score_adj") == f"{value}\n"


def test_oom_score_adj_unset_is_untouched(rt: Runtime, bundle: Bundle) -> None:
    def preexec() -> None:
        Path("/proc/self/oom_score_adj").write_text("7")

    assert output(rt, bundle, "cat", "/proc/self/oom_score_adj", preexec=preexec) == "7\n"


@pytest.mark.known("runc", "1.1.5 does not know process.scheduler")
@pytest.mark.known("crun", "1.8.1 does not know process.scheduler")
def test_scheduler_batch(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 5}
    sched = fields(output(rt, bundle, "sched"))
    assert (sched["policy"], sched["nice"]) == ("3", "5")


@pytest.mark.known("runc", "1.1.5 does not know process.scheduler")
@pytest.mark.known("crun", "1.8.1 does not know process.scheduler")
def test_scheduler_idle_with_reset_on_fork(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["scheduler"] = {"policy": "SCHED_IDLE", "flags": ["SCHED_FLAG_RESET_ON_FORK"]}
    sched = fields(output(rt, bundle, "sched"))
    assert (sched["policy"], sched["flags"]) == ("5", "1")


@pytest.mark.known("runc", "1.1.5 does not know process.scheduler")
@pytest.mark.known("crun", "1.8.1 does not know process.scheduler")
def test_scheduler_unknown_policy(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["scheduler"] = {"policy": "SCHED_NOSUCH"}
    rt.run(bundle).failed("SCHED_NOSUCH")


@pytest.mark.known("runc", "1.1.5 does not know process.ioPriority")
@pytest.mark.known("crun", "1.8.1 does not know process.ioPriority")
@pytest.mark.parametrize(("word", "number"), [("IOPRIO_CLASS_BE", "2"), ("IOPRIO_CLASS_IDLE", "3")])
def test_io_priority(rt: Runtime, bundle: Bundle, word: str, number: str) -> None:
    bundle.process["ioPriority"] = {"class": word, "priority": 3}
    value = fields(output(rt, bundle, "ioprio"))
    assert value["class"] == number
    if number == "2":
        assert value["level"] == "3"


@pytest.mark.known("runc", "1.1.5 does not know linux.personality")
def test_personality(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["personality"] = {"domain": "LINUX32"}
    assert output(rt, bundle, "personality").split()[0] == "0x8"
    bundle.linux["personality"] = {"domain": "LINUX"}
    assert output(rt, bundle, "personality").split()[0] == "0"


@pytest.mark.known("runc", "1.1.5 does not know the time namespace")
@pytest.mark.known("crun", "1.8.1 writes the offsets but fails on this kernel")
def test_time_offsets(rt: Runtime, bundle: Bundle) -> None:
    bundle.namespace("time")
    bundle.linux["timeOffsets"] = {
        "monotonic": {"secs": 100000, "nanosecs": 0},
        "boottime": {"secs": 200000},
    }
    clocks = fields(output(rt, bundle, "clocks"))
    assert int(clocks["monotonic"]) >= 100000
    assert int(clocks["boottime"]) >= 200000


# --- keyring


def test_session_keyring_is_new(rt: Runtime, bundle: Bundle) -> None:
    text = output(rt, bundle, "keyring")
    assert rt.containers[-1].id in text
    assert text.split()[0] != "0"


def test_no_new_keyring(rt: Runtime, bundle: Bundle) -> None:
    bundle.args("keyring")
    result = rt.run(bundle, "--no-new-keyring")
    assert rt.containers[-1].id not in result.out


# --- cwd


def test_cwd(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["cwd"] = "/tmp"
    assert output(rt, bundle, "cwd") == "/tmp\n"


def test_missing_cwd_is_made(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["cwd"] = "/new/folder"
    assert output(rt, bundle, "cwd") == "/new/folder\n"
    assert stat.S_IMODE((bundle.rootfs / "new/folder").stat().st_mode) == 0o755


@pytest.mark.known("crun", "accepts a relative cwd")
def test_relative_cwd_is_refused(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["cwd"] = "tmp"
    rt.run(bundle).failed(by_kind(rt, "process.cwd", runc="Cwd must be an absolute path"))


def test_cwd_that_is_a_file(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["cwd"] = "/init"
    rt.run(bundle).failed(by_kind(rt, "not a directory", crun="Not a directory"))


def test_cwd_only_the_user_may_enter(rt: Runtime, bundle: Bundle) -> None:
    home = bundle.rootfs / "home"
    home.mkdir(mode=0o700)
    os.chown(home, 1000, 1000)
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.process["cwd"] = "/home"
    assert output(rt, bundle, "cwd") == "/home\n"


# --- environment and look-up


def test_env_is_exactly_the_given_one(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["env"] = ["A=1", "B=two words", "EMPTY=", "HOME=/x"]
    lines = set(output(rt, bundle, "env").splitlines())
    assert lines == {"A=1", "B=two words", "EMPTY=", "HOME=/x"}


def test_home_from_passwd(rt: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "etc/passwd").write_text("r:x:0:0::/root:/sh\nu:x:1000:1000::/home/u:/sh\n")
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    assert output(rt, bundle, "env", "HOME") == "/home/u\n"


def test_home_without_passwd(rt: Runtime, bundle: Bundle) -> None:
    assert output(rt, bundle, "env", "HOME") == "/\n"


def test_home_given_wins(rt: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "etc/passwd").write_text("r:x:0:0::/root:/sh\n")
    bundle.process["env"].append("HOME=/mine")
    assert output(rt, bundle, "env", "HOME") == "/mine\n"


def test_program_is_found_in_the_containers_path(rt: Runtime, bundle: Bundle) -> None:
    bundle.install("opt/tools/tool")
    bundle.process["env"] = ["PATH=/nosuch:/opt/tools"]
    bundle.process["args"] = ["tool", "echo", "found"]
    assert rt.run(bundle).ok().out == "found\n"


def test_program_not_in_path(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["args"] = ["nosuch"]
    rt.try_create(bundle).result.failed("executable file", "not found in $PATH", code=1)


def test_program_not_executable(rt: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "data").write_text("data")
    bundle.process["args"] = ["/data"]
    rt.try_create(bundle).result.failed(
        by_kind(rt, "permission denied", crun="Permission denied"), code=1
    )


def test_program_is_a_directory(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["args"] = ["/tmp"]
    assert rt.try_create(bundle).result.code == 1


def test_relative_program_starts_from_cwd(rt: Runtime, bundle: Bundle) -> None:
    bundle.install("opt/tool")
    bundle.process["cwd"] = "/opt"
    bundle.process["args"] = ["./tool", "echo", "here"]
    assert rt.run(bundle).ok().out == "here\n"


def test_arguments_are_passed_unchanged(rt: Runtime, bundle: Bundle) -> None:
    words = ["", "a b", "$HOME", "ü", "\u2028", "x" * 10000]
    assert output(rt, bundle, "echo", *words) == " ".join(words) + "\n"


def test_wrong_format_of_the_program(rt: Runtime, bundle: Bundle) -> None:
    path = bundle.rootfs / "junk"
    path.write_bytes(b"\0\1\2\3" * 100)
    path.chmod(0o755)
    bundle.process["args"] = ["/junk"]
    rt.run(bundle).failed(by_kind(rt, "exec format error", crun="Exec format error"))


def test_hostname_and_domainname(rt: Runtime, bundle: Bundle) -> None:
    bundle.config["hostname"] = "some-host"
    if rt.kind != "runc":
        bundle.config["domainname"] = "example.org"
    names = fields(output(rt, bundle, "uname"))
    assert names["hostname"] == "some-host"
    if rt.kind != "runc":
        assert names["domainname"] == "example.org"

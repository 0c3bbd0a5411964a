"""What single verbs make of their arguments: exec's process, update's resources, ps's lines, events' interval."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_subtests import SubTests

from ociruntime import cli, cli_options, errors, lifecycle_exec
from ociruntime.commands import events, ps_table, update

OWN: dict[str, Any] = {
    "terminal": True,
    "consoleSize": {"height": 1, "width": 1},
    "user": {"uid": 1, "gid": 2, "additionalGids": [3]},
    "args": ["init"],
    "env": ["A=1"],
    "cwd": "/x",
    "capabilities": {"bounding": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": []},
    "noNewPrivileges": True,
}


def call(verb: str, *tokens: str) -> cli.Call:
    options, args = cli.parse(
        list(tokens),
        cli_options.table(cli_options.VERBS[verb]),
        in_order=verb in cli_options.IN_ORDER,
    )
    return cli.Call(verb, options, args, {})


def test_exec_takes_over_the_containers_process() -> None:
    process = lifecycle_exec.from_command_line(call("exec", "c", "ls", "-l"), OWN)
    assert process["args"] == ["ls", "-l"]
    assert process["terminal"] is False
    assert "consoleSize" not in process
    assert process["user"] == OWN["user"]
    assert (process["env"], process["cwd"], process["noNewPrivileges"]) == (["A=1"], "/x", True)
    assert OWN["args"] == ["init"], "the template was changed"


def test_exec_options() -> None:
    process = lifecycle_exec.from_command_line(
        call(
            *("exec", "-t", "--cwd", "/y", "-e", "A=2", "--env", "B=", "-u", "5:6", "-g", "7,8"),
            *("-g9", "--no-new-privs=false", "--apparmor", "p", "--process-label", "l", "c", "sh"),
        ),
        OWN,
    )
    assert process["terminal"] is True
    assert process["cwd"] == "/y"
    assert process["env"] == ["A=1", "A=2", "B="]
    assert process["user"] == {"uid": 5, "gid": 6, "additionalGids": [3, 7, 8, 9]}
    assert process["noNewPrivileges"] is False
    assert (process["apparmorProfile"], process["selinuxLabel"]) == ("p", "l")


def test_exec_cap_is_never_inheritable_or_ambient() -> None:
    """CVE-2022-29162."""
    added = lifecycle_exec.from_command_line(call("exec", "-c", "CAP_CHOWN", "c", "sh"), OWN)
    sets = added["capabilities"]
    assert sets["bounding"] == ["CAP_KILL", "CAP_CHOWN"]
    assert sets["effective"] == sets["permitted"] == ["CAP_CHOWN"]
    assert (sets["inheritable"], sets["ambient"]) == (["CAP_KILL"], [])
    assert OWN["capabilities"]["bounding"] == ["CAP_KILL"]


@pytest.mark.parametrize(
    "user",
    [
        "root",
        "1:root",
        "1:",
        ":1",
        "",
        "-1",
        "+1",
        "1 ",
        "0x10",
        "1.0",
        "4294967295",
        "1:4294967295",
    ]
    + ["99999999999999999999", "1:2:3", "٣", "1,2", "1:-2", "1_0"],
)
def test_exec_user_is_numbers(user: str) -> None:
    """CVE-2026-30892: nothing but digits is a user, and no typo is root."""
    if not user:
        assert (
            lifecycle_exec.from_command_line(call("exec", "-u", "", "c", "x"), OWN)["user"]
            == OWN["user"]
        )
        return
    with pytest.raises(errors.Error, match="invalid"):
        lifecycle_exec.from_command_line(call("exec", f"--user={user}", "c", "x"), OWN)


@pytest.mark.parametrize("gid", ["x", "-1", "4294967295", "1,,2", ","])
def test_exec_additional_gids_are_numbers(gid: str) -> None:
    with pytest.raises(errors.Error, match="invalid additional gid"):
        lifecycle_exec.from_command_line(call("exec", f"-g={gid}", "c", "x"), OWN)


@pytest.mark.parametrize("entry", ["A", "", "=1"])
def test_exec_env_needs_a_name(entry: str) -> None:
    with pytest.raises(errors.Error, match="invalid environment entry"):
        lifecycle_exec.from_command_line(call("exec", "-e", entry, "c", "x"), OWN)


def test_exec_cwd_is_absolute() -> None:
    with pytest.raises(errors.Error, match="absolute"):
        lifecycle_exec.from_command_line(call("exec", "--cwd", "x", "c", "x"), OWN)


SIZES = {
    "0": 0,
    "512": 512,
    "512b": 512,
    "1k": 1024,
    "1K": 1024,
    "1kb": 1024,
    "1KiB": 1024,
    "64m": 64 << 20,
    "1.5g": 3 << 29,
    "2 GB": 2 << 30,
    "1t": 1 << 40,
    "-1": -1,
}


def test_sizes(subtests: SubTests) -> None:
    for text, value in SIZES.items():
        with subtests.test(text):
            assert update.size(text) == value


@pytest.mark.parametrize("text", ["", "x", "-2", "1x", "k", "1.2.3", "1e3", "٣", "1kk", "--1"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(errors.Error, match="invalid size"):
        update.size(text)


def test_update_options() -> None:
    resources = update.from_options(
        call(
            *("update", "--blkio-weight=100", "--cpu-period=1", "--cpu-quota=-1", "--cpu-burst=2"),
            *("--cpu-share=3", "--cpu-rt-period=4", "--cpu-rt-runtime=5", "--cpu-idle=1"),
            *("--cpuset-cpus=0-1", "--cpuset-mems=0", "--memory=1m", "--memory-reservation=1k"),
            *("--memory-swap=-1", "--pids-limit=7", "--kernel-memory=1", "c"),
        )
    )
    cpu = {"period": 1, "quota": -1, "burst": 2, "shares": 3, "realtimePeriod": 4}
    cpu |= {"realtimeRuntime": 5, "idle": 1}
    assert resources == {
        "blockIO": {"weight": 100},
        "cpu": cpu | {"cpus": "0-1", "mems": "0"},
        "memory": {"limit": 1 << 20, "reservation": 1 << 10, "swap": -1},
        "pids": {"limit": 7},
    }
    assert update.from_options(call("update", "c")) == {}


def test_update_schemas() -> None:
    given = call("update", "--l3-cache-schema=L3:0=f", "--mem-bw-schema", "MB:0=10", "c")
    assert update.schemas(given) == {"l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=10"}
    assert update.schemas(call("update", "c")) == {}


PS = """\
UID          PID    PPID CMD
root          12       1 sleep 12
root         345      12 sh -c 12
root          34       1 x
"""


def test_ps_keeps_the_containers_lines() -> None:
    assert ps_table.select(PS, [12, 34]).splitlines() == [PS.splitlines()[i] for i in (0, 1, 3)]
    assert ps_table.select(PS, []) == PS.splitlines()[0] + "\n"


def test_ps_needs_a_pid_column() -> None:
    with pytest.raises(errors.Error, match="couldn't find PID field"):
        ps_table.select("COMMAND\nx\n", [1])


def test_intervals(subtests: SubTests) -> None:
    for text, seconds in {
        "5s": 5,
        "1m30s": 90,
        "500ms": 0.5,
        "1.5h": 5400,
        ".5s": 0.5,
        "10us": 1e-5,
    }.items():
        with subtests.test(text):
            assert events.duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "0s", "5x", "5s ", "1d", "٣s"])
def test_wrong_intervals(text: str) -> None:
    with pytest.raises(errors.Error, match="invalid interval"):
        events.duration(text)

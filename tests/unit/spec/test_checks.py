"""Every rule refuses what it names, at the right place, and nothing that engines send."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pytest_subtests import SubTests

from ociruntime import errors
from ociruntime.paths import clean
from ociruntime.spec import sysctl, validate
from ociruntime.spec.checks import is_semver
from ociruntime.spec.context import number_list, shown
from tests.unit.spec.cases import ACCEPTED, DATA, REFUSED, Change, changed


def problems_of(document: Any, strict: bool = False) -> list[errors.ConfigProblem]:
    with pytest.raises(errors.ConfigError) as caught:
        validate.load_config(json.dumps(document, indent=2).encode(), strict=strict)
    return caught.value.problems


def test_refused(subtests: SubTests) -> None:
    for case in REFUSED:
        with subtests.test(f"{case.rule}: {case.changes[-1]}"):
            found = problems_of(changed(*case.changes, base=case.base), case.strict)
            rules = {problem.rule for problem in found}  # type: ignore[attr-defined]
            assert rules == {case.rule}
            assert {problem.pointer for problem in found} == set(
                case.pointers or [case.changes[-1].pointer]
            )
            assert all(case.message in problem.message for problem in found)
            assert all(
                problem.message == problem.message.strip() and "\n" not in problem.message
                for problem in found
            )


def test_strict_only(subtests: SubTests) -> None:
    """What only ``strict`` refuses is accepted otherwise."""
    for case in REFUSED:
        if case.strict:
            with subtests.test(case.rule):
                validate.load_config(json.dumps(changed(*case.changes, base=case.base)).encode())


def test_accepted(subtests: SubTests) -> None:
    for case in ACCEPTED:
        with subtests.test(case.what):
            document = changed(*case.changes, base=case.base)
            assert validate.load_config(json.dumps(document).encode()) == document


def test_samples(subtests: SubTests) -> None:
    """The engines' configs, strictly too where they keep to the letter."""
    for path in sorted(DATA.glob("*.json")):
        with subtests.test(path.name):
            warnings: list[str] = []
            validate.load_config(
                path.read_bytes(), warn=warnings.append, strict="podman" not in path.name
            )
            assert warnings == []


def test_warnings() -> None:
    document = changed(
        Change("/process/capabilities/ambient/-", "kill"),
        Change("/mounts/-", {"destination": "v", "type": "tmpfs"}),
    )
    warnings: list[str] = []
    validate.load_config(json.dumps(document, indent=1).encode(), "c.json", warn=warnings.append)
    text = json.dumps(document, indent=1).splitlines()
    lines = [int(warning.split(":")[1]) for warning in warnings]
    assert [warning.split(": ", 1)[1] for warning in warnings] == [
        'process.capabilities.ambient[2]: unknown capability "kill", ignored',
        'mounts[3].destination: not an absolute path (got "v"), taken from /',
    ]
    assert '"kill"' in text[lines[0] - 1]
    assert '"destination": "v"' in text[lines[1] - 1]


def test_several_rules_at_once() -> None:
    found = problems_of(
        changed(
            Change("/process/cwd", "x"),
            Change("/linux/seccomp/syscalls/1/args/0/index", 9),
            Change("/ociVersion", "9.0.0"),
        )
    )
    assert [problem.pointer for problem in found] == [
        "/ociVersion",
        "/process/cwd",
        "/linux/seccomp/syscalls/1/args/0/index",
    ]
    assert found[0].line < found[1].line < found[2].line


def test_semver(subtests: SubTests) -> None:
    good = [
        "0.0.0",
        "1.2.3-alpha.1",
        "1.0.0-0A.is.legal",
        "1.0.0+001",
        "1.0.0--x",
        "10.20.30-rc.1+build.5",
        "1.0.0-a-b",
    ]
    bad = [
        "",
        "1",
        "1.2",
        "1.2.3.4",
        "01.2.3",
        "1.2.3-",
        "1.2.3-a..b",
        "1.2.3+",
        "1.2.3-1.01",
        " 1.2.3",
        "1.2.x",
        "1.2.３",
        "-1.2.3",
    ]
    for version in good + bad:
        with subtests.test(version):
            assert is_semver(version) == (version in good)


def test_sysctl_names(subtests: SubTests) -> None:
    table = {
        "net.core.somaxconn": ("net/core/somaxconn", "network"),
        "net/ipv4/conf/eth0.100/forwarding": ("net/ipv4/conf/eth0.100/forwarding", "network"),
        "net.ipv4.conf.eth0/100.forwarding": ("net/ipv4/conf/eth0.100/forwarding", "network"),
        "kernel.shmmax": ("kernel/shmmax", "ipc"),
        "kernel/msgmni": ("kernel/msgmni", "ipc"),
        "fs.mqueue.queues_max": ("fs/mqueue/queues_max", "ipc"),
        "kernel.domainname": ("kernel/domainname", "uts"),
        "user.max_user_namespaces": ("user/max_user_namespaces", "user"),
        "kernel.core_pattern": ("kernel/core_pattern", None),
        "netx.a": ("netx/a", None),
    }
    for name, (path, kind) in table.items():
        with subtests.test(name):
            assert sysctl.path_of(name) == path
            assert sysctl.namespace_of(path) == kind
    for name in ("", ".", "/net/x", "net//x", "net/../kernel", "net.x.", "a\nb", "a\0b", "a\\b"):
        with subtests.test(repr(name)), pytest.raises(ValueError, match="name"):
            sysctl.path_of(name)


def test_number_lists(subtests: SubTests) -> None:
    table: dict[str, list[tuple[int, int]] | None] = {
        "": [],
        "0": [(0, 0)],
        "0-3,7": [(0, 3), (7, 7)],
        " 1 , 2 - 4 ,": [(1, 1), (2, 4)],
        "3-1": None,
        "-1": None,
        "1-": None,
        "1-2-3": None,
        "1 2": None,
        "x": None,
        "²": None,
        "9999999999": None,
    }
    for text, ranges in table.items():
        with subtests.test(text):
            assert number_list(text) == ranges


def test_clean(subtests: SubTests) -> None:
    table = {
        "": "/",
        "/": "/",
        "a": "/a",
        "/../a": "/a",
        "/a/./b//c/..": "/a/b",
        "proc/../proc/x/": "/proc/x",
        "/..a/...": "/..a/...",
    }
    for path, cleaned in table.items():
        with subtests.test(path):
            assert clean(path) == cleaned


def test_shown() -> None:
    assert shown("a\nb") == '"a\\nb"'
    assert shown(["x" * 100]).endswith("...")
    assert len(shown(["x" * 100])) == 80

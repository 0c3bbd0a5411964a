"""What is said about a refused config."""

# ruff: noqa: E501 (tables of messages)

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from pytest_subtests import SubTests

from ociruntime import errors
from ociruntime.spec import explain, validate
from tests.unit.spec.cases import Change, changed, sample


def refused(document: Any, **options: Any) -> errors.ConfigError:
    with pytest.raises(errors.ConfigError) as caught:
        validate.load_config(json.dumps(document, indent=1).encode(), **options)
    return caught.value


def messages(document: Any) -> list[str]:
    """Each problem as a line, without file and line number."""
    return [
        validate.render(
            "c", errors.ConfigProblem(problem.pointer, problem.message, 0, problem.hint)
        )[3:]
        for problem in refused(document).problems
    ]


SAYINGS: dict[str, tuple[list[Change], list[str]]] = {
    "missing": (
        [Change("/root/path")],
        ["root.path: missing, expected its directory: absolute, or relative to the bundle"],
    ),
    "missing, with a slip": (
        [Change("/process/cwd"), Change("/process/Cwd", "/")],
        ['process.cwd: missing, expected its working directory, absolute, did you mean "cwd" by "Cwd"?'],
    ),
    "two missing": (
        [Change("/process/rlimits/0", {"type": "RLIMIT_CORE"}), Change("/process/rlimits/1")],
        [
            "process.rlimits[0].hard: missing, expected the ceiling of the soft limit",
            "process.rlimits[0].soft: missing, expected the limit in force",
        ],
    ),
    "string for integer": (
        [Change("/process/user/uid", "5")],
        ['process.user.uid: not an integer (got "5"), expected an integer from 0 to 4294967295: user id, write 5 without quotes'],
    ),
    "float for integer": (
        [Change("/process/oomScoreAdj", 5.0)],
        ["process.oomScoreAdj: not an integer (got 5.0), expected an integer from -1000 to 1000, written to /proc/self/oom_score_adj, write 5"],
    ),
    "boolean for integer": (
        [Change("/linux/resources/pids/limit", True)],
        ["linux.resources.pids.limit: not an integer (got true), expected an integer from -9223372036854775808 to 9223372036854775807: "
         "number of tasks, -1 for no limit"],
    ),
    "string for boolean": (
        [Change("/root/readonly", "true")],
        ['root.readonly: not a boolean (got "true"), expected a boolean: whether the container cannot write there, write true without quotes'],
    ),
    "number for string": (
        [Change("/linux/sysctl/net.core.somaxconn", 256)],
        ['linux.sysctl["net.core.somaxconn"]: not a string (got 256), expected a string, write "256" in quotes'],
    ),
    "string for array": (
        [Change("/mounts/1/options", "ro")],
        ['mounts[1].options: not an array (got "ro"), expected an array: mount options as in fstab(5), write ["ro"]'],
    ),
    "null": (
        [Change("/hooks", None)],
        ["hooks: not an object (got null), expected an object: programs run at points of the lifecycle, leave the property out instead"],
    ),
    "array for object": (
        [Change("/linux/resources", [])],
        ["linux.resources: not an object (got []), expected an object: cgroup limits"],
    ),
    "unknown word, near": (
        [Change("/linux/seccomp/syscalls/2/action", "SCMP_ACT_ALOW")],
        ['linux.seccomp.syscalls[2].action: unknown value (got "SCMP_ACT_ALOW"), expected one of SCMP_ACT_ALLOW, SCMP_ACT_ERRNO, '
         "SCMP_ACT_KILL, SCMP_ACT_KILL_PROCESS, SCMP_ACT_KILL_THREAD, SCMP_ACT_LOG, SCMP_ACT_NOTIFY, SCMP_ACT_TRACE, SCMP_ACT_TRAP, "
         'did you mean "SCMP_ACT_ALLOW"?'],
    ),
    "unknown word, far": (
        [Change("/linux/personality/domain", "BSD")],
        ['linux.personality.domain: unknown value (got "BSD"), expected one of LINUX, LINUX32'],
    ),
    "pattern": (
        [Change("/linux/resources/hugepageLimits/0/pageSize", "2mb")],
        ['linux.resources.hugepageLimits[0].pageSize: malformed (got "2mb"), expected a string: a size such as "2MB" or "1GB"'],
    ),
    "pattern and a last line feed": (
        [Change("/linux/resources/hugepageLimits/0/pageSize", "2MB\n")],
        ['linux.resources.hugepageLimits[0].pageSize: malformed (got "2MB\\n"), expected a string: a size such as "2MB" or "1GB"'],
    ),
    "too large": (
        [Change("/process/rlimits/0/hard", 2**64)],
        ["process.rlimits[0].hard: out of range (got 18446744073709551616), expected an integer from 0 to 18446744073709551615: "
         "the ceiling of the soft limit"],
    ),
    "too small": (
        [Change("/hooks/poststop/0/timeout", 0)],
        ["hooks.poststop[0].timeout: out of range (got 0), expected an integer: seconds after which it is stopped: an integer from 1"],
    ),
    "too short": (
        [Change("/linux/seccomp/syscalls/0/names", [])],
        ["linux.seccomp.syscalls[0].names: too short (got []), expected an array: names of system calls, at least one"],
    ),
    "a misspelt name beside another error": (
        [Change("/process/capabilities", {"bonding": []}), Change("/process/cwd", "x")],
        [
            'process.cwd: not an absolute path (got "x")',
            'process.capabilities.bonding: unknown property, ignored: did you mean "bounding"?',
        ],
    ),
    "an unknown name that resembles none": (
        [Change("/process/zzz", 1), Change("/process/cwd", "x")],
        ['process.cwd: not an absolute path (got "x")'],
    ),
    "the schema and the rules together, in the order of the text": (
        [
            Change("/mounts/1/options/0", 5),
            Change("/mounts/0/type", "tmpfs"),
            Change("/mounts/2/destination", "/proc/1"),
            Change("/linux/sysctl", {"a": "1", "b": 2, "c": "3"}),
        ],
        [
            '/proc must be a procfs (got type "tmpfs"), expected proc or a bind of one',
            'mounts[1].options[0]: not a string (got 5), expected a string, write "5" in quotes',
            'cannot be mounted because it is inside /proc (got "/proc/1")',
            'sysctl "a" is not in a separate kernel namespace',
            "linux.sysctl.b: not a string",
            'sysctl "c" is not in a separate kernel namespace',
        ],
    ),
    "rules behind a malformed element keep their place": (
        [Change("/mounts/0", 7), Change("/mounts/2/destination", "/proc/1")],
        ["mounts[0]: not an object (got 7)", "mounts[2].destination: cannot be mounted"],
    ),
    "no follow-up from a malformed namespace": (
        [Change("/linux/namespaces/3/type", "UTS")],
        ['linux.namespaces[3].type: unknown value (got "UTS"), expected one of pid, network, mount, ipc, uts, user, cgroup, time, did you mean "uts"?'],
    ),
    "no follow-up from a malformed user": (
        [Change("/process/user", 5)],
        ["process.user: not an object (got 5)"],
    ),
    "everything of the process, though it lacks a property": (
        [Change("/process/cwd"), Change("/process/args", []), Change("/process/env/0", "x")],
        ["process.cwd: missing", "process.env[0]: invalid environment variable", "process.args: args must not be empty"],
    ),
    "the root, though it lacks its path": (
        [Change("/root/path"), Change("/ociVersion", 1)],
        ["ociVersion: not a string (got 1)", "root.path: missing"],
    ),
}  # fmt: skip


def test_sayings(subtests: SubTests) -> None:
    for what, (changes, expected) in SAYINGS.items():
        with subtests.test(what):
            found = messages(changed(*changes))
            assert len(found) == len(expected), found
            for text, part in zip(found, expected, strict=True):
                assert part in text


def test_lines_and_the_first_message() -> None:
    document = changed(Change("/process/args", "sh"), Change("/linux/rootfsPropagation", "x"))
    text = json.dumps(document, indent=1).splitlines()
    error = refused(document, filename="/b/config.json")
    lines = [problem.line for problem in error.problems]
    assert '"args": "sh"' in text[lines[0] - 1]
    assert '"rootfsPropagation": "x"' in text[lines[1] - 1]
    assert str(error).startswith(f"/b/config.json:{lines[0]}: process.args: not an array")
    assert str(error).endswith("(and 1 more)")
    assert error.pointer == "/process/args"
    assert "\n" not in str(error)


def test_documents_that_are_no_objects(subtests: SubTests) -> None:
    documents: list[Any] = [[], None, 5, "x", True]
    for document in documents:
        with subtests.test(repr(document)):
            (problem,) = refused(document).problems
            assert problem.message.startswith("not an object")
            assert problem.message.endswith(
                "config.json of a bundle, OCI runtime specification 1.3"
            )
            assert problem.pointer == ""
            assert problem.hint is None  # it is no property that could be left out


def test_malformed_json_is_one_problem() -> None:
    with pytest.raises(
        errors.ConfigError, match=r"^c\.json:2: not valid JSON: expected a name in double quotes"
    ) as caught:
        validate.load_config(b'{"ociVersion": "1.0.0",\n}', "c.json")
    assert [problem.line for problem in caught.value.problems] == [2]


def test_core_phase_asks_for_the_full_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where explain cannot be imported, a refused config is nothing that is decided there."""
    monkeypatch.setitem(sys.modules, "ociruntime.spec.explain", None)
    monkeypatch.delattr("ociruntime.spec.explain", raising=False)
    good = json.dumps(sample()).encode()
    assert validate.load_config(good) == sample()
    for change in (Change("/process/cwd", "x"), Change("/process/cwd", 5)):
        with pytest.raises(errors.NeedFullPython):
            validate.load_config(json.dumps(changed(change)).encode())
    with pytest.raises(errors.NeedFullPython):
        validate.load_process(b'{"cwd": "/"}')


def test_stale_compiled_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ociruntime.spec._validator.validate_config", lambda _: False)
    with pytest.raises(errors.Error, match="build ociruntime again"):
        validate.load_config(json.dumps(sample()).encode())


def test_bare_process(subtests: SubTests) -> None:
    good = sample()["process"]
    assert validate.load_process(json.dumps(good).encode()) == good
    table: list[tuple[Change, str, str]] = [
        (Change("/cwd", "x"), "/cwd", "process.json:1: cwd: not an absolute path"),
        (Change("/args"), "/args", "process.json:1: args: args must not be empty"),
        (Change("/user/uid", -1), "/user/uid", "process.json:1: user.uid: out of range (got -1)"),
        (Change("/env/0", 5), "/env/0", "process.json:1: env[0]: not a string (got 5)"),
    ]
    for change, pointer, message in table:
        with subtests.test(pointer), pytest.raises(errors.ConfigError) as caught:
            document = json.loads(json.dumps(good))
            change.apply(document)
            validate.load_process(json.dumps(document).encode())
        assert caught.value.pointer == pointer
        assert str(caught.value).startswith(message)


def test_bare_process_of_docker() -> None:
    """consoleSize of zeros, no HOME, nothing but what docker exec sends."""
    process = {
        "terminal": True,
        "consoleSize": {"height": 0, "width": 0},
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": ["A=b"],
        "cwd": "/",
        "capabilities": {"bounding": ["CAP_KILL"]},
        "oomScoreAdj": 0,
    }
    assert validate.load_process(json.dumps(process).encode()) == process


def test_bare_resources(subtests: SubTests) -> None:
    for text in (
        b"{}",
        b'{"devices": [{"allow": false, "access": "rwm"}]}',
        b'{"memory": {"limit": 0}, "blockIO": {"weight": 0}}',
    ):
        with subtests.test(text.decode()):
            assert validate.load_resources(text) == json.loads(text)
    for text, message in (
        (b'{"memory": {"limit": "1"}}', "resources:1: memory.limit: not an integer"),
        (b'{"rdma": {"x": {}}}', "resources:1: rdma.x: expected hcaHandles"),
    ):
        with subtests.test(text.decode()), pytest.raises(errors.ConfigError) as caught:
            validate.load_resources(text)
        assert str(caught.value).startswith(message)


def test_unknown_properties() -> None:
    document = changed(
        Change("/proces", {}),
        Change("/linux/seccomp/syscalls/0/name", "x"),
        Change("/linux/sysctl/anything", 1),
        Change("/hooks/preStart", []),
        Change("/x", {"z": 1}),
    )
    del document["process"]
    del document["hooks"]["prestart"]
    assert dict(explain.unknown_properties(document)) == {
        "/proces": "process",
        "/x": None,
        "/linux/seccomp/syscalls/0/name": None,
        "/hooks/preStart": "prestart",
    }
    assert explain.unknown_properties(sample()) == []


def test_explain_by_itself() -> None:
    assert explain.explain(json.dumps(sample()).encode()) == []
    assert len(explain.explain(b"{}")) == 2  # ociVersion by the schema, root by a rule

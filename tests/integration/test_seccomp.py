"""Seccomp: each action, operator and flag, the notify listener, and profiles as engines send."""

from __future__ import annotations

import array
import fcntl
import json
import os
import platform
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance.kit import PATIENCE
from tests.integration.harness import Bundle, Runtime, fields

pytestmark = pytest.mark.root
MakeBundle = Callable[[], Bundle]

# The number of getpriority, harmless and unused by anything else here.
GETPRIORITY = {"x86_64": 140, "aarch64": 141}[platform.machine()]
ARCHITECTURE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}[platform.machine()]


def profile(*rules: dict[str, Any], default: str = "SCMP_ACT_ALLOW", **more: Any) -> dict[str, Any]:
    return {
        "defaultAction": default,
        "architectures": [ARCHITECTURE],
        "syscalls": list(rules),
        **more,
    }


def rule(action: str, name: str = "getpriority", **more: Any) -> dict[str, Any]:
    return {"names": [name], "action": f"SCMP_ACT_{action}", **more}


def call(rt: Runtime, bundle: Bundle, *args: int) -> str:
    """What getpriority(args) ends with under the bundle's profile: "= N", an errno, "killed N"."""
    words = ["spawn", "syscall", str(GETPRIORITY), *map(str, args)]
    return rt.run(bundle.args(*words)).out.strip()


def test_no_filter_without_a_profile(rt: Runtime, bundle: Bundle) -> None:
    assert fields(rt.run(bundle.args("flags")).ok().out)["seccomp"] == "0"


def test_filter_mode_with_a_profile(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["seccomp"] = profile()
    assert fields(rt.run(bundle.args("flags")).ok().out)["seccomp"] in ("0", "2")
    bundle.linux["seccomp"] = profile(rule("ERRNO"))
    assert fields(rt.run(bundle.args("flags")).ok().out)["seccomp"] == "2"


@pytest.mark.parametrize(
    ("action", "more", "outcome"),
    [
        ("ERRNO", {}, "EPERM"),
        ("ERRNO", {"errnoRet": 38}, "ENOSYS"),
        ("ERRNO", {"errnoRet": 0}, "= 0"),
        ("ALLOW", {}, "= 20"),
        ("LOG", {}, "= 20"),
        ("TRACE", {}, "ENOSYS"),
        ("KILL", {}, "killed 31"),
        ("KILL_THREAD", {}, "killed 31"),
        ("KILL_PROCESS", {}, "killed 31"),
        ("TRAP", {}, "killed 31"),
    ],
)
def test_action(
    rt: Runtime, bundle: Bundle, action: str, more: dict[str, Any], outcome: str
) -> None:
    bundle.linux["seccomp"] = profile(rule(action, **more))
    assert call(rt, bundle) == outcome


@pytest.mark.parametrize(
    ("operator", "value", "two", "hits"),
    [
        ("EQ", 5, 0, {5}),
        ("NE", 5, 0, {4, 6}),
        ("LT", 5, 0, {4}),
        ("LE", 5, 0, {4, 5}),
        ("GT", 5, 0, {6}),
        ("GE", 5, 0, {5, 6}),
        ("MASKED_EQ", 4, 4, {4, 5, 6}),
        ("MASKED_EQ", 3, 1, {5}),
    ],
)
def test_operator(
    rt: Runtime, bundle: Bundle, operator: str, value: int, two: int, hits: set[int]
) -> None:
    argument = {"index": 1, "value": value, "valueTwo": two, "op": f"SCMP_CMP_{operator}"}
    bundle.linux["seccomp"] = profile(rule("ERRNO", errnoRet=99, args=[argument]))
    words: list[str] = []
    for number in (4, 5, 6):
        words += ["syscall", str(GETPRIORITY), "0", str(number), ";"]
    lines = rt.run(bundle.args(*words)).ok().lines
    hit = {n for n, line in zip((4, 5, 6), lines, strict=True) if line == "EADDRNOTAVAIL"}
    assert hit == hits


def test_two_conditions_on_one_argument_are_alternatives(rt: Runtime, bundle: Bundle) -> None:
    arguments = [{"index": 1, "value": v, "op": "SCMP_CMP_EQ"} for v in (4, 6)]
    bundle.linux["seccomp"] = profile(rule("ERRNO", errnoRet=99, args=arguments))
    assert [call(rt, bundle, 0, n) == "EADDRNOTAVAIL" for n in (4, 5, 6)] == [True, False, True]


def test_conditions_on_different_arguments_are_all_needed(rt: Runtime, bundle: Bundle) -> None:
    arguments = [{"index": i, "value": v, "op": "SCMP_CMP_EQ"} for i, v in ((1, 4), (2, 9))]
    bundle.linux["seccomp"] = profile(rule("ERRNO", errnoRet=99, args=arguments))
    assert call(rt, bundle, 0, 4, 9) == "EADDRNOTAVAIL"
    assert call(rt, bundle, 0, 4, 8) != "EADDRNOTAVAIL"


def allow_list(*refused: str) -> list[str]:
    """Every name of Docker's default profile but these."""
    path = Path(__file__).parent.parent / "data" / "docker-default.json"
    document = json.loads(path.read_text())["linux"]["seccomp"]
    names: set[str] = set()
    for entry in document["syscalls"]:
        if entry["action"] == "SCMP_ACT_ALLOW" and not entry.get("args"):
            names.update(entry["names"])
    return sorted(names - set(refused))


@pytest.mark.parametrize(("code", "outcome"), [(None, "EPERM"), (38, "ENOSYS"), (1, "EPERM")])
def test_default_errno(rt: Runtime, bundle: Bundle, code: int | None, outcome: str) -> None:
    rules = {"names": allow_list("getpriority"), "action": "SCMP_ACT_ALLOW"}
    more = {} if code is None else {"defaultErrnoRet": code}
    bundle.linux["seccomp"] = profile(rules, default="SCMP_ACT_ERRNO", **more)
    result = rt.run(bundle.args("syscall", str(GETPRIORITY)))
    assert result.out.strip() == outcome


def test_unknown_names_are_skipped(rt: Runtime, bundle: Bundle) -> None:
    entry = {"names": ["no_such_call", "getpriority"], "action": "SCMP_ACT_ERRNO"}
    bundle.linux["seccomp"] = profile(entry)
    assert call(rt, bundle) == "EPERM"


def test_calls_newer_than_the_profile_get_enosys(rt: Runtime, bundle: Bundle) -> None:
    """So that glibc falls back (runc's stub; crun has none)."""
    rules = {"names": allow_list(), "action": "SCMP_ACT_ALLOW"}
    bundle.linux["seccomp"] = profile(rules, default="SCMP_ACT_ERRNO", defaultErrnoRet=1)
    out = rt.run(bundle.args("syscall", "600")).ok().out.strip()
    assert out == ("EPERM" if rt.kind == "crun" else "ENOSYS")


RUNC_FLAGS = pytest.mark.known("runc", "1.1.5: seccomp flags are not yet supported")


@pytest.mark.parametrize(
    "flags",
    [
        *(
            pytest.param([f"SECCOMP_FILTER_FLAG_{w}" for w in words.split()], marks=RUNC_FLAGS)
            for words in ("LOG", "SPEC_ALLOW", "TSYNC", "TSYNC LOG")
        ),
        [],
    ],
)
def test_flags(rt: Runtime, bundle: Bundle, flags: list[str]) -> None:
    bundle.linux["seccomp"] = profile(rule("ERRNO"), flags=flags)
    assert call(rt, bundle) == "EPERM"


def test_unknown_flag(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["seccomp"] = profile(rule("ERRNO"), flags=["SECCOMP_FILTER_FLAG_NOSUCH"])
    rt.try_create(bundle).result.failed("" if rt.kind == "runc" else "NOSUCH")


@pytest.mark.parametrize("privileged", [True, False])
def test_with_and_without_no_new_privileges(rt: Runtime, bundle: Bundle, privileged: bool) -> None:
    """Without it the filter must be loaded before CAP_SYS_ADMIN is given up."""
    bundle.process["noNewPrivileges"] = not privileged
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.linux["seccomp"] = profile(rule("ERRNO"))
    assert call(rt, bundle) == "EPERM"


def test_calls_that_the_runtime_itself_needs(rt: Runtime, bundle: Bundle) -> None:
    """The filter comes last: denying set-up calls must not break the set-up."""
    names = ["mount", "pivot_root", "capset", "setgroups", "prctl", "umount2", "setresuid"]
    names += ["sethostname", "unshare", "setns", "keyctl", "mknodat"]
    bundle.linux["seccomp"] = profile({"names": names, "action": "SCMP_ACT_ERRNO"})
    bundle.process["noNewPrivileges"] = True
    rt.run(bundle.args("echo", "fine")).ok()


@pytest.mark.parametrize(
    "change",
    [
        {"defaultAction": "SCMP_ACT_NOSUCH"},
        {"syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOSUCH"}]},
        {"architectures": ["SCMP_ARCH_NOSUCH"]},
        {"syscalls": [rule("ERRNO", args=[{"index": 0, "value": 1, "op": "SCMP_CMP_NOSUCH"}])]},
    ],
)
def test_unknown_words(rt: Runtime, bundle: Bundle, change: dict[str, Any]) -> None:
    bundle.linux["seccomp"] = {**profile(), **change}
    rt.try_create(bundle).result.failed("NOSUCH" if rt.kind == "ociruntime" else "")


# --- rules that runc 1.1.5 and crun 1.8.1 do not check

STRICT = [
    ({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}, {"runc"}),
    ({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}, {"runc", "crun"}),
    ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("ALLOW", errnoRet=1)]}, {"runc"}),
    ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("NOTIFY")]}, {"crun"}),
    ({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x"}, {"crun"}),
]


@pytest.mark.parametrize(("seccomp", "lax"), STRICT)
def test_contradictions(
    rt: Runtime, bundle: Bundle, seccomp: dict[str, Any], lax: set[str]
) -> None:
    bundle.linux["seccomp"] = seccomp
    result = rt.try_create(bundle.args("sleep")).result
    if rt.kind in lax:
        assert result.code == 0 or "/x" in result.err
    else:
        assert result.code != 0


# --- notify


class Listener:
    """A seccomp agent: takes the notify descriptor and answers every call with a value."""

    RECV, SEND = 0xC0502100, 0xC0182101

    def __init__(self, path: Path, *, anew: bool = False) -> None:
        """``anew``: in the place of another one."""
        self.server = socket.socket(socket.AF_UNIX)
        if anew:
            path.unlink()
        self.server.bind(str(path))
        self.server.listen()
        self.server.settimeout(15 * PATIENCE)
        self.state: dict[str, Any] = {}
        self.count = 0
        self.closed_after = False
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        connection, _ = self.server.accept()
        with connection:
            connection.settimeout(10 * PATIENCE)
            data, control, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(16))
            fds = array.array("i")
            for _, _, payload in control:
                fds.frombytes(payload)
            while True:
                more = connection.recv(65536)
                if not more:
                    self.closed_after = True
                    break
                data += more
        self.state = json.loads(data)
        fd = fds[0]
        # Before Linux 6.11 RECV goes on waiting when nobody uses the filter any more: only poll(2) tells.
        waiter = select.poll()
        waiter.register(fd, select.POLLIN)
        try:
            while not waiter.poll()[0][1] & select.POLLHUP:
                request = bytearray(80)
                fcntl.ioctl(fd, self.RECV, request)
                (identity,) = struct.unpack_from("Q", request)
                self.count += 1
                fcntl.ioctl(fd, self.SEND, struct.pack("QqiI", identity, 4242, 0, 0))
        except OSError:
            pass
        finally:
            os.close(fd)

    def close(self) -> None:
        self.server.close()


@pytest.fixture
def listener(rt: Runtime, bundle: Bundle) -> Iterator[Listener]:
    path = bundle.path / "agent.sock"
    agent = Listener(path)
    bundle.linux["seccomp"] = profile(
        rule("NOTIFY"), listenerPath=str(path), listenerMetadata="some data"
    )
    yield agent
    agent.close()
    rt.clean()
    agent.thread.join(5 * PATIENCE)


def test_notify(rt: Runtime, bundle: Bundle, listener: Listener) -> None:
    bundle.args("syscall", str(GETPRIORITY), ";", "sleep")
    container = rt.create(bundle)
    container.start()
    container.wait_out("= 4242")
    state = listener.state
    assert listener.closed_after
    assert state["fds"] == ["seccompFd"]
    assert state["metadata"] == "some data"
    assert state["pid"] == container.pid
    assert state["state"]["id"] == container.id
    assert state["state"]["status"] in ("creating", "created")
    assert state["state"]["bundle"] == str(bundle.path)
    assert listener.count == 1


def test_notify_of_calls_that_init_makes(rt: Runtime, bundle: Bundle, listener: Listener) -> None:
    """close and sendmsg come between loading the filter and exec in some runtimes."""
    bundle.linux["seccomp"]["syscalls"] = [rule("NOTIFY", "getpriority"), rule("NOTIFY", "mkdirat")]
    container = rt.create(bundle.args("syscall", str(GETPRIORITY), ";", "sleep")).start()
    container.wait_out("= 4242")


def test_notify_of_exec(rt: Runtime, bundle: Bundle, listener: Listener) -> None:
    """A process of exec is the container's as well: its calls wait for the same agent (config-linux.md "seccomp")."""
    if rt.kind != "ociruntime":
        pytest.skip("with 1.1.5 and 1.8.1 the call of exec waits for ever: the agent is not told")
    container = rt.create(bundle.args("syscall", str(GETPRIORITY), ";", "sleep")).start()
    container.wait_out("= 4242")
    agent = Listener(bundle.path / "agent.sock", anew=True)
    pid_file = bundle.path / "exec.pid"
    try:
        flags = ["--detach", "--pid-file", str(pid_file)]
        container.exec("syscall", str(GETPRIORITY), flags=flags).ok()
        agent.thread.join(5 * PATIENCE)  # until the process has ended
    finally:
        agent.close()
    assert not agent.thread.is_alive()
    assert (agent.count, listener.count) == (1, 1)
    assert agent.state["fds"] == ["seccompFd"]
    assert agent.state["metadata"] == "some data"
    assert agent.state["pid"] == int(pid_file.read_text())
    assert agent.state["state"]["pid"] == container.pid
    assert agent.state["state"]["status"] == "running"


def test_notify_without_a_listener_there(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["seccomp"] = profile(rule("NOTIFY"), listenerPath="/no/such/socket")
    container = rt.try_create(bundle)
    result = container.result
    if result.code == 0:
        # The filter is loaded as late as it can be: it may be `start` that finds out.
        result = container.verb("start")
    result.failed("/no/such/socket" if rt.kind != "crun" else "")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("refusing", "connection refused"),
        ("file", "connection refused"),
        ("datagram", "protocol wrong type for socket"),
    ],
)
def test_notify_to_what_is_no_listener(rt: Runtime, bundle: Bundle, kind: str, text: str) -> None:
    path = bundle.path / "agent.sock"
    server = socket.socket(
        socket.AF_UNIX, socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM
    )
    with server:
        if kind == "file":
            path.touch()
        else:
            server.bind(str(path))
        bundle.linux["seccomp"] = profile(rule("NOTIFY"), listenerPath=str(path))
        container = rt.try_create(bundle.args("sleep"))
        result = container.result if container.result.code else container.verb("start")
        result.failed()
        if rt.kind == "ociruntime":
            result.failed("linux.seccomp.listenerPath", str(path), text)


def test_notify_ends_when_the_container_does(
    rt: Runtime, bundle: Bundle, listener: Listener
) -> None:
    container = rt.create(bundle.args("sleep")).start()
    container.delete("--force").ok()
    listener.thread.join(10 * PATIENCE)
    assert not listener.thread.is_alive()


# --- the cache


def test_profiles_that_differ_only_in_errno_are_not_mixed_up(
    rt: Runtime, make_bundle: MakeBundle
) -> None:
    """crun's cache key once left errnoRet out."""
    outcomes = []
    for code in (1, 38, 99, 1):
        bundle = make_bundle()
        bundle.linux["seccomp"] = profile(rule("ERRNO", errnoRet=code))
        outcomes.append(call(rt, bundle))
    assert outcomes == ["EPERM", "ENOSYS", "EADDRNOTAVAIL", "EPERM"]


def test_a_broken_cache_is_no_harm(rt: Runtime, make_bundle: MakeBundle) -> None:
    """Truncated or foreign files in the cache must never become a filter."""
    first = make_bundle()
    first.linux["seccomp"] = profile(rule("ERRNO", errnoRet=38))
    assert call(rt, first) == "ENOSYS"
    # names with a dot are no containers
    caches = [p for top in rt.root.glob(".*") for p in top.rglob("*") if p.is_file()]
    for data in (b"", b"junk", os.urandom(64)):
        for path in caches:
            path.chmod(0o600)
            path.write_bytes(data)
        again = make_bundle()
        again.linux["seccomp"] = first.linux["seccomp"]
        assert call(rt, again) == "ENOSYS"


def test_docker_default_profile(rt: Runtime, bundle: Bundle) -> None:
    path = Path(__file__).parent.parent / "data" / "docker-default.json"
    bundle.linux["seccomp"] = json.loads(path.read_text())["linux"]["seccomp"]
    bundle.process["noNewPrivileges"] = True
    # A process of the container may not make a user namespace.
    clone_newuser = 0x10000000
    unshare = {"x86_64": 272, "aarch64": 97}[platform.machine()]
    out = rt.run(bundle.args("syscall", str(unshare), str(clone_newuser))).ok().out
    assert out.strip() == "EPERM"

"""Seccomp filters, judged three ways: by a model of the profile, by interpreting the BPF, by the kernel in a child."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import classic_bpf as bpf
import pytest
from pytest_subtests import SubTests

from ociruntime import errors
from ociruntime.host import libseccomp, seccomp

pytestmark = pytest.mark.usefixtures("native")

DATA = Path(__file__).resolve().parents[2] / "data"
X86_64, X86, X32, AARCH64 = 0xC000003E, 0x40000003, 0x4000003E, 0xC00000B7
# The direct forms of socketcall(2) and ipc(2), which libseccomp does not resolve by name.
X86_MULTIPLEXED = {337, 345, *range(359, 374), *range(393, 403)}
OWN = {"x86_64": X86_64, "aarch64": AARCH64}.get(platform.machine(), 0)
ALLOW, EPERM_RET, ENOSYS_RET = 0x7FFF0000, 0x00050001, 0x00050000 | errno.ENOSYS


def compile_profile(profile: dict[str, Any]) -> bytes:
    from ociruntime.host import seccomp_compile

    return seccomp_compile.compile_profile(profile)


def resolve(name: str, arch: int = 0) -> int:
    from ociruntime.host import native

    return native.seccomp_resolve(arch, name)


def profile(default: str, *rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"defaultAction": default, "syscalls": list(rules), **more}


def rule(action: str, *names: str, **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": action, **more}


def docker_profile() -> dict[str, Any]:
    config = json.loads((DATA / "docker-default.json").read_text())
    loaded: dict[str, Any] = config["linux"]["seccomp"]
    return loaded


# -- what the filter says --------------------------------------------------------------------------


def test_every_action(subtests: SubTests) -> None:
    expected = {
        "SCMP_ACT_KILL": 0,
        "SCMP_ACT_KILL_THREAD": 0,
        "SCMP_ACT_KILL_PROCESS": 0x80000000,
        "SCMP_ACT_TRAP": 0x00030000,
        "SCMP_ACT_ERRNO": EPERM_RET,
        "SCMP_ACT_TRACE": 0x7FF00001,
        "SCMP_ACT_LOG": 0x7FFC0000,
        "SCMP_ACT_NOTIFY": 0x7FC00000,
    }
    for action, value in expected.items():
        with subtests.test(action):
            code = compile_profile(profile("SCMP_ACT_ALLOW", rule(action, "mkdirat")))
            assert bpf.run(code, OWN, resolve("mkdirat")) == value
            assert bpf.run(code, OWN, resolve("read")) == ALLOW
            if action != "SCMP_ACT_NOTIFY":
                code = compile_profile(profile(action, rule("SCMP_ACT_ALLOW", "mkdirat", "write")))
                assert bpf.run(code, OWN, resolve("mkdirat")) == ALLOW
                assert bpf.run(code, OWN, resolve("read")) == value


def test_every_operator(subtests: SubTests) -> None:
    big = 0x1_0000_0007
    samples = [0, 1, 6, 7, 8, 0xFFFFFFFF, 0x1_0000_0000, big - 1, big, big + 1, (1 << 64) - 1]
    operators: dict[str, Callable[[int, int, int], bool]] = {
        "SCMP_CMP_NE": lambda x, a, b: x != a,
        "SCMP_CMP_LT": lambda x, a, b: x < a,
        "SCMP_CMP_LE": lambda x, a, b: x <= a,
        "SCMP_CMP_EQ": lambda x, a, b: x == a,
        "SCMP_CMP_GE": lambda x, a, b: x >= a,
        "SCMP_CMP_GT": lambda x, a, b: x > a,
        "SCMP_CMP_MASKED_EQ": lambda x, a, b: x & a == b,
    }
    for word, holds in operators.items():
        for index in range(6):
            for value, second in ((7, 3), (big, 0x1_0000_0001)):
                with subtests.test(f"{word} argument {index} {value:#x}"):
                    argument = {"index": index, "value": value, "valueTwo": second, "op": word}
                    code = compile_profile(
                        profile(
                            "SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO", "mkdirat", args=[argument])
                        )
                    )
                    for sample in samples:
                        args = [0] * 6
                        args[index] = sample
                        got = bpf.run(code, OWN, resolve("mkdirat"), args)
                        want = EPERM_RET if holds(sample, value, second) else ALLOW
                        assert got == want, hex(sample)


def arg(index: int, value: int, op: str = "SCMP_CMP_EQ") -> dict[str, Any]:
    return {"index": index, "value": value, "op": op}


def test_conditions_on_different_arguments_must_all_hold() -> None:
    code = compile_profile(
        profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO", "socket", args=[arg(0, 16), arg(2, 9)]))
    )
    number = resolve("socket")
    assert bpf.run(code, OWN, number, [16, 0, 9]) == EPERM_RET
    assert bpf.run(code, OWN, number, [16, 0, 8]) == ALLOW
    assert bpf.run(code, OWN, number, [15, 0, 9]) == ALLOW


def test_conditions_on_one_argument_are_alternatives() -> None:
    code = compile_profile(
        profile(
            "SCMP_ACT_ALLOW",
            rule("SCMP_ACT_ERRNO", "socket", args=[arg(0, 1), arg(0, 2), arg(1, 7)]),
        )
    )
    number = resolve("socket")
    hits = [
        (a, b) for a in range(4) for b in (0, 7) if bpf.run(code, OWN, number, [a, b]) == EPERM_RET
    ]
    assert hits == [(0, 7), (1, 0), (1, 7), (2, 0), (2, 7), (3, 7)]


def test_errno_values() -> None:
    code = compile_profile(
        profile(
            "SCMP_ACT_ERRNO",
            rule("SCMP_ACT_ALLOW", "write"),
            rule("SCMP_ACT_ERRNO", "mkdirat", errnoRet=22),
            rule("SCMP_ACT_ERRNO", "read", errnoRet=0),
            rule("SCMP_ACT_TRACE", "openat", errnoRet=77),
            defaultErrnoRet=38,
        )
    )
    assert bpf.run(code, OWN, resolve("mkdirat")) == 0x00050000 | 22
    assert bpf.run(code, OWN, resolve("read")) == 0x00050000
    assert bpf.run(code, OWN, resolve("openat")) == 0x7FF00000 | 77
    assert bpf.run(code, OWN, resolve("chdir")) == 0x00050000 | 38
    assert bpf.run(code, OWN, resolve("write")) == ALLOW


def test_rules_that_say_what_the_default_says_are_left_out() -> None:
    plain = compile_profile(profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO", "mkdirat")))
    more = compile_profile(
        profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO", "mkdirat"), rule("SCMP_ACT_ALLOW", "read"))
    )
    assert plain == more


def test_unknown_names_are_skipped() -> None:
    plain = compile_profile(profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO", "mkdirat")))
    more = compile_profile(
        profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO", "mkdirat", "frobnicate"))
    )
    assert plain == more


@pytest.mark.skipif(OWN != X86_64, reason="the architectures of x86-64")
def test_architectures() -> None:
    words = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_X86"]
    code = compile_profile(
        profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO", "mkdirat"), architectures=words)
    )
    for arch, audit in ((X86_64, X86_64), (X86, X86), (X32, X86_64)):
        assert bpf.run(code, audit, resolve("mkdirat", arch)) == EPERM_RET
        assert bpf.run(code, audit, resolve("read", arch)) == ALLOW
    only_own = compile_profile(profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO", "mkdirat")))
    assert bpf.run(only_own, X86, resolve("read", X86)) == 0
    assert bpf.run(only_own, X86_64, resolve("read", X32)) == 0


@pytest.mark.skipif(OWN != X86_64, reason="the architectures of x86-64")
def test_foreign_architectures_are_compiled_in() -> None:
    words = ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_RISCV64", "SCMP_ARCH_MIPSEL64"]
    code = compile_profile(
        profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO", "mkdirat"), architectures=words)
    )
    assert bpf.run(code, AARCH64, resolve("mkdirat", AARCH64)) == EPERM_RET
    assert bpf.run(code, AARCH64, resolve("read", AARCH64)) == ALLOW


def test_docker_profile_over_all_calls() -> None:
    """The whole profile, every number of every architecture, against a plain reading of it."""
    loaded = docker_profile()
    code = compile_profile(loaded)
    unconditional = {
        name
        for entry in loaded["syscalls"]
        if not entry.get("args")
        for name in entry["names"]
        if entry["action"] == "SCMP_ACT_ALLOW"
    }
    named = {name for entry in loaded["syscalls"] for name in entry["names"]}
    architectures = [(X86_64, X86_64), (X86, X86), (X32, X86_64)] if OWN == X86_64 else [(OWN, OWN)]
    for arch, audit in architectures:
        allowed = {resolve(name, arch) for name in unconditional}
        conditional = {resolve(name, arch) for name in named} - allowed
        base, oldest = (0x40000000, 547) if arch == X32 else (0, 402)
        highest = max(*allowed, *conditional, base + oldest)
        for number in range(base, base + 600):
            if number in conditional or (arch == X86 and number in X86_MULTIPLEXED):
                continue
            want = ALLOW if number in allowed else EPERM_RET
            if number > highest:
                want = ENOSYS_RET
            assert bpf.run(code, audit, number) == want, (hex(arch), number)
    personality = resolve("personality")
    for value, want in ((0, ALLOW), (8, ALLOW), (0xFFFFFFFF, ALLOW), (1, EPERM_RET)):
        assert bpf.run(code, OWN, personality, [value]) == want


# -- calls that are newer than the profile ---------------------------------------------------------


def test_enosys_only_where_the_default_hides_it(subtests: SubTests) -> None:
    old = rule("SCMP_ACT_ALLOW", "read", "write", "exit_group")
    cases = {
        "SCMP_ACT_ERRNO": ENOSYS_RET,
        "SCMP_ACT_KILL": ENOSYS_RET,
        "SCMP_ACT_KILL_PROCESS": ENOSYS_RET,
        "SCMP_ACT_TRAP": ENOSYS_RET,
        "SCMP_ACT_TRACE": 0x7FF00001,
        "SCMP_ACT_LOG": 0x7FFC0000,
    }
    for default, want in cases.items():
        with subtests.test(default):
            code = compile_profile(profile(default, old))
            assert bpf.run(code, OWN, resolve("exit_group")) == ALLOW
            assert bpf.run(code, OWN, 403) == want
            assert bpf.run(code, OWN, 0x3FFFFFFF) == want


def test_old_calls_get_the_default_action() -> None:
    code = compile_profile(profile("SCMP_ACT_ERRNO", rule("SCMP_ACT_ALLOW", "read", "write")))
    assert bpf.run(code, OWN, resolve("getrandom")) == EPERM_RET
    newer = compile_profile(profile("SCMP_ACT_ERRNO", rule("SCMP_ACT_ALLOW", "openat2")))
    assert bpf.run(newer, OWN, resolve("openat2")) == ALLOW
    assert bpf.run(newer, OWN, resolve("openat2") - 1) == EPERM_RET
    assert bpf.run(newer, OWN, resolve("openat2") + 1) == ENOSYS_RET


def test_a_profile_without_names_hides_everything() -> None:
    code = compile_profile(profile("SCMP_ACT_ERRNO"))
    assert bpf.run(code, OWN, resolve("read")) == EPERM_RET


def test_prologue_by_itself() -> None:
    from ociruntime.host import seccomp_compile

    code = seccomp_compile.prologue({X86_64: 400, X86: 300, X32: 0x40000200, AARCH64: 450})
    code += struct.pack("=HBBI", 6, 0, 0, 42)  # what follows
    cases = [
        (X86_64, 400, 42),
        (X86_64, 401, ENOSYS_RET),
        (X86_64, 0x40000000, 42),
        (X86_64, 0x40000200, 42),
        (X86_64, 0x40000201, ENOSYS_RET),
        (X86_64, 0xFFFFFFFF, ENOSYS_RET),
        (X86, 300, 42),
        (X86, 301, ENOSYS_RET),
        (AARCH64, 450, 42),
        (AARCH64, 451, ENOSYS_RET),
        (0x12345678, 1000, 42),
    ]
    for arch, number, want in cases:
        assert bpf.run(code, arch, number) == want, (hex(arch), number)
    without_x32 = seccomp_compile.prologue({X86_64: 400}) + struct.pack("=HBBI", 6, 0, 0, 42)
    assert bpf.run(without_x32, X86_64, 0x40000001) == 42
    assert bpf.run(without_x32, X86_64, 500) == ENOSYS_RET


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (profile("SCMP_ACT_NOTIFY"), "SCMP_ACT_NOTIFY cannot be the default action"),
        (profile("SCMP_ACT_FROB"), "unknown seccomp action SCMP_ACT_FROB"),
        (profile("SCMP_ACT_ALLOW", defaultErrnoRet=1), "an errno for SCMP_ACT_ALLOW"),
        (profile("SCMP_ACT_ERRNO", defaultErrnoRet=5000), "no such errno: 5000"),
        (profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_KILL", "read", errnoRet=1)), "an errno for"),
        (
            profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO", "read", args=[arg(6, 1)])),
            "no such comparison",
        ),
        (
            profile(
                "SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO", "read", args=[arg(0, 1, "SCMP_CMP_XX")])
            ),
            "no such comparison: argument 0 SCMP_CMP_XX",
        ),
        (
            profile("SCMP_ACT_ALLOW", architectures=["SCMP_ARCH_PDP11"]),
            "does not know the architecture",
        ),
    ],
)
def test_refused(broken: dict[str, Any], text: str) -> None:
    with pytest.raises(errors.Error, match=text) as caught:
        compile_profile(broken)
    assert (caught.value.pointer or "").startswith("/linux/seccomp")


def test_a_filter_too_long_for_linux_is_refused() -> None:
    entries = [
        rule("SCMP_ACT_ERRNO", "socket", args=[arg(index, value)])
        for index in range(6)
        for value in range(800)
    ]
    with pytest.raises(errors.Error, match="instructions, Linux takes 4096"):
        compile_profile(profile("SCMP_ACT_ALLOW", *entries))


def test_flags(subtests: SubTests) -> None:
    prefix = "SECCOMP_FILTER_FLAG_"
    cases: list[tuple[list[str] | None, bool, int]] = [
        (None, False, 4),
        ([], False, 0),
        (["LOG"], False, 2),
        (["TSYNC", "SPEC_ALLOW"], False, 5),
        (None, True, 12),
        (["TSYNC"], True, 1 | 8 | 16),
        (["WAIT_KILLABLE_RECV"], True, 40),
        (["WAIT_KILLABLE_RECV"], False, 0),
    ]
    for words, listener, want in cases:
        with subtests.test(f"{words} {listener}"):
            full = None if words is None else [prefix + word for word in words]
            assert seccomp.filter_flags(full, listener) == want
    with pytest.raises(errors.Error, match="unknown seccomp flag X"):
        seccomp.filter_flags(["X"], False)


def test_notify_needs_a_listener_path(tmp_path: Path) -> None:
    wanted = profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_NOTIFY", "mkdirat"))
    with pytest.raises(errors.Error, match="SCMP_ACT_NOTIFY needs listenerPath"):
        seccomp.filter_for(wanted, str(tmp_path))
    wanted["listenerPath"] = "/run/agent"
    found = seccomp.filter_for(wanted, str(tmp_path))
    assert found.listener and found.flags & seccomp.NEW_LISTENER


# -- the cache -------------------------------------------------------------------------------------


SMALL = profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO", "mkdirat"))


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it: from then on a compilation fails the test."""

    def forbid() -> None:
        from ociruntime.host import seccomp_compile

        def refuse(_: dict[str, Any]) -> bytes:
            raise AssertionError("compiled again")

        monkeypatch.setattr(seccomp_compile, "compile_profile", refuse)

    return forbid


def cache_file(root: Path) -> Path:
    (path,) = (root / ".cache" / "seccomp").iterdir()
    return path


def test_second_time_comes_from_the_cache(tmp_path: Path, no_compiler: Callable[[], None]) -> None:
    first = seccomp.filter_for(SMALL, str(tmp_path))
    path = cache_file(tmp_path)
    assert path.name == first.key
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    no_compiler()
    assert seccomp.filter_for(SMALL, str(tmp_path)).code == first.code


def spoil_mode(path: Path) -> None:
    path.chmod(0o620)


def spoil_owner(path: Path) -> None:
    os.chown(path, 4711, -1)


def spoil_content(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def spoil_length(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def spoil_empty(path: Path) -> None:
    path.write_bytes(b"")


def spoil_symlink(path: Path) -> None:
    copy = path.with_name("copy")
    path.rename(copy)
    path.symlink_to(copy)


@pytest.mark.parametrize(
    "spoil", [spoil_mode, spoil_owner, spoil_content, spoil_length, spoil_empty, spoil_symlink]
)
def test_a_cache_file_that_cannot_be_trusted_is_not_used(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    if spoil is spoil_owner and os.geteuid() != 0:
        pytest.skip("needs root")
    first = seccomp.filter_for(SMALL, str(tmp_path))
    path = cache_file(tmp_path)
    spoil(path)
    assert seccomp.filter_for(SMALL, str(tmp_path)).code == first.code
    assert path.stat().st_uid == os.geteuid()
    assert path.read_bytes().endswith(first.code)
    assert not path.is_symlink()


def test_an_unusable_cache_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / ".cache").touch()
    assert seccomp.filter_for(SMALL, str(tmp_path)).code


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    directory = tmp_path / ".cache" / "seccomp"
    directory.mkdir(parents=True)
    for number in range(200):
        (directory / f"old{number}").touch()
    seccomp.filter_for(SMALL, str(tmp_path))
    assert len(list(directory.iterdir())) == 1


def test_keys_differ_with_every_detail() -> None:
    """Among them those that a peer's cache confuses: a rule's errnoRet, and where one string ends."""

    def one(**more: Any) -> dict[str, Any]:
        return profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO", "ab", "c", **more))

    profiles = [
        one(),
        one(errnoRet=1),
        one(errnoRet=2),
        one(args=[arg(0, 1)]),
        one(args=[arg(1, 1)]),
        one(args=[arg(0, 1, "SCMP_CMP_NE")]),
        one(args=[{**arg(0, 1), "valueTwo": 0}]),
        profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO", "a", "bc")),
        profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO", "abc")),
        profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO", "ab"), rule("SCMP_ACT_ERRNO", "c")),
        {**one(), "defaultErrnoRet": 1},
        {**one(), "architectures": ["SCMP_ARCH_X86"]},
        {**one(), "architectures": []},
    ]
    assert len({seccomp.cache_key(entry) for entry in profiles}) == len(profiles)


def test_a_key_depends_on_values_and_not_on_objects() -> None:
    text = json.dumps(docker_profile())
    assert seccomp.cache_key(json.loads(text)) == seccomp.cache_key(json.loads(text))


# -- the kernel ------------------------------------------------------------------------------------


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def in_child(code: bytes, flags: int, calls: list[tuple[int, ...]]) -> tuple[list[int], int]:
    """Load a filter in a child, make system calls there: (errno or 0 of each that returned, wait status)."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = resolve("seccomp")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
            program = Program(len(code) // 8, code)
            if libc.syscall(number, 1, flags, ctypes.byref(program)) < 0:
                os.write(writer, b"%d\n" % -ctypes.get_errno())
                os._exit(99)
            for call in calls:
                ctypes.set_errno(0)
                result = libc.syscall(*(ctypes.c_long(value) for value in call))
                os.write(writer, b"%d\n" % (ctypes.get_errno() if result < 0 else 0))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        results = [int(line) for line in pipe]
    return results, os.waitpid(pid, 0)[1]


CORE = (
    "read",
    "write",
    "exit_group",
    "exit",
    "rt_sigreturn",
    "mmap",
    "munmap",
    "brk",
    "futex",
    "madvise",
)


def test_actions_in_the_kernel(subtests: SubTests) -> None:
    getppid = resolve("getppid")
    cases: list[tuple[str, dict[str, Any], list[int], int]] = [
        ("SCMP_ACT_ALLOW", {}, [0], 0),
        ("SCMP_ACT_LOG", {}, [0], 0),
        ("SCMP_ACT_ERRNO", {"errnoRet": 95}, [95], 0),
        ("SCMP_ACT_ERRNO", {}, [errno.EPERM], 0),
        ("SCMP_ACT_TRACE", {}, [errno.ENOSYS], 0),
        ("SCMP_ACT_TRAP", {}, [], signal.SIGSYS),
        ("SCMP_ACT_KILL", {}, [], signal.SIGSYS),
        ("SCMP_ACT_KILL_THREAD", {}, [], signal.SIGSYS),
        ("SCMP_ACT_KILL_PROCESS", {}, [], signal.SIGSYS),
    ]
    default = "SCMP_ACT_ERRNO"
    for action, more, results, killed in cases:
        with subtests.test(f"{action} {more}"):
            code = compile_profile(
                profile(
                    default,
                    rule("SCMP_ACT_ALLOW", *CORE),
                    rule(action, "getppid", **more),
                    defaultErrnoRet=77,
                )
            )
            got, status = in_child(code, 4, [(getppid,)])
            assert (got, status & 0x7F) == (results, killed)


def test_docker_profile_in_the_kernel() -> None:
    found = seccomp.filter_flags(None, False)
    code = compile_profile(docker_profile())
    calls = [
        (resolve("getppid"),),
        (resolve("personality"), 0xFFFFFFFF),
        (resolve("personality"), 0x0123),
        (resolve("add_key"), 0, 0, 0, 0, 0),
        (resolve("clone3"), 0, 0),
        (1000,),
    ]
    assert in_child(code, found, calls) == ([0, 0, 1, 1, 38, 38], 0)


def test_every_flag_is_taken_by_the_kernel(subtests: SubTests) -> None:
    code = compile_profile(SMALL)
    for words in ([], *[[word] for word in libseccomp.FLAGS], list(libseccomp.FLAGS)):
        with subtests.test(str(words)):
            assert in_child(code, seccomp.filter_flags(words, False), [(resolve("getppid"),)]) == (
                [0],
                0,
            )


# -- the listener ----------------------------------------------------------------------------------


def test_send_listener(tmp_path: Path, no_leaks: None) -> None:
    path = tmp_path / "agent"
    agent = socket.socket(socket.AF_UNIX)
    agent.bind(str(path))
    agent.listen()
    state = {"ociVersion": "1.3.0", "id": "c", "status": "creating", "pid": 1, "bundle": "/b"}
    seccomp.send_listener(str(path), "data", state, 42, os.open("/dev/null", os.O_RDONLY))
    peer, _ = agent.accept()
    agent.close()
    data, fds, _, _ = socket.recv_fds(peer, 65536, 4)
    assert os.readlink(f"/proc/self/fd/{fds[0]}") == "/dev/null"
    os.close(fds[0])
    assert peer.recv(1) == b""
    peer.close()
    assert json.loads(data) == {
        "ociVersion": "1.3.0",
        "fds": ["seccompFd"],
        "pid": 42,
        "metadata": "data",
        "state": state,
    }


def test_send_listener_to_nobody(tmp_path: Path, no_leaks: None) -> None:
    with pytest.raises(errors.Error, match=r"send seccomp listener to .*: no such file") as caught:
        seccomp.send_listener(
            str(tmp_path / "absent"), "", {"ociVersion": "1.3.0"}, 1, os.open("/", os.O_RDONLY)
        )
    assert caught.value.pointer == "/linux/seccomp/listenerPath"


NOTIF_RECV, NOTIF_SEND = 0xC0502100, 0xC0182101  # ioctl numbers of seccomp_unotify(2)


def test_notify_through_init(tmp_path: Path, no_leaks: None) -> None:
    """From the profile to an agent's answer: the program's mkdir fails with the errno that the agent chose."""
    import fcntl

    from ociruntime.host import launch
    from ociruntime.plan import encode, ops

    names = ["mkdir", "mkdirat"]
    wanted = profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_NOTIFY", *names), listenerPath="/run/agent")
    found = seccomp.filter_for(wanted, str(tmp_path))
    plan = ops.Plan()
    no_new_privs = (38, 1, 0, 0, 0, 0)
    plan.add("", ops.SYSCALL, resolve("prctl"), *no_new_privs)
    plan.add("/linux/seccomp", ops.SECCOMP, found.code, found.flags)
    argv = ("/bin/busybox", "mkdir", str(tmp_path / "made"))
    plan.add("/process", ops.EXEC, argv, len(argv), (), 0, argv[0])
    fds: list[int] = []
    error = os.open(tmp_path / "stderr", os.O_CREAT | os.O_WRONLY)
    init = launch.launch(plan, encode.encode(plan, 3), [], stdio=(0, 1, error))
    os.close(error)
    assert init.serve({}, on_listener=fds.append) == "exec"
    (listener,) = fds
    request = bytearray(80)
    fcntl.ioctl(listener, NOTIF_RECV, request)
    cookie, pid, _, number = struct.unpack_from("=QIIi", request)
    assert pid == init.pid
    assert number in {resolve(name) for name in names}
    fcntl.ioctl(listener, NOTIF_SEND, struct.pack("=QqiI", cookie, 0, -errno.EDQUOT, 0))
    assert init.wait() == 1 << 8
    init.close()
    os.close(listener)
    assert "quota" in (tmp_path / "stderr").read_text()
    assert not (tmp_path / "made").exists()


def test_version_by_the_files_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the link's name says is what the library says; without a telling name the library is asked."""
    from ociruntime.host import native

    said = ".".join(map(str, native.seccomp_version()))
    assert libseccomp.version(os.uname().machine) == said
    link = tmp_path / "libseccomp.so.2"
    monkeypatch.setattr(libseccomp, "_places", lambda machine: (str(link),))
    for target, version in (("libseccomp.so.9.8.7", "9.8.7"), ("libseccomp.so", said)):
        link.symlink_to(target)
        assert libseccomp.version("any") == version
        link.unlink()
    assert libseccomp.version("any") == said

"""Seccomp filters, judged two ways: by a model of the profile, by interpreting the BPF."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import classic_bpf as bpf
import pytest
from pytest_subtests import SubTests
from seccomp_kit import (
    AARCH64,
    ALLOW,
    ENOSYS_RET,
    EPERM_RET,
    OWN,
    X32,
    X86,
    X86_64,
    X86_MULTIPLEXED,
    arg,
    compile_profile,
    docker_profile,
    profile,
    resolve,
    rule,
)

from ociruntime import errors
from ociruntime.host import seccomp

pytestmark = pytest.mark.usefixtures("native")

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

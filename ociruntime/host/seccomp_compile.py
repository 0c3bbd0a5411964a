"""Compiling a seccomp profile (linux.seccomp) with libseccomp; only on a cache miss.

Hot module. config-linux.md "Seccomp", seccomp_rule_add(3). libseccomp makes the filter; in front of it stands a
prologue of ours that answers ENOSYS for system calls which did not exist for the profile's author: a program that
probes for a new call must not take the profile's EPERM for an answer.
"""

from __future__ import annotations

import _struct

from ociruntime import errors
from ociruntime.host import native
from ociruntime.host.libseccomp import ACTIONS, ARCHITECTURES, OPERATORS
from ociruntime.host.seccomp import MAX_INSTRUCTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Condition: TypeAlias = "tuple[int, int, int, int]"  # argument, operator, value, second value
    Rule: TypeAlias = "tuple[int, int, tuple[Condition, ...]]"  # action, system call, all of these

_ERRNO, _TRACE, _NOTIFY = "SCMP_ACT_ERRNO", "SCMP_ACT_TRACE", "SCMP_ACT_NOTIFY"
_EPERM, _ENOSYS, _MAX_ERRNO, _MAX_TRACE = 1, 38, 4095, 0xFFFF
_POINTER = "/linux/seccomp"
# Defaults under which an unknown system call would not run: only they hide that it does not exist.
_BLOCKING = (0x00000000, 0x80000000, 0x00030000, 0x00050000)
_NATIVE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3}
_X86_64, _X32, _X32_BIT = 0xC000003E, 0x4000003E, 0x40000000

# Calls up to these are older than Linux 5.0 on every architecture: nobody has to be told that they do not exist, even
# where a short profile names none of the later ones.
_LINUX_5_0, _X32_LAST = 402, _X32_BIT | 547

_LD, _JEQ, _JGT, _JGE, _JA, _RET = 0x20, 0x15, 0x25, 0x35, 0x05, 0x06  # classic BPF, seccomp(2)
_NR, _ARCH = 0, 4  # offsets in struct seccomp_data
_INSTRUCTION = _struct.Struct("=HBBI")


# Of big-endian machines; those that this runtime works on are little-endian.
_OTHER_BYTE_ORDER = {
    ARCHITECTURES[f"SCMP_ARCH_{word}"]
    for word in (
        *("MIPS", "MIPS64", "MIPS64N32", "PPC", "PPC64", "S390", "S390X"),
        *("PARISC", "PARISC64", "M68K", "SHEB"),
    )
}


def compile_profile(profile: dict[str, Any]) -> bytes:
    """The filter of a profile as struct sock_filter[]. Raises errors.Error."""
    if profile["defaultAction"] == _NOTIFY:
        raise errors.Error(
            "SCMP_ACT_NOTIFY cannot be the default action", pointer=f"{_POINTER}/defaultAction"
        )
    default = action_value(
        profile["defaultAction"], profile.get("defaultErrnoRet"), f"{_POINTER}/defaultErrnoRet"
    )
    architectures = _architectures(profile)
    names: set[str] = set()
    rules: list[Rule] = []
    for index, entry in enumerate(profile.get("syscalls") or ()):
        names.update(entry["names"])
        pointer = f"{_POINTER}/syscalls/{index}"
        action = action_value(entry["action"], entry.get("errnoRet"), f"{pointer}/errnoRet")
        if action != default:
            _add_rules(rules, action, entry, pointer)
    try:
        code = native.seccomp_compile(default, architectures, rules)
    except OSError as exc:
        raise errors.from_os(exc, "libseccomp", pointer=_POINTER) from exc
    if default & 0xFFFF0000 in _BLOCKING and default != ACTIONS[_ERRNO] | _ENOSYS:
        code = prologue(_newest(names, architectures)) + code
    if len(code) > 8 * MAX_INSTRUCTIONS:
        raise errors.Error(
            f"a filter of {len(code) // 8} instructions, Linux takes {MAX_INSTRUCTIONS}",
            pointer=_POINTER,
        )
    return code


def action_value(word: str, errno_ret: int | None, pointer: str) -> int:
    """The SECCOMP_RET_* value of an action word and its errnoRet. Raises errors.Error."""
    if word not in ACTIONS:
        raise errors.Error(f"unknown seccomp action {word}", pointer=_POINTER)
    value = ACTIONS[word]
    if word in (_ERRNO, _TRACE):
        data = _EPERM if errno_ret is None else errno_ret
        if not 0 <= data <= (_MAX_ERRNO if word == _ERRNO else _MAX_TRACE):
            raise errors.Error(f"no such errno: {data}", pointer=pointer)
        return value | data
    if errno_ret is not None:
        raise errors.Error(f"an errno for {word}, which returns none", pointer=pointer)
    return value


def _architectures(profile: dict[str, Any]) -> list[int]:
    """The architectures' numbers, without repetitions, the machine's own always among them."""
    import posix

    numbers = [_NATIVE.get(posix.uname().machine, 0)]
    for index, word in enumerate(profile.get("architectures") or ()):
        number = ARCHITECTURES.get(word)
        if number in _OTHER_BYTE_ORDER:
            continue  # such calls cannot be made here, and no filter can hold both orders
        if number is None or native.seccomp_resolve(number, "exit") == -1:
            version = ".".join(map(str, native.seccomp_version()))
            raise errors.Error(
                f"libseccomp {version} does not know the architecture {word}",
                pointer=f"{_POINTER}/architectures/{index}",
            )
        if number not in numbers:
            numbers.append(number)
    return numbers


def _add_rules(rules: list[Rule], action: int, entry: dict[str, Any], pointer: str) -> None:
    """Append the rules of one entry of syscalls[]; names that libseccomp does not know are left out."""
    conditions: list[Condition] = []
    for index, argument in enumerate(entry.get("args") or ()):
        operator = OPERATORS.get(argument["op"])
        if operator is None or not 0 <= argument["index"] <= 5:
            raise errors.Error(
                f"no such comparison: argument {argument['index']} {argument['op']}",
                pointer=f"{pointer}/args/{index}",
            )
        conditions.append(
            (argument["index"], operator, argument["value"], argument.get("valueTwo") or 0)
        )
    # libseccomp takes one condition per argument: several for one mean any of them, as with runc.
    if len({condition[0] for condition in conditions}) == len(conditions):
        alternatives: list[tuple[Condition, ...]] = [tuple(conditions)]
    else:
        alternatives = [(condition,) for condition in conditions]
    for name in entry["names"]:
        number = native.seccomp_resolve(0, name)
        if number == -1:
            from ociruntime import log

            log.debug(f"seccomp: unknown system call {name}")
            continue
        for alternative in alternatives:
            rules.append((action, number, alternative))


def _newest(names: set[str], architectures: list[int]) -> dict[int, int]:
    """For each architecture the highest system call number that its author can have known.

    An architecture of which the profile names nothing is left out.
    """
    newest: dict[int, int] = {}
    for architecture in architectures:
        numbers = [native.seccomp_resolve(architecture, name) for name in names]
        highest = max(numbers, default=-1)
        if highest >= 0:  # below: unknown, or known on other architectures only
            oldest = _X32_LAST if architecture == _X32 else _LINUX_5_0
            newest[architecture] = max(highest, oldest)
    return newest


def prologue(newest: dict[int, int]) -> bytes:
    """Instructions that return ENOSYS for calls above ``newest`` and go on behind themselves for all others.

    x86-64 and x32 share their AUDIT_ARCH number; x32's calls have bit 30 set.
    """
    code: list[tuple[int, int, int, int]] = [(_LD, 0, 0, _ARCH)]
    for architecture, highest in newest.items():
        if architecture == _X32:
            continue
        block = [(_LD, 0, 0, _NR)]
        if architecture == _X86_64:
            block += [(_JGE, 0, 1, _X32_BIT), (_JGT, 0, 0, newest.get(_X32, 0xFFFFFFFF))]
        block.append((_JGT, 0, 0, highest))
        code.append((_JEQ, 0, len(block), architecture))
        code += block
    code += [(_JA, 0, 0, 1), (_RET, 0, 0, ACTIONS[_ERRNO] | _ENOSYS)]
    end = len(code)
    if end > 255:  # jump offsets are bytes
        raise errors.Error("too many seccomp architectures", pointer=_POINTER)
    packed = b""
    for position, (operation, true, false, value) in enumerate(code):
        if operation == _JGT:  # above: to the return, the last instruction; else past it
            true, false = end - position - 2, end - position - 1
        packed += _INSTRUCTION.pack(operation, true, false, value)
    return packed

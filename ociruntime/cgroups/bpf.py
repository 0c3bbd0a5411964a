"""The device filter of cgroup v2: rules → eBPF program. Pure. Hot module, loaded on cgroup v2 only.

Kernel: BPF_PROG_TYPE_CGROUP_DEVICE (Documentation/bpf, uapi/linux/bpf.h struct bpf_cgroup_dev_ctx). The program is
asked (type, access, major, minor) and answers 1 (allow) or 0. Rules are tested from the last to the first: each
decides about the accesses that it names, the first to decide wins; what is left in the end is denied.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ociruntime.cgroups.devices import Rule

# uapi/linux/bpf.h: BPF_DEVCG_DEV_*, BPF_DEVCG_ACC_*
_TYPES = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}
_ALL = 7
_GROUP = 4096  # rules, so that jumps fit their 16 bits

# opcodes (RFC 9669): class | source | operation
_LDX_W = 0x61  # dst = *(u32 *)(src + off)
_ALU32_AND_K = 0x54
_ALU32_RSH_K = 0x74
_ALU32_MOV_X = 0xBC
_MOV_K = 0xB7
_JNE32_K = 0x56
_JEQ32_K = 0x16
_EXIT = 0x95

_R0, _R1, _ACC, _TYPE, _MAJOR, _MINOR = 0, 1, 2, 3, 4, 5


def _insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    """struct bpf_insn: u8 code, u8 dst:4 src:4, s16 off, s32 imm (x86_64 and arm64 are little-endian)."""
    return (
        bytes((code, dst | src << 4))
        + (off & 0xFFFF).to_bytes(2, "little")
        + (imm & 0xFFFFFFFF).to_bytes(4, "little")
    )


_RETURN = (
    _insn(_MOV_K, _R0, imm=0) + _insn(_EXIT),
    _insn(_MOV_K, _R0, imm=1) + _insn(_EXIT),
)

_PROLOGUE = (
    _insn(_LDX_W, _TYPE, _R1, 0)
    + _insn(_ALU32_MOV_X, _ACC, _TYPE)
    + _insn(_ALU32_AND_K, _TYPE, imm=0xFFFF)
    + _insn(_ALU32_RSH_K, _ACC, imm=16)
    + _insn(_LDX_W, _MAJOR, _R1, 4)
    + _insn(_LDX_W, _MINOR, _R1, 8)
)


def program(rules: Sequence[Rule]) -> bytes:
    """The program for rules in their order; what none of them decides is denied.

    The order among neighbours that all allow (or all deny) does not matter, so those with the same accesses share one
    conclusion: the verifier follows every combination of conclusions, and lists of devices are long.
    """
    blocks = [_PROLOGUE]
    final = _RETURN[0]
    groups: dict[str, list[list[tuple[int, int]]]] = {}
    current = True
    for allow, kind, major, minor, access, _ in reversed(rules):
        if kind == "a":  # decides about everything: no earlier rule is ever asked
            final = _RETURN[allow]
            break
        if allow != current:
            blocks += _blocks(current, groups)
            groups = {}
            current = allow
        tests = [(_TYPE, _TYPES[kind])]
        if major >= 0:
            tests.append((_MAJOR, major))
        if minor >= 0:
            tests.append((_MINOR, minor))
        groups.setdefault(access, []).append(tests)
    blocks += _blocks(current, groups)
    return b"".join(blocks) + final


def _blocks(allow: bool, groups: dict[str, list[list[tuple[int, int]]]]) -> list[bytes]:
    return [
        _block(allow, access, group[start : start + _GROUP])
        for access, group in groups.items()
        for start in range(0, len(group), _GROUP)
    ]


def _block(allow: bool, access: str, group: list[list[tuple[int, int]]]) -> bytes:
    """If a device passes all tests of one rule of the group, conclude, and return when all has been decided."""
    mask = 0
    for letter in access:
        mask |= _ACCESS[letter]
    if mask == _ALL:
        body = _RETURN[allow]
    elif allow:
        # what this rule allows need not be asked any more; nothing left: allowed
        body = (
            _insn(_ALU32_AND_K, _ACC, imm=_ALL & ~mask)
            + _insn(_JNE32_K, _ACC, off=2, imm=0)
            + _RETURN[1]
        )
    else:
        body = (
            _insn(_ALU32_MOV_X, _R1, _ACC)
            + _insn(_ALU32_AND_K, _R1, imm=mask)
            + _insn(_JEQ32_K, _R1, off=2, imm=0)
            + _RETURN[0]
        )
    out = b""
    to_body = sum(len(tests) for tests in group)
    for index, tests in enumerate(group):
        to_next = len(tests)
        last_rule = index == len(group) - 1
        for register, value in tests:
            to_body -= 1
            to_next -= 1
            if to_next or last_rule:
                # not this rule: on to the next, or over the body after the last
                off = to_next + len(body) // 8 if last_rule else to_next
                out += _insn(_JNE32_K, register, off=off, imm=value)
            else:
                out += _insn(_JEQ32_K, register, off=to_body, imm=value)
    return out + body

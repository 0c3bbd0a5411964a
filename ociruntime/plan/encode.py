"""Plan → bytes, as native/plan.h lays them out.

Hot module.
"""

from __future__ import annotations

import _struct

from ociruntime import errors
from ociruntime.plan import ops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ociruntime.plan.ops import Argument, Plan

_HEADER = _struct.Struct("=IHHIIHHHH40x")
_OPERATION = _struct.Struct("=HHI7Q")
_MAX_OPS, _MAX_DATA, _MAX_SLOTS, _MAX_FD = 65536, 64 << 20, 1024, 65535
_PADDING = tuple((0,) * (7 - count) for count in range(8))


def encode(plan: Plan, first_fd: int) -> bytes:
    """The bytes that init maps. ``first_fd``: descriptor number of slot 0 (3 + preserved descriptors).

    An int is a number, a str or bytes a blob, a tuple a vector of NUL-ended strings. Equal blobs are
    stored once. Raises ``errors.Error`` for what the format cannot hold; nothing is ever truncated.
    """
    if len(plan.ops) > _MAX_OPS:
        raise errors.Error(
            f"the plan has {len(plan.ops)} operations, {_MAX_OPS} at most are possible"
        )
    if plan.slots > _MAX_SLOTS:
        raise errors.Error(
            f"the plan needs {plan.slots} descriptors, {_MAX_SLOTS} at most are possible"
        )
    if not 3 <= first_fd <= _MAX_FD:
        raise errors.Error(f"cannot preserve {first_fd - 3} descriptors")
    pack = _OPERATION.pack
    padding = _PADDING
    known: dict[Argument, int] = {}
    records: list[bytes] = []
    data: list[bytes] = []
    size = 0
    values: list[int] = []
    for code, flags, errnos, arguments in plan.ops:
        values.clear()
        for argument in arguments:
            if argument.__class__ is int:
                values.append(argument & 0xFFFFFFFFFFFFFFFF)
                continue
            reference = known.get(argument)
            if reference is None:
                blob = _blob(argument, plan, len(records))
                reference = known[argument] = len(blob) << 32 | size
                data.append(blob)
                size += len(blob) + 1
                if size > _MAX_DATA:
                    raise errors.Error(
                        f"the plan's texts are longer than {_MAX_DATA} bytes",
                        pointer=plan.origins[len(records)] or None,
                    )
            values.append(reference)
        if code == ops.SYSCALL:
            flags |= _kinds(arguments)
        records.append(pack(code, flags, errnos, *values, *padding[len(values)]))
    data.append(b"")
    header = _HEADER.pack(
        ops.MAGIC,
        ops.VERSION,
        _HEADER.size,
        len(records),
        size,
        len(plan.fds),
        first_fd,
        plan.slots,
        0,
    )
    return header + b"".join(records) + b"\0".join(data)


def _kinds(arguments: tuple[Argument, ...]) -> int:
    """Argument kinds of a SYSCALL: every blob is passed as a pointer; the number itself has no kind."""
    flags = 0
    for position, argument in enumerate(arguments[1:]):
        if argument.__class__ is not int:
            flags |= ops.ARG_BLOB << (4 + 2 * position)
    return flags


def _blob(argument: Argument, plan: Plan, index: int) -> bytes:
    """One argument's bytes, without the NUL that ends every blob."""
    if isinstance(argument, bytes):
        return argument
    texts = (argument,) if isinstance(argument, str) else argument
    raws = []
    assert not isinstance(texts, int)
    for text in texts:
        raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
        if b"\0" in raw:
            raise _nul(plan, index, raw)
        raws.append(raw)
    if texts is argument:
        # The last string's NUL is the one that follows the blob: it must count here.
        raws.append(b"")
    return b"\0".join(raws)


def _nul(plan: Plan, index: int, text: bytes) -> errors.Error:
    """A string that the kernel would cut short (CVE-2021-43784)."""
    shown = text.decode("utf-8", "replace").replace("\0", "\\0")
    return errors.Error(f"NUL byte in {shown[:200]!r}", pointer=plan.origins[index] or None)

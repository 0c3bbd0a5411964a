"""A blocking D-Bus client over a unix socket, as small as the systemd driver needs it. Hot module.

D-Bus specification: "Message Protocol", "Authentication Protocol", "Type System". A value of type VARIANT is a pair
(signature, value); descriptors and files (type h) are left out. Why not a library: docs/architecture.md,
"Measured choices". Tests compare each byte with an independent implementation.
"""

from __future__ import annotations

import _socket
import _struct
import select

import _ocisys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

CALL, REPLY, ERROR, SIGNAL = 1, 2, 3, 4
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SENDER, SIGNATURE = range(1, 9)

BUS_NAME = "org.freedesktop.DBus"
BUS_PATH = "/org/freedesktop/DBus"
TIMED_OUT = "timed out"  # names of CallError that no D-Bus error has
CLOSED = "closed"

_STRUCT_ERROR: type[Exception] = getattr(_struct, "error")  # noqa: B009
_MESSAGE_MAX = 1 << 20  # bytes; systemd's answers to us have a few hundred
_LINE_MAX = 4096
_DEPTH_MAX = 16

# struct code and size, which is the alignment as well
_FIXED = {
    "y": ("B", 1),
    "b": ("I", 4),
    "n": ("h", 2),
    "q": ("H", 2),
    "i": ("i", 4),
    "u": ("I", 4),
    "x": ("q", 8),
    "t": ("Q", 8),
    "d": ("d", 8),
}
_ALIGN = {"s": 4, "o": 4, "g": 1, "a": 4, "(": 8, "{": 8, "v": 1}
for _code, (_, _size) in _FIXED.items():
    _ALIGN[_code] = _size


class Message:
    """A message that came in. ``fields``: of its header, by number; ``body``: its values."""

    __slots__ = ("body", "fields", "kind")

    def __init__(self, kind: int, fields: dict[int, Any], body: list[Any]) -> None:
        self.kind = kind
        self.fields = fields
        self.body = body


class CallError(Exception):
    """A call failed. ``name``: ``org.freedesktop.DBus.Error.AccessDenied``, …, TIMED_OUT, CLOSED or ``""``."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name
        self.text = text


# -- bytes -----------------------------------------------------------------------------------------


def split_type(signature: str, at: int = 0, depth: int = 0) -> int:
    """Where the single complete type that starts at ``at`` ends. Raises ValueError."""
    if depth > _DEPTH_MAX or at >= len(signature):
        raise ValueError(f"invalid D-Bus signature {signature!r}")
    code = signature[at]
    if code == "a":
        return split_type(signature, at + 1, depth + 1)
    if code in "({":
        close = ")" if code == "(" else "}"
        at += 1
        if signature[at : at + 1] == close:  # of no length: an array of it would never end
            raise ValueError("a D-Bus structure without fields")
        while signature[at : at + 1] != close:
            at = split_type(signature, at, depth + 1)
        return at + 1
    if code not in _ALIGN:
        raise ValueError(f"unknown D-Bus type {code!r}")
    return at + 1


def marshal(signature: str, values: Any) -> bytes:
    """The bytes of a body, little-endian. Raises ValueError, _struct.error for a value out of its type's range."""
    out = bytearray()
    at = 0
    for value in values:
        end = split_type(signature, at)
        _put(out, signature[at:end], value)
        at = end
    if at != len(signature):
        raise ValueError(f"{len(values)} values for D-Bus signature {signature!r}")
    return bytes(out)


def _put(out: bytearray, kind: str, value: Any) -> None:
    code = kind[0]
    fixed = _FIXED.get(code)
    if fixed is not None:
        out += bytes(-len(out) % fixed[1])
        out += _struct.pack("<" + fixed[0], value)
        return
    if code == "g":
        raw = value.encode("ascii")
        out += bytes((len(raw),)) + raw + b"\0"
        return
    if code == "v":
        _put(out, "g", value[0])
        _put(out, value[0], value[1])
        return
    out += bytes(-len(out) % _ALIGN[code])
    if code in "so":
        raw = value.encode("utf-8")
        if b"\0" in raw:
            raise ValueError("a D-Bus string holds no NUL")
        out += len(raw).to_bytes(4, "little") + raw + b"\0"
    elif code == "a":
        mark = len(out)
        out += bytes(4)
        out += bytes(-len(out) % _ALIGN[kind[1]])
        start = len(out)
        for item in value:
            _put(out, kind[1:], item)
        out[mark : mark + 4] = (len(out) - start).to_bytes(4, "little")
    else:
        at = 1
        for item in value:
            end = split_type(kind, at)
            _put(out, kind[at:end], item)
            at = end


class _Reader:
    """Values out of the bytes of a message; a ValueError for whatever is not well formed."""

    __slots__ = ("at", "data", "order")

    def __init__(self, data: bytes, order: str, at: int = 0) -> None:
        self.data = data
        self.order = order
        self.at = at

    def all(self, signature: str) -> list[Any]:
        values = []
        at = 0
        while at < len(signature):
            end = split_type(signature, at)
            values.append(self.one(signature[at:end]))
            at = end
        return values

    def number(self, code: str, size: int) -> Any:
        self.at += -self.at % size
        end = self.at + size
        if end > len(self.data):
            raise ValueError("D-Bus message ends early")
        value = _struct.unpack_from(self.order + code, self.data, self.at)[0]
        self.at = end
        return value

    def text(self, length: int) -> str:
        end = self.at + length
        if end >= len(self.data):
            raise ValueError("D-Bus message ends early")
        raw = self.data[self.at : end]
        self.at = end + 1
        return raw.decode("utf-8", "replace")

    def one(self, kind: str, depth: int = 0) -> Any:
        if depth > _DEPTH_MAX:
            raise ValueError("D-Bus value is nested too deeply")
        code = kind[0]
        if code in _FIXED:
            value = self.number(*_FIXED[code])
            return bool(value) if code == "b" else value
        if code in "so":
            return self.text(self.number("I", 4))
        if code == "g":
            return self.text(self.number("B", 1))
        if code == "v":
            inner = self.text(self.number("B", 1))
            if split_type(inner) != len(inner):
                raise ValueError("D-Bus variant of several types")
            return inner, self.one(inner, depth + 1)
        if code == "a":
            end = self.number("I", 4)
            self.at += -self.at % _ALIGN[kind[1]]
            end += self.at
            if end > len(self.data):
                raise ValueError("D-Bus message ends early")
            items = []
            while self.at < end:
                items.append(self.one(kind[1:], depth + 1))
            return items
        self.at += -self.at % 8
        values = []
        at = 1
        while at < len(kind) - 1:
            end = split_type(kind, at)
            values.append(self.one(kind[at:end], depth + 1))
            at = end
        return tuple(values)


def encode_call(
    serial: int,
    destination: str,
    path: str,
    interface: str,
    member: str,
    signature: str = "",
    values: Any = (),
) -> bytes:
    """The bytes of a method call."""
    body = marshal(signature, values)
    fields = [
        (PATH, ("o", path)),
        (INTERFACE, ("s", interface)),
        (MEMBER, ("s", member)),
        (DESTINATION, ("s", destination)),
    ]
    if signature:
        fields.append((SIGNATURE, ("g", signature)))
    head = marshal("yyyyuua(yv)", (ord("l"), CALL, 0, 1, len(body), serial, fields))
    return head + bytes(-len(head) % 8) + body


def decode(data: bytes) -> tuple[Message | None, int]:
    """The first message of ``data`` and its length; (None, 0) when it is not complete. Raises ValueError."""
    if len(data) < 16:
        return None, 0
    order = {0x6C: "<", 0x42: ">"}.get(data[0])
    if order is None or data[3] != 1:
        raise ValueError("not a D-Bus message")
    body_size, _, fields_size = _struct.unpack_from(order + "III", data, 4)
    start = 16 + fields_size + -fields_size % 8
    total = start + body_size
    if max(body_size, fields_size, total) > _MESSAGE_MAX:
        raise ValueError("D-Bus message is too long")
    if len(data) < total:
        return None, 0
    head = _Reader(data[:start], order, 12)
    fields = {code: value for code, (_, value) in head.one("a(yv)")}
    for code, value in fields.items():
        if not isinstance(value, int if code == REPLY_SERIAL else str) and code <= SIGNATURE:
            raise ValueError("D-Bus header field of a wrong type")
    body = _Reader(data[start:total], order).all(fields.get(SIGNATURE, ""))
    return Message(data[1], fields, body), total


# -- the connection --------------------------------------------------------------------------------


class Connection:
    """A connection to a bus, or to a service without one. Not thread-safe; ``close`` it.

    ``fd``: connected stream socket, owned from here on. ``direct``: no bus daemon stands between (systemd's private
    socket): neither Hello nor match rules are needed. ``identity``: numeric user name for EXTERNAL, or None where the
    other side is to take what the kernel says of this process: in a user namespace nobody knows its uid outside.
    ``timeout``: seconds for all that follows. Raises OSError, errors.Error.
    """

    __slots__ = ("_buffer", "_deadline", "_lines", "_serial", "_signals", "_sock", "direct")

    def __init__(self, fd: int, *, direct: bool, identity: int | None, timeout: float) -> None:
        self._sock = _socket.socket(fileno=fd)
        self.direct = direct
        self._buffer = b""
        self._serial = 0
        self._signals: list[Message] = []
        self._deadline = _ocisys.monotonic() + timeout
        self._lines = 0  # of the authentication's answer, not read yet
        try:
            self._authenticate(identity)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._sock.close()

    def _authenticate(self, identity: int | None) -> None:
        """Say all at once. The answer is read before the first call, and no call goes out earlier: one that arrives
        together with BEGIN would be overlooked by systemd until more arrives (sd-bus, as of version 252)."""
        if identity is None:
            name = b"\r\nDATA"
        else:
            name = b" " + b"".join([b"%02x" % byte for byte in b"%d" % identity])
        self._write(b"\0AUTH EXTERNAL" + name + b"\r\nBEGIN\r\n")
        self._lines = 1 if identity is not None else 2

    def _greet(self) -> None:
        """Read the answers to ``_authenticate``: ``OK``; without a name ``DATA`` before that (old systemd: ``OK``)."""
        while self._lines:
            self._lines -= 1
            line = self._line()
            if not line.startswith(b"OK" if self._lines == 0 else (b"DATA", b"OK")):
                raise CallError("", f"authentication refused: {line.decode('ascii', 'replace')}")
        if not self.direct:
            self.send(BUS_NAME, BUS_PATH, BUS_NAME, "Hello")

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if len(self._buffer) > _LINE_MAX:
                raise CallError("", "the other side speaks another protocol")
            self._receive()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _write(self, data: bytes) -> None:
        while data:
            data = data[self._sock.send(data, _socket.MSG_NOSIGNAL) :]

    def _receive(self) -> None:
        """One more piece of what the other side sends. Raises CallError after the deadline, OSError."""
        poll = select.poll()
        poll.register(self._sock.fileno(), select.POLLIN)
        while True:
            left = self._deadline - _ocisys.monotonic()
            if left <= 0:
                raise CallError(TIMED_OUT, "no answer in time")
            if poll.poll(int(left * 1000) + 1):
                break
        data = self._sock.recv(65536)
        if not data:
            raise CallError(CLOSED, "the connection was closed")
        self._buffer += data

    def _next(self) -> Message:
        while True:
            try:
                message, size = decode(self._buffer)
            except (ValueError, _STRUCT_ERROR) as exc:
                raise CallError("", str(exc)) from None
            if message is not None:
                self._buffer = self._buffer[size:]
                return message
            self._receive()

    def send(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        values: Sequence[Any] = (),
    ) -> int:
        """Send a method call; its serial, for ``answer``. Raises CallError, OSError."""
        if self._lines:
            self._greet()
        self._serial += 1
        self._write(
            encode_call(self._serial, destination, path, interface, member, signature, values)
        )
        return self._serial

    def answer(self, serial: int) -> Message:
        """The reply to a call; signals that come before are kept. Raises CallError, OSError."""
        while True:
            message = self._next()
            if message.kind == SIGNAL:
                self._signals.append(message)
            elif message.fields.get(REPLY_SERIAL) == serial:
                if message.kind == ERROR:
                    text = message.body[0] if message.body else ""
                    name = message.fields.get(ERROR_NAME, "")
                    raise CallError(name, text if isinstance(text, str) else "")
                return message

    def wait_signal(self, wanted: Callable[[Message], bool]) -> Message:
        """The first signal, of those kept and those to come, that is wanted. Raises CallError, OSError."""
        for message in self._signals:
            if wanted(message):
                return message
        self._signals = []
        while True:
            message = self._next()
            if message.kind == SIGNAL and wanted(message):
                return message

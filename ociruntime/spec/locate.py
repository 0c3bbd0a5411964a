"""Where things are in a JSON text: the line of a JSON pointer, and the place of a syntax error.

A scanner in plain Python, for error messages only; it accepts exactly what ``json_reader`` accepts. It needs nothing
that the launcher's core phase lacks, so that a kernel error of the running ``create`` can name its line too.
"""

from __future__ import annotations

from ociruntime.errors import pointer_step
from ociruntime.spec.json_reader import MAX_DEPTH, MAX_DIGITS, quote

LARGE = 4 << 20
"""Bytes of a text in which no line is looked for: this scanner is slow, and its table longer than the text."""

_SPACE = b" \t\n\r"
_DIGITS = b"0123456789"
_ESCAPES = b'"\\/bfnrt'
_WORDS = {0x74: b"true", 0x66: b"false", 0x6E: b"null"}


class _Malformed(Exception):
    def __init__(self, message: str, offset: int) -> None:
        self.message = message
        self.offset = offset


def syntax_error(data: bytes) -> tuple[str, int] | None:
    """The first thing wrong with the JSON text as (message, byte offset), or None."""
    return _Scanner(data).error()


def positions(data: bytes) -> dict[str, int]:
    """Byte offset by JSON pointer (RFC 6901), for each value of the text: that of its name, or of itself in an array.

    Where the text is malformed: what comes before the error.
    """
    scanner = _Scanner(data)
    scanner.error()
    return scanner.positions


def line_of(data: bytes, pointer: str) -> int:
    """1-based line of ``pointer`` in the text; of its nearest parent when it is not there."""
    return Places(data).line(pointer)


class Places:
    """Lines and columns in one JSON text, scanned once for many questions; a line is 0 in one that is LARGE."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._positions = positions(data) if len(data) <= LARGE else {}

    def offset(self, pointer: str) -> int:
        while pointer and pointer not in self._positions:
            pointer = pointer[: pointer.rindex("/")] if "/" in pointer else ""
        return self._positions.get(pointer, 0)

    def line(self, pointer: str) -> int:
        if not self._positions:
            return 0
        return self._data.count(b"\n", 0, self.offset(pointer)) + 1

    def column(self, pointer: str) -> int:
        offset = self.offset(pointer)
        return offset - self._data.rfind(b"\n", 0, offset)


def steps(pointer: str) -> list[str]:
    """The property names and indices of a JSON pointer."""
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


def dotted(pointer: str) -> str:
    """A JSON pointer as people write it: ``mounts[4].options[0]``; names that are no words stay in quotes."""
    out = ""
    for step in steps(pointer):
        if step.isdecimal() and out:
            out += f"[{step}]"
        elif step.replace("_", "a").isalnum() and step.isascii():
            out += f".{step}" if out else step
        else:
            out += f"[{quote(step)}]"
    return out


class _Scanner:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.positions: dict[str, int] = {}

    def peek(self) -> int:
        """The next byte that is no white space; -1 at the end."""
        data, at = self.data, self.at
        while at < len(data) and data[at] in _SPACE:
            at += 1
        self.at = at
        return data[at] if at < len(data) else -1

    def error(self) -> tuple[str, int] | None:
        """Scan the whole text."""
        try:
            self.document()
        except _Malformed as exc:
            return exc.message, exc.offset
        return None

    def document(self) -> None:
        if self.data.startswith(b"\xef\xbb\xbf"):
            raise _Malformed("byte order mark before the text", 0)
        self.value("", 0)
        if self.peek() != -1:
            raise _Malformed("text after the end of the document", self.at)

    def value(self, pointer: str, depth: int) -> None:
        first = self.peek()
        self.positions.setdefault(pointer, self.at)
        if first in (0x7B, 0x5B):
            if depth == MAX_DEPTH:
                raise _Malformed("nested too deeply", self.at)
            self.at += 1
            if first == 0x7B:
                self.object(pointer, depth + 1)
            else:
                self.array(pointer, depth + 1)
        elif first == 0x22:
            self.string()
        elif first == 0x2D or 0x30 <= first <= 0x39:
            self.number()
        else:
            word = _WORDS.get(first)
            if word is None or not self.data.startswith(word, self.at):
                message = "unexpected end of text" if first == -1 else "expected a value"
                raise _Malformed(message, self.at)
            self.at += len(word)

    def object(self, pointer: str, depth: int) -> None:
        names = set()
        if self.peek() == 0x7D:
            self.at += 1
            return
        while True:
            if self.peek() != 0x22:
                raise _Malformed("expected a name in double quotes", self.at)
            where = self.at
            name = self.string()
            if self.peek() != 0x3A:
                raise _Malformed('expected ":" after the name', self.at)
            self.at += 1
            below = f"{pointer}/{pointer_step(name)}"
            self.positions.setdefault(below, where)
            self.value(below, depth)
            if name in names:
                raise _Malformed(f"duplicate name {quote(name)} in object", where)
            names.add(name)
            if self.separator(0x7D, 'expected "," or "}" in object'):
                return

    def array(self, pointer: str, depth: int) -> None:
        index = 0
        if self.peek() == 0x5D:
            self.at += 1
            return
        while True:
            self.value(f"{pointer}/{index}", depth)
            index += 1
            if self.separator(0x5D, 'expected "," or "]" in array'):
                return

    def separator(self, end: int, message: str) -> bool:
        """Pass a comma or the closing bracket; True for the latter."""
        found = self.peek()
        if found not in (0x2C, end):
            raise _Malformed(message, self.at)
        self.at += 1
        return found == end

    def string(self) -> str:
        data = self.data
        start = at = self.at + 1
        pieces: list[bytes] = []
        while True:
            byte = data[at] if at < len(data) else 0
            if byte < 0x20:
                what = "control character in string" if at < len(data) else "string without end"
                raise _Malformed(what, at)
            if byte == 0x22:
                break
            if byte == 0x5C:
                pieces.append(data[start:at])
                at, text = self.escaped(at)
                pieces.append(text)
                start = at
            else:
                at += 1
        pieces.append(data[start:at])
        where, self.at = self.at + 1, at + 1
        try:
            return b"".join(pieces).decode()
        except UnicodeDecodeError:
            raise _Malformed("invalid UTF-8 in string", where) from None

    def escaped(self, at: int) -> tuple[int, bytes]:
        """The escape that begins at the backslash: (offset behind it, its text in UTF-8)."""
        letter = self.data[at + 1 : at + 2]
        if letter != b"u":
            if not letter or letter not in _ESCAPES:
                raise _Malformed("unknown escape in string", at)
            return at + 2, b'"\\/\b\f\n\r\t'[_ESCAPES.index(letter) :][:1]
        code = self.hex4(at + 2)
        if code is None:
            raise _Malformed("\\u needs four hexadecimal digits", at)
        if code == 0:
            raise _Malformed("NUL in string", at)
        if 0xD800 <= code < 0xDC00 and self.data[at + 6 : at + 8] == b"\\u":
            low = self.hex4(at + 8)
            if low is not None and 0xDC00 <= low < 0xE000:
                return at + 12, chr(0x10000 + (code - 0xD800 << 10) + low - 0xDC00).encode()
        if 0xD800 <= code < 0xE000:
            raise _Malformed("lone surrogate in string", at)
        return at + 6, chr(code).encode()

    def hex4(self, at: int) -> int | None:
        digits = self.data[at : at + 4]
        if len(digits) < 4 or digits.strip(b"0123456789abcdefABCDEF"):
            return None
        return int(digits, 16)

    def digits(self, message: str, start: int) -> None:
        """Pass one or more decimal digits."""
        data, at = self.data, self.at
        while at < len(data) and data[at] in _DIGITS:
            at += 1
        if at == self.at:
            raise _Malformed(message, start)
        self.at = at

    def number(self) -> None:
        data, start = self.data, self.at
        if data[start] == 0x2D:
            self.at += 1
        first = self.at
        self.digits("a digit must follow the minus sign", start)
        if data[first] == 0x30 and self.at > first + 1:
            raise _Malformed("leading zero in number", start)
        integer = True
        if data[self.at : self.at + 1] == b".":
            integer = False
            self.at += 1
            self.digits("a digit must follow the decimal point", start)
        if data[self.at : self.at + 1] in (b"e", b"E"):
            integer = False
            self.at += 1
            if data[self.at : self.at + 1] in (b"+", b"-"):
                self.at += 1
            self.digits("a digit must follow the exponent sign", start)
        if self.at - start > MAX_DIGITS:
            raise _Malformed("number has too many digits", start)
        if not integer and float(data[start : self.at]) in (float("inf"), float("-inf")):
            raise _Malformed("number is out of range", start)

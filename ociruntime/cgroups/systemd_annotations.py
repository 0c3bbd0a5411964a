"""Annotations ``org.systemd.property.NAME`` → properties of the unit. Pure.

Hot module: podman sends two with each container.

Values are GVariant text (https://docs.gtk.org/glib/gvariant-text-format.html), of which numbers, booleans, strings,
arrays and tuples are understood. An annotation comes from whoever may write the config, often an image's user: names
are letters only (CVE-2024-3154), and the properties that decide what the unit is made of cannot be set.
"""

from __future__ import annotations

from ociruntime import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ociruntime.cgroups.systemd_unit import Property

PREFIX = "org.systemd.property."
_OURS = frozenset(("PIDs", "PIDFDs", "Slice", "Controller"))
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_WORD = frozenset("0123456789+-.") | _LETTERS
_NAME_MIN = 3
_DEPTH_MAX = 8

# type keywords of the text format → D-Bus codes, and the ranges of integers
_TYPES = {
    "boolean": "b",
    "byte": "y",
    "int16": "n",
    "uint16": "q",
    "int32": "i",
    "uint32": "u",
    "int64": "x",
    "uint64": "t",
    "double": "d",
    "string": "s",
    "objectpath": "o",
    "signature": "g",
}
_RANGES = {
    "y": (0, 0xFF),
    "n": (-0x8000, 0x7FFF),
    "q": (0, 0xFFFF),
    "i": (-0x80000000, 0x7FFFFFFF),
    "u": (0, 0xFFFFFFFF),
    "x": (-(1 << 63), (1 << 63) - 1),
    "t": (0, (1 << 64) - 1),
}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


def properties(annotations: Mapping[str, str]) -> list[Property]:
    """The properties in the order of the annotations. Raises errors.Error with the annotation's pointer."""
    out: list[Property] = []
    for key, text in annotations.items():
        if not key.startswith(PREFIX):
            continue
        name = key[len(PREFIX) :]
        pointer = "/annotations/" + errors.pointer_step(key)
        if len(name) < _NAME_MIN or not _LETTERS.issuperset(name):
            raise errors.Error(
                f"annotation {key!r}: invalid systemd property name",
                pointer=pointer,
                hint="letters only, at least three",
            )
        if name in _OURS:
            raise errors.Error(
                f"annotation {key}: {name} is not for a config to decide", pointer=pointer
            )
        try:
            value = parse(text)
            if name.endswith("Sec") and name[-4:-3].islower():
                name, value = name[:-3] + "USec", _microseconds(value)
        except ValueError as exc:
            raise errors.Error(
                f"annotation {key}={text!r}: {exc}",
                pointer=pointer,
                hint="GVariant text: true, 15, uint64 10000000, 'text', ['a', 'b']",
            ) from None
        out.append((name, value, pointer))
    return out


def _microseconds(value: tuple[str, Any]) -> tuple[str, int]:
    """Seconds, in any numeric type, as the µs that D-Bus properties have (systemd-run(1) converts as well)."""
    code, seconds = value
    if code not in _RANGES and code != "d":
        raise ValueError("seconds need a number")
    if code == "d" and not abs(seconds) < 1e13:  # infinity and NaN included
        raise ValueError("seconds out of range")
    result = int(seconds * 1_000_000)
    if not 0 <= result <= _RANGES["t"][1]:
        raise ValueError("seconds out of range")
    return "t", result


def parse(text: str) -> tuple[str, Any]:
    """GVariant text → (D-Bus signature, value). Raises ValueError."""
    reader = _Text(text)
    value = reader.value("", 0)
    reader.blank()
    if reader.at != len(text):
        raise ValueError(f"unexpected {text[reader.at :]!r} after the value")
    return value


class _Text:
    """A position in the text."""

    __slots__ = ("at", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def blank(self) -> None:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1

    def take(self, char: str) -> bool:
        """Whether ``char`` comes next, which is then passed."""
        self.blank()
        found = self.text.startswith(char, self.at)
        if found:
            self.at += len(char)
        return found

    def value(self, kind: str, depth: int) -> tuple[str, Any]:
        """The next value; ``kind``: signature that is asked for, or ``""``."""
        if depth > _DEPTH_MAX:
            raise ValueError("nested too deeply")
        self.blank()
        first = self.text[self.at : self.at + 1]
        if first == "@":
            self.at += 1
            return self.value(self.signature(), depth + 1)
        if first == "[":
            return self.array(kind, depth)
        if first == "(":
            return self.items(kind, depth)
        if first in ("'", '"'):
            code = kind or "s"
            if code not in ("s", "o", "g"):
                raise ValueError(f"a string where {code!r} is needed")
            return code, self.string()
        start = self.at
        while self.text[self.at : self.at + 1] in _WORD:
            self.at += 1
        word = self.text[start : self.at]
        if word in ("true", "false"):
            if kind not in ("", "b"):
                raise ValueError(f"a boolean where {kind!r} is needed")
            return "b", word == "true"
        if word in _TYPES:
            if kind not in ("", _TYPES[word]):
                raise ValueError(f"{word} where {kind!r} is needed")
            return self.value(_TYPES[word], depth + 1)
        return _number(word, kind)

    def signature(self) -> str:
        """What follows ``@``."""
        start = self.at
        while self.text[self.at : self.at + 1] not in ("", " "):
            self.at += 1
        from ociruntime.cgroups.dbus import split_type

        kind = self.text[start : self.at]
        if split_type(kind) != len(kind):
            raise ValueError(f"invalid type @{kind}")
        return kind

    def string(self) -> str:
        quote = self.text[self.at]
        self.at += 1
        out = ""
        while True:
            char = self.text[self.at : self.at + 1]
            if not char:
                raise ValueError("string without an end")
            self.at += 1
            if char == quote:
                break
            if char == "\\":
                char = self.escape()
            out += char
        if "\0" in out:
            raise ValueError("string with a NUL")
        return out

    def escape(self) -> str:
        """What follows a backslash: letters of C, u and U with hexadecimal digits, or the character itself."""
        char = self.text[self.at : self.at + 1]
        self.at += 1
        size = {"u": 4, "U": 8}.get(char)
        if size is None:
            return _ESCAPES.get(char, char)
        digits = self.text[self.at : self.at + size]
        self.at += size
        if len(digits) != size or digits.strip("0123456789abcdefABCDEF"):
            raise ValueError("invalid escape in a string")
        return chr(int(digits, 16))

    def array(self, kind: str, depth: int) -> tuple[str, Any]:
        """``[…]``: values of one type."""
        if kind and kind[0] != "a":
            raise ValueError(f"an array where {kind!r} is needed")
        inner = kind[1:]
        found = self.listed("]", lambda: inner, depth)
        kinds = {code for code, _ in found}
        if not kinds and not inner:
            raise ValueError("an empty array needs a type: @as []")
        if len(kinds) > 1:
            raise ValueError("an array holds values of one type")
        if kinds:
            inner = kinds.pop()
        return "a" + inner, [value for _, value in found]

    def items(self, kind: str, depth: int) -> tuple[str, Any]:
        """``(…)``: values of any types."""
        if kind and kind[0] != "(":
            raise ValueError(f"a tuple where {kind!r} is needed")
        wanted = _members(kind)
        found = self.listed(")", lambda: wanted.pop(0) if wanted else "", depth)
        if wanted or not found:
            raise ValueError("a tuple of the wrong length")
        got = "(" + "".join([code for code, _ in found]) + ")"
        if kind and got != kind:
            raise ValueError(f"{got} where {kind!r} is needed")
        return got, tuple([value for _, value in found])

    def listed(self, end: str, kind: Any, depth: int) -> list[tuple[str, Any]]:
        """Values between the bracket that is next and ``end``, with commas; ``kind()`` of the next."""
        self.at += 1
        found: list[tuple[str, Any]] = []
        while not self.take(end):
            if found and not self.take(","):
                raise ValueError("a comma is missing")
            if found and self.take(end):  # (1,) is a tuple of one
                break
            found.append(self.value(kind(), depth + 1))
        return found


def _members(kind: str) -> list[str]:
    """The types of a tuple."""
    from ociruntime.cgroups.dbus import split_type

    out = []
    at = 1
    while at < len(kind) - 1:
        end = split_type(kind, at)
        out.append(kind[at:end])
        at = end
    return out


def _number(word: str, kind: str) -> tuple[str, Any]:
    """A number, decimal, hexadecimal or octal as in C; an int32 or a double where nothing else is asked for."""
    digits = word.lstrip("+-")
    if not digits or len(word) - len(digits) > 1:
        raise ValueError(f"{word or 'nothing'} is no value")
    base = 10
    if digits[:2].lower() == "0x":
        base = 16
    elif len(digits) > 1 and digits[0] == "0" and digits.isdecimal():
        base = 8
    try:
        number: int | float = int(word, base)
    except ValueError:
        try:
            number = float(word)
        except ValueError:
            raise ValueError(f"{word} is no value") from None
        if (
            kind not in ("", "d")
            or not "".join(digits.lower().split("e")).strip("0123456789.-+") == ""
        ):
            raise ValueError(f"{word} is no value of type {kind or 'd'!r}") from None
        return "d", number
    code = kind or "i"
    if code == "d":
        return "d", float(number)
    if code not in _RANGES:
        raise ValueError(f"a number where {code!r} is needed")
    low, high = _RANGES[code]
    if not low <= number <= high:
        raise ValueError(f"{word} is out of range for type {code!r}")
    return code, number

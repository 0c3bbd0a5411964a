"""JSON text ↔ Python data, strictly, without the ``json`` package.

The language is RFC 8259 narrowed to what config.json has to be: UTF-8 without a byte order mark and no name twice in
an object (runtime-spec, glossary, "JSON"), no NUL and no lone surrogate in a string (the class of CVE-2021-43784), no
NaN or Infinity, at most 128 levels and 64 MiB. Integers are exact.

The launcher brings ``_ocijson`` (native/minijson.c); elsewhere CPython's own ``_json`` does the work. Both accept the
same texts; what is wrong with one that they refuse is found out by ``locate``.

Hot module.
"""

from __future__ import annotations

from ociruntime import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

try:
    import _ocijson as _c
except ImportError:
    try:
        from _json import encode_basestring, encode_basestring_ascii, make_scanner
    except ImportError:
        from ociruntime.spec.json_fallback import (  # type: ignore[assignment]
            encode_basestring,
            encode_basestring_ascii,
            make_scanner,
        )
    _ocijson: Any = None
else:
    _ocijson = _c

MAX_DEPTH = 128
MAX_SIZE = 64 << 20
MAX_DIGITS = 4000


def loads(data: bytes, name: str = "config.json") -> Any:
    """The value of the JSON text ``data``; ``name`` is the file named in errors.

    Raises ConfigError with one problem: no pointer, the line, and what is wrong there.
    """
    if len(data) > MAX_SIZE:
        _fail(data, name, f"larger than {MAX_SIZE >> 20} MiB", len(data))
    try:
        return _loads(data) if _ocijson is None else _ocijson.loads(data, MAX_DEPTH)
    except (ValueError, StopIteration, ImportError, RecursionError) as exc:
        # ImportError: _json wants json.JSONDecodeError, which the core phase has not.
        from ociruntime.spec import locate

        if _ocijson is not None and len(data) > locate.LARGE:
            message, offset = exc.args
        else:
            message, offset = locate.syntax_error(data) or ("no reason found", 0)
    return _fail(data, name, message, offset)


def _fail(data: bytes, name: str, message: str, offset: int) -> NoReturn:
    line = data.count(b"\n", 0, offset) + 1
    column = offset - data.rfind(b"\n", 0, offset)
    text = f"not valid JSON: {message} (column {column})"
    raise errors.ConfigError(f"{name}:{line}: {text}", [errors.ConfigProblem("", text, line)])


class _Scanner:
    """The attributes that make_scanner asks of its decoder."""

    strict = True
    object_hook = None

    @staticmethod
    def object_pairs_hook(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("duplicate name")
        return result

    @staticmethod
    def parse_int(text: str) -> int:
        if len(text) > MAX_DIGITS:
            raise ValueError("too many digits")
        return int(text)

    @staticmethod
    def parse_float(text: str) -> float:
        value = float(text)
        if len(text) > MAX_DIGITS or value in (_INFINITY, -_INFINITY):
            raise ValueError("out of range")
        return value

    @staticmethod
    def parse_constant(text: str) -> NoReturn:
        raise ValueError(text)


_INFINITY = float("inf")
_SPACE = " \t\n\r"


def _loads(data: bytes) -> Any:
    """``loads`` on CPython's scanner; any exception means that the text is refused."""
    text = data.decode().strip(_SPACE)
    value, end = make_scanner(_Scanner)(text, 0)  # type: ignore[arg-type]
    if end != len(text):
        raise ValueError("trailing text")
    if "\\u0000" in text or "\\ud" in text or "\\uD" in text:
        from ociruntime.spec import locate

        if locate.syntax_error(data):
            raise ValueError("NUL or lone surrogate")
    if text.count("{") + text.count("[") > MAX_DEPTH:
        _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            if parent.__class__ in (dict, list)
            for child in (parent.values() if parent.__class__ is dict else parent)
        ]
    if any(child.__class__ in (dict, list) for child in level):
        raise ValueError("nested too deeply")


def quote(text: str) -> str:
    """``text`` as a JSON string; lone surrogates (undecodable bytes of paths) become ``\\uXXXX``."""
    if _ocijson is not None:
        return _ocijson.quote(text)  # type: ignore[no-any-return]
    quoted = encode_basestring(text)
    try:
        quoted.encode()
    except UnicodeEncodeError:
        return encode_basestring_ascii(text)
    return quoted


def dumps(value: Any, indent: int | None = None) -> str:
    """JSON text for plain data (dict with str keys, list, tuple, str, int, float, bool, None).

    ``indent``: spaces per level, None for one line without spaces. Raises TypeError for anything else.
    """
    out: list[str] = []
    if indent is None:
        _write(value, out.append, "", "", ":")
    else:
        _write(value, out.append, "\n", " " * indent, ": ")
    return "".join(out)


def _write(value: Any, put: Any, newline: str, step: str, colon: str) -> None:
    kind = value.__class__
    if kind is str:
        put(quote(value))
    elif value is None:
        put("null")
    elif kind is bool:
        put("true" if value else "false")
    elif kind is int or kind is float:
        if value != value or value in (_INFINITY, -_INFINITY):
            raise TypeError(f"not a JSON number: {value}")
        put(repr(value))
    elif kind is dict:
        inner = newline + step
        separator = "{" + inner
        for name, item in value.items():
            put(separator)
            put(quote(name))
            put(colon)
            _write(item, put, inner, step, colon)
            separator = "," + inner
        put(newline + "}" if value else "{}")
    elif kind is list or kind is tuple:
        inner = newline + step
        separator = "[" + inner
        for item in value:
            put(separator)
            _write(item, put, inner, step, colon)
            separator = "," + inner
        put(newline + "]" if value else "[]")
    else:
        raise TypeError(f"not JSON data: {kind.__name__}")

"""One language in three readers: CPython's _json, the launcher's _ocijson and the scanner that finds errors."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pytest_subtests import SubTests

from ociruntime import errors
from ociruntime.spec import json_fallback, json_reader, locate

MODULE = "ociruntime.spec.json_reader"


def reader(**modules: Any) -> ModuleType:
    """A fresh json_reader that meets these modules (None: not there)."""
    spec = importlib.util.find_spec(MODULE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        spec.loader.exec_module(module)
    finally:
        for name, old in before.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old
    return module


@pytest.fixture(scope="module", params=["_json", "_ocijson", "json"])
def loads(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "_ocijson":
        pytest.importorskip("_ocijson", reason="native/minijson.c is not built as a module here")
        yield reader().loads
    elif request.param == "json":
        yield reader(_ocijson=None, _json=None).loads
    else:
        yield reader(_ocijson=None).loads


GOOD: dict[str, tuple[bytes, Any]] = {
    "empty object": (b"{}", {}),
    "white space": (b" \t\r\n{ \n} \n", {}),
    "scalars": (b'[null,true,false,0,-0,1.5,-2e3,1E+2,"x"]', [None, True, False, 0, 0, 1.5, -2000.0, 100.0, "x"]),
    "exact integers": (b"[18446744073709551615,-9223372036854775808,123456789012345678901234567890]",
                       [2**64 - 1, -(2**63), 123456789012345678901234567890]),
    "4000 digits": (b"9" * 4000, 10**4000 - 1),
    "escapes": (rb'"\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\ude00"', '"\\/\b\f\n\r\tAé😀'),
    "UTF-8": ('{"ключ":"值"}'.encode(), {"ключ": "值"}),
    "an escaped backslash before u0000": (rb'"\\u0000 \\ud800"', "\\u0000 \\ud800"),
    "DEL": (b'"\x7f"', "\x7f"),
    "empty name": (b'{"":1}', {"": 1}),
    "equal names in different objects": (b'{"a":{"a":1},"b":{"a":1}}', {"a": {"a": 1}, "b": {"a": 1}}),
    "128 levels": (b"[" * 128 + b"]" * 128, None),
    "128 levels of both": (b'{"a":[' * 64 + b"]}" * 64, None),
}  # fmt: skip
BAD: dict[str, tuple[bytes, str, int]] = {  # text, message, byte offset
    "empty": (b"", "unexpected end of text", 0),
    "blank": (b" \n", "unexpected end of text", 2),
    "byte order mark": (b"\xef\xbb\xbf{}", "byte order mark", 0),
    "UTF-16": ("{}".encode("utf-16"), "expected a value", 0),
    "duplicate name": (b'{"a":1,\n"b":2,"a":3}', "duplicate name", 14),
    "duplicate name by an escape": (rb'{"a":1,"\u0061":3}', "duplicate name", 7),
    "NaN": (b"[NaN]", "expected a value", 1),
    "Infinity": (b"[Infinity]", "expected a value", 1),
    "-Infinity": (b"[-Infinity]", "a digit must follow", 1),
    "trailing text": (b"{} x", "text after the end", 3),
    "two documents": (b"{}{}", "text after the end", 2),
    "trailing NUL": (b"{}\0", "text after the end", 2),
    "trailing comma in array": (b"[1,]", "expected a value", 3),
    "trailing comma in object": (b'{"a":1,}', "expected a name", 7),
    "no comma": (b"[1 2]", 'expected "," or "]"', 3),
    "no colon": (b'{"a" 1}', 'expected ":"', 5),
    "name without quotes": (b"{a:1}", "expected a name", 1),
    "single quotes": (b"{'a':1}", "expected a name", 1),
    "comment": (b"{} // x", "text after the end", 3),
    "unclosed array": (b"[1", 'expected "," or "]"', 2),
    "unclosed object": (b'{"a":1', 'expected "," or "}"', 6),
    "unclosed string": (b'["a', "string without end", 3),
    "unclosed escape": (b'"\\', "unknown escape", 1),
    "line feed in string": (b'"a\nb"', "control character", 2),
    "tab in string": (b'"\t"', "control character", 1),
    "raw NUL in string": (b'"a\0b"', "control character", 2),
    "escaped NUL": (rb'"a\u0000"', "NUL in string", 2),
    "escaped NUL in a name": (rb'{"\u0000":1}', "NUL in string", 2),
    "lone high surrogate": (rb'"\ud800"', "lone surrogate", 1),
    "lone low surrogate": (rb'"\uDC00x"', "lone surrogate", 1),
    "surrogates the wrong way round": (rb'"\ude00\ud83d"', "lone surrogate", 1),
    "high surrogate, other escape": (rb'"\ud800\u0041"', "lone surrogate", 1),
    "short \\u": (rb'"\u00e"', "four hexadecimal", 1),
    "\\u with a sign": (rb'"\u+0e9"', "four hexadecimal", 1),
    "unknown escape": (rb'"\x41"', "unknown escape", 1),
    "invalid UTF-8": (b'"\xff"', "invalid UTF-8", 1),
    "overlong UTF-8": (b'"\xc0\xaf"', "invalid UTF-8", 1),
    "surrogate in UTF-8": (b'"\xed\xa0\x80"', "invalid UTF-8", 1),
    "leading zero": (b"[01]", "leading zero", 1),
    "negative leading zero": (b"[-01]", "leading zero", 1),
    "plus sign": (b"[+1]", "expected a value", 1),
    "lone minus": (b"[-]", "a digit must follow", 1),
    "no digit before the point": (b"[.5]", "expected a value", 1),
    "no digit behind the point": (b"[1.]", "decimal point", 1),
    "no exponent": (b"[1e]", "exponent", 1),
    "hexadecimal": (b"[0x10]", 'expected ","', 2),
    "4001 digits": (b"9" * 4001, "too many digits", 0),
    "beyond floats": (b"[1e999]", "out of range", 1),
    "half a word": (b"[tru]", "expected a value", 1),
    "longer word": (b"[nulll]", 'expected ","', 5),
    "129 levels": (b"[" * 129 + b"]" * 129, "nested too deeply", 128),
    "129 levels of both": (b'{"a":[' * 64 + b"{}" + b"]}" * 64, "nested too deeply", 384),
    "100000 levels": (b"[" * 100000, "nested too deeply", 128),
}  # fmt: skip


def test_good(loads: Any, subtests: SubTests) -> None:
    for what, (text, value) in GOOD.items():
        with subtests.test(what):
            found = loads(text)
            if value is not None:
                assert found == value
                assert [type(item) for item in _leaves(found)] == [
                    type(item) for item in _leaves(value)
                ]
            assert locate.syntax_error(text) is None


def _leaves(value: Any) -> list[Any]:
    children = (
        list(value.values())
        if isinstance(value, dict)
        else value
        if isinstance(value, list)
        else None
    )
    return [value] if children is None else [leaf for child in children for leaf in _leaves(child)]


def test_bad(loads: Any, subtests: SubTests) -> None:
    for what, (text, message, offset) in BAD.items():
        with subtests.test(what):
            with pytest.raises(errors.ConfigError) as caught:
                loads(text, "c.json")
            (problem,) = caught.value.problems
            line = text[:offset].count(b"\n") + 1
            column = offset - (text[:offset].rfind(b"\n"))
            assert message in problem.message
            assert problem.line == line
            assert problem.message.endswith(f"(column {column})")
            assert str(caught.value) == f"c.json:{line}: {problem.message}"
            found = locate.syntax_error(text)
            assert found is not None
            assert found[1] == offset


def test_size_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_reader, "MAX_SIZE", 8 << 20)
    json_reader.loads(b'"' + b"x" * ((8 << 20) - 2) + b'"')
    with pytest.raises(errors.ConfigError, match="larger than 8 MiB"):
        json_reader.loads(b'"' + b"x" * ((8 << 20) - 1) + b'"')


_texts = st.recursive(
    st.sampled_from(
        [
            "null",
            "true",
            "1",
            "-1.5",
            '"a"',
            '"\\u0041"',
            '"é"',
            "{}",
            "[]",
            '"\\u0000"',
            '"\\ud800"',
            "01",
            "1e5",
            "",
        ]
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ",".join(items) + "]"),
        st.lists(
            st.tuples(st.sampled_from(['"a"', '"b"', '"\\u0061"', '""']), inner), max_size=3
        ).map(lambda items: "{" + ", ".join(f"{name} :{value}" for name, value in items) + "}"),
    ),
    max_leaves=8,
)


@settings(
    max_examples=1500,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(
    _texts,
    st.lists(
        st.tuples(
            st.integers(0, 60),
            st.sampled_from(
                [b"", b",", b"\\", b'"', b"]", b"}", b"0", b".", b"\xff", b"\0", b"u", b" "]
            ),
        ),
        max_size=2,
    ),
)
@example("[]", [])
def test_three_readers_agree(text: str, edits: list[tuple[int, bytes]]) -> None:
    data = text.encode()
    for at, piece in edits:
        data = data[:at] + piece + data[at + (len(piece) == 0) :]
    found = {}
    for name, load in _readers().items():
        try:
            found[name] = load(data)
        except errors.ConfigError as exc:
            found[name] = str(exc)
    first = found["_json"]
    assert all(repr(value) == repr(first) for value in found.values()), (data, found)
    assert (locate.syntax_error(data) is None) == (
        not isinstance(first, str) or not first.startswith("config.json:")
    )
    if locate.syntax_error(data) is None:
        assert json.loads(data) == first


def _readers() -> dict[str, Any]:
    if not _READERS:
        _READERS["_json"] = reader(_ocijson=None).loads
        if importlib.util.find_spec("_ocijson"):
            _READERS["_ocijson"] = reader().loads
    return _READERS


_READERS: dict[str, Any] = {}


@pytest.mark.parametrize("with_c", [False, True])
def test_dumps(with_c: bool, subtests: SubTests) -> None:
    if with_c:
        pytest.importorskip("_ocijson", reason="native/minijson.c is not built as a module here")
    module = reader() if with_c else reader(_ocijson=None)
    values: list[Any] = [
        {}, [], {"a": []}, {"a": {}, "b": [1, [2, {"c": None}], True, False]}, "é\n\"\\\x01\x7f/", 2**70, -1.5,
        1e300, "", [[], [[]]], {"ключ": ["值", "😀"]},
    ]  # fmt: skip
    for value in values:
        for indent in (None, 1, 4):
            with subtests.test(f"{value!r} {indent}"):
                separators = (",", ":") if indent is None else (",", ": ")
                expected = json.dumps(
                    value, indent=indent, separators=separators, ensure_ascii=False
                )
                assert module.dumps(value, indent) == expected
    assert module.dumps((1, (2,))) == "[1,[2]]"
    for value in (math.nan, math.inf, -math.inf, b"x", {1}, object(), [b""]):
        with subtests.test(f"{value!r}"), pytest.raises(TypeError, match="not"):
            module.dumps(value)


def test_dumps_undecodable_paths() -> None:
    """os.fsdecode gives lone surrogates: they are written as escapes, so that the text is UTF-8."""
    name = b"/x\xff\xc3\xa9".decode("utf-8", "surrogateescape")
    for module in (reader(_ocijson=None), json_reader):
        text = module.dumps([name])
        text.encode()
        assert json.loads(text) == [name]


def test_fallback_is_what_json_offers() -> None:
    assert json_fallback.encode_basestring('é"\n') == '"é\\"\\n"'

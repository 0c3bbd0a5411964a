"""native/minijson.c against Python's own json, and where it is stricter."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_subtests import SubTests

_ocijson = pytest.importorskip("_ocijson", reason="not built: make build")

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda children: (
        st.lists(children) | st.dictionaries(st.text("abc\xe9\u20ac\U0001f600"), children)
    ),
    max_leaves=30,
)


@given(VALUES, st.booleans(), st.sampled_from((None, 0, 1)))
def test_reads_what_json_writes(value: object, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    read = _ocijson.loads(text)
    assert read == value
    assert json.dumps(read) == json.dumps(value)  # int, float and bool are told apart


@given(st.text(st.characters(exclude_characters="\0")))
def test_json_reads_what_quote_writes(text: str) -> None:
    assert json.loads(_ocijson.quote(text)) == json.loads(json.dumps(text))


@given(st.binary(max_size=40) | st.text('{}[]",:0123456789.eE+-\\utrfalsn \n\xe9').map(str.encode))
def test_accepts_no_more_than_json(data: bytes) -> None:
    """Random bytes: whatever is accepted here is accepted by json, with the same value."""
    try:
        value = _ocijson.loads(data)
    except ValueError as exc:
        message, offset = exc.args
        assert isinstance(message, str)
        assert 0 <= offset <= len(data)
    else:
        assert value == json.loads(data)


@given(VALUES, st.data())
def test_every_truncation_is_rejected(value: object, data: st.DataObject) -> None:
    text = json.dumps([value]).encode()
    length = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(ValueError):
        _ocijson.loads(text[:length])


REJECTED = {
    b"": ("unexpected end of text", 0),
    b"  ": ("unexpected end of text", 2),
    b"\xef\xbb\xbf{}": ("byte order mark before the text", 0),
    b"{} x": ("text after the end of the document", 3),
    b"{}\0": ("text after the end of the document", 2),
    b"NaN": ("expected a value", 0),
    b"-Infinity": ("a digit must follow the minus sign", 0),
    b"nul": ("expected a value", 0),
    b"'a'": ("expected a value", 0),
    b"[1,]": ("expected a value", 3),
    b"[1 2]": ('expected "," or "]" in array', 3),
    b"[": ("unexpected end of text", 1),
    b'{"a":1,}': ("expected a name in double quotes", 7),
    b'{"a":1 "b":2}': ('expected "," or "}" in object', 7),
    b'{"a" 1}': ('expected ":" after the name', 5),
    b"{a:1}": ("expected a name in double quotes", 1),
    b'{"a":1,"b":{},"a":2}': ("duplicate name in object", 14),
    b'{"a":1,"\\u0061":2}': ("duplicate name in object", 7),
    b'{"\xc3\xa9":1, "\\u00e9":2}': ("duplicate name in object", 9),
    b"01": ("leading zero in number", 0),
    b"-00": ("leading zero in number", 0),
    b"1.": ("a digit must follow the decimal point", 0),
    b"1e": ("a digit must follow the exponent sign", 0),
    b"1e999": ("number is out of range", 0),
    b"+1": ("expected a value", 0),
    b".5": ("expected a value", 0),
    b"0x10": ("text after the end of the document", 1),
    b"9" * 4001: ("number has too many digits", 0),
    b'"a': ("string without end", 2),
    b'"a\\n': ("string without end", 4),
    b'"a\\': ("unknown escape in string", 2),
    b'"\n"': ("control character in string", 1),
    b'"\\t\n"': ("control character in string", 3),
    b'"a\0b"': ("control character in string", 2),
    b'"\\u0000"': ("NUL in string", 1),
    b'"\\x41"': ("unknown escape in string", 1),
    b'"\\u12g4"': ("\\u needs four hexadecimal digits", 1),
    b'"\\ud800"': ("lone surrogate in string", 1),
    b'"\\ud800\\u0041"': ("lone surrogate in string", 1),
    b'"\\udc00\\ud800"': ("lone surrogate in string", 1),
    b'"\xff"': ("invalid UTF-8 in string", 1),
    b'"\xc0\x80"': ("invalid UTF-8 in string", 1),
    b'"\xed\xa0\x80"': ("invalid UTF-8 in string", 1),
    b'"\\n\xf4\x90\x80\x80"': ("invalid UTF-8 in string", 1),
    b"[" * 129 + b"]" * 129: ("nested too deeply", 128),
}


def test_rejections(subtests: SubTests) -> None:
    for text, expected in REJECTED.items():
        with subtests.test(text=text[:30]):
            with pytest.raises(ValueError) as caught:
                _ocijson.loads(text)
            assert caught.value.args == expected


def test_accepts_every_kind_of_number(subtests: SubTests) -> None:
    for text in (
        "0",
        "-0",
        "-0.0",
        "9" * 18,
        "-" + "9" * 18,
        "9" * 19,
        str(2**64),
        "1.0",
        "1e3",
        "1E-2",
        "9" * 4000,
    ):
        with subtests.test(text=text[:30]):
            value, expected = _ocijson.loads(text.encode()), json.loads(text)
            assert value == expected
            assert type(value) is type(expected)
            assert math.copysign(1, value) == math.copysign(1, expected) if len(text) < 50 else True


def test_depth_is_an_argument() -> None:
    assert _ocijson.loads(b"[[]]", 2) == [[]]
    with pytest.raises(ValueError, match="nested too deeply"):
        _ocijson.loads(b"[[]]", 1)
    with pytest.raises(OverflowError):
        _ocijson.loads(b"1", 1001)
    deep = b"[" * 1000 + b"]" * 1000
    assert _ocijson.loads(deep, 1000)
    for wrong in ("{}", bytearray(b"{}"), None):
        with pytest.raises(TypeError):
            _ocijson.loads(wrong)


def test_long_and_colliding_names() -> None:
    """The cache of names tells equal lengths, equal hashes and long names apart."""
    names = [f"{a}{b}" for a in ("Aa", "BB", "C#") for b in ("Aa", "BB", "C#")]
    names += ["x" * length for length in (0, 47, 48, 49, 300)] + ["y" * 48]
    rows = [{name: index} for index, name in enumerate(names)] * 3
    assert _ocijson.loads(json.dumps(rows).encode()) == rows


def test_quote() -> None:
    assert _ocijson.quote('a"\\\b\f\n\r\t\x01/\x7f\xe9\u20ac\U0001f600') == (
        '"a\\"\\\\\\b\\f\\n\\r\\t\\u0001/\x7f\xe9\u20ac\U0001f600"'
    )
    assert _ocijson.quote("\udcff") == '"\\udcff"'
    assert _ocijson.quote("") == '""'
    with pytest.raises(TypeError):
        _ocijson.quote(b"x")


def test_reads_real_configs(repository: Path, subtests: SubTests) -> None:
    files = sorted((repository / "tests/data").glob("*.json"))
    assert files
    for path in files:
        with subtests.test(file=path.name):
            assert _ocijson.loads(path.read_bytes()) == json.loads(path.read_bytes())


def test_no_reference_is_lost() -> None:
    """Neither good nor bad documents leave objects behind."""
    import gc
    import sys

    texts = [b'{"a": ["b", 1.5, {"c": "\\n"}], "d": 12345678901234567890}', *list(REJECTED)]

    def once() -> None:
        for text in texts:
            try:
                _ocijson.loads(text)
            except ValueError:
                pass

    once()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(50):
        once()
    gc.collect()
    assert sys.getallocatedblocks() - before < 50

"""Changes of inputs: of bytes, and of JSON documents by their schema and by their text."""

from __future__ import annotations

import json
import random
from typing import Any

from tests.differential.mutate import INTEGERS, WORDS

TOKENS = (
    *(b"{", b"}", b"[", b"]", b'"', b"\\", b",", b":", b"=", b"-", b".", b"/", b"/../", b" ", b"\n", b"\0", b"\xff"),
    *(b"\x0b", b"\x0c", b"\x1c", b"\x85", "\x85".encode(), "\u2028".encode(), b"\xed\xa0\x80", b"\\040", b"\\u0000"),
    *(b"9" * 30, b"-1", b"0", b"1e999", b"true", b"null", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x01\0\0\0"),
)  # fmt: skip
RAW = (
    *('"\\ud800"', '"\\u0000"', '"\\uZZZZ"', '"\\x"', "NaN", "-Infinity", "1e999", "-1e-999", "1E+400", "01", "1."),
    *("9" * 5000, "9" * 3999, "[" * 200 + "]" * 200, '{"a":' * 130 + "1" + "}" * 130, '{"a":1,"a":2}', '"\x01"', "tru"),
    *('"a\x00b"', '"\\ud83d\\ude00"', "1 2", "", '"\u2028"', "-0", "1e2", "[1,]", '{"a" 1}', "\ufeff1", "-"),
    *('"' + "x" * 70000, '"' + "x" * 70000 + '"'),
)  # fmt: skip
"""Texts that take the place of a value: each is wrong, or at a limit."""


def of_bytes(data: bytes, dice: random.Random) -> bytes:
    """The data with one to four changes."""
    out = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        kind, at = dice.randrange(7), dice.randrange(len(out) + 1)
        if kind == 0:
            out[at:at] = dice.choice(TOKENS)
        elif kind == 1:
            del out[at : at + dice.randint(1, 16)]
        elif kind == 2 and at < len(out):
            out[at] = dice.randrange(256)
        elif kind == 3 and at < len(out):
            out[at] ^= 1 << dice.randrange(8)
        elif kind == 4:
            out[at : at + 4] = dice.choice(TOKENS)
        elif kind == 5:
            end = dice.randrange(at, min(at + 40, len(out)) + 1)
            out[at:at] = out[at:end] * dice.choice((1, 1, 2, 30))
        else:
            del out[at:]
    return bytes(out)


def of_schema(node: dict[str, Any], dice: random.Random, depth: int = 0) -> Any:
    """A value that the schema may accept, or almost."""
    if dice.random() < 0.03:
        return wrong(dice)
    if "enum" in node:
        return dice.choice(node["enum"])
    kind = node.get("type")
    if kind == "string":
        return dice.choice(WORDS)
    if kind == "boolean":
        return dice.random() < 0.5
    if kind == "integer":
        low, high = node.get("minimum", -(2**63)), node.get("maximum", 2**64 - 1)
        return dice.choice((low, high, low + 1, 0, 1, dice.choice(INTEGERS), dice.randint(0, 99)))
    if kind == "array":
        count = dice.choice((0, 1, 1, 2, 3))
        return [of_schema(node.get("items", {}), dice, depth + 1) for _ in range(count)]
    known = node.get("properties")
    if known is None:
        below = node.get("additionalProperties", {"type": "string"})
        if not isinstance(below, dict):
            below = {}
        return {
            dice.choice(WORDS): of_schema(below, dice, depth + 1) for _ in range(dice.randint(0, 2))
        }
    required = node.get("required", ())
    likely = 0.3 if depth else 0.7
    return {
        name: of_schema(below, dice, depth + 1)
        for name, below in known.items()
        if (name in required and dice.random() < 0.98) or dice.random() < likely
    }


def wrong(dice: random.Random) -> Any:
    """A value of any type."""
    word = dice.choice(WORDS)
    integer = dice.choice(INTEGERS)
    return dice.choice((None, True, [], {}, integer, word, [word], {word: integer}, 1.5, [[]]))


def _places(value: Any, node: Any) -> list[tuple[Any, Any, dict[str, Any]]]:
    """Each (object or array, key, schema of what is there) of a document."""
    node = node if isinstance(node, dict) else {}
    found = []
    if isinstance(value, dict):
        known = node.get("properties") or {}
        for key, item in value.items():
            below = known.get(key, node.get("additionalProperties", {}))
            found += [(value, key, below), *_places(item, below)]
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += [
                (value, index, node.get("items", {})),
                *_places(item, node.get("items", {})),
            ]
    return found


def _change(document: Any, schema: dict[str, Any], dice: random.Random) -> None:
    places = _places(document, schema)
    if not places:
        return
    parent, key, node = dice.choice(places)
    value = parent[key]
    kind = dice.randrange(6)
    if kind == 0:
        del parent[key]
    elif kind == 1:
        parent[key] = wrong(dice)
    elif kind == 2 and isinstance(value, dict) and node.get("properties"):
        name = dice.choice(list(node["properties"]))
        value[name] = of_schema(node["properties"][name], dice, 1)
    elif kind == 2 and isinstance(value, list):
        value.append(of_schema(node.get("items", {}), dice, 1))
    elif kind == 3 and isinstance(value, str):
        at = dice.randrange(len(value) + 1)
        value = value[:at] + dice.choice(WORDS) + value[at:]
        parent[key] = value * (1 if len(value) > 9000 else dice.choice((1, 1, 1, 1, 2, 100)))
    elif kind == 4:
        other = dice.choice(places)
        parent[key] = json.loads(json.dumps(other[0][other[1]]))
    else:
        parent[key] = of_schema(node if isinstance(node, dict) else {}, dice, 1)


def of_json(data: bytes, schema: dict[str, Any], dice: random.Random) -> bytes:
    """A JSON text with changes of its values, of its text, or of its bytes."""
    if dice.random() < 0.1:
        return of_bytes(data, dice)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return of_bytes(data, dice)
    if dice.random() < 0.1:
        document = of_schema(schema, dice)
    if not isinstance(document, dict | list):
        return of_bytes(data, dice)
    for _ in range(dice.randint(1, 4)):
        _change(document, schema, dice)
    marked = dice.random() < 0.15 and _places(document, {})
    if marked:
        parent, key, _ = dice.choice(marked)
        parent[key] = "@@@"
    text = json.dumps(document, ensure_ascii=dice.random() < 0.5, indent=dice.choice((None, 1)))
    if marked:
        text = text.replace('"@@@"', dice.choice(RAW), 1)
    return text.encode("utf-8", "surrogatepass")

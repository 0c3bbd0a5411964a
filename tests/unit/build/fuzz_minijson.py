"""Feeds changed documents to a sanitized _ocijson: python fuzz_minijson.py MODULE_DIR SECONDS SEED_FILE…

Run by test_minijson_fuzz.py in a process of its own: a finding of the sanitizers ends it.
"""

from __future__ import annotations

import json
import random
import sys
import time

TOKENS = (
    *(b"{", b"}", b"[", b"]", b'"', b"\\", b"\\u", b"\\ud83d", b",", b":", b"0", b"-", b".", b"e"),
    *(b"\x00", b"\xff", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\xf0\x9f\x98"),
    *(b"9" * 400, b"[" * 300, b'{"a":' * 200, b"true", b"nul", b" "),
)
SMALL = (
    b'{"a":[1,2.5e3,-0,true,null,"\\u00e9\\ud83d\\ude00\\n"]}',
    b'{"a":1,"a":2}',
    b'"\\ud800"',
    b"1e400",
    b"\xef\xbb\xbf{}",
    '{"ключ":"😀"}'.encode(),
)


def changed(document: bytes, dice: random.Random) -> bytes:
    """The document with one to six changes."""
    data = bytearray(document)
    for _ in range(dice.randint(1, 6)):
        kind, at = dice.random(), dice.randrange(len(data) + 1)
        if kind < 0.4:
            data[at:at] = dice.choice(TOKENS)
        elif kind < 0.6:
            del data[at : at + dice.randint(1, 40)]
        elif kind < 0.8 and at < len(data):
            data[at] = dice.randrange(256)
        else:
            data = data[:at]
    return bytes(data)


def main() -> int:
    sys.path.insert(0, sys.argv[1])
    import _ocijson

    documents = list(SMALL)
    for path in sys.argv[3:]:
        with open(path, "rb") as file:
            documents.append(file.read(6000))
    dice = random.Random(int(time.time()))
    end = time.monotonic() + float(sys.argv[2])
    count = accepted = 0
    while time.monotonic() < end:
        data = changed(dice.choice(documents), dice)
        count += 1
        try:
            value = _ocijson.loads(data)
        except ValueError as exc:
            if not 0 <= exc.args[1] <= len(data):
                raise SystemExit(f"offset {exc.args[1]} outside of {data!r}") from exc
        else:
            accepted += 1
            if json.loads(data) != value:
                raise SystemExit(f"json disagrees on {data!r}")
    print(count, accepted)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

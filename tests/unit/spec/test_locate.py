"""Lines, columns and names of JSON pointers."""

from __future__ import annotations

import json

from pytest_subtests import SubTests

from ociruntime.errors import pointer_step
from ociruntime.spec.locate import Places, dotted, line_of, positions, steps, syntax_error
from tests.unit.spec.cases import DATA

TEXT = b"""{
  "a": 1,
  "list": [
    {"x": "},]"}, [10,
      20
    ]
  ],
  "a/b~c": {"": null,
    "\\u0064": 5}
}
"""


def test_lines(subtests: SubTests) -> None:
    table = {
        "": 1,
        "/a": 2,
        "/list": 3,
        "/list/0": 4,
        "/list/0/x": 4,
        "/list/1/0": 4,
        "/list/1/1": 5,
        "/a~1b~0c": 8,
        "/a~1b~0c/": 8,
        "/a~1b~0c/d": 9,
        # what is not there: the nearest parent
        "/nothing": 1,
        "/list/7": 3,
        "/list/0/y/z": 4,
        "/list/1/9": 4,
    }
    for pointer, line in table.items():
        with subtests.test(pointer):
            assert line_of(TEXT, pointer) == line


def test_columns() -> None:
    places = Places(TEXT)
    assert [
        places.column(pointer) for pointer in ("", "/a", "/list/0", "/list/1", "/list/1/1")
    ] == [1, 3, 5, 19, 7]


def test_every_value_has_a_place(subtests: SubTests) -> None:
    for path in sorted(DATA.glob("*.json")):
        with subtests.test(path.name):
            data = path.read_bytes()
            document, found = json.loads(data), positions(data)
            pointers = [""]
            stack = [("", document)]
            while stack:
                at, value = stack.pop()
                children = (
                    value.items()
                    if isinstance(value, dict)
                    else enumerate(value)
                    if isinstance(value, list)
                    else ()
                )
                for key, child in children:
                    pointers.append(f"{at}/{pointer_step(str(key))}")
                    stack.append((pointers[-1], child))
            assert sorted(found) == sorted(pointers)


def test_malformed_text_as_far_as_it_goes() -> None:
    data = b'{"a": 1,\n "b": [2,\n x'
    assert syntax_error(data) == ("expected a value", 20)
    assert line_of(data, "/b/0") == 2


def test_duplicate_names_are_placed_at_the_first() -> None:
    assert line_of(b'{"a":1,\n"a":2}', "/a") == 1


def test_dotted(subtests: SubTests) -> None:
    table = {
        "": "",
        "/mounts/4/options/0": "mounts[4].options[0]",
        "/process/cwd": "process.cwd",
        "/linux/sysctl/net.core.somaxconn": 'linux.sysctl["net.core.somaxconn"]',
        "/annotations/": 'annotations[""]',
        "/a~1b~0c/under_score": '["a/b~c"].under_score',
    }
    for pointer, text in table.items():
        with subtests.test(pointer):
            assert dotted(pointer) == text


def test_steps_undo_escape() -> None:
    for name in ("", "a/b", "~1", "~", "x~0/"):
        assert steps("/" + pointer_step(name)) == [name]

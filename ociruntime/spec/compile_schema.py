"""Compile the schemas to plain Python: ``python -m ociruntime.spec.compile_schema OUT``.

The generated module answers "valid or not" for data of ``json_reader``, whose types are exact (no subclass of dict,
int, …). The generator is our own, because those of the libraries write modules that import ``re`` and exceptions of
theirs (not to be had in the launcher's core phase) and report where a yes or no is enough. It writes tables of small
functions rather than a function for each object: loading code for properties that a config has not would else cost
more than the rest. A keyword or pattern that it does not know stops the build.

Cold module: build time only.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from ociruntime.spec.schema_files import ANNOTATIONS, schema

ROOTS = {
    "validate_config": "config-schema.json",
    "validate_process": "config-schema.json#/$defs/process",
    "validate_resources": "config-linux.json#/$defs/resources",
}

# Each pattern as an expression on the string v. str.strip(set) leaves nothing of a string over that set alone.
MATCHERS = {
    "^RLIMIT_[A-Z]+$": 'v[:7] == "RLIMIT_" and v[7:] and not v[7:].strip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")',
    "^[0-9, -]*$": 'not v.strip("0123456789, -")',
    "^[1-9][0-9]*[KMG]B$": (
        'v[-2:] in ("KB", "MB", "GB") and v[0] in "123456789" and not v[:-2].strip("0123456789")'
    ),
    "^MB:[^\\n]*$": 'v[:3] == "MB:" and "\\n" not in v',
    "^[cbup]$": 'v in ("c", "b", "u", "p")',
}

_HEAD = '''\
"""Generated from schemas/ by ociruntime.spec.compile_schema: do not edit.

Each validate_ function: whether the data is valid.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Check = Callable[[Any], bool]


def string(v: Any) -> bool:
    return v.__class__ is str


def boolean(v: Any) -> bool:
    return v.__class__ is bool


def integer(v: Any) -> bool:
    return v.__class__ is int


def between(least: int, most: int) -> Check:
    return lambda v: v.__class__ is int and least <= v <= most


def at_least(least: int) -> Check:
    return lambda v: v.__class__ is int and least <= v


def one_of(words: tuple[str, ...]) -> Check:
    return lambda v: v.__class__ is str and v in words


def matching(matcher: Callable[[str], object]) -> Check:
    return lambda v: v.__class__ is str and bool(matcher(v))


def strings(least: int) -> Check:
    return lambda v: v.__class__ is list and len(v) >= least and STRING.issuperset(map(type, v))


def array(least: int, item: Check) -> Check:
    return lambda v: v.__class__ is list and len(v) >= least and all(map(item, v))


def mapping(value: Check) -> Check:
    return lambda v: v.__class__ is dict and all(map(value, v.values()))


def record(required: tuple[str, ...], properties: dict[str, Check]) -> Check:
    def check(v: Any) -> bool:
        if v.__class__ is not dict:
            return False
        for name in required:
            if name not in v:
                return False
        for name in v:
            if name in properties and not properties[name](v[name]):
                return False
        return True

    return check


STRING = {str}
'''


def _bare(node: Any) -> Any:
    """The schema without what does not decide."""
    if isinstance(node, list):
        return [_bare(item) for item in node]
    if not isinstance(node, dict):
        return node
    result = {}
    for key, value in node.items():
        if key == "properties":
            result[key] = {name: _bare(below) for name, below in value.items()}
        elif key not in ANNOTATIONS:
            result[key] = _bare(value)
    return result


class _Generator:
    """Writes one line for each distinct schema: its name, bound to a function of the data."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # expression → name
        self.lines: list[str] = []

    def function(self, node: dict[str, Any]) -> str:
        """The name of the function for a schema; written when it is new. Raises ValueError, KeyError."""
        node = dict(node)
        kind = node.pop("type")
        if kind not in ("string", "boolean", "integer", "array", "object"):
            raise ValueError(f"cannot compile the type {kind}")
        expression: str = getattr(self, f"_{kind}")(node)
        if node:
            raise ValueError(f"cannot compile the keywords {sorted(node)} of {kind}")
        if expression.isidentifier():
            return expression
        if expression not in self.names:
            self.names[expression] = f"_v{len(self.names)}"
            self.lines.append(f"{self.names[expression]} = {expression}")
        return self.names[expression]

    def _string(self, node: dict[str, Any]) -> str:
        if "enum" in node:
            words = ", ".join(f'"{word}"' for word in sorted(node.pop("enum")))
            return f"one_of(({words},))"
        if "pattern" in node:
            return f"matching(lambda v: {MATCHERS[node.pop('pattern')]})"
        return "string"

    def _boolean(self, node: dict[str, Any]) -> str:
        return "boolean"

    def _integer(self, node: dict[str, Any]) -> str:
        if "maximum" in node:
            return f"between({node.pop('minimum')}, {node.pop('maximum')})"
        if "minimum" in node:
            return f"at_least({node.pop('minimum')})"
        return "integer"

    def _array(self, node: dict[str, Any]) -> str:
        items, least = node.pop("items"), node.pop("minItems", 0)
        if items == {"type": "string"}:
            return f"strings({least})"
        return f"array({least}, {self.function(items)})"

    def _object(self, node: dict[str, Any]) -> str:
        if "additionalProperties" in node and "properties" not in node:
            return f"mapping({self.function(node.pop('additionalProperties'))})"
        required = tuple(node.pop("required", ()))
        properties = {
            name: self.function(below) for name, below in node.pop("properties", {}).items()
        }
        table = ", ".join(f'"{name}": {function}' for name, function in properties.items())
        return f"record({required!r}, {{{table}}})"


def source() -> str:
    """The text of the generated module. Raises ValueError, KeyError when a schema is beyond the generator."""
    generator = _Generator()
    roots = [f"{name} = {generator.function(_bare(schema(root)))}" for name, root in ROOTS.items()]
    return "\n".join([_HEAD, *generator.lines, *roots]) + "\n"


def generate(out_path: str) -> None:
    """Write the generated module to ``out_path``, whole or not at all."""
    text = source()
    temporary = f"{out_path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, out_path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m ociruntime.spec.compile_schema OUT")
    generate(sys.argv[1])

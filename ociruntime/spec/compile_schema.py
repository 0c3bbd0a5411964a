"""Compile the schemas to plain Python: ``python -m ociruntime.spec.compile_schema OUT``.

The generated module answers "valid or not" for data of ``json_reader``, whose types are exact (no subclass of dict,
int, …), and imports nothing. A generator of our own, because those of the libraries raise on a module that imports
``re`` and their own exceptions (not to be had in the launcher's core phase), and report where a yes or no is enough.
A keyword or pattern that it does not know stops the build.

Cold module: build time only.
"""

from __future__ import annotations

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
    "^RLIMIT_[A-Z]+$": 'v[:7] == "RLIMIT_" and v[7:] and not v[7:].strip(_UPPER)',
    "^[0-9, -]*$": 'not v.strip("0123456789, -")',
    "^[1-9][0-9]*[KMG]B$": (
        'v[-2:] in ("KB", "MB", "GB") and v[0] in "123456789" and not v[:-2].strip("0123456789")'
    ),
    "^MB:[^\\n]*$": 'v[:3] == "MB:" and "\\n" not in v',
    "^[cbup]$": 'v in ("c", "b", "u", "p")',
}

_TYPES = {"string": "str", "boolean": "bool", "integer": "int", "object": "dict", "array": "list"}

_HEAD = '''\
"""Generated from schemas/ by ociruntime.spec.compile_schema: do not edit.

Each function: whether the data is valid.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_STRINGS = {str}
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
    def __init__(self) -> None:
        self.functions: dict[str, str] = {}  # repr of a schema → name of its function
        self.sets: dict[str, str] = {}
        self.code: list[str] = []

    def function(self, node: dict[str, Any]) -> str:
        """The name of the function for an object or array; written when it is new."""
        key = repr(node)
        if key not in self.functions:
            body = self.object(node) if node["type"] == "object" else self.array(node)
            name = self.functions[key] = f"_v{len(self.functions)}"
            lines = [f"def {name}(value: Any) -> bool:", *("    " + line for line in body)]
            self.code.append("\n".join([*lines, "    return True"]))
        return self.functions[key]

    def object(self, node: dict[str, Any]) -> list[str]:
        node = dict(node)
        del node["type"]
        required = node.pop("required", [])
        properties = node.pop("properties", {})
        others = node.pop("additionalProperties", None)
        if node or (others is not None and properties):
            raise ValueError(f"cannot compile the keywords {sorted(node)}")
        lines = [_reject("value.__class__ is not dict")]
        for name, below in properties.items():
            if name in required:
                lines += [_reject(f'"{name}" not in value'), f'v = value["{name}"]']
                lines += self.check(below)
            else:
                lines += [f'if "{name}" in value:', f'    v = value["{name}"]']
                lines += ["    " + line for line in self.check(below)]
        lines += [_reject(f'"{name}" not in value') for name in required if name not in properties]
        if others is not None:
            lines += ["for v in value.values():"]
            lines += ["    " + line for line in self.check(others)]
        return lines

    def array(self, node: dict[str, Any]) -> list[str]:
        node = dict(node)
        del node["type"]
        items = node.pop("items")
        least = node.pop("minItems", 0)
        if node:
            raise ValueError(f"cannot compile the keywords {sorted(node)}")
        lines = [_reject("value.__class__ is not list")]
        if least:
            lines.append(_reject(f"len(value) < {least}"))
        if items == {"type": "string"}:
            return [*lines, _reject("not _STRINGS.issuperset(map(type, value))")]
        return [*lines, "for v in value:", *("    " + line for line in self.check(items))]

    def check(self, node: dict[str, Any]) -> list[str]:
        """Lines that return False unless ``v`` is valid."""
        kind = node["type"]
        if kind in ("object", "array") and len(node) > 1:
            return [_reject(f"not {self.function(node)}(v)")]
        lines = [_reject(f"v.__class__ is not {_TYPES[kind]}")]
        for key, value in node.items():
            if key == "enum":
                lines.append(_reject(f"v not in {self.words(value)}"))
            elif key == "pattern":
                lines.append(_reject(f"not ({MATCHERS[value]})"))
            elif key == "minimum":
                high = node.get("maximum")
                lines.append(
                    _reject(f"v < {value}" if high is None else f"not {value} <= v <= {high}")
                )
            elif key not in ("type", "maximum") or (key == "maximum" and "minimum" not in node):
                raise ValueError(f"cannot compile the keyword {key}")
        return lines

    def words(self, values: list[str]) -> str:
        key = "frozenset({" + ", ".join(f'"{word}"' for word in sorted(values)) + "})"
        return self.sets.setdefault(key, f"_WORDS{len(self.sets)}")


def _reject(condition: str) -> str:
    return f"if {condition}: return False"


def source() -> str:
    """The text of the generated module. Raises ValueError, KeyError when a schema is beyond the generator."""
    generator = _Generator()
    roots = [f"{name} = {generator.function(_bare(schema(root)))}" for name, root in ROOTS.items()]
    sets = [f"{name} = {words}" for words, name in generator.sets.items()]
    return "\n\n\n".join([_HEAD + "\n".join(sets), *generator.code, "\n".join(roots)]) + "\n"


def generate(out_path: str) -> None:
    """Write the generated module to ``out_path``, whole or not at all."""
    import os

    text = source()
    temporary = f"{out_path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, out_path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m ociruntime.spec.compile_schema OUT")
    generate(sys.argv[1])

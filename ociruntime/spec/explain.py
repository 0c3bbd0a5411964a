"""Why a document is refused: every error, each with its line, value, what is expected, and a hint.

jsonschema is the authority on what the schemas say. Two things are told to it: an integer is written as one (``1``, not
``1.0``, as in JSON Schema draft 4, which the official schemas use), and ``$`` in a pattern is the end (ECMA 262), not
a last line feed.

Cold module: the full interpreter only.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator
from typing import Any, Final

import jsonschema
from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator

from ociruntime import errors
from ociruntime.errors import pointer_step
from ociruntime.spec.checks import CHECKS
from ociruntime.spec.checks_linux import check_resources
from ociruntime.spec.checks_process import check_process
from ociruntime.spec.compile_schema import ROOTS
from ociruntime.spec.context import Context, Problem, shown
from ociruntime.spec.json_reader import loads
from ociruntime.spec.locate import LARGE, Places, steps
from ociruntime.spec.schema_files import schema

SCHEMAS = {
    **{name.removeprefix("validate_"): reference for name, reference in ROOTS.items()},
    "state": "state-schema.json",
    "features": "features-schema.json",
}
"""Kind of document → its schema."""


def _pattern(validator: Any, pattern: str, value: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(value, "string"):
        end = "\\Z" if pattern.endswith("$") else ""
        if not re.search(pattern.removesuffix("$") + end, value):
            yield ValidationError(f"{value!r} does not match {pattern!r}")


_Base = jsonschema.Draft202012Validator
_Authority = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    _Base,
    {"pattern": _pattern},
    type_checker=_Base.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


@functools.cache
def authority(kind: str = "config") -> Validator:
    """The jsonschema validator for a kind of document, one of SCHEMAS."""
    validator: Validator = _Authority(schema(SCHEMAS[kind]))
    return validator


def is_valid(document: Any, kind: str = "config") -> bool:
    """Whether the schema alone accepts the document."""
    return authority(kind).is_valid(document)


def explain(
    data: bytes, filename: str = "config.json", *, kind: str = "config", strict: bool = False
) -> list[errors.ConfigProblem]:
    """Everything wrong with the document, in the order of its text; empty when it is valid.

    ``kind``: one of SCHEMAS. Properties that look like misspelt ones are only named when something is wrong: by
    themselves they are ignored (config.md, "Extensibility"). Raises ConfigError when the text is no JSON.
    """
    document = loads(data, filename)
    found = [_problem(error) for error in authority(kind).iter_errors(document)]
    found += _checked(document, kind, strict, {problem.pointer for problem in found})
    places = Places(data)
    found.sort(key=lambda problem: (places.offset(problem.pointer), problem.pointer))
    if found and len(data) <= LARGE:
        named = " ".join(problem.hint or "" for problem in found)
        for pointer, suggestion in unknown_properties(document, kind):
            if suggestion and f'"{steps(pointer)[-1]}"' not in named:
                message = f'unknown property, ignored: did you mean "{suggestion}"?'
                found.append(Problem("unknown-property", pointer, message))
    for problem in found:
        problem.line = places.line(problem.pointer)
    return list(found)


def _checked(document: Any, kind: str, strict: bool, malformed: set[str]) -> list[Problem]:
    """What the checks find in the part of the document that the schema accepts."""
    if kind not in ("config", "process", "resources"):
        return []
    part = _Part(malformed)
    sound = part.of(document, schema(SCHEMAS[kind]), "", "")
    if sound is None:
        return []
    if kind == "config":
        ctx = Context(sound, strict)
        for check in CHECKS:
            check(sound, ctx)
    else:
        ctx = Context({}, strict)
        (check_process if kind == "process" else check_resources)(sound, "", ctx)
    found = []
    for problem in ctx.problems:
        problem.pointer = part.original(problem.pointer)
        # A value that was left out is no second error, and an entry of namespaces may be one that is missed elsewhere.
        missed = any(f"{at}/".startswith(f"{problem.pointer}/") for at in malformed)
        follows = "namespace" in problem.message and any(
            "/linux/namespaces" in at for at in malformed
        )
        if not missed and not follows:
            found.append(problem)
    return found


class _Part:
    """The valid part of a document: without what is malformed, and without objects that lack something for it."""

    FILLED: Final = {"": {"ociVersion": "1.0.0"}, "/process": {"cwd": "/"}, "/root": {"path": "/"}}
    """What stands in for missing properties of objects whose other properties are worth a look."""

    def __init__(self, malformed: set[str]) -> None:
        self.malformed = malformed
        self.indices: dict[
            str, list[int]
        ] = {}  # pointer of an array in the part → indices in the document

    def of(self, value: Any, node: dict[str, Any], pointer: str, place: str) -> Any:
        """The valid part of ``value`` (None when there is none), at ``pointer`` in the document and ``place`` here."""
        if pointer in self.malformed:
            return None
        if isinstance(value, list):
            kept: list[Any] = []
            indices = self.indices[place] = []
            for index, item in enumerate(value):
                sound = self.of(
                    item, node.get("items", {}), f"{pointer}/{index}", f"{place}/{len(kept)}"
                )
                if sound is not None:
                    kept.append(sound)
                    indices.append(index)
            return kept
        if not isinstance(value, dict):
            return value
        known, others = node.get("properties", {}), node.get("additionalProperties", {})
        result = dict(self.FILLED.get(pointer, {}))
        for name, item in value.items():
            step = f"/{pointer_step(name)}"
            sound = self.of(item, known.get(name, others), pointer + step, place + step)
            if sound is not None:
                result[name] = sound
        return result if all(name in result for name in node.get("required", ())) else None

    def original(self, place: str) -> str:
        """The pointer in the document for one in the part."""
        here = pointer = ""
        for name in place.split("/")[1:]:
            indices = self.indices.get(here)
            here += f"/{name}"
            pointer += (
                f"/{indices[int(name)]}" if indices is not None and name.isdecimal() else f"/{name}"
            )
        return pointer


def _problem(error: ValidationError) -> Problem:
    """An error of jsonschema in our words."""
    pointer = "".join(f"/{pointer_step(str(step))}" for step in error.absolute_path)
    node: Any = error.schema
    value: Any = error.instance
    keyword = str(error.validator)
    if keyword == "required":
        # jsonschema names the property only in its message; each missing one is an error of its own
        name = next(
            name for name in node["required"] if name not in value and repr(name) in error.message
        )
        expected = node["properties"].get(name, {}).get("description")
        near = _near(name, [key for key in value if key not in node["properties"]])
        return Problem(
            "schema",
            f"{pointer}/{pointer_step(name)}",
            "missing" + (f", expected {expected}" if expected else ""),
            f'did you mean "{name}" by "{near}"?' if near else None,
        )
    hint = None
    if keyword == "type":
        what = f"not {_ARTICLES[node['type']]}"
        hint = _type_hint(node["type"], value) if pointer else None
    elif keyword == "enum":
        what = "unknown value"
        near = _near(value, node["enum"]) if isinstance(value, str) else None
        hint = f'did you mean "{near}"?' if near else None
    elif keyword == "pattern":
        what = "malformed"
    elif keyword == "minItems":
        what = "too short"
    else:
        what = "out of range"
    return Problem(
        "schema", pointer, f"{what} (got {shown(value)}), expected {_expected(node)}", hint
    )


_ARTICLES = {
    "string": "a string",
    "boolean": "a boolean",
    "integer": "an integer",
    "object": "an object",
    "array": "an array",
}


def _expected(node: dict[str, Any]) -> str:
    if "enum" in node:
        return "one of " + ", ".join(node["enum"])
    plain = _ARTICLES[node["type"]]
    description = node.get("description")
    if node["type"] == "integer" and "maximum" in node:
        plain = f"an integer from {node['minimum']} to {node['maximum']}"
    if not description or description.startswith(plain):
        return description or plain
    # Of a whole document's description the first sentence says what it is.
    return f"{plain}: {description.partition('. ')[0]}"


def _type_hint(wanted: str, value: Any) -> str | None:
    if value is None:
        return "leave the property out instead"
    if wanted == "integer" and isinstance(value, str) and re.fullmatch(r"-?[0-9]+", value):
        return f"write {value} without quotes"
    if (
        wanted == "integer"
        and isinstance(value, float)
        and value.is_integer()
        and abs(value) < 1e15
    ):
        return f"write {int(value)}"
    if wanted == "boolean" and value in ("true", "false"):
        return f"write {value} without quotes"
    if wanted == "string" and isinstance(value, int | float):
        return f'write "{shown(value)}" in quotes'
    if wanted == "array" and isinstance(value, str):
        return f"write [{shown(value)}]"
    return None


def _near(word: str, candidates: list[str]) -> str | None:
    """The candidate that ``word`` is a slip of, if any."""
    folded = {candidate.casefold(): candidate for candidate in candidates}
    near = difflib.get_close_matches(word.casefold(), folded, 1, 0.75)
    return folded[near[0]] if near else None


def unknown_properties(document: Any, kind: str = "config") -> list[tuple[str, str | None]]:
    """(JSON pointer, the known name it may be a slip of) for each property that the schema does not know."""
    return list(_unknown(document, schema(SCHEMAS[kind]), ""))


def _unknown(value: Any, node: dict[str, Any], pointer: str) -> Iterator[tuple[str, str | None]]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(item, node.get("items", {}), f"{pointer}/{index}")
    elif isinstance(value, dict):
        known = node.get("properties")
        for name, item in value.items():
            below = f"{pointer}/{pointer_step(name)}"
            if known is None:
                yield from _unknown(item, node.get("additionalProperties", {}), below)
            elif name in known:
                yield from _unknown(item, known[name], below)
            else:
                yield (
                    below,
                    _near(name, [candidate for candidate in known if candidate not in value]),
                )

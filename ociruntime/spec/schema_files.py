"""The schemas of the project as Python data, every ``$ref`` replaced by what it points to.

Cold module: for the build, for explaining a rejected config, and for tests.
"""

from __future__ import annotations

import functools
import json
import os
from typing import Any

ANNOTATIONS = frozenset({"title", "description"})


def schema_dir() -> str:
    """The directory of the schema files: package data of an installed project, or ``schemas/`` of a checkout.

    Raises FileNotFoundError when neither is there.
    """
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for directory in (os.path.join(package, "schemas"), os.path.join(package, "..", "schemas")):
        if os.path.isfile(os.path.join(directory, "config-schema.json")):
            return os.path.normpath(directory)
    raise FileNotFoundError(f"no schemas in or beside {package}")


@functools.cache
def _file(name: str) -> Any:
    with open(os.path.join(schema_dir(), name), encoding="utf-8") as file:
        return json.load(file)


@functools.cache
def schema(reference: str) -> dict[str, Any]:
    """The self-contained schema at ``FILE`` or ``FILE#/$defs/NAME``.

    Raises ValueError for a reference with keywords beside it that are more than annotations.
    """
    name, _, fragment = reference.partition("#")
    node = _file(name)
    for step in fragment.split("/")[1:]:
        node = node[step]
    result = _resolve(node, name)
    assert isinstance(result, dict)
    return result


def _resolve(node: Any, file: str) -> Any:
    if isinstance(node, list):
        return [_resolve(item, file) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):
        beside = {key: value for key, value in node.items() if key != "$ref"}
        if not beside.keys() <= ANNOTATIONS:
            raise ValueError(f"{file}: keywords beside $ref {node['$ref']}: {sorted(beside)}")
        target = node["$ref"]
        return {**schema(file + target if target.startswith("#") else target), **beside}
    # "$schema" inside a document would make jsonschema change to its own validator class there.
    return {
        key: _resolve(value, file) for key, value in node.items() if key not in ("$defs", "$schema")
    }

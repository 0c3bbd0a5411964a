"""The official schemas (../shared/oci-schema) as one self-contained jsonschema validator per kind of document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
from jsonschema.exceptions import ValidationError


class Official:
    """The schemas in ``directory``, with every ``$ref`` replaced by its target (draft 4: nothing beside it counts)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files: dict[str, Any] = {}
        self.kinds = {
            kind: jsonschema.Draft4Validator(
                self.resolve(self.file(f"{kind}-schema.json"), f"{kind}-schema.json")
            )
            for kind in ("config", "state", "features")
        }

    def file(self, name: str) -> Any:
        if name not in self.files:
            self.files[name] = json.loads((self.directory / name).read_text())
        return self.files[name]

    def resolve(self, node: Any, file: str) -> Any:
        if isinstance(node, list):
            return [self.resolve(item, file) for item in node]
        if not isinstance(node, dict):
            return node
        if isinstance(node.get("$ref"), str):
            name, _, fragment = node["$ref"].partition("#")
            name = name or file
            target = self.file(name)
            for step in fragment.split("/")[1:]:
                target = target[step]
            return self.resolve(target, name)
        return {
            key: self.resolve(value, file)
            for key, value in node.items()
            if key not in ("definitions", "$schema")
        }

    def accepts(self, document: Any, kind: str = "config") -> bool:
        return bool(self.kinds[kind].is_valid(document))

    def errors(self, document: Any, kind: str = "config") -> dict[str, ValidationError]:
        """The errors by JSON pointer; a missing property stands at its own pointer."""
        return pointers(self.kinds[kind].iter_errors(document))


def pointers(errors: Any) -> dict[str, ValidationError]:
    """Errors of jsonschema by JSON pointer, those of an ``anyOf`` with one branch in its place."""
    found: dict[str, ValidationError] = {}
    for error in errors:
        if error.validator == "anyOf":
            found.update(pointers(error.context))
            continue
        steps = [str(step) for step in error.absolute_path]
        if error.validator == "required":
            missing = [
                name
                for name in error.validator_value
                if repr(name) in error.message and name not in error.instance
            ]
            steps.append(missing[0])
        found["".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)] = error
    return found

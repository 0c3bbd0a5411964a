"""The schema files themselves, and the generator of the compiled validator."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pytest_subtests import SubTests

from ociruntime.spec import compile_schema, explain, schema_files
from tests.unit.spec.cases import sample


def _nodes(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema within a schema: (path, schema)."""
    if not isinstance(node, dict):
        return
    yield path, node
    for key in ("properties", "$defs"):
        for name, below in node.get(key, {}).items():
            yield from _nodes(below, f"{path}/{name}")
    for key in ("items", "additionalProperties"):
        yield from _nodes(node.get(key), f"{path}/{key}")


def schema_paths() -> list[Path]:
    return sorted(Path(schema_files.schema_dir()).glob("*.json"))


def test_files_are_schemas(subtests: SubTests) -> None:
    assert len(schema_paths()) == 7
    for path in schema_paths():
        with subtests.test(path.name):
            document = json.loads(path.read_text())
            Draft202012Validator.check_schema(document)
            assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
            assert document["title"]


def test_schemas_are_self_contained(subtests: SubTests) -> None:
    """Nothing is fetched: every reference is resolved within schemas/."""
    for kind, reference in explain.SCHEMAS.items():
        with subtests.test(kind):
            for path, node in _nodes(schema_files.schema(reference)):
                assert "$ref" not in node, path
                assert "$schema" not in node, path


def test_linux_properties_are_described() -> None:
    """Every property of the Linux parts says what it is, unless its name and type leave nothing to say."""
    bare = {"boolean", "object", "array"}
    missing = [
        path
        for path, node in _nodes(schema_files.schema("config-schema.json"))
        if "description" not in node and node["type"] not in bare and "enum" not in node
        if not path.startswith(("/freebsd", "/solaris", "/windows", "/vm", "/zos"))
        and not path.endswith("/items")
    ]
    assert set(missing) == {
        "/annotations/additionalProperties",
        "/linux/resources/unified/additionalProperties",
        "/linux/sysctl/additionalProperties",
    }


def test_sample_has_every_linux_property() -> None:
    """tests/data/every-property.json is what its name says."""
    found: set[str] = set()

    def walk(value: Any, node: dict[str, Any], path: str) -> None:
        found.add(path)
        if isinstance(value, dict):
            for name, item in value.items():
                below = node.get("properties", {}).get(name)
                walk(
                    item,
                    below or node["additionalProperties"],
                    f"{path}/{name if below else 'additionalProperties'}",
                )
        elif isinstance(value, list):
            for item in value:
                walk(item, node["items"], f"{path}/items")

    config = schema_files.schema("config-schema.json")
    walk(sample(), config, "")
    wanted = {
        path
        for path, _ in _nodes(config)
        if not path.startswith(("/freebsd", "/solaris", "/windows", "/vm", "/zos"))
    }
    assert wanted - found == {"/linux/personality/flags/items"}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    out = tmp_path_factory.mktemp("generated") / "_validator.py"
    compile_schema.generate(str(out))
    assert [path.name for path in out.parent.iterdir()] == ["_validator.py"]
    spec = importlib.util.spec_from_file_location("generated_validator", out)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_module(generated: ModuleType) -> None:
    text = Path(str(generated.__file__)).read_text()
    code = [line for line in text.splitlines() if re.match(r"\s*(import|from)\b", line)]
    assert code[0] == "from __future__ import annotations"
    assert all(line.startswith("    ") for line in code[1:])  # for type checkers only
    assert generated.validate_config(sample())
    assert generated.validate_process(sample()["process"])
    assert generated.validate_resources(sample()["linux"]["resources"])
    assert not generated.validate_process({})


_letters = st.text(st.sampled_from("RLIMT_ABZ0123456789KGB:-, \n\tcbupé²"), max_size=12)


@pytest.mark.parametrize("pattern", sorted(compile_schema.MATCHERS))
def test_matchers_are_their_patterns(pattern: str) -> None:
    matcher = eval(
        f"lambda v: bool({compile_schema.MATCHERS[pattern]})",
        {"_UPPER": "ABCDEFGHIJKLMNOPQRSTUVWXYZ"},
    )
    anchored = re.compile(pattern.removesuffix("$") + r"\Z")
    seen = {True: 0, False: 0}

    @settings(max_examples=500, deadline=None, database=None, derandomize=True)
    @given(
        st.one_of(
            _letters, st.from_regex(anchored), st.from_regex(anchored).map(lambda text: text + "\n")
        )
    )
    def compare(text: str) -> None:
        expected = anchored.search(text) is not None
        seen[expected] += 1
        assert matcher(text) == expected

    compare()
    assert min(seen.values()) >= 4  # "^[cbup]$" has four words


def test_patterns_are_known() -> None:
    used = {
        node["pattern"]
        for _, node in _nodes(schema_files.schema("config-schema.json"))
        if "pattern" in node
    }
    assert used == set(compile_schema.MATCHERS)


def test_generator_refuses_what_it_does_not_know(subtests: SubTests) -> None:
    strings: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}
    for node in (
        {"type": "object", "minProperties": 1},
        {"type": "object", "properties": {"a": {"type": "string", "maxLength": 5}}},
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "^x$"}}},
        {"type": "object", "properties": {"a": {"type": "integer", "maximum": 5}}},
        {"type": "object", "properties": {"a": {"type": "number"}}},
        {
            "type": "object",
            "properties": {"a": {"type": "array", "items": strings, "uniqueItems": True}},
        },
        {"type": "object", "allOf": [strings]},
        {**strings, "additionalProperties": {"type": "string"}},
    ):
        with subtests.test(json.dumps(node)), pytest.raises((ValueError, KeyError)):
            compile_schema._Generator().function(node)
    assert compile_schema._Generator().function(strings)


def test_references_with_keywords_beside_them_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="keywords beside"):
        schema_files._resolve({"$ref": "defs.json#/$defs/uint8", "minimum": 5}, "x.json")


def test_compile_command(tmp_path: Path) -> None:
    import subprocess
    import sys

    out = tmp_path / "v.py"
    command = [sys.executable, "-m", "ociruntime.spec.compile_schema"]
    root = Path(schema_files.__file__).parents[2]
    subprocess.run([*command, str(out)], check=True, cwd=root)
    assert out.read_text() == compile_schema.source()
    failed = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("usage:")


STATE = {
    "ociVersion": "1.3.0",
    "id": "c1",
    "status": "running",
    "pid": 4422,
    "bundle": "/b",
    "annotations": {"a": "b"},
}
FEATURES = {
    "ociVersionMin": "1.0.0",
    "ociVersionMax": "1.3.0",
    "hooks": ["prestart"],
    "mountOptions": ["rro"],
    "linux": {
        "namespaces": ["time"],
        "capabilities": ["CAP_KILL"],
        "cgroup": {"v1": True},
        "seccomp": {"enabled": True, "actions": ["SCMP_ACT_ALLOW"], "archs": ["SCMP_ARCH_X86"]},
        "memoryPolicy": {"modes": ["MPOL_BIND"], "flags": []},
        "mountExtensions": {"idmap": {"enabled": True}},
    },
}


def test_state_and_features(subtests: SubTests) -> None:
    table: list[tuple[str, dict[str, Any], bool]] = [
        ("state", STATE, True),
        ("state", {**STATE, "status": "paused", "extra": 1}, True),
        ("state", {**STATE, "status": "dead"}, False),
        ("state", {**STATE, "pid": -1}, False),
        ("state", {key: value for key, value in STATE.items() if key != "bundle"}, False),
        ("features", FEATURES, True),
        ("features", {"ociVersionMin": "1.0.0"}, False),
        ("features", {**FEATURES, "linux": {"capabilities": ["kill"]}}, False),
        ("features", {**FEATURES, "linux": {"namespaces": ["UTS"]}}, False),
        ("features", {**FEATURES, "linux": {"netDevices": {"enabled": "yes"}}}, False),
    ]
    for kind, document, valid in table:
        with subtests.test(json.dumps(document)):
            assert explain.is_valid(document, kind) == valid
            assert (explain.explain(json.dumps(document).encode(), kind, kind=kind) == []) == valid

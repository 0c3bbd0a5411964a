"""Our schemas beside the official ones, and the compiled validator beside jsonschema.

(a) Our schema finds the same properties wrong as the official one, but for LAXER and STRICTER; the whole of
``load_config`` refuses more only by a rule of STRICTER_RULES.
(b) The compiled validator and jsonschema agree on every document.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from pytest_subtests import SubTests

from ociruntime import errors
from ociruntime.spec import _validator, explain, json_reader, validate
from tests.differential.mutate import bases, configs
from tests.differential.official import Official, pointers

EXAMPLES = 4000

LAXER: dict[str, Callable[[str, Any], bool]] = {
    "rootfsPropagation has the recursive words too: engines send them": lambda pointer, value: (
        pointer == "/linux/rootfsPropagation"
        and value in ("rprivate", "rshared", "rslave", "runbindable")
    ),
    "fileMode may have type, setuid and sticky bits: podman sends 8630 (the range is a check)": lambda pointer, value: (
        pointer.endswith("/fileMode") and isinstance(value, int) and 511 < value < 2**32
    ),
}
STRICTER: dict[str, Callable[[str, Any], bool]] = {
    "values of string maps are strings under an empty name or one of line feeds too": lambda pointer, value: (
        not pointer.rsplit("/", 1)[1].strip("\n") and not isinstance(value, str)
    ),
    "a pattern's $ is the end of the string, not a last line feed": lambda pointer, value: (
        isinstance(value, str) and value.endswith("\n")
    ),
}
STRICTER_RULES = {
    "annotation-key", "args-required", "bind-source", "cgroups-path", "console-size", "cpu-affinity",
    "cwd-absolute", "device-number", "device-path", "device-rule", "env-entry", "file-mode", "hook-path",
    "id-unmapped", "idmap-mappings", "idmap-pair", "intel-rdt", "io-priority", "map-overlap", "map-range",
    "map-size", "mappings-without-userns", "memory-policy", "mount-destination", "mount-on-proc",
    "name-too-long", "namespace-duplicate", "namespace-path", "net-device", "oci-version", "oom-score-adj",
    "paths-without-mount-namespace", "personality", "rdma-limits", "restricted-path", "rlimit-duplicate",
    "rlimit-order", "rlimit-type", "root-required", "scheduler", "seccomp-argument", "seccomp-errno",
    "seccomp-listener", "seccomp-notify-default", "sysctl-name", "sysctl-namespace", "sysctl-value",
    "time-offsets", "umask-range", "unified-name", "user-id", "user-required", "userns-mappings",
    "uts-required", "weight-device",
}  # fmt: skip
"""What is refused although the official schema accepts it; docs/compatibility/config.md says why for each."""


@pytest.fixture(scope="session")
def official(shared: Path) -> Official:
    directory = shared / "oci-schema"
    if not directory.is_dir():
        pytest.skip(f"no official schemas at {directory}")
    return Official(directory)


def text_of(document: Any) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass")


def value_at(document: Any, pointer: str) -> Any:
    for step in pointer.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        document = document[int(step)] if isinstance(document, list) else document[step]
    return document


def unexplained(document: Any, theirs: set[str], ours: set[str]) -> list[str]:
    """The pointers on which the two schemas differ by none of the listed rules."""
    surplus = []
    for only, rules in ((theirs - ours, LAXER), (ours - theirs, STRICTER)):
        for pointer in only:
            value = value_at(document, pointer)
            if not any(rule(pointer, value) for rule in rules.values()):
                surplus.append(pointer)
    return surplus


def refusals(document: Any) -> list[errors.ConfigProblem]:
    """What load_config finds wrong."""
    try:
        validate.load_config(text_of(document))
    except errors.ConfigError as exc:
        return exc.problems
    return []


def rules_of(problems: list[errors.ConfigProblem]) -> set[str]:
    return {getattr(problem, "rule", "json") for problem in problems} - {"unknown-property"}


def test_mutated_configs(official: Official, repository: Path) -> None:
    seen: Counter[str] = Counter()
    samples = bases(repository / "tests" / "data", official.directory / "test")

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(configs(samples))
    def compare(document: Any) -> None:
        theirs = set(official.errors(document))
        ours = set(pointers(explain.authority().iter_errors(document)))
        assert unexplained(document, theirs, ours) == []
        assert _validator.validate_config(document) == (not ours)
        problems = refusals(document)
        rules = rules_of(problems)
        assert bool(problems) >= bool(ours)
        if not theirs:
            assert rules <= STRICTER_RULES | {"schema", "json"}
            assert "schema" not in rules or ours
        if "json" in rules:
            assert b"\\u0000" in text_of(document) or b"\xed" in text_of(document)
        seen["all"] += 1
        seen["accepted by both"] += not theirs and not problems
        seen["refused by the schema"] += bool(ours)
        seen["refused by a rule alone"] += bool(problems) and not ours
        seen.update(rules)

    compare()
    assert seen["all"] >= 2000
    # The samples have to reach both verdicts and most of the rules to mean something.
    for verdict in ("accepted by both", "refused by the schema", "refused by a rule alone"):
        assert seen[verdict] >= 100, seen
    assert len(STRICTER_RULES & seen.keys()) >= 30, sorted(STRICTER_RULES - seen.keys())


def test_official_fixtures(official: Official, subtests: SubTests) -> None:
    known = {
        "spec-example.json": {"oci-version"},  # it says 0.5.0-dev
        "linux-netdevice.json": {"net-device"},  # without a network namespace to move them to
    }
    for path in sorted((official.directory / "test").glob("*/*/*.json")):
        kind, verdict = path.parts[-3:-1]
        with subtests.test(f"{kind}/{verdict}/{path.name}"):
            data = path.read_bytes()
            try:
                document = json_reader.loads(data)
            except errors.ConfigError:
                assert verdict == "bad"
                continue
            assert explain.is_valid(document, kind) == (verdict == "good")
            if kind == "config":
                assert _validator.validate_config(document) == (verdict == "good")
                if verdict == "good" and "linux" in document:
                    assert rules_of(refusals(document)) == known.get(path.name, set())


def test_linux_fixture_process_needs_a_user(official: Official) -> None:
    """The official minimal configs are configs for ``create``; the one for ``start`` has all that we ask."""
    for name in ("minimal.json", "minimal-for-start.json"):
        data = (official.directory / "test" / "config" / "good" / name).read_bytes()
        assert validate.load_config(data)["root"] == {"path": "rootfs"}


def test_samples_of_the_official_schema(
    official: Official, repository: Path, subtests: SubTests
) -> None:
    """The engines' configs pass the official schema, but for what LAXER names."""
    for path in sorted((repository / "tests" / "data").glob("*.json")):
        with subtests.test(path.name):
            document = json.loads(path.read_text())
            assert unexplained(document, set(official.errors(document)), set()) == []


def test_every_rule_is_documented(repository: Path) -> None:
    text = (repository / "docs" / "compatibility" / "config.md").read_text()
    documented = set(re.findall(r"^\| `([a-z0-9-]+)`", text, re.MULTILINE))
    assert documented == STRICTER_RULES | {"rootfs-propagation"}


def test_every_rule_of_the_code_is_listed(repository: Path) -> None:
    """STRICTER_RULES is what the checks can report, no more and no less."""
    used = set()
    for path in (repository / "ociruntime" / "spec").glob("checks*.py"):
        used |= set(re.findall(r'ctx\.error\(\s*"([a-z0-9-]+)"', path.read_text()))
    assert used == STRICTER_RULES | {"rootfs-propagation"}

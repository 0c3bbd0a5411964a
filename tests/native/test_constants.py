"""native/plan.h and ociruntime/plan/ops.py hold the same numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from ociruntime.plan import ops

RENAMED = {"PLAN_MAGIC": "MAGIC", "PLAN_VERSION": "VERSION", "PLAN_NONE": "NONE"}
C_ONLY = {"OP_NONE", "PLAN_MAX_OPS", "PLAN_MAX_DATA", "PLAN_MAX_SLOTS", "MSG_TEXT_MAX"}


@pytest.fixture(scope="module")
def header(repository: Path) -> dict[str, int]:
    text = (repository / "native/plan.h").read_text()
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL).replace("\\\n", "")
    found = dict(re.findall(r"^#define (\w+) +(.+?) *$", text, flags=re.MULTILINE))
    found.update(re.findall(r"^ +([A-Z_]+) = (\w+),", text, flags=re.MULTILINE))
    found = {name: value for name, value in found.items() if "(" not in name}
    numbers = {}
    for name, value in found.items():
        plain = re.sub(r"(?<=[0-9a-fA-F])u\b", "", value).replace("UINT64_MAX", str(2**64 - 1))
        if re.fullmatch(r"[0-9a-fA-Fx() <]+", plain):
            numbers[name] = int(eval(plain))
    return numbers


def python_name(name: str) -> str:
    if name in RENAMED:
        return RENAMED[name]
    return re.sub(r"^(OP|PLAN)_", "", name)


def test_every_number_of_the_header(header: dict[str, int], subtests: SubTests) -> None:
    assert len(header) > 60
    for name, value in header.items():
        if name not in C_ONLY:
            with subtests.test(name):
                assert getattr(ops, python_name(name)) == value


def test_every_number_of_the_module(header: dict[str, int]) -> None:
    known = {python_name(name) for name in header}
    ours = {name for name, value in vars(ops).items() if name.isupper() and type(value) is int}
    assert ours - known == {"CHANNEL_SLOT", "PLAN_SLOT"}


def test_names_of_tags(header: dict[str, int]) -> None:
    tags = {value: name[4:].lower() for name, value in header.items() if name.startswith("TAG_")}
    names = ["", *(tags[number] for number in range(1, len(tags) + 1))]
    assert list(ops.TAG_NAMES) == names

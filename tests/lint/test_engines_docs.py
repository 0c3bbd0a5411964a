"""docs/compatibility/engines.md: each flow is held by files that are there and that run on the engine of the column."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_subtests import SubTests

# The column → what its engines are called in `pytest.mark.engines`.
COLUMNS = {
    "podman": {"podman", "user-podman"},
    "dockerd": {"docker", "docker-remapped", "user-docker"},
    "containerd: ctr, CRI": {"ctr", "cri", "cri2", "crio"},
    "buildah": {"buildah", "user-buildah"},
}
KINDS = set().union(*COLUMNS.values())
COMMON = {"podman", "user-podman", "docker"}  # of a test that names none
NAME = re.compile(r"\btest_\w+")


def engines(text: str) -> set[str]:
    """The engines that a file of tests names, or that all tests run on."""
    marks = re.findall(r"^pytestmark = (?:\[\n.*?^\]|[^\n]*)$", text, re.M | re.S)
    found = set(re.findall(r'"([\w-]+)"', text)) & KINDS
    found |= {"cri", "cri2"} if "*NODES" in text else set()
    return found | (COMMON if marks and "engines(" not in marks[0] else set())


def rows(section: str) -> list[dict[str, str]]:
    """The table under the heading: flow and columns by their titles."""
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    titles, *cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [dict(zip(titles, row, strict=True)) for row in cells]


def untrue(section: str, files: dict[str, str]) -> list[str]:
    """What the section says and the files (name → text) do not bear out."""
    found = [f"no such file: {name}" for name in sorted(set(NAME.findall(section)) - files.keys())]
    found += [f"not named: {name}" for name in sorted(files.keys() - set(NAME.findall(section)))]
    for row in rows(section):
        for title, kinds in COLUMNS.items():
            for name in NAME.findall(row[title]):
                if name in files and not engines(files[name]) & kinds:
                    found.append(f"{row['flow']}: {name} does not run on {title}")
    return found


def test_where_each_flow_is_held(repository: Path) -> None:
    text = (repository / "docs/compatibility/engines.md").read_text()
    section = text.partition("\n## Where each flow is held\n")[2].partition("\n## ")[0]
    assert len(rows(section)) > 20
    files = {p.stem: p.read_text() for p in (repository / "tests/engines").glob("test_*.py")}
    assert untrue(section, files) == []


def test_what_is_untrue_is_found(subtests: SubTests) -> None:
    files = {
        "test_all": "pytestmark = pytest.mark.root\n",
        "test_pods": 'pytestmark = [\n    pytest.mark.root,\n    pytest.mark.engines("podman"),\n]\n',
        "test_nodes": "pytestmark = [pytest.mark.root, pytest.mark.engines(*NODES)]\n",
    }
    head = "| flow | podman | dockerd | containerd: ctr, CRI | buildah |\n|---|---|---|---|---|\n"
    good = "| one | test_all, test_pods | test_all | test_nodes | – |\n"
    for row, wanted in {
        good: [],
        good.replace("– |", "test_none |"): ["no such file: test_none"],
        good.replace("test_all, test_pods", "–"): ["not named: test_pods"],
        good.replace("| test_all |", "| test_pods, test_all |"): [
            "one: test_pods does not run on dockerd"
        ],
        good.replace("test_nodes", "test_nodes, test_all"): [
            "one: test_all does not run on containerd: ctr, CRI"
        ],
    }.items():
        with subtests.test(row):
            assert untrue(head + row, files) == wanted

"""The attack kit: nothing succeeds against this runtime, everything against the careless one."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from conformance import attacks, world
from conformance.attacks import field, registry, runner
from conformance.attacks.runner import SAFE, VULNERABLE, Outcome, Report
from conformance.kit import Result
from conformance.runner import Target
from tests.integration.harness import runtime_path

pytestmark = [pytest.mark.root, pytest.mark.slow]
CARELESS = Path(attacks.__file__).with_name("careless.py")
# Races are short here; those against the careless runtime end with the first success.
ROUNDS = 6
# What Debian 12's versions lose to; a recipe of theirs that they survive is in the list of each as well.
LOST = {
    "runc": (
        "1.1.5",
        "dev-link null-mask null-stdio hook-environment exec-user signals spec-powercap",
    ),
    "crun": (
        "1.8.1",
        "dev-link null-stdio console-link null-given-away user-overflow cgroup-path exec-cgroup keyring spec-powercap",
    ),
}
KEPT = "proc-link cwd-descriptor target-link caps-inheritable"


# What was meant: a place of config.json, a path, a value or a flag.
CONCERNED = re.compile(r"""^config\.json:\d+: |(^|[ ("'])/|'[^']*'|^--\w""")
# Of these calls the path is wanted, wherever in config.json it comes from.
BY_PATH = re.compile(r": (open\w*|mk\w+|readlinkat|move_mount|execve): ")


def judge(
    program: str | Path, patterns: str | None = None, rounds: int = ROUNDS, *options: str
) -> Report:
    registry.load()
    return runner.run(Target([str(program), *options]), registry.select(patterns), rounds)


def poor(text: str) -> str:
    """What is wrong with the words of a refusal; empty when they are one plain line that says what was refused."""
    if not text or not text.isprintable():
        return "no plain line"
    if re.search(r"Traceback|internal error|\b[A-Z]\w*(Error|Exception)\b", text):
        return "insides of the runtime"
    if text[:1].isupper():
        return "not in lower case"
    if not CONCERNED.search(text):
        return "names nothing of the configuration"
    if BY_PATH.search(text) and not re.search(r"[ (\"]/", text):
        return "names no path"
    return ""


def record(monkeypatch: pytest.MonkeyPatch, log: Path, records: Path) -> None:
    """For each refusal a line of `records`: its words in the report and on stderr, and the last line of the log."""
    keep = field.Attack.refused

    def refused(attack: field.Attack, result: Result) -> None:
        keep(attack, result)
        name = attack.path.name.removeprefix("attack-")
        lines = log.read_text().splitlines() or [""]
        with records.open("a") as file:
            print(json.dumps([name, attack.refusals[-1], result.err, lines[-1]]), file=file)

    monkeypatch.setattr(field.Attack, "refused", refused)


def unless_inapplicable(outcome: Outcome) -> None:
    """Skip what a machine without a compiler cannot play; nothing else may be inapplicable."""
    if outcome.observed == "needs a C compiler":
        pytest.skip(outcome.observed)


def test_nothing_succeeds_against_this_runtime(
    subtests: SubTests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = runtime_path()
    if path is None:
        pytest.skip("the runtime under test is not built")
    mounts = world.mountinfo()
    log, records = tmp_path / "log", tmp_path / "records"
    log.touch()
    with monkeypatch.context() as patch:
        record(patch, log, records)
        done = judge(path, None, ROUNDS, "--log", str(log), "--log-format", "json")
    assert len(done.outcomes) == len(registry.RECIPES) > 55
    for outcome in done.outcomes:
        with subtests.test(outcome.name):
            unless_inapplicable(outcome)
            assert outcome.verdict == SAFE, outcome.observed
    refusals = [json.loads(line) for line in records.read_text().splitlines()]
    assert len({name for name, *_ in refusals}) > 20
    for name, text, err, last in refusals:
        with subtests.test(f"{name}, the words"):
            assert poor(text) == "", text
            lines = [line for line in err.splitlines() if not line.startswith("hint: ")]
            assert lines[-1] == text
            logged = json.loads(last)
            assert logged["level"] == "error"
            assert poor(logged["msg"]) == ""
            # Of several problems the log's message is the first; all are under a key of their own.
            assert text == logged["msg"] or text == logged["detail"].splitlines()[-1]
    for outcome in judge(path, "neighbour", 40).outcomes:
        with subtests.test(f"{outcome.name}, longer"):
            assert outcome.verdict == SAFE, outcome.observed
    with subtests.test("nothing is left"):
        assert world.mountinfo() == mounts
        assert not list(Path(tempfile.gettempdir()).glob(f"ociatt{os.getpid()}x*"))
        assert not world.cgroups("ociatt")


def test_everything_succeeds_against_the_careless_runtime(subtests: SubTests) -> None:
    """The control: a recipe that cannot succeed proves nothing."""
    for outcome in judge(CARELESS, rounds=60).outcomes:
        with subtests.test(outcome.name):
            unless_inapplicable(outcome)
            assert outcome.verdict == VULNERABLE, outcome.observed


@pytest.mark.parametrize("name", sorted(LOST))
def test_peers_lose_where_they_are_known_to(name: str, subtests: SubTests) -> None:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    version, words = LOST[name]
    if version not in runner.RecordedRuntime.describe(path):
        pytest.skip(f"the list is that of {name} {version}")
    lost = words.split()
    for outcome in judge(path, ",".join([*lost, *KEPT.split()])).outcomes:
        with subtests.test(outcome.name):
            wanted = VULNERABLE if outcome.name in lost else SAFE
            assert outcome.verdict == wanted, outcome.observed


def test_selection() -> None:
    registry.load()
    assert [r.name for r in registry.select("CVE-2019-5736")] == [
        *("self-exe", "exe-overwrite", "exec-self-exe")
    ]
    assert {r.attacker for r in registry.select("neighbour")} == {registry.NEIGHBOUR}
    with pytest.raises(ValueError, match="no recipe matches 'nosuch'"):
        registry.select("nosuch")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("make device /dev/null (c 1:3): mknodat: file exists", ""),
        ("config.json:9: process.user.uid: out of range (got -1)", ""),
        ("invalid uid '0x1': a number from 0 to 4294967294 is needed", ""),
        ("config.json:9: process.terminal: make it: openat2: no such file", "names no path"),
        ("make the terminal: no such file", "names nothing of the configuration"),
        ("Make device /dev/null", "not in lower case"),
        ("internal error: /x", "insides of the runtime"),
        ("/x: FileNotFoundError", "insides of the runtime"),
        ("", "no plain line"),
        ("a: /b\nc", "no plain line"),
    ],
)
def test_poor_words_are_found(text: str, wrong: str) -> None:
    assert poor(text) == wrong

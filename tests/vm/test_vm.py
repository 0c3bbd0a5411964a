"""What came of `make test-vm`, which .ci/run starts beside the other tests: one test for each machine."""

from __future__ import annotations

import faulthandler
import importlib.util
import os
import time
from pathlib import Path
from types import ModuleType

import pytest

RESULTS = os.environ.get("OCIRUNTIME_VM_RESULTS")
SECONDS = 75 * 60


def load(name: str) -> ModuleType:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"vm_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


suite = load("suite")
judge = load("judge")


@pytest.mark.parametrize("user", suite.BOUNDED)
def test_in_the_machine(user: str, capsys: pytest.CaptureFixture[str]) -> None:
    if RESULTS is None:
        pytest.skip("make test-vm runs these; .ci/run does both")
    faulthandler.cancel_dump_traceback_later()
    folder = Path(RESULTS)
    end = time.monotonic() + SECONDS
    while not (found := sorted(folder.glob(f"{user}-*.status"))):
        if (folder / "skipped").exists():
            pytest.skip(f"no virtual machine: {(folder / 'skipped').read_text().strip()}")
        if (folder / "ended").exists() and not list(folder.glob(f"{user}-*.status")):
            pytest.fail(f"make test-vm has ended without a result: {(folder / 'log').read_text()}")
        assert time.monotonic() < end, "the machines take too long"
        time.sleep(1)
    for path in found:
        text = path.with_suffix(".log").read_text()
        with capsys.disabled():
            print(f"\n=== {path.stem} in a virtual machine ===", *_summary(text), sep="\n")
        status = path.read_text().strip()
        assert status == "0", f"exit status {status}\n{text}"


def _summary(text: str) -> list[str]:
    """pytest's own summary of a run, the skips only counted."""
    lines = text.rstrip().splitlines()
    start = next(
        (i for i, line in enumerate(lines) if "short test summary" in line), len(lines) - 1
    )
    return [line for line in lines[start:] if not line.startswith("SKIPPED")]


def test_each_user_and_each_kernel_has_its_turn() -> None:
    options = suite.parse([])
    jobs = [job.name for job in suite.choose(options, list(suite.KERNELS))]
    assert jobs == ["root-stable", "user-backports", "selinux-stable", "hybrid-stable"]
    jobs = [job.name for job in suite.choose(options, ["stable"])]
    assert jobs == ["root-stable", "user-stable", "selinux-stable", "hybrid-stable"]
    every = suite.choose(suite.parse(["--all"]), list(suite.KERNELS))
    assert {(job.user, job.kernel) for job in every} == {
        (user, kernel) for user in suite.BOUNDED for kernel in suite.KERNELS
    }


def test_what_it_runs_is_there(repository: Path) -> None:
    for paths in [*suite.BOUNDED.values(), *suite.ALL.values()]:
        for path in paths:
            assert (repository / path.split("::")[0]).exists(), path


def test_pytest_gets_what_is_not_for_the_machine() -> None:
    options = suite.parse(["--user", "user", "tests/unit", "-k", "x", "--kernels", "backports"])
    [job] = suite.choose(options, options.kernels)
    assert job == ("user", "backports", ["tests/unit", "-k", "x"])


def test_who_is_judged_in_the_machine() -> None:
    ours = [run.file for run in judge.choose(False, None, [])]
    assert ours == ["root-ours.json", "root-strict.json", "user-ours.json"]
    every = judge.choose(True, None, [])
    assert len({run.file for run in every}) == len(every) == 7
    assert {(run.user, run.kernel) for run in every} == {("root", "stable"), ("user", "backports")}
    [run] = judge.choose(True, "stable", ["user-crun"])
    assert run == ("user", "crun", "crun", "stable")


def test_engines_have_the_tree_of_their_release_and_a_session(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = load("engines")
    monkeypatch.delenv("OCIRUNTIME_CRIO", raising=False)
    argv = engines.command("trixie", Path("/tree"), 60, [])
    assert argv[argv.index("--image") + 1] == "trixie"
    assert [argv[i + 1] for i, word in enumerate(argv) if word == "--copy"] == ["/tree"]
    assert "OCIRUNTIME_ENGINE_USER=tester" in argv and argv[-1:] == engines.DEFAULT
    assert all((repository / path).exists() for path in engines.DEFAULT)
    assert engines.command("bookworm", Path("/tree"), 60, ["-k", "x"])[-2:] == ["-k", "x"]

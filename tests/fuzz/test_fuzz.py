"""The targets of targets.py, each in a process of its own: a short run or FUZZ_SECONDS, what was found before first."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_subtests import SubTests

from tests.differential.mutate import bases, configs
from tests.fuzz import targets

pytestmark = pytest.mark.usefixtures("native")
LONG = "FUZZ_SECONDS" in os.environ
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0.7"))
SEED = os.environ.get("FUZZ_SEED", "1")
MEMORY = 512  # MiB


@pytest.fixture(scope="session")
def native() -> None:
    pytest.importorskip("ociruntime._native", reason="not built: make build")
    pytest.importorskip("_ocijson", reason="not built: make build")


def fuzz(
    repository: Path, found: Path, target: str, seconds: float, *more: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz.driver", target, str(seconds), SEED]
    return subprocess.run(
        [*command, str(found), *more],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=seconds * 10 + 300,
        check=False,
    )


def test_no_input_is_an_accident(repository: Path, tmp_path: Path, subtests: SubTests) -> None:
    """Answered, or refused by one line: no traceback, no hang, little memory, whatever comes."""
    with ThreadPoolExecutor(2) as pool:
        done = pool.map(
            lambda name: fuzz(repository, tmp_path, name, SECONDS), list(targets.TARGETS)
        )
        for name, result in zip(targets.TARGETS, done, strict=True):
            with subtests.test(target=name):
                assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
                words = result.stdout.split()
                print(result.stdout, end="")
                assert int(words[1]) >= 60 and int(words[3]) > 0, result.stdout
                assert int(words[-2]) < MEMORY, result.stdout


@pytest.mark.skipif(not LONG, reason="runs with FUZZ_SECONDS")
@pytest.mark.parametrize("name", targets.TARGETS)
def test_guided_by_coverage(repository: Path, tmp_path: Path, name: str) -> None:
    """The same targets under atheris."""
    pytest.importorskip(
        "atheris", reason="atheris is not installed: it has no wheel for this Python"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.guided", name, str(int(SECONDS)), str(tmp_path)],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    count = done.stderr.partition("number_of_executed_units:")[2].split()[0]
    print(f"{name}: {count} inputs under atheris")
    assert int(count) > 10


@pytest.mark.parametrize("guard", targets.BROKEN)
def test_fuzz_finds_what_is_broken(repository: Path, tmp_path: Path, guard: str) -> None:
    """The control: without a guard there is a finding, and its input is kept."""
    target = targets.BROKEN[guard][0]
    done = fuzz(repository, tmp_path, target, 60, guard)
    assert done.returncode == 1, done.stdout + done.stderr
    assert [path.name.rpartition("-")[0] for path in tmp_path.iterdir()] == [target]


@settings(deadline=None, max_examples=2000 if LONG else 40, suppress_health_check=list(HealthCheck))
@given(configs(bases(targets.DATA, None)), st.booleans())
def test_configs_of_hypothesis(spec: object, ascii_only: bool) -> None:
    """The same property of a config, with an engine that makes the smallest example."""
    import json

    text = json.dumps(spec, ensure_ascii=ascii_only)
    targets.TARGETS["config"].run(text.encode("utf-8", "surrogatepass"))


BIG = 50 << 20
HUGE = {
    "array": lambda: b"[" + b"1," * (BIG // 2) + b"1]",
    "text": lambda: b'"' + b"x" * BIG + b'"',
    "open": lambda: b"[" * BIG,
    "digits": lambda: b"9" * BIG,
    "blanks": lambda: b" " * BIG,
    "names": lambda: b"{" + b",".join(b'"%d":0' % n for n in range(3_000_000)) + b"}",
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_documents(repository: Path, tmp_path: Path, name: str) -> None:
    """50 MB: an error of one line, within a bounded time and memory."""
    if not LONG and name not in ("open", "text"):
        pytest.skip("runs with FUZZ_SECONDS")
    path = tmp_path / "config.json"
    path.write_bytes(HUGE[name]())
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30));"
        "from ociruntime import errors; from ociruntime.spec import validate\n"
        "try: validate.load_config(open(sys.argv[1], 'rb').read())\n"
        "except errors.ConfigError as exc: print(exc.message)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("config.json") and done.stdout.count("\n") == 1
    assert len(done.stdout) < 2000

"""check_plan under ASan and UBSan, from the plans in corpus/; FUZZ_SECONDS (60) sets how long."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

CORPUS = Path(__file__).parent / "corpus"
FLAGS = ("-g", "-O1", "-Wall", "-Wextra", "-Werror", "-fno-sanitize-recover=all")


def test_corpus_is_accepted_and_refused(native: ModuleType) -> None:
    """The seeds are of both kinds, so that mutation starts on both sides."""
    verdicts = {path.name: native.check_plan(path.read_bytes()) for path in CORPUS.iterdir()}
    assert len(verdicts) >= 8
    for name, fault in verdicts.items():
        assert (fault is None) is name.startswith("good-"), name


def build(
    repository: Path, compiler: str, out: Path, *flags: str
) -> subprocess.CompletedProcess[str]:
    sources = [repository / "native" / name for name in ("fuzz_check.c", "check.c")]
    command: list[str | Path] = [compiler, *FLAGS, *flags, *sources, "-o", out]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done


@pytest.mark.slow
def test_fuzz_by_mutation(repository: Path, compiler: str, tmp_path: Path) -> None:
    program = tmp_path / "fuzz_check"
    built = build(repository, compiler, program, "-DMUTATE", "-fsanitize=address,undefined")
    assert built.returncode == 0, built.stderr
    seconds = int(os.environ.get("FUZZ_SECONDS", "60")) // 2
    done = run(program, str(seconds), *sorted(CORPUS.iterdir()))
    assert int(done.stdout) > 10000 * seconds


@pytest.mark.slow
def test_fuzz_by_coverage(repository: Path, tmp_path: Path) -> None:
    clang = shutil.which("clang")
    program = tmp_path / "fuzz_check"
    if clang is None:
        pytest.skip("clang is not installed")
    built = build(repository, clang, program, "-fsanitize=fuzzer,address,undefined")
    if "libclang_rt" in built.stderr:
        pytest.skip("clang has no libFuzzer: libclang-rt-dev is not installed")
    assert built.returncode == 0, built.stderr
    work = tmp_path / "corpus"
    work.mkdir()
    seconds = (int(os.environ.get("FUZZ_SECONDS", "60")) + 1) // 2
    done = run(
        *(program, work, CORPUS, f"-max_total_time={seconds}", "-max_len=8192"),
        *("-verbosity=0", "-print_final_stats=1", f"-artifact_prefix={tmp_path}/"),
    )
    executed = int(done.stderr.split("stat::number_of_executed_units:")[1].split()[0])
    assert executed > 1000 * seconds

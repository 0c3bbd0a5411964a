"""The plan checker, and all of init behind it, under ASan and UBSan: native/fuzz_*.c.

FUZZ_SECONDS: how long each fuzzer runs; without it a short form. The seeds are the plans of corpus/, each of them an
input that once mattered, and those of tests/golden.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ociruntime.plan import ops
from ociruntime.plan.encode import encode
from ociruntime.plan.ops import Plan
from tests.golden.test_golden import CASES

CORPUS = Path(__file__).parent / "corpus"
LONG = "FUZZ_SECONDS" in os.environ
SECONDS = int(os.environ.get("FUZZ_SECONDS", "2"))
FLAGS = ("-std=gnu11", "-g", "-O2", "-Wall", "-Wextra", "-Werror", "-fno-sanitize-recover=all")
SANITIZERS = "address,undefined"
PROGRAMS = {"check": ("fuzz_check.c", "check.c"), "init": ("fuzz_kernel.c", "fuzz_init.c")}
"""Fuzzer → its files; what is fuzz_init.c is freestanding."""


def build(native: Path, compiler: str, name: str, out: Path, *flags: str) -> Path:
    """Compile one of PROGRAMS from the directory ``native``; its path in ``out``."""
    libfuzzer = "clang" in compiler
    objects = []
    for source in (*PROGRAMS[name], "fuzz_mutate.c"):
        objects.append(out / f"{name}-{source}.o")
        command: list[str | Path] = [compiler, *FLAGS, *flags, "-c", native / source, "-o"]
        extra = ["-ffreestanding"] if source == "fuzz_init.c" else []
        extra += [] if libfuzzer else ["-DMUTATE"]
        sanitizers = f"fuzzer-no-link,{SANITIZERS}" if libfuzzer else SANITIZERS
        compile_(*command, objects[-1], *extra, f"-fsanitize={sanitizers}")
    program = out / f"fuzz-{name}"
    sanitizers = f"fuzzer,{SANITIZERS}" if libfuzzer else SANITIZERS
    compile_(compiler, f"-fsanitize={sanitizers}", *objects, "-o", program)
    return program


def compile_(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "libclang_rt" in done.stderr:
        pytest.skip("clang has no libFuzzer: libclang-rt-dev is not installed")
    assert done.returncode == 0, done.stderr


def fuzz(
    program: Path, seeds: Iterable[Path], work: Path, seconds: int
) -> subprocess.CompletedProcess[str]:
    """Run a libFuzzer program; what it finds stays in ``work``."""
    (work / "corpus").mkdir(exist_ok=True)
    command: list[str | Path] = [program, work / "corpus", *seeds]
    command += [f"-max_total_time={seconds}", "-max_len=16384", "-timeout=10", "-rss_limit_mb=1024"]
    command += ["-print_final_stats=1", "-reload=0", f"-artifact_prefix={work}/"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def report(name: str, stderr: str) -> int:
    """Print how much was tried and reached; the number of inputs."""
    count = int(re.findall(r"number_of_executed_units: (\d+)", stderr)[-1])
    edges = int(re.findall(r"cov: (\d+)", stderr)[-1])
    total = int(re.findall(r"Loaded \d+ modules\s+\((\d+) inline", stderr)[-1])
    print(f"{name}: {count} plans, {edges} of {total} edges ({100 * edges // total} %)")
    return count


def near() -> Iterator[tuple[str, bytes]]:
    """Plans that come close to a limit, and the kernel's answers: a few bytes more are for the fuzzer to find."""
    plan = Plan()
    option = f"{'k' * 250}={'v' * 250}"
    plan.add("", ops.FSMOUNT, plan.slot(), "tmpfs", "tmpfs", (option,), 1, 0)
    yield "option", encode(plan, 3)
    plan = Plan()
    root = plan.slot()
    plan.add("", ops.ROOT, root, ops.NONE, "/rootfs", 0)
    plan.add("", ops.MKDIR, root, f"/link/{'d' * 3000}", 0o755, ops.NONE, ops.NONE)
    # How many calls precede is not counted: absent, its parent, absent, a link all the same, and where it leads.
    link = bytes((1, 0, 1, 5, 0, 255, 3))
    for calls in range(40):
        yield f"link-{calls}", encode(plan, 3) + bytes(calls) + link


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plans of tests/golden and those near a limit, as bytes."""
    directory = tmp_path_factory.mktemp("plans")
    for name, plan in CASES.items():
        (directory / name).write_bytes(encode(plan(), 3))
    for name, data in near():
        (directory / f"near-{name}").write_bytes(data)
    return directory


@pytest.fixture(scope="session")
def clang() -> str:
    found = shutil.which("clang")
    if found is None:
        pytest.skip("clang, which has libFuzzer, is not installed")
    return found


def test_corpus_is_accepted_and_refused(native: ModuleType) -> None:
    """The seeds are of both kinds, so that mutation starts on both sides."""
    verdicts = {path.name: native.check_plan(path.read_bytes()) for path in CORPUS.iterdir()}
    assert len(verdicts) >= 8
    for name, fault in verdicts.items():
        if name.startswith(("good-", "bad-")):
            assert (fault is None) is name.startswith("good-"), name


@pytest.mark.parametrize("name", PROGRAMS)
def test_fuzz_by_coverage(
    repository: Path, clang: str, seeds: Path, tmp_path: Path, name: str
) -> None:
    program = build(repository / "native", clang, name, tmp_path)
    done = fuzz(program, (CORPUS, seeds), tmp_path, SECONDS)
    assert done.returncode == 0, done.stderr[-4000:]
    assert report(name, done.stderr) > 100 * SECONDS


def test_fuzz_by_mutation(repository: Path, compiler: str, seeds: Path, tmp_path: Path) -> None:
    """Where there is no clang: the same targets, without its guidance."""
    if shutil.which("clang") is not None and not LONG:
        pytest.skip("clang does more: this one runs with FUZZ_SECONDS, or without clang")
    for name in PROGRAMS:
        program = build(repository / "native", compiler, name, tmp_path)
        files = (*sorted(CORPUS.iterdir()), *sorted(seeds.iterdir()))
        done = subprocess.run(
            [program, str(SECONDS), *files], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-4000:]
        print(f"{name}: {done.stdout.strip()} plans")
        assert int(done.stdout) > 100 * SECONDS


BLOB_END = "offset >= c->head->data_size || length >= c->head->data_size - offset"
REFUSED = "check_plan(bytes, size, &fault) < 0"
BROKEN = {
    "canary": (
        "init",
        "main.c",
        REFUSED,
        f"{REFUSED} && fault.op < 0",
        "refused makes system call",
    ),
    "blob": ("check", "check.c", BLOB_END, "offset == ~0u", "heap-buffer-overflow"),
    "slot": ("init", "check.c", "slot >= c->head->slot_count", "slot > 1u << 20", "error: "),
    "vector": ("check", "check.c", "nuls != count ||", "", "error: "),
    "last": ("init", "check.c", "if (alternative && i == count - 1)", "if (0)", "error: "),
    "link": ("init", "path.c", "if (keep + (size_t)n + rest >= PATH_SIZE)", "if (0)", "error: "),
    "option": ("init", "mount.c", "if (n >= sizeof(key))", "if (0)", "error: "),
    "message": ("init", "main.c", "if (more > MSG_TEXT_MAX - call - 1)", "if (0)", "too long"),
    "slots": ("init", "mount.c", "m.slots[op->arg[0]] = -1;", ";", "closed that is not open"),
}
"""Guards, and that the fuzzers find out when one is gone: program, file, guard, what takes its place, what is found."""


@pytest.mark.parametrize("guard", BROKEN if LONG else ("canary", "blob"))
def test_fuzz_finds_what_is_broken(
    repository: Path, clang: str, seeds: Path, tmp_path: Path, guard: str
) -> None:
    """The control of the fuzzers: a copy of the sources without a guard."""
    name, file, old, new, found = BROKEN[guard]
    native = tmp_path / "native"
    native.mkdir()
    for source in (repository / "native").glob("*.[ch]"):
        shutil.copy(source, native)
    text = (native / file).read_text()
    assert old in text
    (native / file).write_text(text.replace(old, new))
    program = build(native, clang, name, tmp_path, "-Wno-unused", "-Wno-unused-parameter")
    done = fuzz(program, (CORPUS, seeds), tmp_path, 120)
    assert done.returncode != 0
    assert found in done.stderr.lower(), done.stderr[-4000:]

"""The C scanner of config.json under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest


def test_hostile_documents(repository: Path, tmp_path: Path) -> None:
    """No input makes it read, write or compute what it may not, and it agrees with json on what it accepts."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc with its sanitizers")
    subprocess.run(
        [
            *(compiler, "-shared", "-fPIC", "-g", "-O1", "-fsanitize=address,undefined"),
            *("-fno-sanitize-recover=undefined", f"-I{sysconfig.get_paths()['include']}"),
            *("-o", tmp_path / "_ocijson.so", repository / "native" / "minijson.c"),
        ],
        check=True,
    )
    libraries = [
        subprocess.check_output([compiler, f"-print-file-name=lib{name}.so"], text=True).strip()
        for name in ("asan", "ubsan")
    ]
    seconds = os.environ.get("FUZZ_SECONDS", "2")
    samples = sorted((repository / "tests" / "data").glob("*.json"))
    done = subprocess.run(
        [sys.executable, "-S", Path(__file__).with_name("fuzz_minijson.py"), tmp_path, seconds]
        + samples,
        env={
            "LD_PRELOAD": " ".join(libraries),
            "PYTHONMALLOC": "malloc",
            "ASAN_OPTIONS": "detect_leaks=0",
            "PATH": os.environ["PATH"],
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    count, accepted = map(int, done.stdout.split())
    print(f"JSON scanner: {count} texts, {accepted} accepted")
    assert count > 200 and accepted > 0

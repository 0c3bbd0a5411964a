"""The conversation with criu: how long it may be silent (fake_criu.py stands for it)."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from ociruntime.criu import service, wire
from tests.integration import fake_criu


@pytest.fixture
def criu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "criu"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{fake_criu.__file__}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_CRIU", str(tmp_path))
    return tmp_path


def ask(folder: Path, timeout: float | None) -> wire.Message:
    work = os.open(folder, os.O_RDONLY)
    worker = service.Service([work])
    try:
        opts = {"work_dir_fd": work, "log_file": "log", "leave_running": True, "pid": os.getpid()}
        return worker.ask({"type": wire.DUMP, "opts": opts}, timeout=timeout)
    finally:
        worker.close()
        os.close(work)
        with pytest.raises(ProcessLookupError):
            os.kill(worker.pid, 0)


def test_who_hangs_is_killed(criu: Path) -> None:
    (criu / "mode").write_text("hang")
    started = time.monotonic()
    with pytest.raises(service.TimedOut) as failure:
        ask(criu, 1.0)
    assert failure.value.message == "criu hangs: nothing for 1 s after DUMP; it was killed"
    assert time.monotonic() - started < 20


def test_who_works_is_not_killed(criu: Path) -> None:
    """CPU time is a sign of life: two seconds of it are longer than the time that may be idle."""
    (criu / "mode").write_text("busy")
    assert ask(criu, 1.0)["type"] == wire.DUMP


def test_a_longer_log_is_a_sign_of_life(criu: Path) -> None:
    (criu / "mode").write_text("hang")
    work = os.open(criu, os.O_RDONLY)
    worker = service.Service([work])
    try:
        request = {"type": wire.DUMP, "opts": {"work_dir_fd": work, "log_file": "out"}}
        assert worker._life(request)[1] == 0
        (criu / "out").write_text("line")
        assert worker._life(request)[1] == 4
    finally:
        worker.close()
        os.close(work)


def test_a_question_has_a_limit(criu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert service.version() == (3, 17)
    assert service.ANSWER_TIMEOUT < 60 < service.IDLE_TIMEOUT < 1000

"""Log lines in both formats, where they go, and what is lost when nothing can be written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ociruntime import errors, log


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    if log._fd >= 0:
        os.close(log._fd)
    log._fd, log._json, log._level = -1, False, log.WARNING


def test_json_line_has_the_keys_of_runc(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    log.setup({"log": str(path), "log-format": "json"})
    log.fatal(errors.Error('a "b" \\ \x01 é', pointer="/mounts/1", hint="h", extra={"step": "s"}))
    text = path.read_text()
    assert text.count("\n") == 1
    line = json.loads(text)
    assert list(line)[:3] == ["level", "msg", "time"]
    assert line["level"] == "error"
    assert line["msg"] == r'a "b" \ \x01 é'
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line["time"])
    assert (line["path"], line["hint"], line["step"]) == ("/mounts/1", "h", "s")
    assert capfd.readouterr().err == 'a "b" \\ \\x01 é\nhint: h\n'


def test_text_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log.setup({"log": str(path)})
    log.fatal(errors.Error("container does not exist"))
    pattern = r'time="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ" level=error msg="container does not exist"\n'
    assert re.fullmatch(pattern, path.read_text())


@pytest.mark.parametrize(
    "text", ["a\nlevel=info", "a\x1b[2J", "a\u2028b", "a\u202eb", "a\rb", "a\x85"]
)
def test_nothing_from_a_config_forges_a_line_or_steers_a_terminal(
    text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    log.setup({"log": str(path)})
    log.fatal(errors.Error(text, hint=text))
    log.warning(text)
    problems = [errors.ConfigProblem("/a", text, 1), errors.ConfigProblem("/b", text, 2)]
    log.fatal(errors.ConfigError(text, problems))
    shown = capfd.readouterr().err
    assert shown.count("\n") == 4 and path.read_text().count("\n") == 3
    assert all(line.isprintable() for line in (shown + path.read_text()).split("\n"))


def test_bytes_that_are_no_utf8_are_shown_as_they_are(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    log.fatal(errors.Error("a\udcff\n"))
    assert capfdbinary.readouterr().err == b"a\xff\\n\n"


def test_the_engine_sees_one_line_of_many(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log.setup({"log": str(path), "log-format": "json"})
    log.fatal(
        errors.ConfigError(
            "c.json:1: a (and 1 more)",
            [errors.ConfigProblem("/a", "x", 1), errors.ConfigProblem("/b", "y", 2)],
        )
    )
    line = json.loads(path.read_text())
    assert line["msg"] == "c.json:1: a (and 1 more)"
    assert line["detail"] == "c.json:1: a: x\nc.json:2: b: y"


def test_appended_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    path.chmod(0o600)
    log.setup({"log": str(path)})
    log.warning("w")
    assert path.read_text().startswith("before\n")
    assert path.stat().st_mode & 0o777 == 0o600


def test_levels(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log.setup({"log": str(path), "log-level": "error"})
    log.warning("no")
    log.debug("no")
    assert path.read_text() == ""
    log.setup({"log": str(path), "log-level": "error", "debug": True})
    log.debug("yes")
    assert "level=debug" in path.read_text()


def test_plain_on_stderr_without_a_log(capfd: pytest.CaptureFixture[str]) -> None:
    log.setup({})
    log.fatal(errors.Error("boom"))
    log.warning("careful")
    assert capfd.readouterr().err == "boom\nwarning: careful\n"


def test_json_on_stderr_when_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    log.setup({"log-format": "json"})
    log.fatal(errors.Error("boom"))
    assert json.loads(capfd.readouterr().err)["msg"] == "boom"


def test_undecodable_bytes_are_valid_json(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log.setup({"log": str(path), "log-format": "json"})
    log.fatal(errors.Error("open /\udcff: no"))
    assert json.loads(path.read_bytes())["msg"] == "open /\ufffd: no"


def test_a_stderr_that_takes_nothing_is_survived(tmp_path: Path) -> None:
    saved = os.dup(2)
    try:
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 2)
        os.close(null)
        log.setup({})
        log.fatal(errors.Error("boom"))
        os.close(2)
        log.fatal(errors.Error("boom"))
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log-format": "yaml"}, "invalid log-format"),
        ({"log-level": "loud"}, "invalid log-level"),
        ({"log": "/nonexistent/log"}, "open log /nonexistent/log: no such file or directory"),
    ],
)
def test_refused(options: dict[str, str | bool | int | list[str]], message: str) -> None:
    with pytest.raises(errors.Error, match=message):
        log.setup(options)

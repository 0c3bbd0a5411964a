"""Log lines in runc's two formats, and the plain text on stderr.

Hot module. One line, one write(2): several runtimes append to one file at the same time. An error goes to the log
*and*, as plain text, to stderr: engines read either (docs/compatibility.md). Where neither takes it, it is dropped:
there is nobody left to tell. What a verb was asked for is another thing: a caller must not take half of it for whole.
"""

from __future__ import annotations

import posix

import _ocisys

from ociruntime import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ociruntime.cli import Options

ERROR, WARNING, INFO, DEBUG = 0, 1, 2, 3
_LEVELS = {"error": ERROR, "warning": WARNING, "warn": WARNING, "info": INFO, "debug": DEBUG}
_NAMES = ("error", "warning", "info", "debug")

_fd = -1  # of --log; -1: stderr
_json = False
_level = WARNING


def setup(options: Options) -> None:
    """Read --log, --log-format, --log-level and --debug, and open the log before anything can change directory.

    Raises errors.Error.
    """
    global _fd, _json, _level
    wanted = options.get("log-format") or "text"
    if wanted not in ("text", "json"):
        raise errors.Error(f'invalid log-format "{wanted}"', hint="text or json")
    _json = wanted == "json"
    word = options.get("log-level")
    if word:
        level = _LEVELS.get(str(word).lower())
        if level is None:
            raise errors.Error(f'invalid log-level "{word}"', hint="error, warning, info or debug")
        _level = level
    if options.get("debug"):
        _level = DEBUG
    path = options.get("log")
    if path:
        try:
            _fd = posix.open(
                str(path), posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_CLOEXEC, 0o644
            )
        except OSError as exc:
            raise errors.from_os(exc, f"open log {path}") from exc


def debugging() -> bool:
    """Whether debug lines are wanted (test before composing an expensive one)."""
    return _level >= DEBUG


def _write_all(fd: int, text: str) -> None:
    data = text.encode("utf-8", "surrogateescape")
    while data:
        data = data[posix.write(fd, data) :]


def _write(fd: int, text: str) -> None:
    try:
        _write_all(fd, text)
    except OSError:
        return


def out(text: str) -> None:
    """Write to stdout, as is. Raises errors.Error where it does not take all."""
    try:
        _write_all(1, text)
    except OSError as exc:
        raise errors.from_os(exc, "write to standard output") from exc


def err(text: str) -> None:
    """Write to stderr, as is."""
    _write(2, text)


def _quote(text: str) -> str:
    """A JSON string, in ASCII; bytes that are no UTF-8 become U+FFFD."""
    from ociruntime.spec import json_reader

    return json_reader.quote(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def _one_line(text: str) -> str:
    """``text`` with control characters escaped: paths of a hostile config must not forge lines or steer a terminal.

    Bytes that are no UTF-8 stay.
    """
    if text.isprintable():
        return text
    # By number: a literal surrogate cannot be unmarshalled in the core phase, which has no codecs.
    return "".join(
        [c if c.isprintable() or 0xDC80 <= ord(c) <= 0xDCFF else ascii(c)[1:-1] for c in text]
    )


def _line(level: int, message: str, extra: dict[str, str] | None) -> str:
    """One line of the log, in the format asked for."""
    stamp = _ocisys.timestamp()
    if _json:
        more = ""
        for key in extra or ():
            more += f",{_quote(key)}:{_quote((extra or {})[key])}"
        return f'{{"level":"{_NAMES[level]}","msg":{_quote(message)},"time":"{stamp}"{more}}}\n'
    more = ""
    for key in extra or ():
        more += f" {key}={_quote((extra or {})[key])}"
    return f'time="{stamp}" level={_NAMES[level]} msg={_quote(message)}{more}\n'


def _emit(level: int, message: str, extra: dict[str, str] | None) -> None:
    if level > _level:
        return
    message = _one_line(message)
    if _fd >= 0:
        _write(_fd, _line(level, message, extra))
    elif _json:
        _write(2, _line(level, message, extra))
    else:
        _write(2, f"{_NAMES[level]}: {message}\n")


def debug(message: str, **extra: str) -> None:
    """A line for whoever looks into the runtime."""
    _emit(DEBUG, message, extra)


def info(message: str, **extra: str) -> None:
    """A line that nobody needs."""
    _emit(INFO, message, extra)


def warning(message: str, **extra: str) -> None:
    """Something was left out or looks wrong; the command goes on."""
    _emit(WARNING, message, extra)


def fatal(error: errors.Error) -> None:
    """The error that ends the command: a line in the log and plain text on stderr."""
    extra = dict(error.extra or {})
    if error.pointer:
        extra["path"] = error.pointer
    if error.hint:
        extra["hint"] = _one_line(error.hint)
    first = message = _one_line(error.message)
    if isinstance(error, errors.ConfigError) and len(error.problems) > 1:
        from ociruntime.spec import validate

        name = message.partition(":")[0]
        message = "\n".join(
            [_one_line(validate.render(name, problem)) for problem in error.problems]
        )
    if _fd >= 0:
        # The engine shows one line: the first. The others follow under a key of their own.
        if message != first:
            extra["detail"] = message
        _write(_fd, _line(ERROR, first, extra))
    elif _json:
        _write(2, _line(ERROR, message, extra))
        return
    hint = f"hint: {extra['hint']}\n" if error.hint else ""
    _write(2, f"{message}\n{hint}")

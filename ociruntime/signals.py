"""Signals by name and number.

Hot module. The numbers are those of signal(7) for x86 and arm64, which agree; SIGRTMIN is glibc's, as in kill(1).
"""

from __future__ import annotations

from ociruntime import errors

SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGCHLD, SIGCONT, SIGSTOP, SIGWINCH = 1, 2, 9, 15, 17, 18, 19, 28

_NAMES = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG"
    " XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
)
_ALIASES = {"IOT": 6, "CLD": 17, "POLL": 29}
_RTMIN, _RTMAX = 34, 64


def number(text: str) -> int:
    """The signal that ``text`` names: ``9``, ``KILL``, ``SIGKILL``, ``rtmin+3``; 0 is not one.

    Raises errors.Error.
    """
    if text.isascii() and text.isdigit():
        value = int(text) if len(text) < 4 else 0
        if 1 <= value <= _RTMAX:
            return value
        raise _unknown(text)
    word = text.upper().removeprefix("SIG")
    if word.startswith(("RTMIN", "RTMAX")):
        base, sign, offset = word[:5], word[5:6], word[6:]
        value = _RTMIN if base == "RTMIN" else _RTMAX
        if sign:
            if not (sign in "+-" and offset.isascii() and offset.isdigit() and len(offset) < 3):
                raise _unknown(text)
            value += int(offset) if sign == "+" else -int(offset)
        if _RTMIN <= value <= _RTMAX:
            return value
        raise _unknown(text)
    if word in _ALIASES:
        return _ALIASES[word]
    names = _NAMES.split()
    if word in names:
        return names.index(word) + 1
    raise _unknown(text)


def _unknown(text: str) -> errors.Error:
    return errors.Error(f'unknown signal "{text}"')


def name(value: int) -> str:
    """``SIGKILL`` for 9; ``signal 99`` for what has no name."""
    names = _NAMES.split()
    return f"SIG{names[value - 1]}" if 1 <= value <= len(names) else f"signal {value}"

"""Signal names against the C library's, through Python's signal module."""

from __future__ import annotations

import signal

import pytest
from pytest_subtests import SubTests

from ociruntime import errors, signals


def test_every_name_and_number(subtests: SubTests) -> None:
    for known in signal.Signals:
        with subtests.test(known.name):
            short = known.name.removeprefix("SIG")
            for text in (known.name, short, short.lower(), known.name.lower(), str(int(known))):
                assert signals.number(text) == known


def test_realtime_signals(subtests: SubTests) -> None:
    table = {
        "RTMIN": signal.SIGRTMIN,
        "SIGRTMIN+1": signal.SIGRTMIN + 1,
        "rtmin+30": signal.SIGRTMIN + 30,
        "RTMAX": signal.SIGRTMAX,
        "SIGRTMAX-14": signal.SIGRTMAX - 14,
        "64": 64,
    }
    for text, number in table.items():
        with subtests.test(text):
            assert signals.number(text) == number


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "65", "1000", "99999999", "BLAH", "SIG", "SIGSIGKILL", "RTMIN+", "RTMIN+31"]
    + ["RTMIN-1", "RTMAX+1", "RTMINX", "RTMIN+-1", "9 ", " KILL", "٩", "RTMIN+٩"],
)
def test_unknown_signals(text: str) -> None:
    with pytest.raises(errors.Error, match="unknown signal"):
        signals.number(text)


def test_names() -> None:
    assert signals.name(9) == "SIGKILL"
    assert signals.name(31) == "SIGSYS"
    assert signals.name(34) == "signal 34"

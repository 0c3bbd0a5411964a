"""The test program of a launcher: does every module load in the core phase?

Frozen in place of the real entry module by native/build_launcher.py. Arguments: hot modules, ``--``, built-in modules,
``--``, ``name=path`` of extension modules in the order in which they depend on each other. Says ``ok``.
"""

from __future__ import annotations

import posix
import sys

import _launcher
import _ocijson
import _ocisys


def main(argv: list[str]) -> int:
    modules, builtins, extensions = " ".join(argv).split("--")
    # First: a module among the others looks for them where they are not installed yet.
    for pair in extensions.split():
        name, _, path = pair.partition("=")
        _launcher.load_extension(name, path)
    for name in [*builtins.split(), *modules.split()]:
        __import__(name)

    assert_same(
        _ocijson.loads(b'{"a": [1, -2.5, "\\u00e9", null, true]}'),
        {"a": [1, -2.5, "\xe9", None, True]},
    )
    assert_same(_ocijson.quote('a"\n'), '"a\\"\\n"')
    assert_same(_ocisys.prctl(3), 1)  # PR_GET_DUMPABLE
    assert_same(sys.flags.isolated, 1)
    posix.write(1, b"ok\n")
    return 0


def assert_same(value: object, expected: object) -> None:
    """An assertion that optimisation keeps."""
    if value != expected:
        raise AssertionError(f"{value!r} is not {expected!r}")

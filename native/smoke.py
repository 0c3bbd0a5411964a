"""The test program of a launcher: does every module load in the core phase?

Frozen in place of the real entry module by native/build_launcher.py. Arguments: hot modules, ``--``, built-in modules,
``--``, ``name=path`` of extension modules in the order in which they depend on each other, ``--``, and, when modules
are deep-frozen, a file that has them marshalled: each must be equal to what the compiler made of it. Says ``ok``.
"""

from __future__ import annotations

import _imp
import marshal
import posix
import sys

import _launcher
import _ocijson
import _ocisys


def main(argv: list[str]) -> int:
    groups: list[list[str]] = [[]]
    for argument in argv:
        if argument == "--":
            groups.append([])
        else:
            groups[-1].append(argument)
    modules, builtins, extensions, codes = groups
    for path in codes:
        compare(path)
    # First: a module among the others looks for them where they are not installed yet.
    for pair in extensions:
        name, _, path = pair.partition("=")
        _launcher.load_extension(name, path)
    for name in [*builtins, *modules]:
        __import__(name)

    assert_same(
        _ocijson.loads(b'{"a": [1, -2.5, "\\u00e9", null, true]}'),
        {"a": [1, -2.5, "\xe9", None, True]},
    )
    assert_same(_ocijson.quote('a"\n'), '"a\\"\\n"')
    assert_same(_ocisys.prctl(3), 1)  # PR_GET_DUMPABLE
    assert_same(sys.flags.isolated, 1)
    for path in codes:
        compare(path)
    posix.write(1, b"ok\n")
    return 0


def compare(path: str) -> None:
    """Compare the deep-frozen modules with the marshalled ones in the file ``path``."""
    descriptor = posix.open(path, posix.O_RDONLY)
    data = posix.read(descriptor, posix.fstat(descriptor).st_size)
    posix.close(descriptor)
    for name, code in marshal.loads(data).items():
        assert_same(shape(_imp.get_frozen_object(name)), shape(code))


def shape(value: object) -> object:
    """Something that differs for two constants exactly when they differ in type, value or, inside code, anywhere."""
    if isinstance(value, tuple):
        return ("tuple", [shape(item) for item in value])
    if isinstance(value, frozenset):
        return ("frozenset", sorted([repr(shape(item)) for item in value]))
    if isinstance(value, type(shape.__code__)):
        names = [
            name
            for name in dir(value)
            if name[:3] == "co_" and name != "co_lines" and name != "co_positions"
        ]
        return [(name, shape(getattr(value, name))) for name in names]
    return (type(value).__name__, repr(value))


def assert_same(value: object, expected: object) -> None:
    """An assertion that optimisation keeps."""
    if value != expected:
        raise AssertionError(f"{value!r} is not {expected!r}"[:2000])

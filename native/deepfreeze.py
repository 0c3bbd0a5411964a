"""Write code objects as static data of C, for CPython 3.11 alone: nothing is unmarshalled when a command starts.

The file that is written includes native/deepfreeze.h. Its objects lie in five areas, module by module, so that a
process makes private copies of few pages (a microsecond and more for each):

* ``hot``: constants that importing a module writes to (all writing here is counting references, hashing a string
  once, and adapting code that runs often), those that several modules share first;
* ``code``: code objects, which importing a module writes to as well, because it makes functions of them;
* ``late``: constants that functions write to when they are called;
* ``cold``: tuples and tables that the interpreter reads;
* ``trace``: what only a traceback reads.

Equal strings are one object in all modules, which is nearly what interning is for; none is interned, because that
would hash thousands of strings of which a command uses some hundred.
"""

from __future__ import annotations

import opcode
import sys
from collections.abc import Iterable, Iterator
from types import CodeType

SUPPORTED = sys.implementation.name == "cpython" and sys.version_info[:2] == (3, 11)
"""Whether this interpreter's objects are laid out like this."""

CO_OPTIMIZED = 1  # cpython/code.h
CO_FAST_LOCAL, CO_FAST_CELL, CO_FAST_FREE = 0x20, 0x40, 0x80  # internal/pycore_code.h
INT_SHIFT = sys.int_info.bits_per_digit

Key = tuple[object, ...]


class Unsupported(Exception):
    """A constant, or an interpreter, of which no static data is written."""


def key_of(value: object) -> Key:
    """What tells ``value`` from every other constant: 1 is neither True nor 1.0, 0.0 is not -0.0."""
    if isinstance(value, CodeType):
        return ("code", id(value))
    if isinstance(value, tuple):
        return ("tuple", *map(key_of, value))
    if isinstance(value, frozenset):
        return ("frozenset", id(value))
    return (type(value).__name__, repr(value))


def c_string(data: bytes) -> str:
    """``data`` as the inside of a C string literal."""
    plain = b" !#$%&'()*+,-./0123456789:;<=>@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`abcdefghijklmnopqrstuvwxyz{|}~"
    return "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in data)


def constants_of(code: CodeType) -> Iterator[object]:
    """The objects that running ``code`` may count references of, without the code inside it."""
    yield from code.co_names
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield value.co_name
            yield value.co_qualname
        else:
            yield value


def runs_at_import(code: CodeType) -> bool:
    """Whether this is the code of a module or of a class's body, not of a function."""
    return not code.co_flags & CO_OPTIMIZED


def codes_of(code: CodeType) -> Iterator[CodeType]:
    """``code`` and all code inside it, in the order of the source."""
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from codes_of(value)


def well_known(value: object) -> str | None:
    """The C expression of an object that every process has already, else None."""
    if value is None:
        return "NONE"
    if value is Ellipsis:
        return "ELLIPSIS"
    if isinstance(value, bool):
        return "TRUE_OBJECT" if value else "FALSE_OBJECT"
    if isinstance(value, int) and -5 <= value <= 256:
        return f"SMALL_INT({value})"
    if value == "":
        return "EMPTY_STRING"
    if isinstance(value, str) and len(value) == 1 and ord(value) < 256:
        return f"{'ASCII' if ord(value) < 128 else 'LATIN1'}_CHARACTER({ord(value)})"
    if isinstance(value, bytes) and len(value) <= 1:
        return f"BYTE({value[0]})" if value else "EMPTY_BYTES"
    if value == ():
        return "EMPTY_TUPLE"
    return None


def plain_object(value: object) -> tuple[str, str]:
    """C type and initial value of an object without references to others; raises Unsupported."""
    if isinstance(value, str):
        size, highest = len(value), max(map(ord, value))
        if highest < 128:
            return f"ASCII({size + 1})", f'{{STRING({size}, 1, 1), "{c_string(value.encode())}"}}'
        width = 1 if highest < 256 else 2 if highest < 65536 else 4
        units = ", ".join(str(ord(character)) for character in value)
        head = f"{{._base = STRING({size}, {width}, 0)}}"
        return f"TEXT(Py_UCS{width}, {size + 1})", f"{{{head}, {{{units}, 0}}}}"
    if isinstance(value, bytes):
        text = f'{{SIZED(Bytes, {len(value)}), -1, "{c_string(value)}"}}'
        return f"BYTES({len(value) + 1})", text
    if isinstance(value, int):
        digits, rest = [], abs(value)
        while rest:
            digits.append(f"{rest & (1 << INT_SHIFT) - 1}u")
            rest >>= INT_SHIFT
        size = len(digits) if value > 0 else -len(digits)
        return f"INT({len(digits)})", f"{{SIZED(Long, {size}), {{{', '.join(digits)}}}}}"
    if isinstance(value, float) and abs(value) < float("inf"):
        return "FLOAT", f"{{OBJECT(Float), {value.hex()}}}"
    raise Unsupported(f"no static data for the constant {value!r}")


class Area:
    """Objects that lie together in the C structure ``name``: members as (name, type, initial value)."""

    def __init__(self, name: str, pool: dict[Key, str]) -> None:
        """``pool``: the C expressions of all constants in this area and those that share its pool."""
        self.name = name
        self.pool = pool
        self.members: list[tuple[str, str, str]] = []

    def add(self, number: int, kind: str, value: str) -> str:
        """Append an object of the C type ``kind``; the C expression of its member."""
        self.members.append((f"m{number}", kind, value))
        return f"{self.name}.m{number}"


class Writer:
    """Lays out the code objects of all modules; ``text`` is the C source."""

    def __init__(self, modules: Iterable[tuple[str, CodeType]]) -> None:
        """``modules``: names and code, in the order in which they are to lie. Raises Unsupported."""
        if not SUPPORTED:
            raise Unsupported("the layout of objects is known of CPython 3.11 alone")
        self.modules = list(modules)
        constants: dict[Key, str] = {}
        self.hot, self.late = Area("hot", constants), Area("late", constants)
        self.code = Area("code", {})
        self.cold, self.trace = Area("cold", {}), Area("trace", {})
        self.tables: dict[Key, str] = {}
        self.count = 0
        self.sets: list[str] = []
        self.getters: list[str] = []

        self.share()
        for index, (name, code) in enumerate(self.modules):
            self.module(index, name, code)

    def share(self) -> None:
        """Add the constants of more than one module, the most common first."""
        importing: dict[Key, int] = {}
        users: dict[Key, set[str]] = {}
        values: dict[Key, object] = {}
        for name, code in self.modules:
            for inner in codes_of(code):
                for value in constants_of(inner):
                    key = key_of(value)
                    values[key] = value
                    users.setdefault(key, set()).add(name)
                    importing[key] = importing.get(key, 0) + runs_at_import(inner)
        for key in sorted(users, key=lambda key: (-importing[key], -len(users[key]))):
            if len(users[key]) > 1:
                self.constant(values[key], self.hot if importing[key] else self.late)

    def module(self, index: int, name: str, code: CodeType) -> None:
        """Add everything of one module, and the function that gives its code."""
        self.sets = []
        for inner in filter(runs_at_import, codes_of(code)):
            for value in constants_of(inner):
                if not isinstance(value, frozenset):
                    self.constant(value, self.hot)
        where = self.code_object(code)
        making = "".join(
            f"    if (make_frozenset(&{place}) < 0)\n        return NULL;\n" for place in self.sets
        )
        function = f"PyObject *deep_frozen_{index}(void)"
        self.getters.append(
            f"/* {name} */\n{function};\n{function} {{\n{making}    return Py_NewRef({where});\n}}\n"
        )

    def add(self, area: Area, kind: str, value: str) -> str:
        self.count += 1
        return area.add(self.count, kind, value)

    def constant(self, value: object, area: Area) -> str:
        """The C expression of the object ``value``, which is added to ``area`` if its pool has none such."""
        known = well_known(value)
        if known is not None:
            return known
        if isinstance(value, CodeType):
            return self.code_object(value)
        key = key_of(value)
        if key not in area.pool:
            if isinstance(value, tuple):
                area.pool[key] = self.tuple(value, area, area)
            else:
                area.pool[key] = f"REF({self.add(area, *plain_object(value))})"
        return area.pool[key]

    def table(self, value: tuple[object, ...]) -> str:
        """The C expression of a tuple that the interpreter reads constants from."""
        if not value:
            return "EMPTY_TUPLE"
        key = key_of(value)
        if key not in self.tables:
            self.tables[key] = self.tuple(value, self.cold, self.late)
        return self.tables[key]

    def tuple(self, value: tuple[object, ...], area: Area, items_area: Area) -> str:
        """Add a tuple, and what is in it to ``items_area``; its C expression."""
        items, sets = [], []
        for index, item in enumerate(value):
            if isinstance(item, frozenset):
                sets.append(index)
                item = tuple(sorted(item, key=key_of))
            items.append(self.constant(item, items_area))
        text = f"{{{{0, 0}}, SIZED(Tuple, {len(value)}), {{{', '.join(items)}}}}}"
        member = self.add(area, f"TUPLE({len(value)})", text)
        self.sets += [f"{member}.data[{index}]" for index in sets]
        return f"REF({member}.head)"

    def code_object(self, code: CodeType) -> str:
        """Add a code object and all that belongs to it; its C expression."""
        key = key_of(code)
        if key in self.code.pool:
            return self.code.pool[key]
        cells = [name for name in code.co_cellvars if name not in code.co_varnames]
        kinds = [
            CO_FAST_LOCAL | CO_FAST_CELL * (name in code.co_cellvars) for name in code.co_varnames
        ]
        kinds += [CO_FAST_CELL] * len(cells) + [CO_FAST_FREE] * len(code.co_freevars)
        size = len(code.co_code) // 2
        # Its place is before that of its constants, which may be code.
        index = len(self.code.members)
        self.code.pool[key] = f"REF({self.add(self.code, f'CODE({2 * size})', '')})"
        fields: dict[str, object] = {
            "ob_base": f"SIZED(Code, {size})",
            "co_consts": self.table(code.co_consts),
            "co_names": self.table(code.co_names),
            "co_exceptiontable": self.constant(code.co_exceptiontable, self.cold),
            "co_flags": code.co_flags,
            "co_warmup": "QUICKENING_INITIAL_WARMUP_VALUE",
            "co_argcount": code.co_argcount,
            "co_posonlyargcount": code.co_posonlyargcount,
            "co_kwonlyargcount": code.co_kwonlyargcount,
            "co_stacksize": code.co_stacksize,
            "co_firstlineno": code.co_firstlineno,
            "co_nlocalsplus": len(kinds),
            "co_nlocals": len(code.co_varnames),
            "co_nplaincellvars": len(cells),
            "co_ncellvars": len(code.co_cellvars),
            "co_nfreevars": len(code.co_freevars),
            "co_localsplusnames": self.constant(
                (*code.co_varnames, *cells, *code.co_freevars), self.cold
            ),
            "co_localspluskinds": self.constant(bytes(kinds), self.cold),
            "co_filename": self.constant(code.co_filename, self.trace),
            "co_name": self.constant(code.co_name, self.late),
            "co_qualname": self.constant(code.co_qualname, self.late),
            "co_linetable": self.constant(code.co_linetable, self.trace),
            "_co_firsttraceable": code.co_code[::2].index(opcode.opmap["RESUME"]),
            "co_code_adaptive": f'"{c_string(code.co_code)}"',
        }
        text = ", ".join(f".{name} = {value}" for name, value in fields.items())
        self.code.members[index] = (*self.code.members[index][:2], f"{{{text}}}")
        return self.code.pool[key]

    def text(self) -> str:
        """The C source: the areas, and for each module ``PyObject *deep_frozen_INDEX(void)``."""
        areas = (self.hot, self.code, self.late, self.cold, self.trace)
        parts = ['/* Generated by native/deepfreeze.py. */\n#include "deepfreeze.h"\n']
        for area in areas:
            parts.append(f"static struct {area.name} {{\n")
            parts += [f"    {kind} {member};\n" for member, kind, _ in area.members]
            parts.append(f"}} {area.name};\n")
        for area in areas:
            parts.append(f"static struct {area.name} {area.name} = {{\n")
            parts += [f"    .{member} = {value},\n" for member, _, value in area.members]
            parts.append("};\n")
        return "".join(parts + self.getters)

"""Build the command `ociruntime`: the launcher in the best variant that works here, else a script.

Variants, in the order they are tried (the environment variable OCIRUNTIME_LAUNCHER names one to have no other):

* ``static``: CPython linked in from libpython's archive, start shortened by link-time wraps (native/startup.c) of the
  functions that this CPython has, modules deep-frozen (native/deepfreeze.py) where that knows this CPython (3.11).
  Fastest; must be rebuilt when the system updates its Python.
  At a fixed address: position independent, a call of `state` takes 4.0 ms of CPU time instead of 2.4 (3.5 with
  modules that are unmarshalled; crun 2.4; minima of 300 to 600 interleaved calls), as every process would relocate
  40,000 pointers of CPython's types and of the modules, and have 480 pages more of its own. Debian's python3 is not
  position independent for this reason either. libc and every extension are at random addresses all the same.
* ``shared``: the shared libpython, with an rpath where it is not in a standard directory; position independent.
* ``script``: ``#!PYTHON -IS``, the same program in the full interpreter.

A launcher counts only when a test program, linked in the same way, has loaded every hot module and the extensions.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence

HERE = os.path.dirname(os.path.abspath(__file__))
if HERE not in sys.path:  # native/ is no package
    sys.path.insert(0, HERE)

from hardening import LINKED, compile_flags

VARIANTS = ("static", "shared", "script")

CORE_BUILTINS = (
    *("_abc", "_codecs", "_collections", "_functools", "_operator", "_signal", "_stat"),
    *("_thread", "_tracemalloc", "_weakref", "atexit", "errno", "faulthandler", "itertools"),
    *("posix", "time"),
)
"""Built-in modules without which CPython's core does not start (all are in every libpython archive)."""

HOT_BUILTINS = ("_blake2", "_socket", "_struct", "fcntl", "select")
"""What the hot path imports besides; builds of CPython that have them as shared objects get those."""

WRAPS = {
    "_Py_Deepfreeze_Init": "WRAP_DEEPFREEZE",
    "_PyGC_InitState": "WRAP_GC",
    "PyModule_AddIntConstant": "WRAP_CONSTANTS",
    "PyDict_SetItemString": "WRAP_TABLES",
}
"""Functions of CPython that native/startup.c stands in for, and the macros that make it do so."""

# Not optimised, which takes long for nothing: it is data.
DEEP_FLAGS = (f"-I{HERE}", f"-I{sysconfig.get_path('include')}", "-O0")

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wno-sign-conversion", "-Werror")


class BuildError(Exception):
    """A variant cannot be built or does not work here; the text says why."""


def _run(command: Sequence[str], what: str) -> str:
    """The output of ``command``; raises BuildError with the last line of what it had to say."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip() or f"status {done.returncode}"
        print(f"$ {shlex.join(command)}\n{said}", file=sys.stderr)
        raise BuildError(f"{what}: {said.splitlines()[-1].strip()}")
    return done.stdout


def _c_string(text: str) -> str:
    """``text`` as a C string literal."""
    plain = b"/._-+0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in os.fsencode(text)) + '"'


def _defined_symbols(archive: str) -> set[str]:
    """Names that the members of a static library define."""
    listing = subprocess.run(
        ["nm", "--defined-only", archive],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    return {
        line.split()[2] for line in listing.splitlines() if re.match(r"[0-9a-f]+ [A-Za-z] ", line)
    }


def _shared_builtin(name: str) -> str:
    """The shared object of a standard extension module; raises BuildError."""
    directory, suffix = (
        sysconfig.get_config_var("DESTSHARED"),
        sysconfig.get_config_var("EXT_SUFFIX"),
    )
    path = f"{directory}/{name}{suffix}"
    if not os.path.isfile(path):
        raise BuildError(f"module {name} is neither in libpython nor at {path}")
    return path


class LauncherBuild:
    """One build of the launcher.

    ``root``: directory that holds the package as it will be installed. ``work``: directory for intermediate files.
    ``site``: path of the installed package's parent, relative to the directory of the command. ``python``: absolute
    path of the full interpreter. ``extra_sites``: more directories where dependencies may be. ``modules``: what to
    freeze. ``extensions``: extension modules, by name, that the test program must be able to load.
    """

    def __init__(
        self,
        *,
        cc: str,
        root: str,
        work: str,
        site: str,
        python: str,
        extra_sites: Sequence[str],
        modules: Sequence[str],
        extensions: Mapping[str, str],
    ) -> None:
        self.cc = shlex.split(cc)
        self.flags = compile_flags(self.cc)
        self.root = root
        self.work = os.path.abspath(work)
        self.site = site
        self.python = python
        self.extra_sites = extra_sites
        self.modules = modules
        self.extensions = extensions

    def best(self, out: str, variants: Iterable[str]) -> str:
        """Build the first of ``variants`` that works into the file ``out``; its name. Raises SystemExit."""
        for variant in variants:
            try:
                if variant == "script":
                    self.script(out)
                elif variant in VARIANTS:
                    self.build(out, variant)
                else:
                    raise BuildError(f"there is no such variant, only {', '.join(VARIANTS)}")
            except BuildError as error:
                print(f"ociruntime: no {variant} launcher: {error}", file=sys.stderr)
                continue
            print(f"ociruntime: built the command as: {variant}", file=sys.stderr)
            return variant
        raise SystemExit("ociruntime: the command could not be built")

    def build(self, out: str, variant: str) -> None:
        """Build ``variant`` (static or shared) into the file ``out``; raises BuildError."""
        os.makedirs(self.work, exist_ok=True)
        if variant == "static":
            try:
                self._build(out, variant, deep=True)
                return
            except BuildError as error:
                print(f"ociruntime: launcher without deep-frozen modules: {error}", file=sys.stderr)
        self._build(out, variant, deep=False)

    def _build(self, out: str, variant: str, *, deep: bool) -> None:
        link = self._link_static if variant == "static" else self._link_shared
        smoke = os.path.join(self.work, f"smoke-{variant}")
        self._config(variant, "launcher_smoke", [f"launcher_smoke={HERE}/smoke.py"], deep)
        frozen = [self._compile(f"{self.work}/deep_frozen.c", DEEP_FLAGS)] if deep else []
        link(smoke, frozen)
        pairs = [f"{name}={path}" for name, path in self.extensions.items()]
        codes = [f"{self.work}/codes.bin"] if deep else []
        said = _run(
            [smoke, *self.modules, "--", *HOT_BUILTINS, "--", *pairs, "--", *codes], "smoke test"
        )
        if said.strip() != "ok":
            raise BuildError(f"smoke test: it said {said.strip()!r}")
        self._config(variant, "ociruntime.hotpath", [], deep)
        link(out, frozen)

    def script(self, out: str) -> None:
        """Write the command as a script of the full interpreter into the file ``out``."""
        ups, rest = self._place()
        text = (
            f"#!{self.python} -IS\n"
            "import posix, sys\n"
            "fd = posix.open(__file__, posix.O_RDONLY | posix.O_CLOEXEC)\n"
            "here = posix.readlink(f'/proc/self/fd/{fd}')\n"
            "posix.close(fd)\n"
            f"sys.path.append(here.rsplit('/', {ups + 1})[0] + {'/' + rest!r})\n"
            "from ociruntime import launch_script\n"
            "launch_script.run()\n"
        )
        with open(out, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(out, 0o755)

    def _place(self) -> tuple[int, str]:
        """Where the package lies: so many directories above the command's, then this path."""
        parts = self.site.split("/")
        ups = parts.count("..")
        return ups, "/".join(parts[ups:])

    def _config(self, variant: str, entry: str, extra: Sequence[str], deep: bool) -> None:
        """Freeze the modules and write launcher_config.h."""
        freeze = [sys.executable, "-IS", "-X", "no_debug_ranges", f"{HERE}/freeze.py"]
        how = ["--deep"] if deep else []
        _run([*freeze, *how, self.work, self.root, *self.modules, *extra], "freeze")
        builtins: list[str] = list(CORE_BUILTINS)
        shared: list[str] = []
        available = _defined_symbols(self._archive()) if variant == "static" else None
        for name in HOT_BUILTINS:
            if available is None:
                inside = name in sys.builtin_module_names
            else:
                inside = f"PyInit_{name}" in available
            if inside:
                builtins.append(name)
            else:
                shared.append(f"{{{_c_string(name)}, {_c_string(_shared_builtin(name))}}},")
        ups, rest = self._place()
        lines = [
            "/* Generated by native/build_launcher.py. */",
            f"#define VARIANT {_c_string(f'{variant} libpython' + ', deep-frozen' * deep)}",
            f"#define ENTRY {_c_string(entry)}",
            f"#define PYTHON {_c_string(self.python)}",
            f"#define SITE_UP {ups}",
            f"#define SITE {_c_string(rest)}",
            f"#define EXTRA_SITES {''.join(_c_string(path) + ', ' for path in self.extra_sites)}",
            f"#define EXT_SUFFIX {_c_string(sysconfig.get_config_var('EXT_SUFFIX'))}",
            f"#define FROZEN_BLOB {_c_string(self.work + '/frozen.bin')}",
            f"#define STATIC_MODULES {' '.join(f'BUILTIN({name})' for name in builtins)}",
            f"#define SHARED_MODULES {' '.join(shared)}",
            '#include "frozen_modules.h"',
        ]
        with open(os.path.join(self.work, "launcher_config.h"), "w", encoding="ascii") as header:
            header.write("\n".join(lines) + "\n")

    @staticmethod
    def _archive() -> str:
        return os.path.join(*map(str, sysconfig.get_config_vars("LIBPL", "LIBRARY")))

    def _compile(self, source: str, flags: Iterable[str], place: str = "-fno-pie") -> str:
        name = os.path.splitext(os.path.basename(source))[0]
        target = os.path.join(self.work, name + ".o")
        include = sysconfig.get_path("include")
        base = ["-O2", *self.flags, place, f"-I{self.work}", "-isystem", include]
        _run([*self.cc, *base, *flags, "-c", os.path.join(HERE, source), "-o", target], "compile")
        return target

    def _objects(self, flags: Sequence[str], place: str) -> list[str]:
        sources = ("launcher.c", "import.c", "ocisys.c", "minijson.c")
        return [self._compile(source, [*WARNINGS, *flags], place) for source in sources]

    def _link_static(self, out: str, frozen: Sequence[str]) -> None:
        archive = self._archive()
        if not os.path.isfile(archive):
            raise BuildError(f"no static libpython at {archive}")
        symbols = _defined_symbols(archive)
        objects = [*self._objects(["-DSTATIC_PYTHON"], "-fno-pie"), *frozen]
        # Extensions built for older systems need libpthread.so.0, which is empty since glibc 2.34: by answering to
        # that name, the launcher spares each process the search.
        base = ["-rdynamic", "-Wl,-soname,libpthread.so.0", "-no-pie", *LINKED]
        libraries = [*_config_words("LIBS"), *_config_words("SYSLIBS")]
        wraps = {name: macro for name, macro in WRAPS.items() if name in symbols}
        if wraps:
            include = sysconfig.get_path("include")
            try:
                startup = self._compile(
                    "startup.c", [f"-I{include}", *(f"-D{macro}" for macro in wraps.values())]
                )
                options = [f"-Wl,--wrap={name}" for name in wraps]
                command = [
                    *self.cc,
                    *base,
                    *options,
                    "-o",
                    out,
                    *objects,
                    startup,
                    archive,
                    *libraries,
                ]
                _run(command, "link")
                return
            except BuildError as error:
                print(f"ociruntime: launcher without shortened start: {error}", file=sys.stderr)
        _run([*self.cc, *base, "-o", out, *objects, archive, *libraries], "link")

    def _link_shared(self, out: str, frozen: Sequence[str]) -> None:
        libdir, library = sysconfig.get_config_vars("LIBDIR", "LDLIBRARY")
        if not sysconfig.get_config_var("Py_ENABLE_SHARED") or not str(library).endswith(".so"):
            raise BuildError("this python has no shared libpython")
        name = str(library).removeprefix("lib").removesuffix(".so")
        objects = [*self._objects([], "-fPIE"), *frozen]
        # Debian's linker name is in LIBPL only where the -dev package of libpython is not complete.
        rpath = [] if str(libdir).startswith("/usr/lib") else [f"-Wl,-rpath,{libdir}"]
        link = ["-rdynamic", "-pie", *LINKED, "-o", out, *objects, f"-L{libdir}", f"-l{name}"]
        _run([*self.cc, *link, *rpath], "link")


def _config_words(name: str) -> list[str]:
    return shlex.split(str(sysconfig.get_config_var(name) or ""))

"""The build of what pyproject.toml cannot say: the C parts, the generated validator, the launcher, the manual.

setuptools runs, in this order: build_py (package, schemas, validator, init), build_ext (extension modules),
build_scripts (the command `ociruntime`, which freezes what build_py laid out), install_data (manual, completion).

Environment: SOURCE_DATE_EPOCH (install/epoch.py); OCIRUNTIME_LAUNCHER (native/build_launcher.py); OCIRUNTIME_SITES:
directories, separated by colons, where the dependencies will be, if not beside the package.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from distutils.command.build_scripts import build_scripts
from distutils.command.install_data import install_data
from types import ModuleType
from typing import Any, ClassVar

from setuptools import Command, Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.install import install
from setuptools.command.sdist import sdist

ROOT = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, ROOT)  # a build front end does not

CC = os.environ.get("CC") or "cc"

HEADERS = {
    "stdlib.h": "libc6-dev",
    "linux/mount.h": "linux-libc-dev",
    "Python.h": "python3-dev",
    "seccomp.h": "libseccomp-dev",
    "sys/capability.h": "libcap-dev",
}
"""What is compiled against, and the Debian packages that bring it."""


def load(path: str) -> ModuleType:
    """The module in the file ``path`` of the source tree (native/ is no package)."""
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, os.path.join(ROOT, path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EPOCH: int = load("install/epoch.py").EPOCH
os.environ["SOURCE_DATE_EPOCH"] = str(EPOCH)  # for the members of the wheel
os.umask(0o022)  # whose modes are those of the files that are built


def check_dependencies() -> None:
    """End with the names of all Debian packages that are missing, before anything is compiled."""
    if shutil.which(CC.split()[0]) is None:
        raise SystemExit(f"ociruntime: no C compiler ({CC}): apt install gcc libc6-dev, or set CC")
    missing = {}
    with tempfile.TemporaryDirectory() as work:
        for header, package in HEADERS.items():
            source = os.path.join(work, "probe.c")
            with open(source, "w", encoding="ascii") as file:
                file.write(f"#include <{header}>\n")
            include = f"-I{sysconfig.get_path('include')}"
            command = [*CC.split(), include, "-fsyntax-only", source]
            if subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode != 0:
                missing[header] = package
    if missing:
        raise SystemExit(
            f"ociruntime: missing {', '.join(missing)}: apt install {' '.join(missing.values())}"
        )


def site_directory() -> str:
    """Where the package will be installed, relative to the directory of the command."""
    paths = sysconfig.get_paths()
    return os.path.relpath(paths["platlib"], paths["scripts"])


def extra_sites() -> list[str]:
    """Other directories of this interpreter in which dependencies may be installed."""
    if "OCIRUNTIME_SITES" in os.environ:
        return [path for path in os.environ["OCIRUNTIME_SITES"].split(":") if path]
    own = os.path.realpath(sysconfig.get_path("platlib"))
    found = [path for path in site.getsitepackages() if os.path.isdir(path)]
    return [path for path in found if os.path.realpath(path) != own]


def cffi_backend() -> str:
    """The file of the module _cffi_backend that will be used, or empty."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for directory in extra_sites():
        path = f"{directory}/_cffi_backend{suffix}"
        if os.path.exists(path):
            return path
    found = importlib.util.find_spec("_cffi_backend")
    return str(found.origin) if found else ""


def make_parts(package: str) -> None:
    """Make what the package needs beside its sources, in its directory ``package``."""
    if os.path.exists(os.path.join(ROOT, "ociruntime/spec/compile_schema.py")):
        from ociruntime.spec import compile_schema

        compile_schema.generate(f"{package}/spec/_validator.py")
    if os.path.exists(os.path.join(ROOT, "native/build_init.py")):
        load("native/build_init.py").build_init(CC, f"{package}/init")
    with open(os.path.join(package, "_build_info.py"), "w", encoding="utf-8") as file:
        file.write('"""Written by setup.py: facts about this installation."""\n\n')
        file.write(f"EXTRA_SITES = {tuple(extra_sites())!r}\n")


class BuildPy(build_py):
    """Adds the schemas, the generated modules and the program `init` to the package."""

    def run(self) -> None:
        check_dependencies()
        super().run()
        package = os.path.join(self.build_lib, "ociruntime")
        schemas = os.path.join(ROOT, "schemas")
        shutil.copytree(schemas, os.path.join(package, "schemas"), dirs_exist_ok=True)
        make_parts(package)


class BuildExt(build_ext):
    """Compiles the extension modules with the flags of all C parts."""

    def build_extensions(self) -> None:
        hardening = load("native/hardening.py")
        for extension in self.extensions:
            extension.extra_compile_args += hardening.compile_flags(CC.split())
            extension.extra_link_args += hardening.LINKED
        super().build_extensions()


class BuildParts(Command):
    """Makes the generated modules and `init` in the source tree, to import the package from there."""

    user_options: ClassVar[list[tuple[str, str | None, str]]] = []

    def initialize_options(self) -> None:
        pass

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        check_dependencies()
        make_parts(os.path.join(ROOT, "ociruntime"))


class BuildScripts(build_scripts):
    """Makes the command: the launcher where it can be built, else a script."""

    def run(self) -> None:
        layout = self.get_finalized_command("build_py")
        assert isinstance(layout, build_py)
        if layout.editable_mode:
            raise SystemExit("ociruntime: the command freezes its modules: no editable installs")
        builder = load("native/build_launcher.py")
        from ociruntime import hotpath

        build_ext = self.get_finalized_command("build_ext")
        os.makedirs(self.build_dir, exist_ok=True)
        extensions = {
            "_cffi_backend": cffi_backend(),
            "ociruntime._native": build_ext.get_ext_fullpath("ociruntime._native"),
        }
        build = builder.LauncherBuild(
            cc=CC,
            root=layout.build_lib,
            work=os.path.join(self.get_finalized_command("build").build_temp, "launcher"),
            site=site_directory(),
            python=os.path.realpath(sys.executable),
            extra_sites=extra_sites(),
            modules=hotpath.HOT_MODULES,
            extensions={name: path for name, path in extensions.items() if os.path.isfile(path)},
        )
        wanted = os.environ.get("OCIRUNTIME_LAUNCHER")
        out = os.path.join(self.build_dir, "ociruntime")
        build.best(out, [wanted] if wanted else builder.VARIANTS)

    def get_source_files(self) -> list[str]:
        return []


class InstallData(install_data):
    """Adds the manual pages and the completions, below the prefix."""

    def run(self) -> None:
        work = os.path.join(self.get_finalized_command("build").build_temp, "data")
        load("install/manual.py").write(os.path.join(work, "share/man"))
        load("install/completion.py").write(work)
        self.data_files = [
            (os.path.relpath(directory, work), [os.path.join(directory, name) for name in names])
            for directory, _, names in sorted(os.walk(work))
            if names
        ]
        super().run()


class Sdist(sdist):
    """Packs nothing of this machine: no owners, no times, no modes but of who may execute."""

    def make_archive(self, base_name: Any, format: str, *args: Any, **options: Any) -> str:
        if format != "gztar":
            return str(super().make_archive(base_name, format, *args, **options))
        name = f"{base_name}.tar.gz"
        os.makedirs(os.path.dirname(name), exist_ok=True)
        with (
            open(name, "wb") as raw,
            gzip.GzipFile("", "wb", 9, raw, mtime=EPOCH) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            archive.add(options["base_dir"], filter=self.plain)
        return name

    @staticmethod
    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        """What the archive says of a file."""
        member.mtime, member.uid, member.gid, member.uname, member.gname = EPOCH, 0, 0, "", ""
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member


class Install(install):
    """Runs install_data, though nothing is declared for it."""

    sub_commands: ClassVar[list[tuple[str, Any]]] = [
        (name, None if name == "install_data" else when) for name, when in install.sub_commands
    ]


setup(
    cmdclass={
        "build_ext": BuildExt,
        "build_parts": BuildParts,
        "build_py": BuildPy,
        "build_scripts": BuildScripts,
        "install": Install,
        "install_data": InstallData,
        "sdist": Sdist,
    },
    cffi_modules=["native/build_ffi.py:ffibuilder"]
    if os.path.exists("native/build_ffi.py")
    else [],
    ext_modules=[
        Extension("_ocisys", ["native/ocisys.c"]),
        Extension("_ocijson", ["native/minijson.c"]),
    ],
    scripts=["ociruntime"],
)

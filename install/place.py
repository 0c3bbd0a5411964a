"""`make install` and `make uninstall`: `place.py (install|uninstall) --prefix DIR [--destdir DIR] [--wheel FILE]`.

PREFIX/lib/ociruntime holds the package, what it depends on and the command, PREFIX/bin/ociruntime is a link to that,
and the manual and the completions lie in PREFIX/share. Nothing of it needs the source tree, a virtual environment or a
variable. A list of what was made is kept, so that uninstall takes away just that, the new directories included.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TREE = "lib/ociruntime"
LINK = "bin/ociruntime"
MANIFEST = f"{TREE}/manifest"
"""Below the prefix. A line of the manifest is `d PATH` or `f PATH`, relative to the prefix, in the order of making."""


def stage(wheel: Path, prefix: str, root: Path, dependencies: Path | None) -> Path:
    """Lay out an installation for ``prefix`` below the empty directory ``root``; where it lies.

    ``dependencies``: the directory of their wheels, None for an installation without any.
    Raises subprocess.CalledProcessError.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--ignore-installed"]
    command += ["--no-compile", "--no-warn-script-location", "--root-user-action=ignore"]
    command += ["--no-index", "--find-links", str(dependencies)] if dependencies else ["--no-deps"]
    subprocess.run(
        [*command, "--root", str(root), "--prefix", f"{prefix}/{TREE}", str(wheel)], check=True
    )
    top = root / prefix.lstrip("/")
    shutil.move(top / TREE / "share", top / "share")
    for path in (top / TREE / "bin").iterdir():
        if path.name != "ociruntime":  # of what it depends on
            path.unlink()
    (top / "bin").mkdir()
    (top / LINK).symlink_to(f"../{TREE}/bin/ociruntime")
    return top


def compile_modules(top: Path, root: Path) -> None:
    """Write the byte code; it names files as they will be called. ``top``: what stage gave for ``root``."""
    command = [sys.executable, "-m", "compileall", "-q", "-s", str(root), "-p", "/"]
    # A file of a dependency that this Python cannot compile is no failure.
    subprocess.run([*command, str(top / TREE / "lib")], check=False, stdout=subprocess.DEVNULL)


def read_manifest(target: Path) -> list[tuple[str, str]]:
    """What an installation has made: (kind, path)."""
    try:
        lines = (target / MANIFEST).read_text().splitlines()
    except FileNotFoundError:
        return []
    return [(line[0], line[2:]) for line in lines]


def remove(path: Path) -> None:
    """Remove a file or link, if it is there."""
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        pass


def install(top: Path, target: Path) -> None:
    """Copy what was staged in ``top`` to the prefix ``target``, in place of an older installation."""
    before = read_manifest(target)
    made = [(kind, path) for kind, path in before if kind == "d"]

    def directory(path: Path) -> None:
        if not path.is_dir():
            directory(path.parent)
            path.mkdir()
            if path.is_relative_to(target):
                made.append(("d", str(path.relative_to(target))))

    directory((target / TREE).parent)
    new, old = target / f"{TREE}.new", target / f"{TREE}.old"
    for path in (new, old):
        shutil.rmtree(path, ignore_errors=True)
    for source in sorted([*(top / "share").rglob("*"), top / LINK]):
        place = target / source.relative_to(top)
        if source.is_dir():
            directory(place)
            continue
        directory(place.parent)
        made.append(("f", str(source.relative_to(top))))
    shutil.copytree(top / TREE, new, symlinks=True)
    (new / "manifest").write_text("".join(f"{kind} {path}\n" for kind, path in made))
    # An engine may call the runtime meanwhile: it finds the old one or the new one, save for one instant.
    if (target / TREE).exists():
        (target / TREE).rename(old)
    new.rename(target / TREE)
    shutil.rmtree(old, ignore_errors=True)
    for kind, name in made:
        if kind == "f":
            temporary = target / f"{name}.new"
            remove(temporary)
            shutil.copy2(top / name, temporary, follow_symlinks=False)
            temporary.rename(target / name)
    for _, name in set(before) - set(made):
        remove(target / name)


def uninstall(target: Path) -> None:
    """Remove what install made, and byte code that was written since."""
    made = read_manifest(target)
    for kind, name in made:
        if kind == "f":
            remove(target / name)
    remove(target / LINK)
    for suffix in ("", ".new", ".old"):
        shutil.rmtree(target / f"{TREE}{suffix}", ignore_errors=True)
    for kind, name in reversed(made):
        if kind == "d":
            try:
                (target / name).rmdir()
            except OSError:  # something else is in it by now
                pass


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("install", "uninstall"))
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--destdir", default="")
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("--dependencies", type=Path)
    options = parser.parse_args()
    if not options.prefix.startswith("/"):
        parser.error(f"--prefix {options.prefix}: not an absolute path")
    prefix = options.prefix.rstrip("/")
    target = Path(f"{options.destdir}{prefix}/")
    os.umask(0o022)
    if options.action == "uninstall":
        uninstall(target)
        return 0
    if options.wheel is None or options.dependencies is None:
        parser.error("install needs --wheel and --dependencies")
    with tempfile.TemporaryDirectory(prefix="ociruntime-install-") as work:
        root = Path(work) / "root"
        top = stage(options.wheel, prefix, root, options.dependencies)
        compile_modules(top, root)
        install(top, target)
    print(f"installed {target / LINK}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

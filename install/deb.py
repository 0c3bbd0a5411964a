"""`make deb`: a Debian package for this release and architecture, `deb.py OUT-DIRECTORY`; the file's path is printed.

Made with dpkg-deb alone, from the source distribution, with what `make install` would lay out below /usr. What it
depends on are Debian's packages, so nothing is bundled but CPython's core in the launcher (Built-Using).

Environment: SOURCE_DATE_EPOCH (install/epoch.py), DEBFULLNAME, DEBEMAIL (the maintainer).
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from email.utils import formatdate
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
sys.path[:0] = [str(HERE), str(REPOSITORY)]

import place
from epoch import EPOCH

from ociruntime import __version__

SITES = "/usr/lib/python3/dist-packages"
"""Where Debian's Python modules are."""

DEPENDS = ("libseccomp2", "python3-cffi-backend", "python3-jsonschema (>= 4.10)", "python3-prctl")

CONTROL = """\
Package: ociruntime
Version: {version}
Architecture: {architecture}
Maintainer: {maintainer}
Installed-Size: {size}
Depends: {depends}
Recommends: uidmap
Suggests: podman | docker.io | containerd
Built-Using: {built_using}
Section: admin
Priority: optional
Description: OCI container runtime in Python with a small C part
 A low-level container runtime by the OCI runtime specification: it takes the
 place of runc or crun below podman, Docker, containerd and CRI-O, with the
 same verbs, options, outputs and exit statuses.
 .
 The start of a container is compiled to a list of operations that can be
 printed before anything happens. A static program executes them; no
 interpreter runs inside a container. Errors name the place in config.json,
 the system call and the reason.
"""

POSTINST = """\
#!/bin/sh
set -e
if [ "$1" = configure ] && command -v py3compile >/dev/null; then
    py3compile -p ociruntime /usr/lib/ociruntime
fi
"""

PRERM = """\
#!/bin/sh
set -e
if command -v py3clean >/dev/null; then
    py3clean -p ociruntime
fi
# What was compiled while the package was in use.
find /usr/lib/ociruntime -depth -name __pycache__ -exec rm -rf {} +
"""

OVERRIDES = """\
# The modules in it are data at fixed addresses: relocating them would cost each command a millisecond.
ociruntime: hardening-no-pie *bin/ociruntime*
# A static program without libc.
ociruntime: shared-library-lacks-prerequisites *ociruntime/init*
"""

COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: ociruntime

Files: *
Copyright: 2026 the authors of ociruntime
License: Apache-2.0
 On Debian systems, the text of the Apache License 2.0 is in
 /usr/share/common-licenses/Apache-2.0.

Files: usr/lib/ociruntime/bin/ociruntime
Copyright: 2026 the authors of ociruntime
           2001-2023 Python Software Foundation
License: Apache-2.0 and PSF-2
 This program contains the core of CPython, whose license is in
 /usr/share/doc/python3-minimal/copyright.
"""


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """The output of a command. Raises subprocess.CalledProcessError."""
    return subprocess.run(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, check=True, text=True
    ).stdout.strip()


def source(work: Path) -> Path:
    """The unpacked source distribution."""
    # Not below the tree, where a second build may be going on.
    run(
        *(sys.executable, "setup.py", "-q", "egg_info", "--egg-base", work),
        *("sdist", "--formats", "tar", "--dist-dir", work),
        cwd=REPOSITORY,
    )
    (work / "source").mkdir()
    run("tar", "-xf", next(work.glob("*.tar")), "-C", work / "source")
    return next((work / "source").iterdir())


def wheel(work: Path) -> Path:
    """A wheel whose dependencies are Debian's."""
    env = dict(os.environ, OCIRUNTIME_SITES=SITES)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    run(*command, "-w", work / "wheel", source(work), env=env)
    return next((work / "wheel").glob("*.whl"))


def compress(path: Path) -> None:
    """Replace a file by path.gz, which is the same at any time."""
    with open(f"{path}.gz", "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(path.read_bytes())
    path.unlink()


def documentation(top: Path, maintainer: str) -> None:
    """Everything below share: compressed pages, the change log, examples."""
    doc = top / "share/doc/ociruntime"
    doc.mkdir(parents=True)
    shutil.copytree(HERE / "examples", doc / "examples")
    (top / "share/lintian/overrides").mkdir(parents=True)
    (top / "share/lintian/overrides/ociruntime").write_text(OVERRIDES)
    (doc / "copyright").write_text(COPYRIGHT)
    (doc / "changelog").write_text(
        f"ociruntime ({__version__}) unstable; urgency=medium\n\n"
        "  * Built from the source; CHANGELOG.md there says what is new.\n\n"
        f" -- {maintainer}  {formatdate(EPOCH, usegmt=False)}\n"
    )
    for path in [doc / "changelog", *(top / "share/man").rglob("*.[1-9]")]:
        compress(path)


def library_packages(root: Path, work: Path) -> str:
    """The packages of the shared libraries that the programs need, with versions."""
    (work / "debian").mkdir()
    (work / "debian/control").write_text(
        "Source: ociruntime\n\nPackage: ociruntime\nArchitecture: any\n"
    )
    programs = [*root.rglob("*.so"), *root.glob("usr/lib/ociruntime/bin/*")]
    said = run("dpkg-shlibdeps", "-O", *(f"-e{path}" for path in programs), cwd=work)
    return said.removeprefix("shlibs:Depends=")


def control(root: Path, work: Path, maintainer: str) -> str:
    """The package's description."""
    python = os.path.basename(os.path.realpath(sys.executable))
    size = sum(path.lstat().st_size for path in root.rglob("*") if path.is_file())
    return CONTROL.format(
        version=__version__,
        architecture=run("dpkg", "--print-architecture"),
        maintainer=maintainer,
        size=size // 1024,
        depends=", ".join([library_packages(root, work), python, "python3:any", *DEPENDS]),
        built_using=run(
            "dpkg-query", "-Wf", "${source:Package} (= ${source:Version})", f"lib{python}-dev"
        ),
    )


def build(out: Path, work: Path) -> Path:
    """Build the package into the directory ``out``; its file."""
    who = os.environ.get("DEBFULLNAME", "ociruntime developers")
    maintainer = f"{who} <{os.environ.get('DEBEMAIL', 'ociruntime@packages.invalid')}>"
    root = work / "root"
    top = place.stage(wheel(work), "/usr", root, None)
    shutil.move(top / "share/zsh/site-functions", top / "share/zsh/vendor-completions")
    for name in (
        "INSTALLER",
        "RECORD",
        "REQUESTED",
        "direct_url.json",
    ):  # pip's own; dpkg has lists
        for path in root.rglob(f"*.dist-info/{name}"):
            path.unlink()
    documentation(top, maintainer)
    text = control(root, work, maintainer)
    files = sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink())
    sums = [f"{hashlib.md5(p.read_bytes()).hexdigest()}  {p.relative_to(root)}\n" for p in files]
    debian = root / "DEBIAN"
    debian.mkdir()
    (debian / "control").write_text(text)
    (debian / "md5sums").write_text("".join(sums))
    for script, content in (("postinst", POSTINST), ("prerm", PRERM)):
        (debian / script).write_text(content)
        (debian / script).chmod(0o755)
    out.mkdir(parents=True, exist_ok=True)
    env = dict(os.environ, SOURCE_DATE_EPOCH=str(EPOCH))
    run("dpkg-deb", "--root-owner-group", "-Zxz", "--build", root, out, env=env)
    return next(out.glob(f"ociruntime_{__version__}_*.deb"))


if __name__ == "__main__":
    os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="ociruntime-deb-") as directory:
        print(build(Path(sys.argv[1]), Path(directory)))

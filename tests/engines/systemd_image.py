"""A root file system in which systemd is the first process, made of the machine's own files: 20 MB, nothing is fetched.

Two units of its own begin at boot: `limited` has a memory limit, which systemd can set only in a cgroup that it was
given, and writes where it is and what limits it; `steady` runs until systemd ends it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

__all__ = ["INIT", "MIB", "PLACE", "available", "make_archive"]

INIT = "/usr/lib/systemd/systemd"
PLACE = "/run/limited"  # what the unit `limited` writes: its cgroup, its memory.max
MIB = 32  # the limit of both units
PROGRAMS = (INIT, "/usr/bin/systemctl", "/usr/lib/systemd/systemd-shutdown")
OPTIONAL = ("/usr/lib/systemd/systemd-executor",)  # from systemd 255 on
TARGETS = ("basic", "exit", "final", "halt", "shutdown", "sysinit", "umount")
UNITS = {
    "default.target": """
[Unit]
DefaultDependencies=no
Requires=limited.service steady.service
After=limited.service steady.service
""",
    "limited.service": f"""
[Unit]
DefaultDependencies=no
Conflicts=shutdown.target
[Service]
Type=oneshot
RemainAfterExit=yes
MemoryMax={MIB}M
ExecStart=/bin/sh -c 'read place </proc/self/cgroup; echo "$$place" >{PLACE}; \\
    cat "/sys/fs/cgroup$${{place#0::}}/memory.max" >>{PLACE}'
""",
    "steady.service": """
[Unit]
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target
[Service]
ExecStart=/bin/sleep 1000
""",
}


def available() -> bool:
    """Whether the machine has systemd's programs."""
    return all(Path(name).exists() for name in PROGRAMS)


def _libraries(program: str) -> list[str]:
    """The paths by which the loader finds a program's libraries, itself among them."""
    done = subprocess.run(["ldd", program], check=True, capture_output=True, text=True)
    return re.findall(r"(/\S+) \(0x", done.stdout)


def make_archive(base: Path, archive: Path) -> None:
    """Write a tar archive of `base` (a root with a shell) and systemd.

    `base` is copied.  Raises CalledProcessError, OSError.
    """
    root = archive.with_suffix(".root")
    shutil.copytree(base, root, symlinks=True)
    (root / "usr").mkdir()
    for name in ("lib", "lib64"):
        (root / "usr" / name).mkdir()
        (root / name).symlink_to(f"usr/{name}")
    programs = [*PROGRAMS, *(name for name in OPTIONAL if Path(name).exists())]
    libraries = {library for program in programs for library in _libraries(program)}
    for name in (*programs, *sorted(libraries)):
        # /lib is a link to /usr/lib, here and there.
        place = root / name.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(name), place)
    units = root / "usr/lib/systemd/system"
    units.mkdir()
    names = [f"{name}.target" for name in TARGETS] + [
        "systemd-halt.service",
        "systemd-exit.service",
    ]
    for name in names:
        shutil.copy(f"/usr/lib/systemd/system/{name}", units)
    for name, text in UNITS.items():
        (units / name).write_text(text)
    # With an id it is no first boot; without the file systemd would ask for one.
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (root / "etc/os-release").write_text('ID=probe\nNAME="probe"\n')
    with tarfile.open(archive, "w") as stream:
        stream.add(root, arcname=".")
    shutil.rmtree(root)

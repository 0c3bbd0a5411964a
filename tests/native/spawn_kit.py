"""A start by clone3, as the tests of it make one."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

from tests.native.kit import BUSYBOX

O_PATH = os.O_PATH


def spawn(
    native: ModuleType, script: str, *, first: int = 3, **options: object
) -> tuple[int, int, str]:
    """Run busybox's shell by descriptor: (exit status, pid, output)."""
    reader, writer = os.pipe()
    program = os.open(BUSYBOX, O_PATH)
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        fds = options.pop("fds", ())
        pid, pidfd = native.spawn(
            program,
            first,
            fds,
            stdio=(null, writer, writer),
            argv=("sh", "-c", script),
            env=("A=1", "B=2"),
            **options,
        )
    finally:
        os.close(writer)
        os.close(program)
        os.close(null)
    with os.fdopen(reader) as pipe:
        output = pipe.read()
    assert os.path.exists(f"/proc/self/fdinfo/{pidfd}")
    assert f"Pid:\t{pid}\n" in Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(pidfd)
    return status, pid, output


def cgroup2_roots() -> list[Path]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [Path(line.split()[1]) for line in lines if line.split()[2] == "cgroup2"]

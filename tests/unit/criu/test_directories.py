"""The directories that criu gets: they have to be of its own mount namespace, whatever their paths say."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ociruntime.cli import Call
from ociruntime.criu import options


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """A process in another mount namespace."""
    command = ["unshare", "--mount", "sh", "-c", "echo; exec sleep 100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def mount_of(fd: int, pid: int) -> bool:
    """Whether the mount of a descriptor is one of that process's namespace."""
    fields = Path(f"/proc/self/fdinfo/{fd}").read_text().split()
    number = fields[fields.index("mnt_id:") + 1]
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return number in {line.split()[0] for line in lines}


@pytest.mark.root
@pytest.mark.parametrize("linked", [False, True], ids=["directory", "link"])
def test_work_directory(tmp_path: Path, elsewhere: int, linked: bool) -> None:
    """containerd's `work` is an absolute link: it must not lead back into the namespace from before."""
    path = tmp_path / "work"
    path.mkdir()
    if linked:
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    given: dict[str, str | bool | list[str]] = {"image-path": str(tmp_path), "work-path": str(path)}
    made = options.Directories(Call("restore", given, [], {}), make=True)
    try:
        assert not mount_of(made.work_fd, elsewhere)
        made.reopen_work(elsewhere)
        assert mount_of(made.work_fd, elsewhere)
    finally:
        made.close()

"""Id maps: their text, who writes them, and what is said when that is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ociruntime import errors
from ociruntime.host import idmap

REPOSITORY = Path(__file__).resolve().parents[3]


def mapping(container: int, host: int, size: int) -> dict[str, int]:
    return {"containerID": container, "hostID": host, "size": size}


# -- the text --------------------------------------------------------------------------------------


def test_text() -> None:
    text = idmap.render([mapping(0, 1000, 1), mapping(1, 100000, 65536)], "/p")
    assert text == b"0 1000 1\n1 100000 65536\n"
    assert idmap.render([mapping(0, 0, 4294967295)], "/p") == b"0 0 4294967295\n"


def test_more_lines_than_linux_takes() -> None:
    assert idmap.render([mapping(i, i, 1) for i in range(340)], "/p").count(b"\n") == 340
    with pytest.raises(errors.Error, match="341 id mappings, Linux takes 340") as caught:
        idmap.render([mapping(i, i, 1) for i in range(341)], "/linux/uidMappings")
    assert caught.value.pointer == "/linux/uidMappings"


def test_more_bytes_than_linux_takes() -> None:
    """CVE-2021-43784: a long map is refused, never cut."""
    with pytest.raises(errors.Error, match="id mappings of 4950 bytes, Linux takes 4095"):
        idmap.render([mapping(1000000 + i, 1000000 + i, 1) for i in range(275)], "/p")


# -- who may map what, said in words ---------------------------------------------------------------


@pytest.fixture
def host_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/etc is this folder for the functions that explain."""
    real = idmap.procfs.read_file
    monkeypatch.setattr(
        idmap.procfs, "read_file", lambda path: real(path.replace("/etc", str(tmp_path)))
    )
    (tmp_path / "passwd").write_text(f"root:x:0:0::/:/bin/sh\nsomeone:x:{os.getuid() or 0}:0::/:\n")
    return tmp_path


def test_user_name(host_files: Path) -> None:
    assert idmap.user_name(0) == "root"
    assert idmap.user_name(4711) == "4711"
    (host_files / "passwd").write_text("odd line\n1000:x:5:5::/:\n")
    assert idmap.user_name(1000) == "1000"  # a name that looks like a number is a name
    assert idmap.user_name(5) == "1000"
    (host_files / "passwd").unlink()
    assert idmap.user_name(0) == "0"


def test_hint(host_files: Path) -> None:
    user = idmap.user_name(os.getuid())
    assert "subuid is missing: it needs a line such as" in idmap.subid_hint("uid")
    (host_files / "subuid").write_text("other:1:2\n")
    assert f"/etc/subuid has no line for user {user}" in idmap.subid_hint("uid")
    (host_files / "subuid").write_text(f"{user}:100000:65536\n{os.getuid()}:5:6\n{user}x:1:1\n")
    assert idmap.subid_hint("uid") == (
        f"/etc/subuid allows {user} only: {user}:100000:65536, {os.getuid()}:5:6"
    )


def test_helpers_are_found_without_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PATH", raising=False)
    assert idmap.find_helper("ls") in ("/usr/bin/ls", "/bin/ls")
    assert idmap.find_helper("no-such-helper") is None


# -- real user namespaces --------------------------------------------------------------------------

CHILD = """
import os, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from ociruntime import errors
from ociruntime.host import idmap
child = subprocess.Popen(["unshare", "--user", "sleep", "60"])
try:
    path = f"/proc/{child.pid}/ns/user"
    while os.readlink(path) == os.readlink("/proc/self/ns/user"):
        time.sleep(0.01)
    uids, gids, privileged = eval(sys.argv[2])
    fds = os.listdir("/proc/self/fd")
    try:
        idmap.write_maps(child.pid, uids, gids, privileged=privileged)
        for name in ("uid_map", "gid_map", "setgroups"):
            print(*open(f"/proc/{child.pid}/{name}").read().split())
    except errors.Error as exc:
        print(exc.message, exc.pointer, exc.hint, sep="|")
    assert os.listdir("/proc/self/fd") == fds
finally:
    child.kill()
    child.wait()
"""


def write_maps(uids: Any, gids: Any, privileged: bool, *prefix: str) -> list[str]:
    done = subprocess.run(
        [
            *prefix,
            "/usr/bin/python3",
            "-IBc",
            CHILD,
            str(REPOSITORY),
            repr((uids, gids, privileged)),
        ],
        capture_output=True,
        timeout=60,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.root
def test_privileged() -> None:
    uids = [mapping(0, 1000, 10), mapping(10, 5000, 1)]
    gids = [mapping(0, 2000, 10)]
    assert write_maps(uids, gids, True) == ["0 1000 10 10 5000 1", "0 2000 10", "allow"]


@pytest.mark.root
def test_overlapping_maps_are_the_kernels_to_refuse() -> None:
    (line,) = write_maps([mapping(0, 1000, 10), mapping(5, 5000, 10)], [mapping(0, 0, 1)], True)
    message, pointer, _ = line.split("|")
    assert message.endswith("/uid_map: invalid argument")
    assert pointer == "/linux/uidMappings"


@pytest.fixture
def as_nobody(open_tree: None, tmp_path: Path) -> Any:
    """A command prefix: as nobody, with the given lines in /etc/subuid and /etc/subgid, in a mount namespace."""
    if not shutil.which("setpriv") or not shutil.which("unshare"):
        pytest.skip("no setpriv(1) or unshare(1)")
    for name in ("subuid", "subgid"):
        Path("/etc", name).touch()

    def prefix(lines: str, hide: str = "") -> list[str]:
        table = tmp_path / "sub"
        table.write_text(lines)
        mounts = "".join(f"mount --bind {table} /etc/{name} && " for name in ("subuid", "subgid"))
        if hide:
            mounts += f"mount --bind /dev/null {hide} && "
        switch = 'exec setpriv --reuid 65534 --regid 65534 --clear-groups -- "$@"'
        return ["unshare", "--mount", "sh", "-c", mounts + switch, "sh"]

    return prefix


NOBODY = 65534


@pytest.mark.root
def test_own_id_needs_no_helper(as_nobody: Any) -> None:
    lines = write_maps([mapping(0, NOBODY, 1)], [mapping(0, NOBODY, 1)], False, *as_nobody(""))
    assert lines == [f"0 {NOBODY} 1", f"0 {NOBODY} 1", "deny"]


@pytest.mark.root
@pytest.mark.skipif(not idmap.find_helper("newuidmap"), reason="package uidmap is not installed")
def test_subordinate_ids(as_nobody: Any) -> None:
    maps = [mapping(0, NOBODY, 1), mapping(1, 100000, 65536)]
    prefix = as_nobody("nobody:100000:65536\n")
    assert write_maps(maps, maps, False, *prefix) == [
        f"0 {NOBODY} 1 1 100000 65536",
        f"0 {NOBODY} 1 1 100000 65536",
        "allow",
    ]


@pytest.mark.root
@pytest.mark.skipif(not idmap.find_helper("newuidmap"), reason="package uidmap is not installed")
def test_subordinate_ids_that_are_not_ours(as_nobody: Any) -> None:
    maps = [mapping(0, NOBODY, 1), mapping(1, 200000, 10)]
    (line,) = write_maps(maps, maps, False, *as_nobody("nobody:100000:65536\n"))
    message, pointer, hint = line.split("|")
    assert message.startswith(f"gid mapping 0 {NOBODY} 1, 1 200000 10: newgidmap: ")
    assert pointer == "/linux/gidMappings"
    assert hint == "/etc/subgid allows nobody only: nobody:100000:65536"


@pytest.mark.root
def test_no_helper(as_nobody: Any) -> None:
    maps = [mapping(0, NOBODY, 1), mapping(1, 100000, 10)]
    path = idmap.find_helper("newgidmap")
    prefix = as_nobody("nobody:100000:65536\n", os.path.realpath(path) if path else "")
    (line,) = write_maps(maps, maps, False, *prefix)
    message, pointer, hint = line.split("|")
    assert message.endswith("/gid_map: operation not permitted")
    assert pointer == "/linux/gidMappings"
    assert hint == "newgidmap is not installed (package uidmap)"


@pytest.mark.root
def test_userns_fd(native: None, no_leaks: None) -> None:
    fd = idmap.userns_fd([mapping(0, 1000, 5)], [mapping(0, 2000, 7)])
    seen = subprocess.run(
        [
            "nsenter",
            f"--user=/proc/self/fd/{fd}",
            "cat",
            "/proc/self/uid_map",
            "/proc/self/gid_map",
        ],
        pass_fds=(fd,),
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    ).stdout
    os.close(fd)
    assert seen.split() == ["0", "1000", "5", "0", "2000", "7"]


@pytest.mark.root
def test_userns_fd_with_a_map_that_the_kernel_refuses(native: None, no_leaks: None) -> None:
    with pytest.raises(errors.Error, match="uid_map: invalid argument") as caught:
        idmap.userns_fd([mapping(0, 1, 5), mapping(2, 50, 5)], [mapping(0, 1, 5)], "/mounts/1")
    assert caught.value.pointer == "/mounts/1/uidMappings"


def test_no_such_process() -> None:
    with pytest.raises(errors.Error, match="open /proc/4194304: no such file"):
        idmap.write_maps(4194304, [mapping(0, 0, 1)], [], privileged=True)


def test_nothing_to_write() -> None:
    idmap.write_maps(os.getpid(), [], [], privileged=False)

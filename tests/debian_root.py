"""Another Debian release as a root directory, to build and test in: `python tests/debian_root.py -- make demo`.

The root is made once for each suite and list of packages and kept in a cache. A command runs in it with mount and pid
namespaces of its own and pivot_root (chroot forbids user namespaces), as root of this machine, with the machine's
network and cgroups. What it writes is thrown away, save below directories given with --bind; /tmp is empty.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

BUILD = (
    *("ca-certificates", "gcc", "git", "libc6-dev", "libcap-dev", "libffi-dev", "libseccomp-dev"),
    *("make", "procps", "python3-dev", "python3-venv", "tini"),
)
"""Packages of every root: what `make demo` installs, so that it need not, and an init."""

KEPT = ("PIP_", "SSL_CERT_", "http_proxy", "https_proxy", "no_proxy", "OCIRUNTIME_", "CI")
"""How the variables begin that a command in the root gets from the caller's environment."""

# $1: root, $2: an empty directory to mount on, $3: working directory, then directories to bind, "--", the command.
_ENTER = """
root=$1 top=$2 cwd=$3
shift 3
mount -t tmpfs -o mode=755 tmpfs "$top"
mkdir "$top/upper" "$top/work" "$top/root"
mount -t overlay -o "lowerdir=$root,upperdir=$top/upper,workdir=$top/work" overlay "$top/root"
root=$top/root
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev"
mknod -m 666 "$root/dev/null" c 1 3
mknod -m 666 "$root/dev/zero" c 1 5
mknod -m 666 "$root/dev/full" c 1 7
mknod -m 666 "$root/dev/random" c 1 8
mknod -m 666 "$root/dev/urandom" c 1 9
mknod -m 666 "$root/dev/tty" c 5 0
mknod -m 600 "$root/dev/kmsg" c 1 11
mknod -m 666 "$root/dev/fuse" c 10 229
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue" "$root/dev/net"
mknod -m 666 "$root/dev/net/tun" c 10 200
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for name in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${name%:*}" "$root/dev/${name#*:}"; done
mount -t mqueue mqueue "$root/dev/mqueue"
for directory in dev/shm tmp var/tmp; do mount -t tmpfs -o mode=1777 tmpfs "$root/$directory"; done
mount -t tmpfs -o mode=755 tmpfs "$root/run"
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" 2>/dev/null || :
while [ "$1" != -- ]; do
    mkdir -p "$root/$1"
    mount --rbind "$1" "$root/$1"
    shift
done
shift
cd "$root"
pivot_root . .
umount -l .
cd "$cwd"
exec tini -- "$@"
"""


def mirror(label: str) -> str:
    """The archive that apt uses on this machine for the label Debian or Debian-Security; empty if there is none."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)"]
    wanted = ["Created-By: Packages", "Component: main", f"Label: {label}"]
    said = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False).stdout
    return said.split("\n", 1)[0]


def cache() -> Path:
    """Where roots are kept (OCIRUNTIME_ROOT_CACHE)."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("OCIRUNTIME_ROOT_CACHE") or f"{home}/ociruntime-roots")


def place(suite: str, packages: Sequence[str] = ()) -> Path:
    """Where the root of a suite with these further packages is or would be."""
    names = " ".join(sorted({*BUILD, *packages}))
    return cache() / f"{suite}-{hashlib.sha256(names.encode()).hexdigest()[:10]}"


def make(suite: str, packages: Sequence[str] = ()) -> Path:
    """The root of a suite with these further packages, made now if it is not there (about a minute).

    Raises RuntimeError with the reason where none can be made.
    """
    root = place(suite, packages)
    if root.is_dir():
        return root
    if os.geteuid() != 0:
        raise RuntimeError("a Debian root needs root to be made")
    if shutil.which("mmdebstrap") is None:
        raise RuntimeError("mmdebstrap is not installed")
    main, security = mirror("Debian"), mirror("Debian-Security")
    if not main:
        raise RuntimeError("apt knows no Debian archive: apt-get update")
    lines = [f"deb {main} {suite} main", f"deb {main} {suite}-updates main"]
    if security:
        lines.append(f"deb {security} {suite}-security main")
    root.parent.mkdir(parents=True, exist_ok=True)
    with open(root.parent / f"{root.name}.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if root.is_dir():
            return root
        with tempfile.TemporaryDirectory(dir=root.parent, prefix="new-") as work:
            command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase"]
            command += ["--format=directory", "--dpkgopt=force-unsafe-io"]
            command += [f"--include={','.join(sorted({*BUILD, *packages}))}"]
            done = subprocess.run(
                [*command, suite, f"{work}/root", "-"],
                input="\n".join(lines) + "\n",
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise RuntimeError(f"mmdebstrap {suite} failed:\n{done.stdout}")
            os.rename(f"{work}/root", root)
    return root


def argv(
    root: Path,
    command: Sequence[str],
    binds: Sequence[str | os.PathLike[str]] = (),
    cwd: str | os.PathLike[str] = "/",
    keep: Sequence[str] = (),
) -> list[str]:
    """The command line that runs ``command`` in a root.

    ``binds``: directories of this machine that are there under the same path and may be written to. ``keep``: further
    variables of the caller's environment that the command gets.
    """
    top = cache() / "mnt"
    top.mkdir(parents=True, exist_ok=True)
    names = [name for name in os.environ if name.startswith(KEPT) or name in keep]
    env = [f"{name}={os.environ[name]}" for name in names]
    env += [
        "HOME=/root",
        "LANG=C.UTF-8",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ]
    return [
        *(
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
            "--",
        ),
        *("env", "-i", *env, "sh", "-e", "-c", _ENTER, "sh", str(root), str(top), str(cwd)),
        *(str(Path(bind).absolute()) for bind in binds),
        "--",
        *command,
    ]


def main() -> int:
    """The command line; the exit status is the command's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--suite", default="trixie", help="Debian release (default: trixie)")
    parser.add_argument("--include", default="", metavar="PKG,...", help="more packages")
    parser.add_argument(
        "--bind", action="append", default=[], metavar="DIR", help="see above; repeatable"
    )
    parser.add_argument("--cwd", help="working directory (default: the first --bind, else /)")
    parser.add_argument("command", nargs="*", help="default: print where the root is")
    options = parser.parse_args()
    try:
        root = make(options.suite, [name for name in options.include.split(",") if name])
    except RuntimeError as error:
        print(f"debian_root: {error}", file=sys.stderr)
        return 1
    if not options.command:
        print(root)
        return 0
    binds = [os.path.abspath(path) for path in options.bind]
    cwd = options.cwd or (binds[0] if binds else "/")
    return subprocess.run(argv(root, options.command, binds, cwd), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

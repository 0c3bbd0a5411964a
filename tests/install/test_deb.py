"""The Debian package: lintian's opinion, what it depends on, and that purge leaves nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.root]

# $1: the package. Overlays take whatever dpkg writes; `upper` is what is left of it in the end.
WORLD = """
set -e
top=$(mktemp -d) && mount -t tmpfs tmpfs "$top" && cd "$top"
for name in usr etc var; do
    mkdir -p upper/$name work/$name
    mount -t overlay -o "lowerdir=/$name,upperdir=$top/upper/$name,workdir=$top/work/$name" overlay "/$name"
done
export DEBIAN_FRONTEND=noninteractive
dpkg --install "$1" >/dev/null
sh -e -c "$2"
dpkg --purge ociruntime >/dev/null
umount -l /usr /etc /var
find upper ! -type d ! -path 'upper/var/lib/dpkg/*' ! -path 'upper/var/log/*' ! -path 'upper/var/cache/man/*' \
    ! -path 'upper/var/tmp/*' \
    -printf 'left: %P\\n'
cd / && umount -l "$top" && rmdir "$top"
"""


@pytest.fixture(scope="module")
def package(repository: Path) -> Path:
    """What `make deb` makes; the virtual machine gets it made."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb: not a Debian system")
    if not Path("/run/systemd/system").exists():
        done = subprocess.run(
            ["make", "--no-print-directory", "deb"],
            cwd=repository,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    found = sorted((repository / "dist").glob("ociruntime_*.deb"))
    if not found:
        pytest.skip("no package in dist: make deb")
    return found[-1]


def installable(package: Path) -> None:
    """Skip where what it depends on is not installed."""
    wanted = subprocess.run(
        ["dpkg-deb", "--field", package, "Depends"], capture_output=True, text=True, check=True
    ).stdout
    for name in re.findall(r"(?:^|, )([a-z0-9.+-]+)", wanted):
        state = subprocess.run(
            ["dpkg-query", "-Wf", "${db:Status-Status}", name],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        if state != "installed":
            pytest.skip(f"{name} is not installed: make test-apt")


def in_world(package: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Install the package in mounts of its own, run a script, purge it; what it left is in the output."""
    installable(package)
    return subprocess.run(
        [
            *("unshare", "--mount", "--propagation", "private", "--"),
            "sh",
            "-c",
            WORLD,
            "sh",
            package,
            script,
        ],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_podman_runs_from_it(package: Path, tmp_path: Path) -> None:
    """As its documentation has it: named in containers.conf, with systemd's cgroups."""
    if not Path("/run/systemd/system").exists():
        pytest.skip("no systemd here: make test-vm")
    busybox, podman = shutil.which("busybox"), shutil.which("podman")
    if busybox is None or podman is None:
        pytest.skip("no busybox or no podman")
    (tmp_path / "rootfs/bin").mkdir(parents=True)
    shutil.copy(busybox, tmp_path / "rootfs/bin/sh")
    text = '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'  # root may not raise them
    text += '[engine]\nruntime = "ociruntime"\n[engine.runtimes]\nociruntime = ["/usr/bin/ociruntime"]\n'
    (tmp_path / "containers.conf").write_text(text)
    # Overlays do not stack, and podman's runroot must be short: the world's tmpfs, which goes with it.
    places = "--root $PWD/storage --runroot $PWD/run --network-config-dir $PWD/net"
    script = f"""
    export CONTAINERS_CONF={tmp_path}/containers.conf TMPDIR={tmp_path}
    podman {places} --storage-driver vfs info --format '{{{{.Host.OCIRuntime.Path}}}}'
    podman {places} --storage-driver vfs run --rm --network none --memory 64m --rootfs {tmp_path}/rootfs \
        sh -c 'echo from the package'
    """
    done = in_world(package, script)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "/usr/bin/ociruntime\nfrom the package\n", "something is left"


def test_lintian(package: Path) -> None:
    if shutil.which("lintian") is None:
        pytest.skip("lintian is not installed: make build")
    command = ["lintian", "--allow-root", "--fail-on", "error,warning", package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_installs_works_and_goes(package: Path, tmp_path: Path) -> None:
    """Both worlds of the runtime run from it and write byte code, a container runs; nothing is there after purge."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox")
    bundle, broken = tmp_path / "bundle", tmp_path / "broken"
    (bundle / "rootfs/bin").mkdir(parents=True)
    shutil.copy(busybox, bundle / "rootfs/bin/sh")
    shutil.copytree(bundle, broken)
    ours = Path(__file__).resolve().parents[2] / ".venv/bin/ociruntime"
    subprocess.run([ours, "spec", "--bundle", bundle], check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(terminal=False, args=["sh", "-c", "echo inside"])
    (bundle / "config.json").write_text(json.dumps(config))
    script = f"""
    cd /
    env -i /usr/bin/ociruntime --version
    env -i /usr/bin/ociruntime --root {tmp_path}/state run --bundle {bundle} deb{os.getpid()}
    env -i /usr/bin/ociruntime spec --bundle {broken}
    env -i /usr/bin/ociruntime plan --bundle {broken} >{broken}/plan
    sed -i 's|"destination": "/proc"|"destination": 5|' {broken}/config.json
    ! env -i /usr/bin/ociruntime plan --bundle {broken} >{broken}/plan 2>{broken}/error
    grep -qF 'mounts[0].destination' {broken}/error
    find /usr/lib/ociruntime -name '*.pyc' | grep -q .
    dpkg --listfiles ociruntime | grep -q /usr/share/man/man8/ociruntime.8.gz
    dpkg --listfiles ociruntime | grep -q /usr/share/zsh/vendor-completions/_ociruntime
    """
    done = in_world(package, script)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ociruntime version")
    assert done.stdout.endswith("\ninside\n"), "something is left"

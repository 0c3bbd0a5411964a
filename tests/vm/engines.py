#!/usr/bin/env python3
"""Real engines in a virtual machine, where systemd makes their cgroups: `make test-vm-engines`.

One machine runs tests/engines/test_systemd.py, or what else is asked for, as root and for an ordinary user with a
session. With `--suite trixie` it is a Debian 13 with its engines; the tree is built for it as tests/newer_debian does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests import debian_root, newer_debian
from tests.vm import suite as machines

DEFAULT = ["tests/engines/test_systemd.py"]
USER = "tester"
# The ordinary user's systemd runs, as after a login.
_RUN = f"""
loginctl enable-linger {USER} && systemctl start systemd-user-sessions.service user@$(id -u {USER}).service || exit
exec .venv/bin/pytest -p no:cacheprovider -o faulthandler_timeout=0 "$@"
"""


def tree_of(suite: str) -> Path:
    """A tree that runs in that release, built; raises Unavailable."""
    if suite == machines.SUITE:
        machines.prepare(["stable"])
        return REPOSITORY
    image = [str(HERE / "build-image"), "--if-needed", "--suite", suite, "--kernels", "stable"]
    if subprocess.run(image, stdin=subprocess.DEVNULL, check=False).returncode:
        raise machines.Unavailable("build-image failed, see above")
    tree = REPOSITORY / ".newer" / suite
    newer_debian.copy(tree)
    code = f"from conformance.kit import *; build_testprog(Path({str(tree / '.venv/testprog')!r}))"
    script = f'make -s build TEST_APT= && .venv/bin/python -c "{code}"'
    root = debian_root.make(suite, newer_debian.PACKAGES)
    if subprocess.run(
        debian_root.argv(root, ["sh", "-c", script], [tree], tree), check=False
    ).returncode:
        raise machines.Unavailable("the build among that release's packages failed, see above")
    return tree


def command(suite: str, tree: Path, timeout: float, arguments: list[str]) -> list[str]:
    """How to run pytest in a machine of that release."""
    words = [
        "TMPDIR=/var/tmp",
        "PYTHONDONTWRITEBYTECODE=1",
        f"OCI_TEST_PATIENCE={machines.PATIENCE}",
        f"OCI_TESTPROG_DIR={tree / '.venv/testprog'}",
        f"OCIRUNTIME_ENGINE_USER={USER}",
    ]
    # Engines keep images and layers on tmpfs.
    argv = [str(HERE / "vmrun.py"), "--image", suite, "--memory", "4096"]
    argv += ["--timeout", str(timeout), "--copy", str(tree)]
    if controls := os.environ.get("OCIRUNTIME_TEST_CONTROLS"):
        words.append(f"OCIRUNTIME_TEST_CONTROLS={controls}")
    if crio := os.environ.get("OCIRUNTIME_CRIO"):
        argv += ["--copy", crio]
        words.append(f"OCIRUNTIME_CRIO={crio}")
    for word in words:
        argv += ["--env", word]
    return [*argv, "--", "sh", "-c", _RUN, "sh", *(arguments or DEFAULT)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, usage="%(prog)s [options] [pytest's arguments]"
    )
    add = parser.add_argument
    add("--suite", default=machines.SUITE, help=f"Debian release (default: {machines.SUITE})")
    add("--timeout", type=float, default=5400, help="seconds for the machine (5400)")
    options, arguments = parser.parse_known_args()
    try:
        tree = tree_of(options.suite)
    except (machines.Unavailable, RuntimeError) as reason:
        print(f"SKIPPED: no virtual machine: {reason}", flush=True)
        return machines.SKIPPED
    argv = command(options.suite, tree, options.timeout, arguments)
    return subprocess.run(argv, cwd=tree, stdin=subprocess.DEVNULL, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

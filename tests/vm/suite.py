#!/usr/bin/env python3
"""The project's tests in virtual machines with systemd and cgroup v2: `make test-vm`.

One machine for each user (root in a system service, an ordinary user in a service of its own session, root with SELinux
in place of AppArmor, root on the hybrid tree of cgroup v1) and kernel;
two machines run at the same time.  Each gets a copy of the tree, with what `make build` has made.  Prints what pytest
prints there; the exit status is 1 when a test fails, 77 when no machine can be had.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
TESTPROG = REPOSITORY / ".venv/testprog"  # compiled here: there it takes minutes
SKIPPED = 77
PACKAGES = ["qemu-system-x86", "mmdebstrap", "e2fsprogs"]
SUITE = "bookworm"
KERNELS = ("stable", "backports")
PATIENCE = 8  # an emulated processor on a busy host

# What only such a machine can show, and the whole conformance suite on this runtime.
BOUNDED = {
    "root": [
        "tests/unit/cgroups",
        "tests/conformance/test_suite.py::test_ours",
        "tests/integration/test_cgroups_v2.py",
        "tests/integration/test_limits.py",
        "tests/integration/test_limits_v2.py",
        "tests/integration/test_checkpoint_real.py::test_it_goes_on",
        "tests/integration/test_cgroup_view.py",
        "tests/integration/test_namespaces.py",
        "tests/integration/test_rdma.py",
        "tests/integration/test_rootless.py",
        "tests/integration/test_systemd.py",
        "tests/integration/test_systemd_reload.py",
        "tests/engines/test_systemd.py::test_scope[podman-ociruntime]",
    ],
    "user": [
        "tests/unit/cgroups",
        "tests/conformance/test_suite.py::test_ours",
        "tests/integration/test_delegated.py",
        "tests/integration/test_systemd.py",
        "tests/integration/test_systemd_reload.py",
    ],
    "selinux": ["tests/integration/test_selinux.py"],
    "hybrid": ["tests/integration/test_systemd_v1.py"],
}
ALL = {
    "root": ["tests/unit/cgroups", "tests/conformance", "tests/integration"],
    "user": [
        "tests/unit/cgroups",
        "tests/conformance",
        "tests/integration/test_delegated.py",
        "tests/integration/test_systemd.py",
        "tests/integration/test_systemd_reload.py",
    ],
    "selinux": ["tests/integration/test_selinux.py"],
    "hybrid": ["tests/integration/test_systemd_v1.py"],
}


class Unavailable(Exception):
    """No machine can be had; the argument says why."""


class Job(NamedTuple):
    """One boot: who (root, an ordinary user, root under SELinux) runs which tests on which kernel."""

    user: str
    kernel: str
    arguments: list[str]

    @property
    def name(self) -> str:
        return f"{self.user}-{self.kernel}"


class Outcome(NamedTuple):
    """What came of a job: the command's exit status, its output, seconds."""

    job: Job
    status: int
    output: str
    seconds: float


def prepare(kernels: list[str]) -> None:
    """Have QEMU and an image with these kernels (no name: any); raises Unavailable."""
    if platform.machine() != "x86_64":
        raise Unavailable(f"the machine is made for x86_64, this is {platform.machine()}")
    if not (REPOSITORY / ".venv/bin/ociruntime").exists():
        raise Unavailable("the tree is not built: make build")
    if (REPOSITORY / ".venv/bin/python").resolve() != Path("/usr/bin/python3.11"):
        raise Unavailable(
            f"the guest has the python3.11 of {SUITE}, .venv is made with another one"
        )
    commands: list[list[str]] = [[str(REPOSITORY / ".ci/apt-install"), *PACKAGES]]
    image = [str(HERE / "build-image"), "--if-needed", "--suite", SUITE]
    commands.append([*image, "--kernels", ",".join(kernels)] if kernels else image)
    code = f"from conformance.kit import *; build_testprog(Path({str(TESTPROG)!r}))"
    commands.append([str(REPOSITORY / ".venv/bin/python"), "-c", code])
    for command in commands:
        done = subprocess.run(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, check=False)
        if done.returncode != 0:
            raise Unavailable(f"{Path(command[0]).name} failed, see above")


def kernels_there() -> list[str]:
    """The kernels of the image."""
    cache = os.environ.get("OCIRUNTIME_VM_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ociruntime-vm"
    )
    return [name for name in KERNELS if Path(cache, SUITE, "kernel", name, "vmlinux").exists()]


def choose(options: argparse.Namespace, kernels: list[str]) -> list[Job]:
    """The jobs: all of users × kernels, or by default each user on one kernel: an ordinary one on the newest."""
    jobs = []
    for user in options.user:
        chosen = kernels
        if not (options.all or options.kernels or options.arguments):
            chosen = [kernels[-1 if user == "user" else 0]]
        for kernel in chosen:
            jobs.append(
                Job(user, kernel, options.arguments or (ALL if options.all else BOUNDED)[user])
            )
    return jobs


def environment(more: Sequence[str] = ()) -> list[str]:
    """vmrun's options for the environment that the tests and the conformance suite want there."""
    words = ["TMPDIR=/var/tmp", "PYTHONDONTWRITEBYTECODE=1", f"OCI_TEST_PATIENCE={PATIENCE}"]
    words += [f"OCI_TESTPROG_DIR={TESTPROG}", *more]
    return [part for word in words for part in ("--env", word)]


def run(job: Job, options: argparse.Namespace) -> Outcome:
    """Boot a machine and run pytest in it."""
    begin = time.monotonic()
    command = ["nice", "-n", str(options.nice), str(HERE / "vmrun.py"), "--image", SUITE]
    command += [
        "--kernel",
        job.kernel,
        "--timeout",
        str(options.timeout),
        "--copy",
        str(REPOSITORY),
        *environment(options.env),
    ]
    if job.user == "user":
        command.append("--user")
    elif job.user == "selinux":
        command.append("--selinux")
    elif job.user == "hybrid":
        command += ["--append", "systemd.unified_cgroup_hierarchy=0"]
    command += ["--", ".venv/bin/pytest", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=0"]
    command += job.arguments
    log = options.results / f"{job.name}.log"
    print(f"{job.name}: its output goes to {log} first", flush=True)
    with log.open("wb") as stream:
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            check=False,
        )
    text = log.read_text(errors="replace")
    return Outcome(job, done.returncode, text, time.monotonic() - begin)


def report(outcome: Outcome, results: Path) -> None:
    """Print what came of a job; leave its status in `results` for tests/vm/test_vm.py."""
    job = outcome.job
    print(f"\n=== {job.user} on the {job.kernel} kernel, {outcome.seconds:.0f} s ===")
    print(outcome.output.rstrip(), flush=True)
    draft = results / f"{job.name}.status.new"
    draft.write_text(f"{outcome.status}\n")
    draft.rename(results / f"{job.name}.status")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; what is not known of it goes to pytest."""
    parser = argparse.ArgumentParser(
        description=__doc__, usage="%(prog)s [options] [pytest's arguments]"
    )
    add = parser.add_argument
    add("--all", action="store_true", help="all integration tests, each user on each kernel")
    add("--user", action="append", choices=tuple(BOUNDED), help="only as this user")
    add("--kernels", metavar="LIST", help=f"comma-separated: {', '.join(KERNELS)}")
    add("--runtime", help="test another runtime instead: runc, crun")
    add("--timeout", type=float, default=3600, help="seconds for each machine (3600)")
    add("--nice", type=int, default=0, help="how much other programs go first (0-19)")
    add("--results", type=Path, metavar="DIR", help="leave output and status of each job there")
    options, options.arguments = parser.parse_known_args(argv)
    options.user = options.user or (["root", "user"] if options.arguments else list(BOUNDED))
    options.kernels = [k for k in (options.kernels or "").split(",") if k]
    options.env = [f"RUNTIME={options.runtime}"] if options.runtime else []
    if set(options.kernels) - set(KERNELS):
        parser.error(f"kernels are {', '.join(KERNELS)}")
    return options


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        prepare(options.kernels)
    except Unavailable as reason:
        print(f"SKIPPED: no virtual machine: {reason}", flush=True)
        if options.results:
            (options.results / "skipped").write_text(f"{reason}\n")
        return SKIPPED
    jobs = choose(options, options.kernels or kernels_there())
    with contextlib.ExitStack() as stack:
        if options.results is None:
            options.results = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vm.")))
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=2))
        futures = [pool.submit(run, job, options) for job in jobs]
        outcomes = []
        for future in futures:
            outcomes.append(future.result())
            report(outcomes[-1], options.results)
    print()
    for job, status, output, seconds in outcomes:
        last = (output.rstrip().splitlines() or ["no output"])[-1].strip("= ")
        print(f"{job.name}: exit status {status} after {seconds:.0f} s: {last}")
    return int(any(outcome.status != 0 for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())

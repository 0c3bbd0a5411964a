"""Which modules each verb imports, seen on a real container: start-up is most of a light verb's time."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from ociruntime.demo import bundle

BUDGET = {
    "create": 66,
    "state": 15,
    "start": 19,
    "pause": 24,
    "resume": 24,
    "exec": 62,
    "kill": 18,
    "delete": 24,
    "run": 66,
}
"""The most modules of the package (and _cffi_backend) that the verb may import."""

ONE, TWO = (f"modules-{os.getpid()}-{letter}" for letter in "ab")

LIGHT = {"state", "start", "pause", "resume", "kill", "delete"}

NOT_LIGHT = re.compile(
    r"_cffi_backend|ociruntime\.(_native|host\.native|plan|spec\.(valid|_valid|check))"
)
"""What light verbs must do without: the shim, the compiler and the validator."""


class Runner:
    """Runs verbs in the full interpreter, which can say what it imports."""

    def __init__(self, package: Path, root: Path, bundle_path: Path) -> None:
        self.package = package
        self.root = root
        self.bundle = bundle_path

    def call(self, *args: str) -> set[str]:
        """The modules of ours that the command line imported; fails when it fails."""
        log = self.root.parent / "imports"
        python = os.path.realpath(Path(self.package.parents[3], "bin/python"))
        with open(log, "wb") as file:
            done = subprocess.run(
                [
                    python,
                    "-IS",
                    "-X",
                    "importtime",
                    self.package / "launch_script.py",
                    "--root",
                    self.root,
                    *args,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
                timeout=60,
                check=False,
            )
        text = log.read_text()
        assert done.returncode == 0, [
            line for line in text.splitlines() if not line.startswith("import time")
        ]
        names = {
            line.rpartition("|")[2].strip()
            for line in text.splitlines()
            if line.startswith("import time")
        }
        return {name for name in names if name.partition(".")[0] in ("ociruntime", "_cffi_backend")}


@pytest.fixture
def runner(repository: Path, tmp_path: Path) -> Iterator[Runner]:
    version = sysconfig.get_config_var("py_version_short")
    package = repository / f".venv/lib/python{version}/site-packages/ociruntime"
    if not package.exists():
        pytest.skip("not installed: make venv")
    path = tmp_path / "bundle"
    bundle.make(path, uid=0, gid=0)
    bundle.write_config(path, bundle.config(["/bin/sleep", "100"], terminal=False, uid=0, gid=0))
    made = Runner(package, tmp_path / "root", path)
    try:
        yield made
    finally:
        for name in (ONE, TWO):
            made.call("delete", "--force", name)


@pytest.mark.root
def test_modules_of_each_verb(runner: Runner) -> None:
    where = ["--bundle", str(runner.bundle)]
    lines = (
        ["create", *where, ONE],
        ["state", ONE],
        ["start", ONE],
        ["pause", ONE],
        ["resume", ONE],
        ["exec", ONE, "/bin/true"],
        ["kill", ONE, "KILL"],
        ["delete", "--force", ONE],
        ["run", "--detach", *where, TWO],
    )
    for line in lines:
        used = runner.call(*line)
        verb = line[0]
        assert len(used) <= BUDGET[verb], f"{verb}: {sorted(used)}"
        if verb in LIGHT:
            assert not [name for name in used if NOT_LIGHT.search(name)], verb
        # Of the verbs' own modules, just this one's.
        verbs = {name for name in used if name.startswith("ociruntime.commands.")}
        assert verbs == {f"ociruntime.commands.{verb}"}

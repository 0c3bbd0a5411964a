"""Guards of init, each taken out of a copy of its sources: then attacks succeed that it stops.

The sources themselves have no switch for that: nothing of this can be in what is installed.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from conformance.attacks import registry, runner
from conformance.attacks.runner import SAFE, VULNERABLE
from conformance.runner import Target
from tests.integration.harness import runtime_path

pytestmark = [pytest.mark.root, pytest.mark.slow]

# guard: (file, what is taken out, what stands there instead, recipes that succeed then)
GUARDS = {
    # Only links are followed out: any other path stays below the root, so that nothing but the canary is hit.
    "paths are resolved in the root": (
        "path.c",
        "    return open_how(root, path, flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve);",
        "    while (*path == '/')\n        path++;\n"
        '    return open_how(root, *path ? path : ".", flags, 0, resolve);',
        "target-link device-link cwd-link",
    ),
    "signals are reset": (
        "process.c",
        "void reset_signals(void) {",
        "void reset_signals(void) {\n    if (1)\n        return;",
        "signals",
    ),
    "init is not dumpable": (
        "process.c",
        "    SYS(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);",
        "    SYS(__NR_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);",
        "join-trace",
    ),
    "groups are set": (
        "process.c",
        "        result = CALL(setgroups, blob_size(op->arg[2]) / sizeof(uint32_t), blob(op->arg[2]));",
        "        result = 0;",
        "groups",
    ),
}


def broken_init(repository: Path, place: Path) -> Path:
    """An init without any of the guards."""
    sources = place / "native"
    shutil.copytree(repository / "native", sources)
    for file, old, new, _ in GUARDS.values():
        text = (sources / file).read_text()
        assert text.count(old) == 1, f"{file}: the guard has another form now"
        (sources / file).write_text(text.replace(old, new))
    spec = importlib.util.spec_from_file_location("broken_build_init", sources / "build_init.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    kept = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = kept
    module.build_init("cc", str(place / "init"))
    return place / "init"


def wrapped(real: Path, init: Path, broken: Path, place: Path) -> Path:
    """A command that runs the runtime with another init, in a mount namespace of its own."""
    script = place / "ociruntime"
    inner = f'mount --bind {broken} {init} && exec {real} "$@"'
    script.write_text(f"#!/bin/sh\nexec unshare -m sh -c '{inner}' sh \"$@\"\n")
    script.chmod(0o755)
    return script


def test_attacks_succeed_without_the_guards(
    repository: Path, tmp_path: Path, subtests: SubTests
) -> None:
    path = runtime_path()
    if path is None:
        pytest.skip("the runtime under test is not built")
    inits = sorted(Path(path).parent.parent.glob("lib/python*/site-packages/ociruntime/init"))
    if not inits:
        pytest.skip(f"{path} is not the ociruntime of a virtual environment")
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    script = wrapped(Path(path), inits[0], broken_init(repository, tmp_path), tmp_path)
    registry.load()
    # The last one needs none of these guards: the broken init is still a working one.
    words = ",".join([*(",".join(g[3].split()) for g in GUARDS.values()), "sys-link"])
    done = runner.run(Target([str(script)]), registry.select(words), 8)
    found = {o.name: o for o in done.outcomes}
    assert found["sys-link"].verdict == SAFE
    for guard, (_, _, _, names) in GUARDS.items():
        for name in names.split():
            with subtests.test(f"{guard}: {name}"):
                assert found[name].verdict == VULNERABLE, found[name].observed

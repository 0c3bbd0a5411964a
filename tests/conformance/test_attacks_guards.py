"""Guards, each taken out of a copy of the sources: then attacks succeed that it stops.

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

# guard: ((file, what is taken out, what stands there instead), …), recipes that succeed then
Guard = tuple[tuple[tuple[str, str, str], ...], str]

# init and the shim.
NATIVE: dict[str, Guard] = {
    # Only links are followed out: any other path stays below the root, so that nothing but the canary is hit.
    "paths are resolved in the root": (
        (
            (
                "path.c",
                "    fd = open_how(root, path, flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve);",
                "    while (*path == '/')\n        path++;\n"
                '    fd = open_how(root, *path ? path : ".", flags, 0, resolve);',
            ),
        ),
        "target-link device-link cwd-link race-target",
    ),
    "a device node is that device": (
        (
            (
                "path.c",
                "result = check_node(fd, type, op->arg[3]);",
                "result = type == 0 ? -ENXIO : 0;",
            ),
        ),
        "dev-link",
    ),
    "the console is no link": (
        (
            (
                "stdio.c",
                "    fd = (int)CALL(openat, dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);",
                "    fd = (int)CALL(openat, dir, name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);",
            ),
        ),
        "console-link",
    ),
    "passwd is a regular file": (
        (
            ("exec.c", "type_of(fd) != S_IFREG", "type_of(fd) == 0"),
            (
                "exec.c",
                'open_in_root(root, "/etc/passwd", O_RDONLY | O_NONBLOCK | O_NOCTTY, 0)',
                'open_in_root(root, "/etc/passwd", O_RDONLY, 0)',
            ),
            (
                "exec.c",
                'open_how(AT_FDCWD, "/etc/passwd", O_RDONLY | O_NONBLOCK | O_NOCTTY, 0, 0)',
                'open_how(AT_FDCWD, "/etc/passwd", O_RDONLY, 0, 0)',
            ),
        ),
        "passwd-odd",
    ),
    "links are copied as links": (
        (
            ("copy.c", "O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC", "O_RDONLY | O_CLOEXEC"),
            (
                "copy.c",
                "return copy_link(from_dir, to_dir, name, &about);",
                "return copy_file(from_dir, to_dir, name, &about), 0 ? copy_link(0, 0, name, &about) : 0;",
            ),
        ),
        "copy-up-link",
    ),
    "signals are reset": (
        (
            (
                "process.c",
                "void reset_signals(void) {",
                "void reset_signals(void) {\n    if (1)\n        return;",
            ),
        ),
        "signals",
    ),
    "init is not dumpable": (
        (
            (
                "process.c",
                "    long result = SYS(__NR_prctl, PR_SET_DUMPABLE, value, 0, 0, 0);",
                "    long result = SYS(__NR_prctl, PR_SET_DUMPABLE, value | 1, 0, 0, 0);",
            ),
        ),
        "join-trace",
    ),
    "groups are set": (
        (
            (
                "process.c",
                "        result = CALL(setgroups, blob_size(op->arg[2]) / sizeof(uint32_t), blob(op->arg[2]));",
                "        result = 0;",
            ),
        ),
        "groups",
    ),
}

# The host's side.
PYTHON: dict[str, Guard] = {
    "sysctls of the container's namespaces only": (
        (("spec/checks_linux.py", "elif kind not in ctx.namespaces:", "elif not kind:"),),
        "sysctl-host",
    ),
    "exec stays below the container's cgroup": (
        (
            (
                "cgroups/v1.py",
                'if below != self.path and not below.startswith(self.path + "/"):',
                "if not below:",
            ),
            (
                "cgroups/v2.py",
                'if path != self.path and not path.startswith(self.path + "/"):',
                "if not path:",
            ),
        ),
        "exec-cgroup",
    ),
    "a session keyring of its own": (
        (("plan/process.py", "if ctx.options.no_new_keyring:", "if True:"),),
        "keyring",
    ),
    "a process is its start time, too": (
        (("state.py", 'or found[1] != self.data.get("start") or', "or"),),
        "pid-reuse",
    ),
    "an id of a container is no path": (
        (
            ("state.py", 'container_id in (".", "..")', "False"),
            ("state.py", ".translate(None, _ID_BYTES)", ".translate(None, bytes(range(256)))"),
        ),
        "container-id",
    ),
    "digits alone are an id": (
        (
            (
                "lifecycle_exec.py",
                'raise errors.Error(f"invalid {what} {text!r}',
                'return 0 if text else errors.Error(f"invalid {what} {text!r}',
            ),
        ),
        "exec-user",
    ),
    "the masks' device is the host's": (
        (
            (
                "plan/devices.py",
                '        null,\n        ops.NONE,\n        "/dev/null",\n        words.O_PATH,\n        0,\n'
                "        0o020000,\n        number(1, 3),\n",
                '        null,\n        root,\n        "dev/null",\n        words.O_PATH,\n        0,\n'
                "        0,\n        0,\n",
            ),
        ),
        "null-mask",
    ),
    "devices are denied": (
        (
            (
                "cgroups/devices.py",
                '    (True, "c", ANY, ANY, "m", ""),\n',
                '    (True, "a", ANY, ANY, "rwm", ""),\n',
            ),
        ),
        "devices-open",
    ),
    "the default masks": (
        (
            ("commands/spec.py", '    "/sys/devices/virtual/powercap",', '    "/absent",'),
            ("commands/spec.py", '    "/proc/kcore",\n', ""),
        ),
        "spec-powercap spec-masks",
    ),
}
UNGUARDED_START = (
    "/usr/bin/python3"  # without -IS: what the caller's variables and directories say is believed
)


ISOLATED: Guard = ((), "python-variables python-home")
START = "/usr/bin/python3"  # without -IS: what the variables and directories of the caller say is believed


def taken_out(guards: dict[str, Guard], sources: Path) -> None:
    """Change a copy of the sources."""
    for guard, (changes, _) in guards.items():
        for file, old, new in changes:
            text = (sources / file).read_text()
            assert text.count(old) == 1, f"{guard}: {file} has another form now"
            (sources / file).write_text(text.replace(old, new))


def broken_init(repository: Path, place: Path) -> Path:
    """An init without any of the guards."""
    sources = place / "native"
    shutil.copytree(repository / "native", sources)
    taken_out(NATIVE, sources)
    spec = importlib.util.spec_from_file_location("broken_build_init", sources / "build_init.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    kept = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = kept
    module.build_init("cc", str(place / "init"))
    return place / "init"


def runtime(site: Path, place: Path, init: Path) -> Path:
    """The command, as a script of an interpreter that believes its caller, with a copy of the package."""
    copy = place / "site"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(site / "ociruntime", copy / "ociruntime", ignore=ignored)
    taken_out(PYTHON, copy / "ociruntime")
    shutil.copy(init, copy / "ociruntime/init")
    script = place / "ociruntime"
    script.write_text(
        f"#!{START}\nimport sys\nsys.path[:0] = [{str(copy)!r}, {str(site)!r}]\n"
        "from ociruntime import launch_script\nlaunch_script.run()\n"
    )
    script.chmod(0o755)
    return script


def test_attacks_succeed_without_the_guards(
    repository: Path, tmp_path: Path, subtests: SubTests
) -> None:
    path = runtime_path()
    if path is None:
        pytest.skip("the runtime under test is not built")
    sites = sorted(Path(path).parent.parent.glob("lib/python*/site-packages/ociruntime"))
    if not sites:
        pytest.skip(f"{path} is not the ociruntime of a virtual environment")
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    script = runtime(sites[0].parent, tmp_path, broken_init(repository, tmp_path))
    registry.load()
    guards = {**NATIVE, **PYTHON, "the interpreter is isolated": ISOLATED}
    # The last one needs none of these guards: the broken runtime is still a working one.
    words = ",".join([*(",".join(names.split()) for _, names in guards.values()), "sys-link"])
    done = runner.run(Target([str(script)]), registry.select(words), 8)
    found = {one.name: one for one in done.outcomes}
    assert found["sys-link"].verdict == SAFE, found["sys-link"].observed
    for guard, (_, names) in guards.items():
        for name in names.split():
            with subtests.test(f"{guard}: {name}"):
                assert found[name].verdict == VULNERABLE, found[name].observed

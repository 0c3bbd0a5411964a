"""The entry of both worlds, and what differs between them.

*Launcher*: the modules below are frozen into the installed command, which runs them in CPython's core phase.
*Script*: the full interpreter, reached by ``launch_script.py``. The same code runs in both; whatever is only possible
in the second raises ``errors.NeedFullPython`` before it has done anything.

Hot module.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

try:
    import _launcher
except ImportError:
    _launcher = None  # type: ignore[assignment]

HOT_MODULES: tuple[str, ...] = (
    "ociruntime",
    "ociruntime.cgroups",
    "ociruntime.cgroups.base",
    "ociruntime.cgroups.bpf",
    "ociruntime.cgroups.dbus",
    "ociruntime.cgroups.devices",
    "ociruntime.cgroups.disabled",
    "ociruntime.cgroups.files",
    "ociruntime.cgroups.hierarchy",
    "ociruntime.cgroups.resources",
    "ociruntime.cgroups.resources_io",
    "ociruntime.cgroups.systemd",
    "ociruntime.cgroups.systemd_annotations",
    "ociruntime.cgroups.systemd_errors",
    "ociruntime.cgroups.systemd_io",
    "ociruntime.cgroups.systemd_properties",
    "ociruntime.cgroups.systemd_unit",
    "ociruntime.cgroups.tree",
    "ociruntime.cgroups.v1",
    "ociruntime.cgroups.v2",
    "ociruntime.cli",
    "ociruntime.cli_options",
    "ociruntime.commands",
    "ociruntime.commands.create",
    "ociruntime.commands.delete",
    "ociruntime.commands.exec",
    "ociruntime.commands.features",
    "ociruntime.commands.kill",
    "ociruntime.commands.list",
    "ociruntime.commands.pause",
    "ociruntime.commands.ps",
    "ociruntime.commands.resume",
    "ociruntime.commands.run",
    "ociruntime.commands.start",
    "ociruntime.commands.state",
    "ociruntime.commands.update",
    "ociruntime.container",
    "ociruntime.errors",
    "ociruntime.foreground",
    "ociruntime.host",
    "ociruntime.host.console",
    "ociruntime.host.fuse",
    "ociruntime.host.hooks",
    "ociruntime.host.idmap",
    "ociruntime.host.launch",
    "ociruntime.host.libseccomp",
    "ociruntime.host.native",
    "ociruntime.host.netdev",
    "ociruntime.host.normalize",
    "ociruntime.host.notify",
    "ociruntime.host.prepare",
    "ociruntime.host.probe",
    "ociruntime.host.procfs",
    "ociruntime.host.resctrl",
    "ociruntime.host.seccomp",
    "ociruntime.host.seccomp_compile",
    "ociruntime.host.stuck",
    "ociruntime.host.unixsock",
    "ociruntime.hotpath",
    "ociruntime.lifecycle_create",
    "ociruntime.lifecycle_exec",
    "ociruntime.lifecycle_hooks",
    "ociruntime.lifecycle_start",
    "ociruntime.lifecycle_sync",
    "ociruntime.log",
    "ociruntime.paths",
    "ociruntime.plan",
    "ociruntime.plan.attribute",
    "ociruntime.plan.cgroup_mounts",
    "ociruntime.plan.compile",
    "ociruntime.plan.context",
    "ociruntime.plan.devices",
    "ociruntime.plan.encode",
    "ociruntime.plan.facts",
    "ociruntime.plan.join",
    "ociruntime.plan.mount_options",
    "ociruntime.plan.mounts",
    "ociruntime.plan.namespaces",
    "ociruntime.plan.old_kernel",
    "ociruntime.plan.ops",
    "ociruntime.plan.process",
    "ociruntime.plan.words",
    "ociruntime.signals",
    "ociruntime.spec",
    "ociruntime.spec._validator",
    "ociruntime.spec.checks",
    "ociruntime.spec.checks_ids",
    "ociruntime.spec.checks_linux",
    "ociruntime.spec.checks_mounts",
    "ociruntime.spec.checks_process",
    "ociruntime.spec.checks_seccomp",
    "ociruntime.spec.context",
    "ociruntime.spec.json_reader",
    "ociruntime.spec.locate",
    "ociruntime.spec.sysctl",
    "ociruntime.spec.validate",
    "ociruntime.state",
)
"""What the launcher holds: every module that the verbs of cli.HOT_VERBS import.

Each must do without what the core phase lacks, and without `os`, which costs 1.1 ms there; tests/lint checks them.
"""


def variant() -> str:
    """How this process was started: ``script``, or ``launcher, `` with what the build says of it."""
    return f"launcher, {_launcher.variant}" if _launcher is not None else "script"


def package_dir() -> str:
    """The absolute path of the installed package, where its data files are."""
    if _launcher is not None:
        return _launcher.package_dir
    return __file__[: __file__.rindex("/")]


def exec_full() -> None:
    """Execute this command line again in the full interpreter; returns only when this is the full interpreter.

    Raises OSError when the interpreter cannot be executed.
    """
    if _launcher is not None:
        _launcher.exec_full()


def load_native() -> ModuleType:
    """The cffi extension ``ociruntime._native``; only host/native.py calls this. Raises ImportError."""
    if _launcher is None:
        return __import__("ociruntime._native", None, None, ("lib",))
    suffix = _launcher.ext_suffix
    # The generated module imports _cffi_backend by name.
    failure = "no site directory"
    for directory in _launcher.site_dirs:
        try:
            _launcher.load_extension("_cffi_backend", f"{directory}/_cffi_backend{suffix}")
            break
        except ImportError as exc:
            failure = str(exc)
    else:
        raise ImportError(f"cannot load _cffi_backend: {failure}")
    return _launcher.load_extension(
        "ociruntime._native", f"{_launcher.package_dir}/_native{suffix}"
    )


def main(argv: list[str]) -> int:
    """Run the command line ``argv`` (without the program's name); the exit code."""
    from ociruntime import cli, errors

    try:
        return cli.main(argv)
    except errors.NeedFullPython:
        if _launcher is None:
            raise
        _launcher.exec_full()
        return 1

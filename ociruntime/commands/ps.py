"""`ps`: the processes of a container. Cold; the only verb that runs another program, ps(1)."""

from __future__ import annotations

import subprocess

from ociruntime import container, errors, log, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ociruntime.cli import Call

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run(call: Call) -> int:
    """Print the pids as JSON, or the lines of ps(1) that belong to the container."""
    form = call.text("format") or "table"
    if form not in ("table", "json"):
        raise errors.Error(f"invalid format option {form!r}: table or json")
    target = state.load(call.root(), call.args[0])
    manager = container.cgroup(target)
    pids = manager.pids() if manager is not None else []
    if not pids:
        # Without a cgroup only init is known.
        pids = [target.data["pid"]] if target.process() is not None else []
    if form == "json":
        log.out(f"[{','.join(map(str, pids))}]\n")
        return 0
    log.out(select(_ps(call.args[1:] or ["-ef"]), pids))
    return 0


def _ps(arguments: list[str]) -> str:
    """The output of ps(1)."""
    try:
        done = subprocess.run(
            ["ps", *arguments],
            env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError as exc:
        raise errors.from_os(
            exc, "execute ps", hint="install procps, or use --format json"
        ) from exc
    if done.returncode != 0:
        text = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
        raise errors.Error(f"ps: exit status {done.returncode}: {text}")
    return done.stdout.decode("utf-8", "replace")


def select(output: str, pids: list[int]) -> str:
    """The title and the lines of ``output`` whose PID column names one of ``pids``. Raises errors.Error."""
    title, *lines = output.splitlines()
    columns = title.split()
    if "PID" not in columns:
        raise errors.Error("couldn't find PID field in ps output")
    column = columns.index("PID")
    wanted = {str(pid) for pid in pids}
    kept = [title]
    for line in lines:
        fields = line.split()
        if len(fields) > column and fields[column] in wanted:
            kept.append(line)
    return "\n".join(kept) + "\n"

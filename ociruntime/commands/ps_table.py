"""The table form of `ps`, made by ps(1). Cold; the only part of a verb that runs a program of the host's."""

from __future__ import annotations

import subprocess

from ociruntime import errors

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def output(arguments: list[str]) -> str:
    """What ps(1) prints. Raises errors.Error."""
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
    title, *lines = output.split(
        "\n"
    )  # a process may be named by what splitlines() takes for an end
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

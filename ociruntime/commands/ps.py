"""`ps`: the processes of a container. Hot module: engines ask for the JSON form; ps(1)'s table is in ps_table.py."""

from __future__ import annotations

from ociruntime import container, errors, hotpath, log, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ociruntime.cli import Call


def run(call: Call) -> int:
    """Print the pids as JSON, or the lines of ps(1) that belong to the container."""
    form = call.text("format") or "table"
    if form not in ("table", "json"):
        raise errors.Error(f"invalid format option {form!r}: table or json")
    if form == "table":
        hotpath.exec_full()
    target = state.load(call.root(), call.args[0])
    manager = container.cgroup(target)
    pids = manager.pids() if manager is not None else []
    if not pids:
        # Without a cgroup only init is known.
        pids = [target.data["pid"]] if target.process() is not None else []
    if form == "json":
        log.out(f"[{','.join(map(str, pids))}]\n")
        return 0
    from ociruntime.commands import ps_table

    log.out(ps_table.select(ps_table.output(call.args[1:] or ["-ef"]), pids))
    return 0

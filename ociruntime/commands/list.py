"""`list`: the containers below the state directory. Hot module as long as root owns them all."""

from __future__ import annotations

import posix

from ociruntime import errors, hotpath, log, state
from ociruntime.spec import json_reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ociruntime.cli import Call

_COLUMNS = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")


def _owner(uid: int) -> str:
    if uid == 0:
        return "root"
    hotpath.exec_full()  # nothing was printed yet
    from ociruntime.commands import list_owner

    return list_owner.name(uid)


def run(call: Call) -> int:
    """Print a table, JSON, or with --quiet the ids only."""
    form = call.text("format") or "table"
    if form not in ("table", "json"):
        raise errors.Error(f"invalid format option {form!r}: table or json")
    quiet = call.switch("quiet")
    root = call.root()
    documents: list[state.State] = []
    warnings = []
    for name in state.names(root):
        try:
            container = state.load(root, name)
        except errors.Error as exc:
            # Deleted meanwhile, or broken: the others are shown all the same.
            if exc.message != state.NOT_FOUND:
                warnings.append(f"load container {name}: {exc.message}")
            continue
        if quiet:
            documents.append({"id": name})
        else:
            owner = _owner(container.data.get("owner", 0))
            documents.append(container.document(container.status(), owner=owner))
        posix.close(container.fd)  # there may be more containers than descriptors
    for warning in warnings:
        log.warning(warning)
    if quiet:
        log.out("".join([f"{document['id']}\n" for document in documents]))
        return 0
    if form == "json":
        log.out(f"{json_reader.dumps(documents)}\n")
        return 0
    rows = [_COLUMNS]
    for document in documents:
        cells = [str(document[key.lower()]) for key in _COLUMNS]
        rows.append((cells[0], cells[1], cells[2], cells[3], cells[4], cells[5]))
    widths = [
        max(12, *(len(row[column]) + 3 for row in rows)) for column in range(len(_COLUMNS) - 1)
    ]
    lines = []
    for row in rows:
        padded = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)]
        lines.append(f"{''.join(padded)}{row[-1]}\n")
    log.out("".join(lines))
    return 0

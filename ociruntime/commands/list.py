"""`list`: the containers below the state directory. Cold."""

from __future__ import annotations

import pwd

from ociruntime import errors, log, state
from ociruntime.spec import json_reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ociruntime.cli import Call

_COLUMNS = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def run(call: Call) -> int:
    """Print a table, JSON, or with --quiet the ids only."""
    form = call.text("format") or "table"
    if form not in ("table", "json"):
        raise errors.Error(f"invalid format option {form!r}: table or json")
    root = call.root()
    found = []
    for name in state.names(root):
        try:
            found.append(state.load(root, name))
        except errors.Error as exc:
            # Deleted meanwhile, or broken: the others are shown all the same.
            if exc.message != state.NOT_FOUND:
                log.warning(f"load container {name}: {exc.message}")
    if call.switch("quiet"):
        log.out("".join(f"{container.id}\n" for container in found))
        return 0
    documents = [
        container.document(container.status(), owner=_owner(container.data.get("owner", 0)))
        for container in found
    ]
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
    for row in rows:
        padded = "".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False))
        log.out(f"{padded}{row[-1]}\n")
    return 0

"""Linux 5.10 and 5.11 have no mount_setattr(2): attributes are given to mounts where they are, by mount(2).

Hot module, but imported only on such a kernel. mount(2) knows attached mounts alone, and changes the flags of one at a
time: so each SETATTR of a detached tree, and what the parent would give it, comes after its ATTACH. Propagation may
be changed recursively, attributes may not.
"""

from __future__ import annotations

from ociruntime.plan import ops, words
from ociruntime.plan.context import refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from ociruntime.plan.ops import Plan

    Change: TypeAlias = (
        "tuple[str, int, int, int, int]"  # origin, set, clear, propagation, recursive
    )

_MS_REC = 0x4000


def rewrite(plan: Plan) -> None:
    """Change a whole plan; errors.Error for what only mount_setattr(2) can do."""
    for name in plan.systems:
        raise _lacking("id-mapped mounts need", plan.systems[name][2])
    old = list(zip(plan.ops, plan.origins, strict=True))
    waiting = _from_binds(plan)
    new = {arguments[0] for (code, _, _, arguments), _ in old if code == ops.FSMOUNT}
    whole = _recursive_origins(plan)
    trees: dict[str, list[Any]] = {}  # origin of such a change: the mounts that it is about
    attached: set[Any] = set()
    plan.ops, plan.origins = [], []
    for (code, flags, errnos, arguments), origin in old:
        args: Any = arguments
        if code == ops.SETATTR:
            change = (origin, args[1], args[2], args[3], args[4])
            if args[0] in attached or not _is_tree(old, args[0]):
                _change(plan, args[0], change, trees.get(origin, ()))
            else:
                waiting.setdefault(args[0], []).append(change)
            continue
        if code == ops.ATTACH:
            tree, keep = args[0], args[5]
            changes = waiting.pop(tree, [])
            kept = tree if keep == ops.NONE and (changes or origin in whole) else keep
            plan.add(origin, code, *args[:5], kept, flags=flags, errnos=errnos)
            attached.add(kept)
            for change in changes:
                _change(plan, kept, change, (), new=tree in new)
            if origin in whole:
                trees.setdefault(origin, []).append(kept)
            elif kept != keep:
                plan.add(origin, ops.CLOSE, kept)
            continue
        plan.add(origin, code, *args, flags=flags, errnos=errnos)
        if code == ops.ROOT:
            attached.add(args[0])
            for change in waiting.pop(args[1], []):
                _change(plan, args[0], change, ())


def _from_binds(plan: Plan) -> dict[Any, list[Change]]:
    """What the parent was to give to bind sources, by slot; it gives them nothing then."""
    waiting: dict[Any, list[Change]] = {}
    for index, bind in enumerate(plan.binds):
        name, source, recursive, put, clear, tree_put, tree_clear, propagation, idmap, origin = bind
        if idmap is not None:
            raise _lacking("id-mapped mounts need", origin)
        if tree_put or tree_clear:
            raise _lacking("recursive attributes need", f"{origin}/options")
        changes = waiting.setdefault(plan.fds.index(name), [])
        if put or clear:
            changes.append((origin, put, clear, 0, 0))
        for flag in propagation:
            recursively = words.AT_RECURSIVE if flag & _MS_REC else 0
            changes.append((origin, 0, 0, flag & ~_MS_REC, recursively))
        plan.binds[index] = (name, source, recursive, 0, 0, 0, 0, (), None, origin)
    return waiting


def _recursive_origins(plan: Plan) -> set[str]:
    """Origins that change the attributes of a tree which they have put together by several ATTACHs (cgroup v1)."""
    count: dict[str, int] = {}
    found = set()
    for (code, _, _, args), origin in zip(plan.ops, plan.origins, strict=True):
        if code == ops.ATTACH:
            count[origin] = count.get(origin, 0) + 1
        elif code == ops.SETATTR and args[4] and (args[1] or args[2]) and count.get(origin, 0) > 1:
            found.add(origin)
    return found


def _is_tree(old: list[Any], slot: Any) -> bool:
    """Whether a slot is attached somewhere in the plan: else (remount) it is an attached mount already."""
    return any(
        (code == ops.ATTACH and arguments[0] == slot) or (code == ops.ROOT and arguments[1] == slot)
        for (code, _, _, arguments), _ in old
    )


def _change(plan: Plan, slot: Any, change: Change, trees: Any, *, new: bool = False) -> None:
    """SETATTR operations of one change. ``trees``: all mounts of the tree; ``new``: there is one mount in it."""
    origin, put, clear, propagation, recursive = change
    if put or clear:
        if recursive and not (trees or new):
            raise _lacking("recursive attributes need", f"{origin}/options")
        # The outermost last: what is below must still be reached.
        for one in reversed(trees or (slot,)):
            plan.add(origin, ops.SETATTR, one, put, clear, 0, 0, ops.NONE)
    if propagation:
        plan.add(origin, ops.SETATTR, slot, 0, 0, propagation, recursive, ops.NONE)


def _lacking(what: str, pointer: str) -> Exception:
    return refuse(f"{what} mount_setattr(2), which this kernel lacks", pointer, "Linux 5.12 has it")

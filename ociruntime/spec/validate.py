"""config.json, accepted or refused.

``load_config`` = strict JSON + the compiled schema + the checks. When anything is wrong, ``explain`` (jsonschema, the
authority on the schema) finds out all of it; where that cannot be imported, in the launcher's core phase,
``NeedFullPython`` asks for the whole command to be run again by the full interpreter.

Hot module.
"""

from __future__ import annotations

from ociruntime import errors
from ociruntime.spec import _validator
from ociruntime.spec.checks import CHECKS
from ociruntime.spec.checks_linux import check_resources
from ociruntime.spec.checks_process import check_process
from ociruntime.spec.context import Context
from ociruntime.spec.json_reader import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn


def load_config(
    data: bytes,
    filename: str = "config.json",
    *,
    strict: bool = False,
    warn: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """The config in ``data``, valid.

    ``filename`` is its name in messages. ``strict``: the letter of the specification where engines deviate from it.
    ``warn`` takes each warning as one line. Raises ConfigError with every problem found (the first makes its message),
    or NeedFullPython.
    """
    spec = loads(data, filename)
    if not _validator.validate_config(spec):
        _refuse("config", data, filename, strict)
    ctx = Context(spec, strict)
    for check in CHECKS:
        check(spec, ctx)
    _finish(ctx, "config", data, filename, warn)
    return spec  # type: ignore[no-any-return]


def unknown_properties(data: bytes, filename: str) -> list[str]:
    """One line for each property of an accepted config that nobody knows (config.md, "Extensibility": ignored).

    Raises NeedFullPython.
    """
    try:
        from ociruntime.spec import explain
    except ImportError as exc:
        raise errors.NeedFullPython from exc
    from ociruntime.spec.locate import Places

    places = Places(data)
    lines = []
    for pointer, suggestion in explain.unknown_properties(loads(data, filename)):
        message = "unknown property, ignored"
        if suggestion:
            message += f': did you mean "{suggestion}"?'
        lines.append(render(filename, errors.ConfigProblem(pointer, message, places.line(pointer))))
    return lines


def load_process(
    data: bytes,
    filename: str = "process.json",
    *,
    strict: bool = False,
    warn: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """The Process object of ``exec --process`` in ``data``; as ``load_config``."""
    process = loads(data, filename)
    if not _validator.validate_process(process):
        _refuse("process", data, filename, strict)
    ctx = Context({}, strict)
    check_process(process, "", ctx)
    _finish(ctx, "process", data, filename, warn)
    return process  # type: ignore[no-any-return]


def load_resources(
    data: bytes,
    filename: str = "resources",
    *,
    strict: bool = False,
    warn: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """The resources object of ``update --resources`` in ``data``; as ``load_config``."""
    resources = loads(data, filename)
    if not _validator.validate_resources(resources):
        _refuse("resources", data, filename, strict)
    ctx = Context({}, strict)
    check_resources(resources, "", ctx)
    _finish(ctx, "resources", data, filename, warn)
    return resources  # type: ignore[no-any-return]


def _finish(
    ctx: Context, kind: str, data: bytes, filename: str, warn: Callable[[str], None] | None
) -> None:
    if ctx.problems:
        _refuse(kind, data, filename, ctx.strict)
    if ctx.warnings and warn is not None:
        from ociruntime.spec.locate import Places

        places = Places(data)
        for pointer, message in ctx.warnings:
            warn(render(filename, errors.ConfigProblem(pointer, message, places.line(pointer))))


def _refuse(kind: str, data: bytes, filename: str, strict: bool) -> NoReturn:
    try:
        from ociruntime.spec import explain
    except ImportError as exc:
        raise errors.NeedFullPython from exc
    problems = explain.explain(data, filename, kind=kind, strict=strict)
    if not problems:  # the two validators disagree: a stale _validator.py
        raise errors.Error(
            f"{filename}: refused by the compiled schema alone: build ociruntime again"
        )
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    raise errors.ConfigError(render(filename, problems[0]) + more, problems)


def render(filename: str, problem: errors.ConfigProblem) -> str:
    """One problem as one line: ``file:line: property: message, hint``."""
    from ociruntime.spec.locate import dotted

    where = f"{filename}:{problem.line}: " if problem.line else f"{filename}: "
    if problem.pointer:
        where += f"{dotted(problem.pointer)}: "
    return where + problem.message + (f", {problem.hint}" if problem.hint else "")

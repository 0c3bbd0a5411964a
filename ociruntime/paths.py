"""Paths as text: nothing is looked at.

Hot module.
"""

from __future__ import annotations


def clean(path: str) -> str:
    """``path`` from the root, without empty, ``.`` and ``..`` components, which cannot climb above it."""
    if "." not in path and "//" not in path and path[:1] == "/" and path[-1:] != "/":
        return path
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if parts:
                parts.pop()
        elif part and part != ".":
            parts.append(part)
    return "/" + "/".join(parts)

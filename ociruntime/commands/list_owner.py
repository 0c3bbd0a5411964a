"""Names of the owners of containers, for `list`. Cold: pwd(3) may load what the host's name services want."""

from __future__ import annotations

import functools
import pwd


@functools.cache
def name(uid: int) -> str:
    """The user's name, or ``#UID``."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"

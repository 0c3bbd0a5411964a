"""What a test leaves to those that follow in the same process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from conformance.kit import child_pids

__all__ = ["nothing_left"]


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """No new descriptor and no new child, running or waiting to be reaped, is there in the end."""
    before, children = set(os.listdir("/proc/self/fd")), set(child_pids())
    yield
    after = set(os.listdir("/proc/self/fd"))
    assert after == before, [os.readlink(f"/proc/self/fd/{fd}") for fd in after - before]
    assert set(child_pids()) <= children

"""`restore`: see checkpoint."""

from __future__ import annotations

from ociruntime.commands.checkpoint import run

__all__ = ["run"]

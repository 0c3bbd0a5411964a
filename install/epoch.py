"""The time stamp of everything that a build packs, so that the same sources give the same bytes at any time."""

from __future__ import annotations

import os

EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH") or 1767225600)  # 2026-01-01, UTC
"""Seconds, as in reproducible-builds.org's SOURCE_DATE_EPOCH, which has the last word."""

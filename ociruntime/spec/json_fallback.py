"""What ``json_reader`` takes from ``_json``, for a CPython built without that accelerator.

Cold module: only the full interpreter can lack it and go on.
"""

from __future__ import annotations

import json
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Any

__all__ = ["encode_basestring", "encode_basestring_ascii", "make_scanner"]


def make_scanner(context: Any) -> Any:
    """``_json.make_scanner``: a function (text, index) → (value, end)."""
    decoder: Any = json.JSONDecoder(
        object_pairs_hook=context.object_pairs_hook,
        parse_constant=context.parse_constant,
        parse_float=context.parse_float,
        parse_int=context.parse_int,
    )
    return decoder.scan_once

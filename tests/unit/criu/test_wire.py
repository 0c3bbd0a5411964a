"""The messages of CRIU's RPC, against bytes worked out by hand from protobuf's encoding."""

from __future__ import annotations

import pytest

from ociruntime.criu import wire


def test_request() -> None:
    opts = {"images_dir_fd": 5, "leave_running": True, "log_file": "a", "pid": 300}
    opts["ext_mnt"] = [{"key": "k", "val": "v"}, {"key": "x", "val": "y"}]
    body = b"\x08\x05\x18\x01\x52\x01a\x10\xac\x02"
    body += b"\xba\x01\x06\x0a\x01k\x12\x01v\xba\x01\x06\x0a\x01x\x12\x01y"
    expected = b"\x08\x01\x12" + bytes([len(body)]) + body
    assert wire.encode(wire.REQUEST, {"type": wire.DUMP, "opts": opts}) == expected


def test_negative_number() -> None:
    data = wire.encode({"n": (1, int)}, {"n": -1})
    assert data == b"\x08" + b"\xff" * 9 + b"\x01"
    assert wire.decode({"n": (1, int)}, data) == {"n": -1}


def test_answer() -> None:
    data = b"\x08\x06\x10\x01\x2a\x0c\x0a\x08post-dum\x10\x07\x38\x02"
    assert wire.decode(wire.RESPONSE, data) == {
        "type": wire.NOTIFY,
        "success": 1,
        "notify": {"script": "post-dum", "pid": 7},
        "cr_errno": 2,
    }


def test_unknown_fields_are_left_out() -> None:
    data = b"\xf8\x07\x01\xfd\x07abcd\xf9\x07abcdefgh\xfa\x07\x01x\x08\x02"
    assert wire.decode(wire.RESPONSE, data) == {"type": 2}


def test_a_field_of_another_type_is_left_out() -> None:
    assert wire.decode(wire.RESPONSE, b"\x0a\x01x\x10\x01") == {"success": 1}


@pytest.mark.parametrize("data", [b"\x08", b"\x0a\x05x", b"\x0b", b"\x08" + b"\xff" * 11, b"\xff"])
def test_broken(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"truncated|unknown wire type"):
        wire.decode(wire.RESPONSE, data)


def test_field_numbers_are_unique() -> None:
    for schema in (wire.OPTIONS, wire.REQUEST, wire.RESPONSE):
        numbers = [number for number, _ in schema.values()]
        assert len(numbers) == len(set(numbers))

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


# images/rpc.proto of CRIU; those of version 3.17 were read from the descriptors in Debian's program as well.
OPTIONS = """
images_dir_fd 1 pid 2 leave_running 3 ext_unix_sk 4 tcp_established 5 shell_job 7 file_locks 8 log_level 9 log_file 10
ps 11 notify_scripts 12 root 13 parent_img 14 track_mem 15 auto_dedup 16 work_dir_fd 17 link_remap 18 ext_mnt 23
manage_cgroups 24 cg_root 25 rst_sibling 26 inherit_fd 27 manage_cgroups_mode 34 external 37 empty_ns 38
freeze_cgroup 44 tcp_skip_in_flight 46 lazy_pages 48 status_fd 49 orphan_pts_master 50 config_file 51 tcp_close 52
lsm_profile 53 lsm_mount_context 63 network_lock 64
"""
REQUEST = "type 1 opts 2 notify_success 3 features 5"
RESPONSE = "type 1 success 2 restore 4 notify 5 ps 6 cr_errno 7 features 8 cr_errmsg 9 version 10"


@pytest.mark.parametrize(
    ("schema", "text"),
    [(wire.OPTIONS, OPTIONS), (wire.REQUEST, REQUEST), (wire.RESPONSE, RESPONSE)],
)
def test_field_numbers_are_those_of_criu(schema: wire.Schema, text: str) -> None:
    words = text.split()
    expected = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    assert {name: number for name, (number, _) in schema.items()} == expected


def test_nested_field_numbers_are_those_of_criu() -> None:
    version = wire.RESPONSE["version"][1]
    assert {name: number for name, (number, _) in version.items()} == {
        "major": 1,
        "minor": 2,
        "sublevel": 4,
    }
    for schema, names in (
        (wire.OPTIONS["ps"][1], "address port pid fd"),
        (wire.OPTIONS["ext_mnt"][1], "key val"),
        (wire.OPTIONS["cg_root"][1], "ctrl path"),
        (wire.OPTIONS["inherit_fd"][1], "key fd"),
        (wire.REQUEST["features"][1], "mem_track lazy_pages"),
        (wire.RESPONSE["notify"][1], "script pid"),
    ):
        assert {n: number for n, (number, _) in schema.items()} == {
            n: index for index, n in enumerate(names.split(), 1)
        }

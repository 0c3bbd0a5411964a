"""The D-Bus client: each byte against jeepney, an independent implementation; and a server that misbehaves."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import jeepney
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jeepney.low_level import Endianness, HeaderFields, Parser

from ociruntime.cgroups import dbus

BODIES: list[tuple[str, tuple[Any, ...]]] = [
    ("", ()),
    ("s", ("",)),
    ("s", ("grüß",)),
    ("ybnqiuxtd", (255, True, -5, 6, -7, 8, -9, (1 << 64) - 1, 0.5)),
    ("yt", (1, 2)),
    ("ay", (b"\x01\x02\x03",)),
    ("yau", (1, [1, 2, 3])),
    ("at", ([],)),
    ("at", ([1],)),
    ("a(st)", ([],)),
    ("a(st)", ([("/dev/null", 5), ("x", 6)],)),
    ("a{sv}", ({"a": ("i", -1), "bb": ("as", ["x", "yz"])},)),
    ("v", (("(ib)", (3, False)),)),
    (
        "sba(sv)",
        ("x.scope", True, [("MemoryMax", ("t", 1 << 40)), ("AllowedCPUs", ("ay", b"\x05"))]),
    ),
    (
        "ssa(sv)a(sa(sv))",
        ("x.scope", "fail", [("PIDs", ("au", [12]))], [("y", [("a", ("b", True))])]),
    ),
    ("og", ("/a/b", "a{sv}")),
]


def message(signature: str, body: tuple[Any, ...], **fields: Any) -> bytes:
    """A method call as jeepney makes it."""
    address = jeepney.DBusAddress(
        "/org/freedesktop/systemd1", "org.freedesktop.systemd1", "a.b.Manager"
    )
    made = jeepney.new_method_call(address, "Do", signature or None, body)
    made.header.fields.update(fields)
    return made.serialise(serial=7)


@pytest.mark.parametrize(("signature", "body"), BODIES)
def test_encode_as_jeepney(signature: str, body: tuple[Any, ...]) -> None:
    ours = dbus.encode_call(
        7,
        "org.freedesktop.systemd1",
        "/org/freedesktop/systemd1",
        "a.b.Manager",
        "Do",
        signature,
        [list(value.items()) if isinstance(value, dict) else value for value in body],
    )
    theirs = message(signature, body)
    # header fields may come in any order: compare what is understood, and the body's bytes
    assert ours[:1] == theirs[:1] and len(ours) == len(theirs)
    size = int.from_bytes(ours[4:8], "little")
    assert ours[len(ours) - size :] == theirs[len(theirs) - size :]
    parser = Parser()
    parser.add_data(ours)
    parsed = parser.get_next_message()
    assert parsed is not None
    assert parsed.body == jeepney_view(theirs)
    assert parsed.header.fields[HeaderFields.member] == "Do"
    assert parsed.header.fields[HeaderFields.destination] == "org.freedesktop.systemd1"
    assert parsed.header.serial == 7


def jeepney_view(data: bytes) -> Any:
    parser = Parser()
    parser.add_data(data)
    found = parser.get_next_message()
    assert found is not None
    return found.body


@pytest.mark.parametrize(("signature", "body"), BODIES)
@pytest.mark.parametrize("endianness", list(Endianness))
def test_decode_what_jeepney_sends(
    signature: str, body: tuple[Any, ...], endianness: Endianness
) -> None:
    address = jeepney.DBusAddress("/o", "a.b", "a.b.C")
    made = jeepney.new_method_call(address, "Do", signature or None, body)
    made.header.endianness = endianness
    data = made.serialise(serial=9)
    got, size = dbus.decode(data + b"next")
    assert size == len(data)
    assert got is not None
    assert got.fields[dbus.MEMBER] == "Do"
    assert [plain(value) for value in got.body] == [plain(value) for value in body]
    for end in range(len(data)):
        assert dbus.decode(data[:end]) == (None, 0)


def plain(value: Any) -> Any:
    """A value in which only its meaning counts."""
    if isinstance(value, dict):
        return [[plain(a), plain(b)] for a, b in value.items()]
    if isinstance(value, list | tuple | bytes):
        return [plain(one) for one in value]
    return value


@given(st.binary(max_size=200), st.booleans())
def test_decode_anything(data: bytes, start: bool) -> None:
    """Whatever comes, it is a message, too little, or a ValueError."""
    try:
        dbus.decode((b"l\2\0\1" if start else b"") + data)
    except (ValueError, dbus._STRUCT_ERROR):
        pass


@pytest.mark.parametrize("signature", ["(", "a", "(s", "a{s", "z", "(" * 40 + ")" * 40, "ss"])
def test_marshal_refuses(signature: str) -> None:
    with pytest.raises((ValueError, dbus._STRUCT_ERROR)):
        dbus.marshal(signature, ["x"])


def test_marshal_refuses_nul() -> None:
    with pytest.raises(ValueError):
        dbus.marshal("s", ["a\0b"])


def test_nested_too_deeply() -> None:
    """A variant in a variant in a variant …"""
    value: Any = ("y", 1)
    for _ in range(40):
        value = ("v", value)
    head = dbus.marshal("yyyyuua(yv)", (ord("l"), 4, 0, 1, 0, 1, [(8, ("g", "v"))]))
    body = dbus.marshal("v", [value])
    data = head[:4] + len(body).to_bytes(4, "little") + head[8:] + bytes(-len(head) % 8) + body
    with pytest.raises(ValueError, match="deep"):
        dbus.decode(data)


# -- a connection ----------------------------------------------------------------------------------


@contextmanager
def server(script: Callable[[socket.socket], None]) -> Iterator[int]:
    """A descriptor behind which ``script`` plays the other side, in a thread."""
    ours, theirs = socket.socketpair()

    def play() -> None:
        with theirs, suppress(BrokenPipeError):  # who has read enough hangs up
            script(theirs)

    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield ours.detach()
    finally:
        thread.join(10)
        assert not thread.is_alive()


def read_until(sock: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        more = sock.recv(4096)
        if not more:
            break
        data += more
    return data


def reply(serial: int = 1, **fields: Any) -> bytes:
    header: list[Any] = [(dbus.REPLY_SERIAL, ("u", serial)), (dbus.SIGNATURE, ("g", "s"))]
    body = dbus.marshal("s", ["answer"])
    kind = fields.get("kind", dbus.REPLY)
    if kind == dbus.ERROR:
        header.append((dbus.ERROR_NAME, ("s", "a.b.Error.Bad")))
    head = dbus.marshal("yyyyuua(yv)", (ord("l"), kind, 0, 1, len(body), 99, header))
    return head + bytes(-len(head) % 8) + body


def ask(fd: int, *, identity: int | None = 0, timeout: float = 10.0) -> list[Any]:
    connection = dbus.Connection(fd, direct=True, identity=identity, timeout=timeout)
    try:
        return connection.answer(connection.send("a.b", "/", "a.b", "Do")).body
    finally:
        connection.close()


def test_no_call_before_the_authentication_is_answered() -> None:
    """sd-bus overlooks a message that arrives together with BEGIN until more arrives."""
    seen: list[bytes] = []

    def script(sock: socket.socket) -> None:
        seen.append(read_until(sock, b"BEGIN\r\n"))
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(None)
        sock.sendall(b"OK 1234\r\n")
        seen.append(sock.recv(4096))
        sock.sendall(reply())

    with server(script) as fd:
        assert ask(fd) == ["answer"]
    assert seen[0] == b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n"


@pytest.mark.parametrize("first", [b"DATA\r\n", b"OK 1234\r\n"], ids=["data", "old"])
def test_without_a_name(first: bytes) -> None:
    """In a user namespace the other side is to take the kernel's word."""
    seen: list[bytes] = []

    def script(sock: socket.socket) -> None:
        seen.append(read_until(sock, b"BEGIN\r\n"))
        sock.sendall(first + b"OK 1234\r\n")
        sock.recv(4096)
        sock.sendall(reply())

    with server(script) as fd:
        assert ask(fd, identity=None) == ["answer"]
    assert seen == [b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"REJECTED EXTERNAL\r\n", "authentication refused: REJECTED EXTERNAL"),
        (b"HTTP/1.1 400 Bad Request\r\n", "authentication refused: HTTP"),
        (b"x" * 5000, "another protocol"),
        (b"", "closed"),
    ],
)
def test_not_let_in(answer: bytes, text: str) -> None:
    def script(sock: socket.socket) -> None:
        read_until(sock, b"BEGIN\r\n")
        sock.sendall(answer)

    with server(script) as fd, pytest.raises(dbus.CallError) as caught:
        ask(fd)
    assert text in caught.value.text


def after_ok(data: bytes) -> Callable[[socket.socket], None]:
    def script(sock: socket.socket) -> None:
        read_until(sock, b"BEGIN\r\n")
        sock.sendall(b"OK 1\r\n")
        sock.recv(4096)
        for byte in range(0, len(data), 11):
            sock.sendall(data[byte : byte + 11])

    return script


def test_pieces_and_other_messages() -> None:
    signal = dbus.encode_call(1, "a.b", "/", "a.b", "Sig")
    signal = signal[:1] + bytes((dbus.SIGNAL,)) + signal[2:]
    with server(after_ok(signal + reply(serial=5) + reply())) as fd:
        connection = dbus.Connection(fd, direct=True, identity=0, timeout=10)
        assert connection.answer(connection.send("a.b", "/", "a.b", "Do")).body == ["answer"]
        kept = connection.wait_signal(lambda message: message.fields[dbus.MEMBER] == "Sig")
        assert kept.kind == dbus.SIGNAL
        connection.close()


def test_error_reply() -> None:
    with server(after_ok(reply(kind=dbus.ERROR))) as fd, pytest.raises(dbus.CallError) as caught:
        ask(fd)
    assert (caught.value.name, caught.value.text) == ("a.b.Error.Bad", "answer")


@pytest.mark.parametrize(
    "data",
    [b"x" * 64, b"l\2\0\2" + bytes(60), b"l\2\0\1\xff\xff\xff\x7f" + bytes(60)],
    ids=["no message", "version", "length"],
)
def test_rubbish(data: bytes) -> None:
    with server(after_ok(data)) as fd, pytest.raises(dbus.CallError):
        ask(fd)


def test_silence_is_bounded() -> None:
    done = threading.Event()

    def script(sock: socket.socket) -> None:
        read_until(sock, b"BEGIN\r\n")
        done.wait(10)

    with server(script) as fd:
        with pytest.raises(dbus.CallError) as caught:
            ask(fd, timeout=0.05)
        done.set()
    assert caught.value.name == dbus.TIMED_OUT


def test_descriptor_is_closed_on_failure() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    fd = ours.detach()
    with pytest.raises(OSError):
        dbus.Connection(fd, direct=True, identity=0, timeout=1)
    with pytest.raises(OSError):
        os.fstat(fd)

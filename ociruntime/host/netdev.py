"""linux.netDevices: network devices that go into the container's network namespace.

Hot module, imported only when the config has some. rtnetlink(7), netlink(7); the kernel moves and renames in one
request (config-linux.md "Network Devices"). Permanent global addresses are put back behind it, then the device is
set up. Devices are not taken back, save when `create` fails: the namespace's end would destroy the virtual ones.

A netlink socket belongs to the namespace it was made in: for that moment this process enters the container's network
namespace, which has no files.
"""

from __future__ import annotations

import _socket
import _struct
import errno
import posix

from ociruntime import errors
from ociruntime.host import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TypeAlias

    Attributes: TypeAlias = "dict[int, bytes]"
    Address: TypeAlias = "tuple[int, int, bytes]"  # family, prefix length, attributes
    Moved: TypeAlias = "tuple[int, str, bool, list[Address]]"
    """Of a device: its index inside; its name, whether it was up, and its addresses outside."""

_CLONE_NEWNET = 0x40000000
_HEADER = _struct.Struct("=IHHII")  # struct nlmsghdr
_LINK = _struct.Struct("=BBHiII")  # struct ifinfomsg
_NUMBER, _FLAGS = _struct.Struct("=i"), _struct.Struct("=I")
_ADDRESS = _struct.Struct("=BBBBi")  # struct ifaddrmsg
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 1, 4, 0x300
_NLM_F_CREATE, _NLM_F_REPLACE = 0x400, 0x100
_NLM_F_ACK_TLVS, _NLM_F_CAPPED = 0x200, 0x100
_RTM_NEWLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_GETADDR = 16, 18, 20, 22
_IFLA_IFNAME, _IFLA_NET_NS_FD = 3, 28
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS, _IFA_RT_PRIORITY = 1, 2, 4, 8, 9
_IFA_CACHEINFO, _IFA_PROTO = 6, 11
_IFA_F_PERMANENT, _IFA_F_NOPREFIXROUTE, _IFA_F_MANAGETEMPADDR = 0x80, 0x200, 0x100
# Lifetimes among them: a permanent address may be deprecated.
_KEPT = (*(_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_CACHEINFO, _IFA_RT_PRIORITY, _IFA_PROTO),)
_RT_SCOPE_UNIVERSE = 0
_IFF_UP = 1
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_NLMSGERR_ATTR_MSG = 1
_BUFFER = 1 << 17


class _Netlink:
    """One rtnetlink socket."""

    __slots__ = ("sequence", "sock")

    def __init__(self) -> None:
        kind = _socket.SOCK_RAW | _socket.SOCK_CLOEXEC
        self.sock = _socket.socket(_socket.AF_NETLINK, kind, _socket.NETLINK_ROUTE)
        self.sequence = 0
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
            self.sock.setsockopt(_SOL_NETLINK, option, 1)

    def close(self) -> None:
        self.sock.close()

    def ask(self, kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
        """Send a request; (type, payload) of each answer. Raises OSError, its text with the kernel's explanation."""
        self.sequence += 1
        flags |= _NLM_F_REQUEST
        self.sock.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self.sequence, 0) + body)
        while True:
            data = self.sock.recv(_BUFFER)
            if not data:
                raise _broken()
            while data:
                length, answer, answer_flags, sequence, _ = _unpack(_HEADER, data)
                if not _HEADER.size <= length <= len(data):
                    raise _broken()
                payload, data = data[_HEADER.size : length], data[_align(length) :]
                if sequence != self.sequence:
                    continue
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    _check(payload, answer_flags)
                    return
                yield answer, payload

    def do(self, kind: int, flags: int, body: bytes) -> None:
        """Send a request that has no answer but success. Raises OSError."""
        for _ in self.ask(kind, flags | _NLM_F_ACK, body):
            pass


def _check(payload: bytes, flags: int) -> None:
    """Raise OSError for a netlink error message; errno 0 is the acknowledgement."""
    number = -_unpack(_NUMBER, payload)[0]
    if not number:
        return
    if not 0 < number < 1 << 31:
        raise _broken()
    text = posix.strerror(number)
    if flags & _NLM_F_ACK_TLVS:
        # The request's header comes back, and with it only the header when "capped".
        skip = _HEADER.size if flags & _NLM_F_CAPPED else _unpack(_NUMBER, payload[4:])[0]
        explained = _attributes(payload[4 + _align(skip) :]).get(_NLMSGERR_ATTR_MSG)
        if explained:
            text = f"{text} ({_text(explained)})"
    raise OSError(number, text)


def _unpack(layout: _struct.Struct, data: bytes) -> tuple[Any, ...]:
    """The numbers at the beginning of ``data``. Raises OSError where it ends before."""
    if len(data) < layout.size:
        raise _broken()
    return layout.unpack_from(data)


def _broken() -> OSError:
    return OSError(errno.EPROTO, "broken netlink message")


def _align(length: int) -> int:
    return (length + 3) & ~3


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")


def _attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return _struct.pack("=HH", length, kind) + value + bytes(_align(length) - length)


def _attributes(data: bytes) -> Attributes:
    found: Attributes = {}
    while len(data) >= 4:
        length, kind = _struct.unpack_from("=HH", data)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[4:length]
        data = data[_align(length) :]
    return found


def _names(netlink: _Netlink) -> dict[str, tuple[int, int]]:
    """Name → (index, flags) of all devices of the socket's namespace."""
    found = {}
    for _, payload in netlink.ask(_RTM_GETLINK, _NLM_F_DUMP, _LINK.pack(0, 0, 0, 0, 0, 0)):
        _, _, _, index, flags, _ = _unpack(_LINK, payload)
        name = _attributes(payload[_LINK.size :]).get(_IFLA_IFNAME)
        if name:
            found[_text(name)] = (index, flags)
    return found


def _addresses(netlink: _Netlink, device: int) -> list[Address]:
    """(family, prefix length, attributes) of a device's permanent addresses of global scope."""
    found = []
    for _, payload in netlink.ask(_RTM_GETADDR, _NLM_F_DUMP, _ADDRESS.pack(0, 0, 0, 0, 0)):
        family, prefix, short_flags, scope, index = _unpack(_ADDRESS, payload)
        if index != device or scope != _RT_SCOPE_UNIVERSE:
            continue
        attributes = _attributes(payload[_ADDRESS.size :])
        flags = short_flags
        if _IFA_FLAGS in attributes:
            flags = _unpack(_FLAGS, attributes[_IFA_FLAGS])[0]
        if not flags & _IFA_F_PERMANENT:
            continue
        flags &= _IFA_F_NOPREFIXROUTE | _IFA_F_MANAGETEMPADDR
        kept = _attribute(_IFA_FLAGS, _struct.pack("=I", flags))
        for kind in _KEPT:
            if kind in attributes:
                kept += _attribute(kind, attributes[kind])
        found.append((family, prefix, kept))
    return found


def _inside(namespace: int) -> _Netlink:
    """A netlink socket in another network namespace. Raises OSError."""
    own = posix.open("/proc/self/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        native.setns(namespace, _CLONE_NEWNET)
        try:
            return _Netlink()
        finally:
            native.setns(own, _CLONE_NEWNET)
    finally:
        posix.close(own)


def move(devices: dict[str, Any], namespace: int) -> list[Moved]:
    """Move the devices of linux.netDevices into the network namespace with descriptor ``namespace``.

    What was moved, for ``give_back``. Raises errors.Error, naming the device; then none is moved.
    """
    name = ""
    moved: list[Moved] = []
    try:
        outside = _Netlink()
        try:
            inside = _inside(namespace)
            try:
                for name, options in devices.items():
                    new_name = (options or {}).get("name") or name
                    _move(outside, inside, name, new_name, namespace, moved)
            finally:
                inside.close()
        finally:
            outside.close()
    except OSError as exc:
        give_back(moved, namespace)
        raise errors.Error(
            f"move network device {name}: {(exc.strerror or '').lower()}",
            pointer=f"/linux/netDevices/{name}",
        ) from exc
    return moved


def give_back(moved: list[Moved], namespace: int) -> None:
    """Undo ``move``: names, addresses and state as they were. Raises errors.Error."""
    if not moved:
        return
    name = ""
    own = -1
    try:
        own = posix.open("/proc/self/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)
        outside, inside = _Netlink(), _inside(namespace)
        for index, name, up, addresses in reversed(moved):
            device = _transfer(inside, outside, index, name, own, addresses)
            if up:
                _set_up(outside, device)
        inside.close()
        outside.close()
    except OSError as exc:
        what = f"give back network device {name}: {(exc.strerror or '').lower()}"
        raise errors.Error(what, pointer="/linux/netDevices") from exc
    finally:
        if own >= 0:
            posix.close(own)


def _move(
    outside: _Netlink,
    inside: _Netlink,
    name: str,
    new_name: str,
    namespace: int,
    moved: list[Moved],
) -> None:
    """Move one device, for ``moved``, where it is also named when only a part succeeds. Raises OSError."""
    device, flags = _names(outside).get(name, (0, 0))
    if not device:
        raise OSError(19, "no such device")
    before = _names(inside)
    if new_name in before:
        raise OSError(17, f"the container has a device {new_name} already")
    up, addresses = bool(flags & _IFF_UP), _addresses(outside, device)
    try:
        arrived = _transfer(outside, inside, device, new_name, namespace, addresses)
        _set_up(inside, arrived)
    except OSError:
        again = _inside(namespace)  # an answer that was not read to its end keeps the other busy
        moved += [(index, name, up, addresses) for index in _new(again, before)]
        again.close()
        raise
    moved.append((arrived, name, up, addresses))


def _new(netlink: _Netlink, before: dict[str, tuple[int, int]]) -> list[int]:
    """Indexes of the devices that have come since. By what is new: eth%d gives a name that only the kernel knows."""
    return [index for found, (index, _) in _names(netlink).items() if found not in before]


def _transfer(
    source: _Netlink,
    target: _Netlink,
    device: int,
    name: str,
    namespace: int,
    addresses: list[Address],
) -> int:
    """Move and rename one device, which loses its addresses; its index in the target namespace. Raises OSError."""
    before = _names(target)
    request = _LINK.pack(0, 0, 0, device, 0, 0)
    request += _attribute(_IFLA_NET_NS_FD, _struct.pack("=I", namespace))
    request += _attribute(_IFLA_IFNAME, name.encode() + b"\0")
    source.do(_RTM_NEWLINK, 0, request)
    appeared = _new(target, before)
    if len(appeared) != 1:
        raise OSError(19, "the device did not arrive")
    moved = appeared[0]
    for family, prefix, attributes in addresses:
        message = _ADDRESS.pack(family, prefix, 0, _RT_SCOPE_UNIVERSE, moved)
        target.do(_RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_REPLACE, message + attributes)
    return moved


def _set_up(netlink: _Netlink, device: int) -> None:
    netlink.do(_RTM_NEWLINK, 0, _LINK.pack(0, 0, 0, device, _IFF_UP, _IFF_UP))

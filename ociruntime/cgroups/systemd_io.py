"""I/O limits and weights of cgroup v2 → properties of a systemd unit. Hot module, loaded when there are any.

systemd writes the four limits of a device in one (io.max), and BFQ's default weight at each `daemon-reload`, with which
the kernel drops the weights of single devices: it has to know all of them.
"""

from __future__ import annotations

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ociruntime.cgroups.systemd_unit import Property

_LIMITS = {
    "rbps": "IOReadBandwidthMax",
    "wbps": "IOWriteBandwidthMax",
    "riops": "IOReadIOPSMax",
    "wiops": "IOWriteIOPSMax",
}
_INFINITY = (1 << 64) - 1


def of_write(name: str, value: str, pointer: str, out: dict[str, Property]) -> None:
    """A write to io.weight, io.bfq.weight or io.max; of any other file systemd does not know."""
    first, _, rest = value.strip().partition(" ")
    if name in ("io.weight", "io.bfq.weight"):
        bfq = name == "io.bfq.weight"
        if first == "default" or not rest:
            weight = _weight(rest.strip() or first, bfq)
            if weight:
                out["IOWeight"] = ("IOWeight", ("t", weight), pointer)
        else:
            weight = _weight(rest.strip(), bfq)
            if weight:
                _of_device("IODeviceWeight", first, weight, pointer, out)
    elif name == "io.max":
        for word in rest.split():
            key, _, number = word.partition("=")
            if key in _LIMITS and (number == "max" or number.isdecimal()):
                limit = _INFINITY if number == "max" else int(number)
                _of_device(_LIMITS[key], first, min(limit, _INFINITY), pointer, out)


def _weight(word: str, bfq: bool) -> int:
    """IOWeight= 1 to 10,000, of which systemd makes io.bfq.weight 1 to 1,000 (both: 100 is the default); 0: none."""
    if not word.isdecimal() or not 1 <= int(word) <= (1000 if bfq else 10_000):
        return 0
    weight = int(word)
    return 100 + (weight - 100) * 11 if bfq and weight > 100 else weight


def _of_device(key: str, device: str, number: int, pointer: str, out: dict[str, Property]) -> None:
    major, colon, minor = device.partition(":")
    if not (colon and major.isdecimal() and minor.isdecimal()) or _stacked(device):
        return
    path = f"/dev/block/{device}"
    entries = dict(out[key][1][1]) if key in out else {}
    entries[path] = number
    out[key] = (key, ("a(st)", list(entries.items())), pointer)


def _stacked(device: str) -> bool:
    """Whether a device lies on others (dm): systemd would take what is below in its place."""
    try:
        return bool(posix.listdir(f"/sys/dev/block/{device}/slaves"))
    except OSError:
        return False

"""Block I/O, huge pages and RDMA of linux.resources. Pure, but for an error's hint. Hot module; see resources.py."""

from __future__ import annotations

import posix

from ociruntime import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    V1Write = tuple[str, str, str, str]
    V2Write = tuple[str, str, str]

_BLOCK = "/linux/resources/blockIO"

_THROTTLE = (
    # property, v1 file, key of io.max
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
)


def _weight(value: int, pointer: str) -> int:
    if not 10 <= value <= 1000:
        raise errors.Error(f"invalid blkio weight {value} (10 to 1000)", pointer=pointer)
    return value


def io_weight(weight: int) -> int:
    """blkio weight [10, 1000] → io.weight [1, 10000]."""
    return 1 + (weight - 10) * 9999 // 990


def _weight_devices(block: Mapping[str, Any]) -> Iterator[tuple[str, str, int, int]]:
    """(device, pointer, weight, leaf weight) of each weightDevice; 0 = not given."""
    for index, item in enumerate(block.get("weightDevice") or ()):
        pointer = f"{_BLOCK}/weightDevice/{index}"
        weight = item.get("weight") or 0
        leaf = item.get("leafWeight") or 0
        if not weight and not leaf:
            raise errors.Error("weightDevice needs weight or leafWeight", pointer=pointer)
        if weight:
            _weight(weight, pointer + "/weight")
        yield f"{item['major']}:{item['minor']}", pointer, weight, leaf


def v1_blkio(
    block: Mapping[str, Any], read: Callable[[str, str], str | None], out: list[V1Write]
) -> None:
    """blockIO for the v1 blkio controller; weights by BFQ where that scheduler is there."""
    bfq = read("blkio", "blkio.bfq.weight") is not None
    weight = block.get("weight")
    if weight:
        pointer = _BLOCK + "/weight"
        name = "blkio.bfq.weight" if bfq else "blkio.weight"
        out.append(("blkio", name, str(_weight(weight, pointer)), pointer))
    leaf = block.get("leafWeight")
    if leaf:
        pointer = _BLOCK + "/leafWeight"
        out.append(("blkio", "blkio.leaf_weight", str(_weight(leaf, pointer)), pointer))
    name = "blkio.bfq.weight_device" if bfq else "blkio.weight_device"
    for device, pointer, weight, leaf in _weight_devices(block):
        if weight:
            out.append(("blkio", name, f"{device} {weight}", pointer + "/weight"))
        if leaf:
            value = f"{device} {leaf}"
            out.append(("blkio", "blkio.leaf_weight_device", value, pointer + "/leafWeight"))
    for key, name, _ in _THROTTLE:
        for index, item in enumerate(block.get(key) or ()):
            value = f"{item['major']}:{item['minor']} {item.get('rate', 0)}"
            out.append(("blkio", name, value, f"{_BLOCK}/{key}/{index}"))


def v2_io(block: Mapping[str, Any], read: Callable[[str], str | None], out: list[V2Write]) -> None:
    """blockIO for the v2 io controller: io.bfq.weight or io.weight, io.max (0 takes the limit away)."""
    if block.get("leafWeight"):
        raise errors.Error("blockIO.leafWeight needs cgroup v1", pointer=_BLOCK + "/leafWeight")
    bfq = read("io.bfq.weight") is not None
    weight = block.get("weight")
    if weight:
        pointer = _BLOCK + "/weight"
        _weight(weight, pointer)
        if bfq:
            out.append(("io.bfq.weight", str(weight), pointer))
        else:
            out.append(("io.weight", f"default {io_weight(weight)}", pointer))
    for device, pointer, weight, leaf in _weight_devices(block):
        if leaf:
            raise errors.Error(
                "blockIO.weightDevice.leafWeight needs cgroup v1", pointer=pointer + "/leafWeight"
            )
        if bfq:
            out.append(("io.bfq.weight", f"{device} {weight}", pointer + "/weight"))
        else:
            out.append(("io.weight", f"{device} {io_weight(weight)}", pointer + "/weight"))
    for key, _, word in _THROTTLE:
        for index, item in enumerate(block.get(key) or ()):
            rate = item.get("rate") or "max"
            value = f"{item['major']}:{item['minor']} {word}={rate}"
            out.append(("io.max", value, f"{_BLOCK}/{key}/{index}"))


def hugetlb_writes(
    limits: Sequence[Mapping[str, Any]], read: Callable[[str], str | None], suffix: str
) -> list[V2Write]:
    """hugepageLimits → reservation limit, where the kernel has it (≥ 5.7), and usage limit of each size.

    ``suffix``: ``limit_in_bytes`` (v1) or ``max`` (v2).
    """
    out: list[V2Write] = []
    for index, item in enumerate(limits):
        base = f"/linux/resources/hugepageLimits/{index}"
        size = item["pageSize"]
        if not (
            size[:1] in "123456789" and size[:-2].isdigit() and size[-2:] in ("KB", "MB", "GB")
        ):
            raise errors.Error(f"invalid huge page size {size!r}", pointer=base + "/pageSize")
        if read(f"hugetlb.{size}.{suffix}") is None:
            raise errors.Error(
                f"huge page size {size} is not available", pointer=base + "/pageSize"
            )
        value = str(item["limit"])
        reserved = f"hugetlb.{size}.rsvd.{suffix}"
        if read(reserved) is not None:
            out.append((reserved, value, base + "/limit"))
        out.append((f"hugetlb.{size}.{suffix}", value, base + "/limit"))
    return out


def rdma_writes(rdma: Mapping[str, Mapping[str, Any]]) -> list[V2Write]:
    """rdma → rdma.max, the same file in v1 and v2."""
    out: list[V2Write] = []
    for device, limits in rdma.items():
        pointer = f"/linux/resources/rdma/{device.replace('~', '~0').replace('/', '~1')}"
        words = [device]
        for key, word in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object")):
            if limits.get(key) is not None:
                words.append(f"{word}={limits[key]}")
        if len(words) == 1:
            raise errors.Error("rdma entry needs hcaHandles or hcaObjects", pointer=pointer)
        if len(device.split()) != 1:
            raise errors.Error(f"invalid rdma device name {device!r}", pointer=pointer)
        out.append(("rdma.max", " ".join(words), pointer))
    return out


def missing_device(name: str, root: str = "/sys/class/infiniband") -> str | None:
    """The hint for ENODEV from a control file of single devices; None for any other file."""
    if name == "rdma.max":
        try:
            found = sorted(posix.listdir(root))
        except OSError:
            found = []
        return f"the host has no RDMA device of this name (there are: {' '.join(found) or 'none'})"
    if name.startswith(("io.", "blkio.")):
        return "the host has no such block device, or it is a partition: limits are those of a whole disk"
    return None

"""process.scheduler as the kernel has it afterwards; time namespaces joined and exec'd into."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any, NamedTuple

import pytest

from tests.integration.harness import Bundle, Runtime, fields

pytestmark = pytest.mark.root
GETATTR = {"x86_64": 315, "aarch64": 275}[os.uname().machine]
RESET_ON_FORK, RECLAIM, OVERRUN = 1, 2, 4
DEADLINE = {"runtime": 10_000_000, "deadline": 20_000_000, "period": 30_000_000}


@pytest.fixture(autouse=True)
def only_ours(rt: Runtime) -> None:
    if rt.kind != "ociruntime":
        pytest.skip("Debian's peers are older than process.scheduler and the time namespace")


class Attributes(NamedTuple):
    """struct sched_attr, sched_setattr(2)."""

    policy: int
    flags: int
    nice: int
    priority: int
    runtime: int
    deadline: int
    period: int


def scheduler(pid: int) -> Attributes:
    """sched_getattr(2) of a process."""
    about = ctypes.create_string_buffer(48)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(GETATTR, pid, about, 48, 0) != 0:
        raise OSError(ctypes.get_errno(), "sched_getattr")
    return Attributes(*struct.unpack("=IIQiIQQQ", about.raw)[1:])


@pytest.mark.parametrize(
    ("flags", "bits"),
    [
        ([], 0),
        (["SCHED_FLAG_RECLAIM"], RECLAIM),
        (["SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_RESET_ON_FORK"], OVERRUN | RESET_ON_FORK),
    ],
)
def test_deadline(rt: Runtime, bundle: Bundle, flags: list[str], bits: int) -> None:
    bundle.process["scheduler"] = {"policy": "SCHED_DEADLINE", "flags": flags, **DEADLINE}
    container = rt.create(bundle.args("sleep")).start()
    found = scheduler(container.pid)
    assert found.policy == 6
    assert found.flags & (RECLAIM | OVERRUN | RESET_ON_FORK) == bits
    assert (found.runtime, found.deadline, found.period) == tuple(DEADLINE.values())


def test_deadline_without_a_period(rt: Runtime, bundle: Bundle) -> None:
    """It is the deadline then."""
    bundle.process["scheduler"] = {
        "policy": "SCHED_DEADLINE",
        "runtime": 5_000_000,
        "deadline": 9_000_000,
    }
    container = rt.create(bundle.args("sleep")).start()
    assert scheduler(container.pid).period in (0, 9_000_000)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"runtime": 30_000_000}, "runtime <= deadline"),
        ({"runtime": 0}, "0 < runtime"),
        ({"period": 1_000_000}, "deadline <= period"),
        ({"priority": 3}, "only for SCHED_FIFO"),
        ({"policy": "SCHED_OTHER"}, "only for SCHED_DEADLINE"),
    ],
)
def test_refused_deadlines(rt: Runtime, bundle: Bundle, change: dict[str, Any], text: str) -> None:
    bundle.process["scheduler"] = {"policy": "SCHED_DEADLINE", **DEADLINE, **change}
    rt.try_create(bundle.args("sleep")).result.failed(text, code=1)


def test_more_bandwidth_than_there_is(rt: Runtime, bundle: Bundle) -> None:
    """The kernel's refusal (EBUSY) has the place and an explanation."""
    bundle.process["scheduler"] = {
        "policy": "SCHED_DEADLINE",
        "runtime": 999_000_000,
        "deadline": 1_000_000_000,
    }
    every = [rt.try_create(bundle.args("sleep")) for _ in range((os.cpu_count() or 1) + 1)]
    refused = [c.result for c in every if c.result.code != 0]
    assert refused
    assert "process.scheduler: set the scheduler: sched_setattr" in refused[0].err
    assert "bandwidth" in refused[0].err


def test_exec_has_the_containers_scheduler(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 7}
    container = rt.create(bundle.args("sleep")).start()
    found = fields(container.exec("sched").ok().out)
    assert (found["policy"], found["nice"]) == ("3", "7")


def test_time_offsets_of_exec_and_of_a_joined_namespace(
    rt: Runtime, bundle: Bundle, make_bundle: Any
) -> None:
    bundle.namespace("time")
    bundle.linux["timeOffsets"] = {"monotonic": {"secs": 100000, "nanosecs": 999_999_999}}
    container = rt.create(bundle.args("sleep")).start()
    assert int(fields(container.exec("clocks").ok().out)["monotonic"]) >= 100000
    other = make_bundle()
    other.namespace("time", f"/proc/{container.pid}/ns/time")
    found = rt.run(other.args("clocks")).ok().out
    assert int(fields(found)["monotonic"]) >= 100000


def test_negative_offsets_before_the_boot_are_refused(rt: Runtime, bundle: Bundle) -> None:
    bundle.namespace("time")
    bundle.linux["timeOffsets"] = {"boottime": {"secs": -(1 << 40)}}
    result = rt.try_create(bundle.args("sleep")).result.failed("timeOffsets", code=1)
    assert "timens_offsets" in result.err

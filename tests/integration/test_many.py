"""What a verb does must not grow with the number of other containers. System calls are counted: they do not depend on
how busy the machine is. `python -m bench scale` has the times with 1,000 containers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.harness import Bundle, Runtime

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")

FEW, MANY = 4, 64
ONE = (("state",), ("ps", "--format", "json"), ("kill",), ("update", "--cpu-share", "512"))
LISTS = (("list",), ("list", "--quiet"), ("list", "--format", "json"))


@pytest.fixture
def calls(rt: Runtime, place: Path) -> Callable[..., int]:
    """The number of system calls of a verb's own process."""

    def count(*args: str) -> int:
        log = place / "calls"
        rt.call(*args, prefix=["strace", "-qq", "-o", str(log)]).ok()
        return len(log.read_text().splitlines())

    return count


def test_verbs_cost_the_same_among_many(
    rt: Runtime, bundle: Bundle, calls: Callable[..., int]
) -> None:
    """One container's verbs with 4 and with 64 alive; `list` pays for each container alike."""
    one: list[dict[str, int]] = []
    lists: list[dict[str, int]] = [{" ".join(words): calls(*words) for words in LISTS}]
    bundle.write()
    where = ("--bundle", str(bundle.path))
    for size in (FEW, MANY):
        while len(rt.containers) < size:
            rt.create(bundle)
        target = rt.containers[size // 2].id
        found = {
            words[0]: calls(*words, target, *(["WINCH"] if words == ("kill",) else []))
            for words in ONE
        }
        more = rt.track(bundle)
        found["create"] = calls("create", *where, more.id)
        found["delete"] = calls("delete", more.id)
        rt.containers.remove(more)
        one.append(found)
        lists.append({" ".join(words): calls(*words) for words in LISTS})
    few, many = one
    for verb, number in few.items():
        # A pid may have a digit more, a wait may be cut into two.
        assert abs(many[verb] - number) <= 4, (
            f"{verb}: {number} calls with {FEW}, {many[verb]} with {MANY}"
        )
    empty, short, long = lists
    for verb, number in empty.items():
        first, last = (short[verb] - number) / FEW, (long[verb] - number) / MANY
        assert last <= first + 0.5, (
            f"{verb}: {first} calls for each of {FEW}, {last} for each of {MANY}"
        )


def test_list_needs_no_descriptor_for_each(rt: Runtime, bundle: Bundle) -> None:
    bundle.write()
    made = {rt.create(bundle).id for _ in range(20)}
    few = ["prlimit", "--nofile=16:16"]
    assert set(rt.call("list", "--quiet", prefix=few).ok().lines) == made
    assert {one["id"] for one in rt.call("list", "-f", "json", prefix=few).ok().json()} == made


@pytest.mark.parametrize(("uid", "name"), [(0, "root"), (1, "daemon"), (54321, "#54321")])
def test_list_names_owners(rt: Runtime, bundle: Bundle, uid: int, name: str) -> None:
    """root's name is known; whoever else it is, the full interpreter asks."""
    bundle.write()
    container = rt.create(bundle)
    if rt.kind == "ociruntime":
        path = rt.root / container.id / "state.json"
        state = json.loads(path.read_text())
        path.write_text(json.dumps({**state, "owner": uid}))
    elif uid:
        pytest.skip("writes into ociruntime's state")
    title, line = rt.call("list").ok().lines
    assert (title.split()[-1], line.split()[-1]) == ("OWNER", name)
    assert [one["owner"] for one in rt.call("list", "-f", "json").ok().json()] == [name]

"""A hypothesis strategy for configs that are almost right."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

WORDS = [
    "", "/", "/proc", "/proc/self", "proc", "../x", "1.3.0", "2.0.0", "1.0", "private", "rslave", "rshared",
    "SCMP_ACT_ERRNO", "SCMP_ACT_NOTIFY", "SCMP_ACT_ALLOW", "SCMP_ACT_allow", "SCMP_CMP_EQ", "SCMP_ARCH_X86",
    "CAP_KILL", "RLIMIT_CORE", "RLIMIT_CORE\n", "RLIMIT_", "RLIMIT_FOO", "rlimit_core", "MPOL_LOCAL",
    "MPOL_F_RELATIVE_NODES", "SCHED_FIFO", "SCHED_FLAG_RECLAIM", "mount", "user", "uts", "pid", "2MB",
    "2MB\n", "0MB", "64kB", "MB:0=1", "MB:0=1\nx", "MB", "0-3,7", "3-1", "0-", "a", "A=b", "=", "c", "b", "p",
    "IOPRIO_CLASS_RT", "LINUX32", "idmap", "bind", "rwm", "x\x00y", "é", "\ud83d\ude00", "new", "disable",
    "class", "raw",
]  # fmt: skip
INTEGERS = [
    0, 1, -1, 2, 5, 7, 8, 99, 255, 256, 511, 512, 1000, -1000, 4095, 8630, 65535, 65536, 2**31 - 1, 2**31,
    -(2**31) - 1, 2**32 - 1, 2**32, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, 10**30,
]  # fmt: skip

_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(INTEGERS),
    st.sampled_from([0.0, 1.0, 1.5, -0.5, 1e3]),
    st.sampled_from(WORDS),
)
_values: st.SearchStrategy[Any] = st.one_of(
    _scalars,
    st.lists(_scalars, max_size=3),
    st.dictionaries(st.sampled_from(WORDS), _scalars, max_size=2),
    st.builds(list),
    st.builds(dict),
)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) of a document."""
    found: list[tuple[Any, Any]] = []
    children = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    for key, child in children:
        found.append((value, key))
        found += _places(child)
    return found


def _mutate(document: Any, draw: Any) -> None:
    places = _places(document)
    if not places:
        return
    container, key = places[draw(st.integers(0, len(places) - 1))]
    value = container[key]
    kinds = ["replace", "delete", "wrap"]
    if isinstance(value, dict | list):
        kinds += ["add", "add", "double"]
    if isinstance(value, int | str) and not isinstance(value, bool):
        kinds += ["change"] * 8
    if isinstance(container, dict):
        kinds.append("rename")
    kind = draw(st.sampled_from(kinds))
    if kind == "replace":
        container[key] = draw(_values)
    elif kind == "delete":
        del container[key]
    elif kind == "wrap":
        container[key] = [value]
    elif kind == "rename":
        container[
            draw(st.sampled_from([f"{key}s", key[:-1], key.upper(), "", "a/b~c", "x\n", "\n"]))
        ] = container.pop(key)
    elif kind == "double":
        if isinstance(value, list):
            value += copy.deepcopy(value[:1])
        else:
            container[key] = [value, copy.deepcopy(value)]
    elif kind == "add":
        if isinstance(value, list):
            value.insert(draw(st.integers(0, len(value))), draw(_values))
        else:
            value[draw(st.sampled_from(WORDS))] = draw(_values)
    elif isinstance(value, str):
        container[key] = draw(
            st.sampled_from([value + "\n", value + "x", value[1:], value.swapcase(), *WORDS])
        )
    else:
        container[key] = draw(
            st.sampled_from(
                [value + 1, -value, value * 2**32, float(value) + 0.5, str(value), *INTEGERS]
            )
        )


def configs(bases: list[Any]) -> st.SearchStrategy[Any]:
    """One of the base configs with one to three changes."""

    @st.composite
    def strategy(draw: Any) -> Any:
        document = copy.deepcopy(bases[draw(st.integers(0, len(bases) - 1))])
        for _ in range(draw(st.integers(1, 3))):
            _mutate(document, draw)
        return document

    return strategy()


def bases(data: Path, fixtures: Path | None) -> list[Any]:
    """The sample configs (long lists shortened, to keep the runs short) and the official good ones."""
    paths = sorted(data.glob("*.json"))
    if fixtures is not None:
        paths += sorted(fixtures.glob("config/good/*.json"))
    documents = [json.loads(path.read_text()) for path in paths]
    for document in documents:
        document["ociVersion"] = (
            "1.3.0"  # one of them has an unsupported one, which would be all there is to say
        )
        for rule in document.get("linux", {}).get("seccomp", {}).get("syscalls", []):
            del rule["names"][3:]
        for name in ("maskedPaths", "readonlyPaths"):
            if name in document.get("linux", {}):
                del document["linux"][name][2:]
    return documents

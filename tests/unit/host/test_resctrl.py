"""linux.intelRdt on a fake resctrl tree (config-linux.md "IntelRdt"; no machine of ours has the hardware)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_resctrl import FakeResctrl

from ociruntime import errors
from ociruntime.host import resctrl, resctrl_stats


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeResctrl:
    return FakeResctrl(tmp_path / "resctrl").install(monkeypatch)


def made(rdt: dict[str, Any]) -> resctrl.Group:
    """As create does: decide, write down, make."""
    group = resctrl.from_state(resctrl.decide(rdt, "c1").to_state())
    group.create(rdt)
    return group


def test_without_resctrl_it_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text("1 0 8:1 / / rw - ext4 resctrl rw\n")
    with pytest.raises(errors.Error, match="no resctrl file system is mounted") as caught:
        resctrl.decide({}, "c1", str(tmp_path))
    assert (caught.value.pointer, bool(caught.value.hint)) == ("/linux/intelRdt", True)


def test_without_a_class_it_is_named_after_the_container(tree: FakeResctrl) -> None:
    group = made({"l3CacheSchema": "L3:0=f"})
    assert group.path == str(tree.top / "c1")
    group.assign((12,))
    assert (tree.top / "c1/tasks").read_text() == "12\n"
    assert "L3:0=f" in (tree.top / "c1/schemata").read_text()
    (tree.top / "c1/tasks").write_text("")  # its process has ended
    group.delete()
    assert not (tree.top / "c1").exists()


def test_a_class_of_the_containers_name_is_not_taken_over(tree: FakeResctrl) -> None:
    tree.mkdir(str(tree.top / "c1"), 0o755)
    with pytest.raises(errors.Error, match="exists already"):
        resctrl.decide({}, "c1")


def test_without_schemas_none_is_written(tree: FakeResctrl) -> None:
    made({})
    assert tree.writes == []


def test_order_of_the_schemas(tree: FakeResctrl) -> None:
    """The two old properties in one write; schemata after them, as it may name the same resource again."""
    made({"memBwSchema": "MB:0=50", "l3CacheSchema": "L3:0=f", "schemata": ["L3:1=3", "MB:1=20"]})
    assert tree.writes == [
        ("c1/schemata", "L3:0=f\nMB:0=50\n"),
        ("c1/schemata", "L3:1=3\nMB:1=20\n"),
    ]


def test_bandwidth_in_the_cache_schema_gives_way(tree: FakeResctrl) -> None:
    made({"memBwSchema": "MB:0=50", "l3CacheSchema": "MB:0=10"})
    assert tree.writes == [("c1/schemata", "MB:0=50\n")]


def test_default_class(tree: FakeResctrl) -> None:
    group = made({"closID": "/"})
    group.assign((12,))
    assert (tree.top / "tasks").read_text() == "12\n"
    group.delete()
    assert (tree.top / "schemata").exists()


def test_class_without_schemas_must_exist(tree: FakeResctrl) -> None:
    with pytest.raises(errors.Error, match="class gold does not exist") as caught:
        resctrl.decide({"closID": "gold"}, "c1")
    assert caught.value.pointer == "/linux/intelRdt/closID"
    tree.mkdir(str(tree.top / "gold"), 0o755)
    group = made({"closID": "gold"})
    group.delete()
    assert (tree.top / "gold").exists(), "removed what it had not made"


def test_class_with_schemas_is_made(tree: FakeResctrl) -> None:
    group = made({"closID": "gold", "memBwSchema": "MB:0=50"})
    assert "MB:0=50" in (tree.top / "gold/schemata").read_text()
    group.delete()
    assert not (tree.top / "gold").exists()


@pytest.mark.parametrize("same", ["L3:0=f;1=ff", "L3:1=0ff", " L3 : 00 = 0F", "L3:0=f"])
def test_existing_class_with_the_same_schemata(tree: FakeResctrl, same: str) -> None:
    tree.mkdir(str(tree.top / "gold"), 0o755)
    (tree.top / "gold/schemata").write_text("    L3:0=00f;1=0ff\n    MB:0=100\n")
    made({"closID": "gold", "l3CacheSchema": same})
    assert tree.writes == []


@pytest.mark.parametrize(
    "rdt",
    [
        {"l3CacheSchema": "L3:0=7"},
        {"l3CacheSchema": "L3:2=f"},
        {"memBwSchema": "MB:0=10"},
        {"schemata": ["L3:0=f", "L2:0=f"]},
    ],
)
def test_existing_class_with_other_schemata(tree: FakeResctrl, rdt: dict[str, Any]) -> None:
    tree.mkdir(str(tree.top / "gold"), 0o755)
    (tree.top / "gold/schemata").write_text("    L3:0=f;1=ff\n    MB:0=100\n")
    with pytest.raises(errors.Error, match="exists with other schemata: wanted"):
        made({"closID": "gold", **rdt})
    assert tree.writes == []


def test_a_class_that_others_use_stays(tree: FakeResctrl) -> None:
    """Removing it would put their tasks into the default class."""
    group = made({"closID": "gold", "memBwSchema": "MB:0=50"})
    (tree.top / "gold/tasks").write_text("77\n")
    group.delete()
    assert (tree.top / "gold").exists()


def test_monitoring_group(tree: FakeResctrl) -> None:
    group = made({"closID": "/", "enableMonitoring": True})
    group.assign((12, 13))
    assert (tree.top / "mon_groups/c1/tasks").read_text() == "12\n13\n"
    group.delete()
    assert list((tree.top / "mon_groups").iterdir()) == []


def test_monitoring_group_of_another(tree: FakeResctrl) -> None:
    tree.mkdir(str(tree.top / "mon_groups/c1"), 0o755)
    rdt = {"closID": "/", "enableMonitoring": True}
    group = resctrl.decide(rdt, "c1")
    with pytest.raises(errors.Error, match=r"monitoring group .* exists already"):
        group.create(rdt)
    group.delete()
    assert (tree.top / "mon_groups/c1").exists()


def test_refused_schemata(tree: FakeResctrl) -> None:
    """The kernel's own explanation is the hint."""
    group = resctrl.decide({}, "c1")
    with pytest.raises(
        errors.Error, match=r"write L9:0=f to .*/c1/schemata: invalid arg"
    ) as caught:
        group.create({"schemata": ["L9:0=f"]})
    assert caught.value.hint == "Unknown or duplicate domain"
    group.delete()
    assert not (tree.top / "c1").exists()


def test_no_class_left(tree: FakeResctrl) -> None:
    tree.ids = 0
    with pytest.raises(errors.Error, match=r"mkdir .*/c1: no space left") as caught:
        made({})
    assert caught.value.hint is not None and "no free class" in caught.value.hint


def test_a_task_that_is_gone(tree: FakeResctrl, monkeypatch: pytest.MonkeyPatch) -> None:
    group = made({})

    def gone(path: str, text: str) -> None:
        raise ProcessLookupError(3, "gone")

    monkeypatch.setattr(resctrl.files, "write", gone)
    group.assign((12,))


ATTRIBUTES = {
    "info/L3/cbm_mask": "7\n",
    "info/L3/min_cbm_bits": "1\n",
    "info/L3/num_closids": "16\n",
    "info/MB/bandwidth_gran": "10\n",
    "info/MB/delay_linear": "1\n",
    "info/MB/min_bandwidth": "10\n",
    "info/MB/num_closids": "8\n",
    "mon_groups/c1/mon_data/mon_L3_00/llc_occupancy": "4096\n",
    "mon_groups/c1/mon_data/mon_L3_00/mbm_local_bytes": "11\n",
    "mon_groups/c1/mon_data/mon_L3_00/mbm_total_bytes": "22\n",
    "mon_groups/c1/mon_data/mon_L3_01/llc_occupancy": "Unavailable\n",
    "mon_groups/c1/mon_data/mon_L3_01/mbm_local_bytes": "33\n",
    "mon_groups/c1/mon_data/mon_sub_L3_00/llc_occupancy": "7\n",
    "mon_data/mon_L3_00/llc_occupancy": "99\n",
}


def test_figures(tree: FakeResctrl) -> None:
    """Of the monitoring group where there is one, in the layout of runc's events; what counts nothing is left out."""
    group = made({"closID": "gold", "schemata": ["L3:0=f"], "enableMonitoring": True})
    for name, text in ATTRIBUTES.items():
        path = tree.top / name.replace("mon_groups/c1", "gold/mon_groups/c1")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = resctrl_stats.stats(group.path, group.monitor)
    assert "L3:0=f" in found.pop("schemata").splitlines()
    assert found == {
        "l3_cache_info": {"cbm_mask": "7", "min_cbm_bits": 1, "num_closids": 16},
        "mem_bw_info": {
            "bandwidth_gran": 10,
            "delay_linear": 1,
            "min_bandwidth": 10,
            "num_closids": 8,
        },
        "l3_cache_schema": "L3:0=f",
        "l3_cache_schema_root": "L3:0=ff;1=ff",
        "mem_bw_schema": "MB:0=100;1=100",
        "mem_bw_schema_root": "MB:0=100;1=100",
        "mbm_stats": [
            {"mbm_total_bytes": 22, "mbm_local_bytes": 11},
            {"mbm_local_bytes": 33},
        ],
        "cmt_stats": [{"llc_occupancy": 4096}],
    }
    of_the_root = resctrl_stats.stats(str(tree.top), "")
    assert of_the_root["cmt_stats"] == [{"llc_occupancy": 99}]
    assert of_the_root["l3_cache_schema"] == of_the_root["l3_cache_schema_root"]


def test_figures_of_a_processor_that_monitors_nothing(tree: FakeResctrl) -> None:
    group = made({"l3CacheSchema": "L3:0=f"})
    found = resctrl_stats.stats(group.path, group.monitor)
    assert not {"cmt_stats", "mbm_stats", "l3_cache_info", "mem_bw_info"} & set(found)
    assert resctrl_stats.stats(str(tree.top / "gone"), "")["schemata"] == ""

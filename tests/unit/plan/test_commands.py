"""The verbs plan, spec and features."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ociruntime.commands import features, spec
from ociruntime.plan import mount_options, words

REPOSITORY = Path(__file__).resolve().parents[3]
DATA = REPOSITORY / "tests" / "data"


def python(code: str, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds the package."""
    prelude = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); "
    return subprocess.run(
        [sys.executable, "-c", prelude + code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        **more,
    )


def cli(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return python(
        "from ociruntime import cli; sys.exit(cli.main(sys.argv[1:]))", *arguments, **more
    )


@pytest.fixture
def bundle() -> Iterator[Path]:
    """A bundle that every user can read, which nothing below pytest's own directory is."""
    with tempfile.TemporaryDirectory(prefix="ociruntime-plan-") as name:
        path = Path(name)
        path.chmod(0o755)
        (path / "rootfs").mkdir()
        (path / "config.json").write_bytes((DATA / "spec-default.json").read_bytes())
        yield path


class TestPlan:
    def test_text(self, bundle: Path) -> None:
        done = cli("plan", "-b", str(bundle), "name")
        assert done.returncode == 0, done.stderr
        assert "mount proc on /proc  <- config.json:" in done.stdout
        assert "join session keyring _ses.name" in done.stdout

    def test_json(self, bundle: Path) -> None:
        done = cli("plan", "--format=json", "-b", str(bundle))
        document = json.loads(done.stdout)
        assert document["operations"][-1]["operation"] == "EXEC"
        assert document["operations"][-1]["arguments"]["argv"] == ["sh"]

    def test_options(self, bundle: Path) -> None:
        done = cli("plan", "--no-pivot", "--no-new-keyring", "-b", str(bundle))
        assert "keyctl" not in done.stdout
        assert "method=move" in done.stdout

    def test_changes_nothing(self, bundle: Path) -> None:
        before = sorted(str(path) for path in bundle.rglob("*"))
        mounts = Path("/proc/self/mountinfo").read_text()
        assert cli("plan", "-b", str(bundle)).returncode == 0
        assert sorted(str(path) for path in bundle.rglob("*")) == before
        assert Path("/proc/self/mountinfo").read_text() == mounts

    @pytest.mark.root
    def test_gives_up_every_capability_before_it_reads(self) -> None:
        done = python(
            "from ociruntime.commands import plan; plan.give_up_privileges();"
            "print(open('/proc/self/status').read())"
        )
        status = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
        assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh")} == {0}
        assert status["NoNewPrivs"] == "1"

    @pytest.mark.root
    def test_same_plan_for_root_as_before_dropping(self, bundle: Path) -> None:
        document = json.loads(cli("plan", "--format", "json", "-b", str(bundle)).stdout)
        assert "rootfs" in [item["name"] for item in document["descriptors"]]
        assert document["warnings"] == []

    @pytest.mark.root
    def test_ordinary_user(self, open_tree: None, bundle: Path) -> None:
        readable = python("import cffi", user=65534, group=65534, extra_groups=[])
        if readable.returncode:
            pytest.skip("this interpreter cannot be read by an ordinary user")
        done = cli("plan", "-b", str(bundle), user=65534, group=65534, extra_groups=[])
        assert done.returncode == 0, done.stderr
        assert "rootfs  source=" not in done.stdout, "an ordinary user hands no tree over"

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            (
                {"mounts": [{"destination": "/a", "source": "/none/such", "options": ["bind"]}]},
                "mounts[0].source: bind source /none/such: no such file or directory",
            ),
            ({"ociVersion": 3}, "ociVersion"),
        ],
    )
    def test_errors(self, bundle: Path, change: dict[str, Any], text: str) -> None:
        path = bundle / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}, indent=1))
        done = cli("plan", "-b", str(bundle))
        assert done.returncode == 1
        assert done.stdout == ""
        assert text in done.stderr
        assert "Traceback" not in done.stderr

    def test_no_bundle(self, tmp_path: Path) -> None:
        done = cli("plan", "-b", str(tmp_path))
        assert done.returncode == 1
        assert "no such file or directory" in done.stderr

    def test_unknown_format(self, bundle: Path) -> None:
        done = cli("plan", "-b", str(bundle), "--format", "xml")
        assert done.returncode == 1
        assert "unknown format 'xml'" in done.stderr


class TestSpec:
    def test_default(self, tmp_path: Path) -> None:
        done = cli("spec", "--bundle", str(tmp_path))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        written = (tmp_path / "config.json").read_text()
        assert written.startswith('{\n\t"ociVersion": "1.3.0",\n')
        config = json.loads(written)
        sample = json.loads((DATA / "spec-default.json").read_text())
        masked = config["linux"].pop("maskedPaths")
        assert set(sample["linux"].pop("maskedPaths")) < set(masked)
        kinds = [entry["type"] for entry in config["linux"].pop("namespaces")]
        assert kinds[:5] == [entry["type"] for entry in sample["linux"].pop("namespaces")][:5]
        assert config.pop("ociVersion") == "1.3.0"
        del sample["ociVersion"]  # the sample is what an older runc writes
        assert config == sample

    def test_nothing_is_inheritable(self) -> None:
        """CVE-2022-29162."""
        sets = spec.default_config(cgroup_namespace=False)["process"]["capabilities"]
        assert set(sets) == {"bounding", "effective", "permitted"}

    def test_hides_what_the_record_asks_for(self) -> None:
        """CVE-2015-3630, and the energy counters' side channel."""
        masked = spec.default_config(cgroup_namespace=False)["linux"]["maskedPaths"]
        assert {
            "/proc/kcore",
            "/proc/keys",
            "/sys/firmware",
            "/sys/devices/virtual/powercap",
        } < set(masked)
        assert len(spec.default_config(cgroup_namespace=False)["linux"]["readonlyPaths"]) == 5

    @pytest.mark.parametrize("own", [True, False])
    def test_cgroup_namespace(self, own: bool) -> None:
        entries = spec.default_config(cgroup_namespace=own)["linux"]["namespaces"]
        assert ({"type": "cgroup"} in entries) is own

    def test_rootless(self) -> None:
        config = spec.default_config(cgroup_namespace=False)
        spec.make_rootless(config, 1000, 1001)
        linux = config["linux"]
        assert [entry["type"] for entry in linux["namespaces"]] == [
            "pid",
            "ipc",
            "uts",
            "mount",
            "user",
        ]
        assert linux["uidMappings"] == [{"containerID": 0, "hostID": 1000, "size": 1}]
        assert linux["gidMappings"] == [{"containerID": 0, "hostID": 1001, "size": 1}]
        assert "resources" not in linux
        mounts = {mount["destination"]: mount for mount in config["mounts"]}
        assert mounts["/sys"] == {
            "destination": "/sys",
            "type": "none",
            "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
        }
        assert "gid=5" not in mounts["/dev/pts"]["options"]

    def test_does_not_overwrite(self, tmp_path: Path) -> None:
        path = tmp_path / "config.json"
        path.write_text("mine")
        done = cli("spec", "-b", str(tmp_path))
        assert done.returncode == 1
        assert "file config.json exists. Remove it first" in done.stderr
        assert path.read_text() == "mine"

    def test_not_through_a_dangling_link(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").symlink_to(tmp_path / "elsewhere")
        assert cli("spec", "-b", str(tmp_path)).returncode == 1
        assert not (tmp_path / "elsewhere").exists()

    def test_no_such_bundle(self, tmp_path: Path) -> None:
        done = cli("spec", "-b", str(tmp_path / "none"))
        assert done.returncode == 1
        assert "no such file or directory" in done.stderr


class TestFeatures:
    def test_only_json_on_stdout(self) -> None:
        done = cli("features")
        assert done.returncode == 0
        assert json.loads(done.stdout) == features.document()

    def test_follows_its_schema(self) -> None:
        from ociruntime.spec import explain

        assert explain.is_valid(features.document(), "features")

    def test_follows_the_official_schema(self, shared: Path) -> None:
        jsonschema = pytest.importorskip("jsonschema")
        from referencing import Registry, Resource
        from referencing.jsonschema import DRAFT4

        folder = shared / "oci-schema"
        schemas = {
            path.name: json.loads(path.read_text())
            for path in folder.rglob("*.json")
            if "test" not in path.parts
        }
        registry: Any = Registry().with_resources(
            [
                (name, Resource.from_contents(schema, default_specification=DRAFT4))
                for name, schema in schemas.items()
            ]
        )
        validator = jsonschema.Draft4Validator(schemas["features-schema.json"], registry=registry)
        assert [error.message for error in validator.iter_errors(features.document())] == []

    def test_truthful(self) -> None:
        document = features.document()
        assert len(document["linux"]["capabilities"]) == 41
        assert set(document["linux"]["namespaces"]) == set(words.NAMESPACES)
        assert {"rro", "idmap", "ridmap", "tmpcopyup"} < set(document["mountOptions"])
        for word in document["mountOptions"]:
            assert mount_options.parse([word]).data == []
        assert (
            document["linux"]["cgroup"]["systemd"] is True
        )  # test_systemd_fake.py, test_systemd.py
        assert set(document["linux"]["seccomp"].get("supportedFlags", [])) <= set(
            document["linux"]["seccomp"].get("knownFlags", [])
        )

"""The example that tells the whole story: it runs, with a control, and what it claims is checked by it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from examples import docker_story
from examples.story_kit import ENGINES, Story
from tests.integration.harness import runtime_path

pytestmark = pytest.mark.root
CLAIMS = {"ociruntime": 34, "runc": 32}  # runc 1.1 knows no time namespace
UNSEEN = {"docker": 0, "podman": 1}  # OOMKilled: conmon misses it with each runtime


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """The story makes its own engines, and looks itself whether they left something."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine_name", "runtime"),
    [("docker", "ociruntime"), ("docker", "runc"), ("podman", "ociruntime")],
)
def test_story(engine_name: str, runtime: str, repository: Path) -> None:
    tools = [ENGINES[engine_name].command, "docker-registry", "jq", "cc", "tini"]
    if absent := [tool for tool in tools if shutil.which(tool) is None]:
        pytest.skip(f"not installed: {', '.join(absent)}")
    path = runtime if runtime != "ociruntime" else runtime_path()
    if path is None:
        pytest.skip("the runtime under test is not built")
    script = repository / "examples/docker_story.py"
    command = [sys.executable, script, "--engine", engine_name, "--runtime", str(path)]
    story = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = story.communicate(timeout=280)
    finally:
        story.kill()
    assert story.returncode == 0, out[-3000:] + err
    claims = CLAIMS[runtime] - UNSEEN[engine_name]
    assert out.count("✓") == claims and f"all {claims} claims held" in out
    tops = Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")
    assert not [top for top in tops if (top / f"story{story.pid}").exists()]


def lie(story: Story) -> None:
    story.claim("water flows uphill", False)


def test_a_claim_that_does_not_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends the story with status 1."""
    monkeypatch.setattr(docker_story, "STEPS", [lie, docker_story.cleanup])
    assert docker_story.main(["--runtime", "/bin/true"]) == 1
    seen = capsys.readouterr()
    assert "this does not hold: water flows uphill" in seen.err and "✓" not in seen.out


def test_a_command_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(docker_story, "STEPS", [lambda story: story.run("echo no; exit 3")])
    assert docker_story.main(["--runtime", "/bin/true"]) == 1
    assert "status 3: echo no; exit 3" in capsys.readouterr().err

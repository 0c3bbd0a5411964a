"""The snippets of docs/kubernetes.md fit together; the nodes of tests/engines start with its configurations."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path


def test_names(repository: Path) -> None:
    """Handlers of all engines, of the RuntimeClass and of the pods are the same."""
    text = (repository / "docs/kubernetes.md").read_text()
    found = re.findall(r"^```(toml|yaml)\n(.*?)^```", text, re.M | re.S)
    snippets = {kind: [block for k, block in found if k == kind] for kind in ("toml", "yaml")}
    newer, older, crio = (tomllib.loads(block) for block in snippets["toml"])
    plugins = (newer["plugins"]["io.containerd.cri.v1.runtime"]["containerd"],)
    plugins += (older["plugins"]["io.containerd.grpc.v1.cri"]["containerd"],)
    for tables in (*plugins, crio["crio"]["runtime"]):
        assert list(tables["runtimes"]) == ["ociruntime"]
    manifests = "".join(snippets["yaml"])
    assert re.findall(r"^handler: (.*)$", manifests, re.M) == ["ociruntime"]
    [name] = re.findall(r"^kind: RuntimeClass\nmetadata:\n  name: (.*)$", manifests, re.M)
    assert re.findall(r"runtimeClassName: (.*)$", manifests, re.M) == [name, name]

"""containerd's CRI plugin, called over gRPC as the kubelet calls it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import signal
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from conformance.kit import Result, poll
from tests.engines.drivers.base import OURS
from tests.engines.drivers.containerd import Containerd
from tests.engines.streaming import Forward, Stream
from tests.engines.world import TIMEOUT
from tests.integration.harness import runtime_path

__all__ = ["BOX", "NODES", "Container", "Cri", "Cri2", "CriError", "Pod", "documented"]

BOX = "localhost/busybox:latest"
PAUSE = "localhost/pause:1"
PROTO = "tests/engines/cri.proto"
KUBERNETES = Path(__file__).resolve().parents[3] / "docs/kubernetes.md"
READY, NOT_READY = 0, 1
CREATED, RUNNING, EXITED, UNKNOWN = range(4)
NETWORK = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cri0",
            "isGateway": True,
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni",
                "ranges": [[{"subnet": "10.88.0.0/16"}]],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


# The kinds of nodes that shared tests run on; the newer one only where it was built.
NODES = ("cri", "cri2") if "OCIRUNTIME_CONTAINERD2" in os.environ else ("cri",)


class CriError(Exception):
    """What the daemon answered instead: `code` is gRPC's, in capitals."""

    def __init__(self, call: str, code: str, text: str) -> None:
        super().__init__(f"{call}: {code}: {text}")
        self.code = code
        self.text = text


def pack_images(place: Path) -> None:
    """Write `place`/images.tar, which `ctr images import` reads: BOX and PAUSE of one layer."""
    layer = (place / "image.tar").read_bytes()
    digest = hashlib.sha256(layer).hexdigest()
    parts = {"layer.tar": layer}
    manifest = []
    programs = {BOX: ["sh"], PAUSE: ["sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait"]}
    for name, program in programs.items():
        config = {
            "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": program},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created_by": name}],
        }
        data = json.dumps(config).encode()
        file = f"{hashlib.sha256(data).hexdigest()}.json"
        parts[file] = data
        manifest.append({"Config": file, "RepoTags": [name], "Layers": ["layer.tar"]})
    parts["manifest.json"] = json.dumps(manifest).encode()
    with tarfile.open(place / "images.tar", "w") as archive:
        for name, data in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def documented(head: str, name: str, path: Path) -> str:
    """The configuration of docs/kubernetes.md that begins with `head`, for a handler `name`."""
    blocks = re.findall(r"^```toml\n(.*?)^```", KUBERNETES.read_text(), re.M | re.S)
    [block] = [text for text in blocks if text.startswith(head)]
    example = "/usr/local/bin/ociruntime"
    assert example in block
    return block.replace(example, "\0").replace("ociruntime", name).replace("\0", str(path))


class Cri(Containerd):
    """A node: containerd with its CRI plugin, both runtimes as handlers; `runtime` is the one in use."""

    kind = "cri"
    files = (Path("/usr/lib/cni/bridge"),)
    daemon_command = "containerd"
    config_version = 2
    configuration = "/run/containerd.toml"
    log = "/run/containerd.log"
    left_files: ClassVar[dict[str, str]] = {
        "/run/netns": "*",
        "/run/cni/pods": "10.*",
        "/run/containerd-state/io.containerd.runtime.v2.task/k8s.io": "*",
        "/run/containerd-state/io.containerd.grpc.v1.cri/sandboxes": "*",
        "/run/containerd-root/io.containerd.grpc.v1.cri/containers": "*",
    }

    def __init__(self, name: str, runtime: str, path: Path) -> None:
        ours = runtime_path()  # both are handlers, whichever is in use
        super().__init__(name, runtime, Path(ours).absolute() if ours else path)

    def start(self) -> None:
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # no child of a test calls
        import grpc

        self.grpc = grpc
        self.messages, services = grpc.protos_and_services(PROTO)
        pack_images(self.world.path("/run"))
        network = self.world.path("/run/cni.d")
        network.mkdir()
        (network / "pods.conflist").write_text(json.dumps(NETWORK))
        self.world.path(self.configuration).write_text(self.config())
        self.start_daemon()
        self.channel = grpc.insecure_channel(f"unix://{self.world.path(self.socket)}")
        self.stubs = {
            method: getattr(services, f"{service.name}Stub")(self.channel)
            for service in self.messages.DESCRIPTOR.services_by_name.values()
            for method in service.methods_by_name
        }
        self.types = {
            method.name: getattr(self.messages, method.input_type.name)
            for service in self.messages.DESCRIPTOR.services_by_name.values()
            for method in service.methods
        }

    def config(self) -> str:
        """containerd's configuration: its own places, no network to reach, two handlers."""
        disabled = [f'"io.containerd.snapshotter.v1.{n}"' for n in ("btrfs", "zfs", "devmapper")]
        lines = [f"version = {self.config_version}", 'root = "/run/containerd-root"']
        lines += ['state = "/run/containerd-state"', f"disabled_plugins = [{', '.join(disabled)}]"]
        lines += ["[grpc]", f'address = "{self.socket}"']
        lines += ['[plugins."io.containerd.internal.v1.opt"]', 'path = "/run/containerd-opt"']
        lines += self.plugin_config()
        head = f"version = {self.config_version}\n"
        for name, path in ((OURS, self.world.runtime), ("runc", self.control())):
            lines += [documented(head, name, path).removeprefix(head)]
            lines += (
                ["SystemdCgroup = true"] if self.world.systemd else []
            )  # in the table of options
        return "\n".join(lines) + "\n"

    def plugin_config(self) -> list[str]:
        plugin = '[plugins."io.containerd.grpc.v1.cri"'
        lines = [f"{plugin}]", f'sandbox_image = "{PAUSE}"', 'stream_server_address = "127.0.0.1"']
        lines += ["restrict_oom_score_adj = true"]  # root may lack CAP_SYS_RESOURCE
        return [*lines, f"{plugin}.cni]", 'bin_dir = "/usr/lib/cni"', 'conf_dir = "/run/cni.d"']

    def control(self) -> Path:
        return Path("/usr/sbin/runc")

    def start_daemon(self) -> None:
        self.daemon = self.world.daemon(
            *(self.daemon_command, "--config", self.configuration),
            log=self.log,
            ready=lambda: self.world.path(self.socket).exists(),
            env=self.env,
        )

    def end_daemon(self, how: signal.Signals) -> None:
        """End containerd alone: the shims and their containers go on."""
        [pid] = [p for p, t in self.world.processes().items() if self.is_daemon(t)]
        self.world.call("kill", f"-{how.value}", str(pid)).ok()
        self.daemon.wait(timeout=TIMEOUT)
        self.world.path(self.socket).unlink(missing_ok=True)

    def is_daemon(self, command: str) -> bool:
        return command.startswith(f"{self.daemon_command} --config")

    def odd(self, pid: int, command: str) -> bool:
        return super().odd(pid, command) and not self.is_daemon(command)

    def prepare(self) -> None:
        self.ctr("images", "import", "/run/images.tar").ok()
        poll(self.ready, "the node does not become ready", timeout=30.0)

    def ready(self) -> bool:
        """Whether the runtime and the network are up and the images known."""
        try:
            names = {tag for i in self.ask("ListImages").images for tag in i.repo_tags}
            conditions = self.ask("Status").status.conditions
        except CriError:
            return False
        return {BOX, PAUSE} <= names and all(c.status for c in conditions)

    def ctr(self, *args: str) -> Result:
        return self.call("--namespace", "k8s.io", *args)

    def ask(self, method: str, *, deadline: float = TIMEOUT, **fields: Any) -> Any:
        """One call; `fields` are those of its request.  Raises CriError, also after `deadline` seconds."""
        from google.protobuf import json_format

        request = json_format.ParseDict(fields, self.types[method]())
        try:
            return getattr(self.stubs[method], method)(
                request, timeout=deadline, wait_for_ready=True
            )
        except self.grpc.RpcError as error:
            raise CriError(method, error.code().name, error.details() or "") from None

    def pod(
        self,
        *,
        network: str = "POD",
        pid: str = "CONTAINER",
        ipc: str = "POD",
        security: Mapping[str, Any] | None = None,
        handler: str | None = None,
        user_namespace: Mapping[str, Any] | None = None,
        **config: Any,
    ) -> Pod:
        """Run a pod sandbox.

        Args:
            network: POD (an own network, by CNI) or NODE.
            pid: CONTAINER, POD (one pid namespace for all) or NODE.
            ipc: POD or NODE.
            security: more of LinuxSandboxSecurityContext.
            handler: the runtime class; by default the engine's runtime.
            config: more of PodSandboxConfig; `linux` is merged.
        """
        name = self.new_name()
        logs = f"/run/pods/{name}"
        self.world.path(logs).mkdir(parents=True)
        options: dict[str, Any] = {"network": network, "pid": pid, "ipc": ipc}
        if user_namespace:
            options["userns_options"] = user_namespace
        linux = {
            "cgroup_parent": self.world.parent,
            "security_context": {"namespace_options": options, **(security or {})},
            **config.pop("linux", {}),
        }
        full = {
            "metadata": {"name": name, "uid": name, "namespace": "tests"},
            "hostname": name if network == "POD" else "",  # as the kubelet does
            "log_directory": logs,
            "linux": linux,
            **config,
        }
        handler = self.runtime if handler is None else handler
        answer = self.ask("RunPodSandbox", config=full, runtime_handler=handler)
        return Pod(self, answer.pod_sandbox_id, full)

    def containers(self) -> list[str]:
        return [c.id for c in self.ask("ListContainers").containers]

    def pods(self) -> list[str]:
        return [p.id for p in self.ask("ListPodSandbox").items]

    def tidy(self) -> None:
        """As the kubelet does: if a shim has died (1.6's may at a hung-up terminal) it asks again."""
        for pod in self.pods():
            try:
                self.ask("StopPodSandbox", pod_sandbox_id=pod)
            except CriError as error:
                if "ttrpc: closed" not in str(error):
                    raise
                self.ask("StopPodSandbox", pod_sandbox_id=pod)
            self.ask("RemovePodSandbox", pod_sandbox_id=pod)

    def leaks(self) -> list[str]:
        """Also what pods leave with the node: network namespaces, addresses, files of the shims."""
        found = super().leaks()
        return found + [
            f"file {path}"
            for top, pattern in self.left_files.items()
            for path in self.world.path(top).glob(pattern)
        ]

    def own_mount(self, mount: str) -> bool:
        return False

    def version(self) -> str:
        answer = self.ask("Version")
        return f"{answer.runtime_name} {answer.runtime_version}"

    def close(self) -> None:
        if not self.world.closed and hasattr(self, "channel"):
            self.channel.close()
        super().close()


class Cri2(Cri):
    """A newer node: containerd 2 as `build-containerd2` made it, and the control that it made."""

    kind = "cri2"
    config_version = 3
    home = Path(os.environ.get("OCIRUNTIME_CONTAINERD2", "$OCIRUNTIME_CONTAINERD2"))
    files = (*Cri.files, home / "containerd", home / "containerd-shim-runc-v2", home / "ctr")
    command = (str(home / "ctr"), *Cri.command[1:])
    daemon_command = str(home / "containerd")

    def start(self) -> None:
        self.env["PATH"] = f"{self.home}:{self.env['PATH']}"  # its shim first
        super().start()

    def plugin_config(self) -> list[str]:
        plugin = "[plugins.'io.containerd.cri.v1.runtime'"
        lines = ["[plugins.'io.containerd.cri.v1.images'.pinned_images]", f"sandbox = '{PAUSE}'"]
        lines += [f"{plugin}]", "restrict_oom_score_adj = true"]
        return [*lines, f"{plugin}.cni]", "bin_dirs = ['/usr/lib/cni']", "conf_dir = '/run/cni.d'"]

    def control(self) -> Path:
        built = self.home / "runc"
        return built if built.exists() else super().control()


class Pod:
    """A pod sandbox."""

    def __init__(self, engine: Cri, pod_id: str, config: dict[str, Any]) -> None:
        self.engine = engine
        self.id = pod_id
        self.config = config
        self.logs = engine.world.path(config["log_directory"])
        self._serial = 0

    def create(
        self,
        *args: str,
        image: str = BOX,
        resources: Mapping[str, Any] | None = None,
        security: Mapping[str, Any] | None = None,
        **config: Any,
    ) -> Container:
        """Create a container of the pod.

        Args:
            args: the program (`command`) and its arguments.
            resources: of LinuxContainerResources.
            security: of LinuxContainerSecurityContext.
            config: more of ContainerConfig.
        Raises:
            CriError: the daemon refuses.
        """
        self._serial += 1
        name = f"c{self._serial}"
        pod_options = self.config["linux"]["security_context"]["namespace_options"]
        # The kubelet repeats the pod's namespaces in each container.
        context = {"namespace_options": pod_options, **(security or {})}
        full = {
            "metadata": {"name": name},
            "image": {"image": image},
            "command": list(args),
            "log_path": f"{name}.log",
            "linux": {"resources": dict(resources or {}), "security_context": context},
            **config,
        }
        answer = self.engine.ask(
            "CreateContainer", pod_sandbox_id=self.id, config=full, sandbox_config=self.config
        )
        return Container(self, answer.container_id, name)

    def start(self, *args: str, **how: Any) -> Container:
        """Create a container and start it."""
        container = self.create(*args, **how)
        container.start()
        return container

    def run(self, *args: str, **how: Any) -> Result:
        """A container to its end: its status and what it wrote."""
        container = self.start(*args, **how)
        status = container.wait()
        logged = container.logged()
        texts = (
            "".join(text for stream, text in logged if stream == kind)
            for kind in ("stdout", "stderr")
        )
        return Result(args, status.exit_code, *texts)

    def shell(self, script: str, **how: Any) -> Result:
        return self.run("sh", "-c", script, **how)

    def service(self, **how: Any) -> Container:
        """A container that runs until it is told to stop, at once."""
        return self.start("sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait", **how)

    def status(self) -> Any:
        return self.engine.ask("PodSandboxStatus", pod_sandbox_id=self.id).status

    def forward(self, port: int) -> Forward:
        answer = self.engine.ask("PortForward", pod_sandbox_id=self.id, port=[port])
        return Forward(self.engine.world.init, answer.url, port)

    def stop(self) -> None:
        self.engine.ask("StopPodSandbox", pod_sandbox_id=self.id)

    def remove(self) -> None:
        self.engine.ask("RemovePodSandbox", pod_sandbox_id=self.id)


class Container:
    """A container of a pod."""

    def __init__(self, pod: Pod, container_id: str, name: str) -> None:
        self.pod = pod
        self.engine = pod.engine
        self.id = container_id
        self.log = pod.logs / f"{name}.log"

    def ask(self, method: str, **fields: Any) -> Any:
        return self.engine.ask(method, container_id=self.id, **fields)

    def start(self) -> None:
        self.ask("StartContainer")

    def stop(self, timeout: int = 0) -> None:
        self.ask("StopContainer", timeout=timeout)

    def remove(self) -> None:
        self.ask("RemoveContainer")

    def status(self) -> Any:
        return self.ask("ContainerStatus").status

    def wait(self) -> Any:
        """The status, after its end."""
        poll(lambda: self.status().state == EXITED, f"{self.id} does not end")
        return self.status()

    def exec(self, *command: str, timeout: int = 0) -> Result:
        """ExecSync.  Raises CriError: it cannot be run, or not in `timeout` seconds (0: in any time)."""
        answer = self.ask("ExecSync", cmd=command, timeout=timeout)
        texts = (part.decode(errors="surrogateescape") for part in (answer.stdout, answer.stderr))
        return Result(command, answer.exit_code, *texts)

    @contextlib.contextmanager
    def stream(self, *command: str, tty: bool = False, stdin: bool = False) -> Iterator[Stream]:
        """The streams of an exec; without a command, of the container's own process (attach)."""
        fields = {"tty": tty, "stdin": stdin, "stdout": True, "stderr": not tty}
        if command:
            fields["cmd"] = command
        answer = self.ask("Exec" if command else "Attach", **fields)
        with Stream(self.engine.world.init, answer.url) as stream:
            yield stream

    def records(self) -> list[list[str]]:
        """The lines of the log: time, stream, tag (F: whole line, P: part of one), text."""
        return [line.split(" ", 3) for line in self.log.read_text().splitlines()]

    def logged(self) -> list[tuple[str, str]]:
        """(stream, text) of each record, line ends added."""
        return [(r[1], r[3] + ("\n" if r[2] == "F" else "")) for r in self.records()]

    def out(self) -> str:
        return "".join(text for stream, text in self.logged() if stream == "stdout")

    def group(self, controller: str) -> Path:
        """The container's cgroup of a v1 controller; on v2 the only one."""
        [group] = [
            path
            for path in self.engine.world.groups()
            if path.name in (self.id, f"crio-{self.id}", f"cri-containerd-{self.id}.scope")
            and (controller in path.parts or path.parts[4].startswith(self.engine.world.name))
        ]
        return group

"""CRI-O, which calls the runtime by conmon and not by a shim: the flows of containerd's pods that it has as well.

They run where OCIRUNTIME_CRIO names a directory, outside /tmp, that `build-crio` filled. Left out is what asks for
containerd's words or shims, and what CRI-O cannot do on a machine whose root lacks CAP_SYS_RESOURCE (a pid namespace
for the pod: its own container is to have an oom_score_adj of -998).
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable

import pytest

from tests.engines import test_cri, test_cri_confine, test_cri_exec
from tests.engines.drivers import Crio

pytestmark = [
    pytest.mark.root,
    pytest.mark.engines("crio", peers=1),
    pytest.mark.skipif(
        "OCIRUNTIME_CRIO" not in os.environ,
        reason="OCIRUNTIME_CRIO does not name what tests/engines/build-crio built",
    ),
]
FLOWS: tuple[Callable[..., None], ...] = (
    test_cri.test_node,
    test_cri.test_shared_namespaces,
    test_cri.test_target_pid_namespace,
    test_cri.test_init_containers,
    test_cri.test_program_of_the_image,
    test_cri.test_environment,
    test_cri.test_stop_by_force,
    test_cri.test_removal_by_force,
    test_cri.test_many_pods_at_once,
    test_cri.test_termination_log,
    test_cri_exec.test_exec_takes_after_the_container,
    test_cri_exec.test_much_output,
    test_cri_exec.test_probes_in_a_row,
    test_cri_exec.test_probes_at_once,
    test_cri_exec.test_streamed_exec,
    test_cri_exec.test_streamed_input,
    test_cri_exec.test_exec_on_a_terminal,
    test_cri_exec.test_attach,
    test_cri_exec.test_attach_to_a_terminal,
    test_cri_exec.test_logs,
    test_cri_exec.test_log_of_an_exec,
    test_cri_confine.test_run_as_user_and_group,
    test_cri_confine.test_read_only_root,
    test_cri_confine.test_capabilities,
    test_cri_confine.test_masked_and_read_only_paths,
    test_cri_confine.test_resources,
    test_cri_confine.test_out_of_memory,
    test_cri_confine.test_out_of_memory_in_an_exec,
    test_cri_confine.test_update_of_cpu,
    test_cri_confine.test_update_of_memory,
    test_cri_confine.test_refused_update,
    test_cri_confine.test_update_before_the_start,
    test_cri_confine.test_stats,
    test_cri_confine.test_sysctls,
    test_cri_confine.test_files_of_the_pod,
    test_cri_confine.test_run_as_user_of_the_image,
    test_cri_confine.test_device,
    test_cri_confine.test_device_access,
    test_cri_confine.test_orphans,
)


@pytest.mark.parametrize("flow", FLOWS, ids=[flow.__name__ for flow in FLOWS])
def test_flow(engine: Crio, flow: Callable[..., None]) -> None:
    """As the other files have it, with the fixtures that it names."""
    wanted = inspect.signature(flow).parameters
    given: dict[str, object] = {"engine": engine}
    if {"pod", "service"} & set(wanted):
        given["pod"] = pod = engine.pod(network="NODE")
        if "service" in wanted:
            given["service"] = pod.service()
    flow(**{name: given[name] for name in wanted})


@pytest.mark.parametrize("status", [0, 3, 127, 255])
def test_exec(engine: Crio, status: int) -> None:
    test_cri_exec.test_exec(engine.pod(network="NODE").service(), status)


@pytest.mark.parametrize("status", [0, 3, 255])
def test_exit_status(engine: Crio, status: int) -> None:
    test_cri.test_exit_status(engine, status)


@pytest.mark.parametrize("network", ["POD", "NODE"])
def test_port_forward(engine: Crio, network: str) -> None:
    test_cri_exec.test_port_forward(engine, network)


@pytest.mark.parametrize("asked", [False, True])
def test_no_new_privileges(engine: Crio, asked: bool) -> None:
    test_cri_confine.test_no_new_privileges(engine.pod(network="NODE"), asked)

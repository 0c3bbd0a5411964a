"""Attacks by a neighbour: names are exchanged while the runtime works with them."""

from __future__ import annotations

import os
import stat

from conformance.attacks.canary import flipping
from conformance.attacks.field import Attack
from conformance.attacks.registry import NEIGHBOUR, recipe


@recipe(
    "race-target",
    NEIGHBOUR,
    "mounts outside when a folder of a shared volume becomes a link meanwhile",
    *("CVE-2021-30465", "CVE-2024-45310", "CVE-2024-23651"),
)
def race_target(a: Attack) -> None:
    for target in ("/vol/a", "/vol/a/new/folder"):
        bundle = a.fresh()
        volume = bundle.path / "shared"
        (volume / "a").mkdir(parents=True)
        (volume / "b").symlink_to("../../../../../../" + str(a.canary.path))
        bundle.mount("/vol", "bind", str(volume), "rbind").mount(target, "tmpfs", "tmpfs")
        bundle.mount("/vol/a/file", "bind", "/etc/hostname", "bind")
        with flipping(a.program, volume / "a", volume / "b"):
            for _ in range(a.rounds):
                container = a.attempt(bundle, "sleep")
                a.intact()
                if container:
                    a.forget(container)


@recipe(
    "race-proc",
    NEIGHBOUR,
    "runs without a real /proc, or mounts it outside, when it becomes a link meanwhile",
    *("CVE-2019-19921", "CVE-2025-52881", "CVE-2025-62596"),
)
def race_proc(a: Attack) -> None:
    bundle = a.fresh()
    (bundle.rootfs / "other").symlink_to(a.canary.path)
    with flipping(a.program, bundle.rootfs / "proc", bundle.rootfs / "other"):
        for _ in range(a.rounds):
            container = a.attempt(bundle, "sleep")
            a.intact()
            if container:
                # Mounted on whichever of the two it was, never elsewhere.
                try:
                    lines = container.proc("mountinfo").splitlines()
                except OSError:  # it has ended: without a root that it can live in
                    a.forget(container)
                    continue
                tops = {line.split()[4] for line in lines if " - proc " in line}
                a.unless(tops & {"/proc", "/other"}, f"proc is mounted on {sorted(tops)}")
                a.forget(container)


@recipe(
    "race-null",
    NEIGHBOUR,
    "masks with the attacker's file when /dev/null becomes a link meanwhile",
    *("CVE-2025-31133",),
)
def race_null(a: Attack) -> None:
    bundle = a.no_dev()
    (bundle.rootfs / "secret").write_text("secret\n")
    first, second = bundle.rootfs / "dev/null", bundle.rootfs / "dev/other"
    os.mknod(first, 0o020666, os.makedev(1, 3))
    second.symlink_to("/secret")
    bundle.linux["maskedPaths"] = ["/proc/version"]
    with flipping(a.program, first, second):
        for _ in range(a.rounds):
            container = a.attempt(bundle, "sleep")
            if container:
                st = os.stat(f"/proc/{container.pid}/root/proc/version")
                a.unless(stat.S_ISCHR(st.st_mode), "the masked file is the attacker's")
                a.forget(container)

"""python -m tests.concurrency [--examples 200] [--verbs 8] [--runtime PATH]: storms until one is not explained, or of
a peer all of them, counted."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

from conformance.kit import Runtime, become_subreaper, build_testprog, find_runtime, remove_tree
from tests.concurrency import trial
from tests.concurrency.checker import Unexplained
from tests.integration import hostlib

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.concurrency", description=__doc__)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--verbs", type=int, default=8, help="of each of the 16 callers, at most")
    parser.add_argument("--keep-going", action="store_true", help="count what is not explained")
    parser.add_argument("--runtime", default=str(REPOSITORY / ".venv/bin/ociruntime"))
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # containers are removed then as well
    path, program = find_runtime(options.runtime), build_testprog()
    failures: list[Exception] = []

    def failed(error: Exception) -> None:
        print(f"{type(error).__name__}: {error}", flush=True)
        failures.append(error)
        if not options.keep_going:
            raise error

    with hostlib.private_mount_namespace():
        become_subreaper()
        place = Path(tempfile.mkdtemp(prefix=f"concur{os.getpid()}x"))
        place.chmod(0o711)
        runtime = Runtime(path, place / f"{place.name}-root")
        histories = []
        try:
            bundle = trial.place_for(place, program)
            histories = trial.trials(
                runtime, bundle, options.examples, verbs=options.verbs, failed=failed
            )
        except (Unexplained, AssertionError, TimeoutError):
            pass
        finally:
            runtime.clean()
            remove_tree(place)
            become_subreaper(False)
    if histories:
        for what, number in trial.answers(histories).items():
            print(f"{number:7} {what}")
        slow = trial.slowest(histories)
        print(
            f"{sum(map(len, histories))} calls, the slowest {slow.end - slow.begin:.2f} s: {slow.verb}"
        )
    print(f"{len(histories)} storms explained, {len(failures)} not")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

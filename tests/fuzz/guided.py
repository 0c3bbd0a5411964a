"""One target of targets.py under atheris, guided by coverage: python -m tests.fuzz.guided TARGET SECONDS FOUND.

FOUND: the directory for the inputs of findings, and for the corpus below it. Prints libFuzzer's figures.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ociruntime"]):
    from tests.fuzz import targets


def main(name: str, seconds: str, found: str) -> None:
    target = targets.TARGETS[name]
    targets.quiet()
    corpus = Path(found) / f"corpus-{name}"
    corpus.mkdir()
    for index, data in enumerate(target.inputs()):
        (corpus / str(index)).write_bytes(data)

    def mutate(data: bytes, room: int, seed: int) -> bytes:
        dice = random.Random(seed)
        if dice.random() < 0.3:
            return atheris.Mutate(data, room)
        return target.mutate(data, dice)[:room]

    options = (f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=2048", "-max_len=65536")
    arguments = [name, str(corpus), *options, f"-artifact_prefix={found}/{name}-"]
    atheris.Setup(
        [*arguments, "-print_final_stats=1"],
        lambda data: target.run(data) and None,
        custom_mutator=mutate,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])

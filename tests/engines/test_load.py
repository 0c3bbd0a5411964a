"""Many containers at once, in the bounded form; `make bench-load` has 200 and the times."""

from __future__ import annotations

import pytest

from tests.engines.crowd import Crowd
from tests.engines.drivers import Engine

CALLERS = 8
COUNT, CONTROL = 32, 8  # containers; the control only shows that the engine can do it


@pytest.mark.engines("podman", "ctr", peers=1)
def test_many_at_once(engine: Engine) -> None:
    """Eight callers start, ask and remove; each container answers by its own marker, nothing is left of any."""
    crowd = Crowd(engine, CALLERS)
    open_before = crowd.descriptors()
    numbers = range(COUNT if engine.ours else CONTROL)
    crowd.start(numbers)
    if engine.ours:
        assert len(engine.states()) == COUNT
    crowd.ask(numbers)
    crowd.remove(numbers)
    if engine.ours:
        assert crowd.leaks() == []
        assert (
            crowd.descriptors() <= open_before + CALLERS
        )  # connections that wait for their next use

"""What the attack tests share; canary and race are those of the public kit."""

from __future__ import annotations

from conformance.attacks.canary import Canary, flipping, plant, targets
from tests.integration.harness import Bundle, Container, Runtime

__all__ = ["Canary", "attempt", "flipping", "plant", "targets"]


def attempt(rt: Runtime, bundle: Bundle, *args: str) -> Container:
    """Create and start a container, or fail to; which of the two is the runtime's choice."""
    container = rt.try_create(bundle.args(*args) if args else bundle)
    if container.result.code == 0:
        container.verb("start")
    return container

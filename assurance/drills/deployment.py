"""A deployment of real processes in a folder of its own, gone when the drill ends."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.model import digits_model
from tests.e2e.world import World

from aigovtool.ledger.policy import Dial, default_policy

#: What a figure about real processes is about: all of the product, and the drill's own code.
COVERS = ("src/aigovtool", "tests/e2e/world.py", "tests/e2e/model.py", "assurance/drills")


@contextmanager
def deployment(*, budget: int, ttl_ms: int = 3_000, dial: Dial = Dial.BALANCED) -> Iterator[World]:
    """Yield a custodian, an enclave and a consumer with a budget; the enclave is ready."""
    with tempfile.TemporaryDirectory(prefix="aigovtool-drill-") as folder:
        world = World(Path(folder))
        try:
            world.prepare(digits_model(), default_policy(dial, ttl_ms=ttl_ms))
            world.grant(budget)
            world.start_enclave()
            yield world
        finally:
            world.close()

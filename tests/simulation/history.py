"""A whole history: a storm and the recovery from it, or what happened in it line by line."""

from tests.simulation.scene import Violation
from tests.simulation.world import PRODUCTION, Rules, World

from aigovtool.ids import ConsumerId

_MAX_TRACE_LINES = 400


def history(seed: int, rules: Rules = PRODUCTION, *, tracing: bool = False) -> tuple[World, dict[ConsumerId, int]]:
    """Play one whole history, a storm and the recovery from it.

    Raises:
        Violation: something happened that must not.
    """
    world = World(seed, rules, tracing=tracing)
    world.run()
    return world, world.recover()


def trace(seed: int, rules: Rules = PRODUCTION) -> str:
    """Return what happened in a history, line by line, up to the violation if there is one."""
    world = World(seed, rules, tracing=True)
    try:
        world.run()
        world.recover()
    except Violation as violation:
        world.scene.tell("WITNESS", "{}", violation)
    lines = world.scene.lines
    left_out = max(0, len(lines) - _MAX_TRACE_LINES)
    head = [f"... {left_out} lines before"] if left_out else []
    return "\n".join([f"seed {seed}", *head, *lines[left_out:]])

"""Deployments of real processes in whose lives something happens."""

from assurance.campaigns.tampering import KINDS
from assurance.drills.deployment import deployment
from assurance.drills.every_act import end, live

from aigovtool.codec import decode
from aigovtool.ledger.entry import Entry


def test_everything_that_a_log_can_tell_of_happens_in_the_life_of_a_real_deployment() -> None:
    """Whoever adds a kind of entry lets it happen there, too: with that log the reader of auditors is tried."""
    with deployment(budget=30, ttl_ms=1_000) as world:
        _, _, entries = end(world, live(world))
    kinds = {type(decode(data, Entry).body) for data in entries}
    assert len(kinds) == KINDS

"""What enclaves are told at once, instead of with their next heartbeat: stops, raised budgets, recalls.

Every custodian process pushes to the enclaves that listen to it; with several of them an announcement also travels
to the others (`relay`). One that is lost costs time, never safety: the stop state is in each renewal.
"""

from typing import Final

from aigovtool.crypto.sign import Envelope
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.hub import Announcement
from aigovtool.custodian.store import instances
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.ids import InstanceId
from aigovtool.protocol.messages import Push

#: Stop states signed in one transaction: others must get their turn in between.
_AT_ONCE: Final = 50


async def announce(custodian: Custodian, announcement: Announcement) -> None:
    """Push to the enclaves that listen here and that it concerns."""
    if announcement.granted is not None:
        custodian.hub.granted(announcement.granted)
    if announcement.recall is not None:
        custodian.hub.recall(announcement.recall)
    if announcement.stop is not None:
        concerned = custodian.hub.concerned(announcement.stop, announcement.value)
        for first in range(0, len(concerned), _AT_ONCE):
            await _push_states(custodian, concerned[first : first + _AT_ONCE])


async def _push_states(custodian: Custodian, listening: list[InstanceId]) -> None:
    def job(transaction: Transaction) -> list[tuple[InstanceId, Envelope]]:
        found = [instances.find(transaction, instance) for instance in listening]
        return [(one.instance, custodian.stop_state(transaction, one)) for one in found if one is not None]

    for instance, state in await custodian.database.run(job):
        custodian.hub.push(instance, Push(stop_state=state, granted=True))

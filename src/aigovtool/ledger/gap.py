"""What may stand in the log of a ledger that knows that it has forgotten something (spec: leases section 12)."""

from typing import get_args

from aigovtool.ledger.entry import EntryBody, GapFound, PartyAdded, PartyRole, Refusal, Restored, Stopped


def may_follow_gap(body: EntryBody) -> bool:
    """Return whether an entry may stand between the finding of a gap and its settlement: nothing that grants may.

    Stops, refusals, and who is enrolled by whoever holds the custodian's directory, so that two can settle it.
    """
    if isinstance(body, PartyAdded):
        return body.role is PartyRole.OPERATOR and body.command is None
    return isinstance(body, (*get_args(Refusal), GapFound, Restored, Stopped))

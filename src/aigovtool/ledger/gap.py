"""What may stand in the log of a ledger that may not grant: nothing that gives anybody more (spec: leases section 12).

It has forgotten something, or it does not know what time it is.
"""

from typing import Final, get_args

from aigovtool.ledger.entry import (
    Asked,
    AttestationWithdrawn,
    ClockAccepted,
    EntryBody,
    Forked,
    GapFound,
    KeySetPublished,
    LeaseClosed,
    LeaseExpired,
    ModelWithdrawn,
    PartyAdded,
    PartyRevoked,
    PartyRole,
    Refusal,
    Restored,
    Stopped,
    Wiped,
)

#: Takes something away, ends what was lent, or says what happened; needs no time that is true.
_TAKES: Final = (
    Asked,
    AttestationWithdrawn,
    Forked,
    GapFound,
    KeySetPublished,
    LeaseClosed,
    LeaseExpired,
    ModelWithdrawn,
    PartyRevoked,
    Stopped,
    Wiped,
)


def may_follow_gap(body: EntryBody) -> bool:
    """Return whether an entry may stand between the finding of a gap and its settlement: nothing that grants may.

    Stops, refusals, and who is enrolled by whoever holds the custodian's directory, so that two can settle it.
    """
    if isinstance(body, PartyAdded):
        return body.role is PartyRole.OPERATOR and body.command is None
    return isinstance(body, (*get_args(Refusal), ClockAccepted, GapFound, Restored, Stopped))


def may_follow_leap(body: EntryBody) -> bool:
    """Return whether an entry may be written while the host's clock is not believed: a stop, and whatever takes away.

    Leases end by what has passed, which is known. So is what was used, and that is given back as ever.
    """
    return isinstance(body, (*get_args(Refusal), *_TAKES))

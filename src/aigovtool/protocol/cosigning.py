"""Which acts two operators must sign: one alone could undo with them what the ledger, or a stop, exists for.

Settling a gap and writing off always need two. Lending a model needs two where enclaves may go on for long without the
custodian: under the island dial, or with a ttl above what the other dials allow. A stop that a hostile host withholds
takes effect after one ttl, so such terms put hours between a stop and its effect. And once there has been a second
operator, enrolling another one needs two, because whoever could enrol one alone could sign twice; so does changing
which enclaves are accepted, because whoever could admit a program of their own alone would be handed every model's key;
so does letting more leave in a model's answers, because whoever wants to copy the model would begin with that; and so
does lifting a stop, because whoever could lift it alone would undo what others had to do at once, and what is used, or
handed to an enclave, meanwhile is not taken back. Stopping always takes one.
"""

from typing import Final

from aigovtool.ledger.answers import allows
from aigovtool.ledger.entry import PartyRole
from aigovtool.ledger.policy import Dial, ServingPolicy
from aigovtool.protocol.commands import (
    TWO_OPERATORS,
    Act,
    AddModel,
    AddParty,
    Resume,
    SetAppraisalPolicy,
    SetModelTerms,
)

#: The longest ttl that one operator may order: what `strict` and `balanced` allow.
LONE_TTL_MAX_MS: Final = 300_000


def needs_two(act: Act, *, operators: int, present: ServingPolicy | None = None) -> bool:
    """Return whether an act is only valid with the signatures of two operators.

    `operators` is how many were ever enrolled, with those who were revoked since: else one could revoke the other, and
    then enrol a second key of their own. `present` is the policy in force of the model whose terms are to be changed.
    """
    if isinstance(act, AddModel):
        return leaves_alone(act.policy)
    if isinstance(act, SetModelTerms):
        return leaves_alone(act.policy) or (operators > 1 and lets_more_leave(present, act.policy))
    if isinstance(act, SetAppraisalPolicy | Resume) or (isinstance(act, AddParty) and act.role is PartyRole.OPERATOR):
        return operators > 1
    return isinstance(act, TWO_OPERATORS)


def lets_more_leave(present: ServingPolicy | None, policy: ServingPolicy) -> bool:
    """Return whether answers could say more, or show more by their size, under a policy than under the present one."""
    return present is not None and not allows(present.answers, policy.answers)


def leaves_alone(policy: ServingPolicy) -> bool:
    """Return whether a policy lets enclaves go on for long without the custodian, so that lending on it needs two."""
    return policy.dial is Dial.ISLAND or policy.ttl_ms > LONE_TTL_MAX_MS

"""Which renewals of an instance were answered, and the answer to the newest.

A renewal that is repeated gets the same answer; one that is older gets none (leases spec section 4).
"""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, select

from aigovtool.codec import encode
from aigovtool.custodian.store.bodies import decoded
from aigovtool.custodian.store.schema import answers
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConflictError
from aigovtool.ids import Digest, InstanceId, MessageId
from aigovtool.protocol.messages import RenewReply

_ANSWERED: Final = select(answers).where(answers.c.instance == bindparam("wanted"))
#: Answered renewals of an instance that are known by their identifiers, beside the newest.
_EARLIER: Final = 16


@dataclass(frozen=True, slots=True)
class Answered:
    """Which renewals of an instance were answered: the newest, and some of those before it.

    `shown` is the place (generation, size) of the checkpoint that the newest one showed.
    """

    request_id: MessageId
    shown: tuple[int, int]
    earlier: tuple[MessageId, ...] = ()

    def supersedes(self, request_id: MessageId, shown: tuple[int, int]) -> bool:
        """Return whether a renewal is older than the newest that was answered: nobody waits for its answer any more.

        An instance has one outstanding at a time, and each shows the newest checkpoint that it was given. Whatever was
        granted is in the log, so all that it sent after the answer shows a newer one: such a renewal is known for ever.
        """
        return request_id in self.earlier or shown < self.shown

    def then(self, request_id: MessageId, shown: tuple[int, int]) -> "Answered":
        """Return what is remembered once a newer renewal was answered."""
        return Answered(request_id, shown, (self.request_id, *self.earlier)[:_EARLIER])


@dataclass(frozen=True, slots=True)
class NewestAnswer:
    """The answer to an instance's newest renewal, whose bytes had the digest `request`."""

    answered: Answered
    request: Digest
    body: bytes

    def to(self, request_id: MessageId, request: Digest) -> RenewReply | None:
        """Return the answer, if this is the renewal that it was given to.

        Raises:
            ConflictError: the same request id came with another body (`request_changed`).
        """
        if self.answered.request_id != request_id:
            return None
        if self.request != request:
            raise ConflictError("a renewal was repeated with another content", reason="request_changed")
        return decoded(self.body, RenewReply)


def newest_answer(transaction: Transaction, instance: InstanceId) -> NewestAnswer | None:
    """Return the answer to the newest renewal of an instance, if it ever renewed."""
    found = transaction.execute(_ANSWERED, {"wanted": instance}).one_or_none()
    if found is None:
        return None
    answered = Answered(found.request_id, (found.shown_generation, found.shown_size), tuple(found.earlier.split()))
    return NewestAnswer(answered, found.request, found.body)


def remember(
    transaction: Transaction, instance: InstanceId, answered: Answered, request: Digest, reply: RenewReply
) -> None:
    """Keep the answer to the newest renewal of an instance: it has one outstanding at a time."""
    generation, size = answered.shown
    values = {
        "request_id": answered.request_id,
        "request": request,
        "earlier": " ".join(answered.earlier),
        "shown_generation": generation,
        "shown_size": size,
        "body": encode(reply),
    }
    transaction.upsert(answers, {"instance": instance}, values)

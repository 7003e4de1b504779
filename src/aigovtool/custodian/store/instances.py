"""Instances, the nonces of their boots, and the answers to their last renewals."""

from typing import Final

from sqlalchemy import bindparam, delete, func, insert, select, update

from aigovtool.codec import encode
from aigovtool.custodian.store.bodies import decoded
from aigovtool.custodian.store.records import Instance
from aigovtool.custodian.store.schema import answers, instances, nonces
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConflictError, EvidenceError, ForbiddenError, OverloadedError
from aigovtool.ids import BorrowerId, Digest, InstanceId, KeyId, MessageId, Nonce, key_id_of
from aigovtool.limits import MAX_OUTSTANDING_NONCES, MAX_OUTSTANDING_NONCES_PER_BORROWER
from aigovtool.protocol.messages import RenewReply

_FIND: Final = select(instances.c.body).where(instances.c.instance == bindparam("wanted"))
_TOUCH: Final = (
    update(instances).where(instances.c.instance == bindparam("wanted")).values(last_contact_ms=bindparam("now_ms"))
)
_ANSWERED: Final = select(answers).where(answers.c.instance == bindparam("wanted"))


def add_nonce(transaction: Transaction, nonce: Nonce, borrower: BorrowerId, *, now_ms: int, ttl_ms: int) -> None:
    """Remember a nonce that may be used once until it expires.

    Raises:
        OverloadedError: when too many are outstanding.
    """
    transaction.execute(delete(nonces).where(nonces.c.expires_ms < now_ms - 10 * ttl_ms))
    waiting = select(func.count()).select_from(nonces).where(nonces.c.expires_ms >= now_ms, nonces.c.used.is_(False))
    of_borrower = waiting.where(nonces.c.borrower == borrower)
    if (
        transaction.execute(waiting).scalar_one() >= MAX_OUTSTANDING_NONCES
        or transaction.execute(of_borrower).scalar_one() >= MAX_OUTSTANDING_NONCES_PER_BORROWER
    ):
        raise OverloadedError("too many boots are under way", reason="nonces", retry_after_s=ttl_ms // 1000)
    values = {"nonce": nonce, "borrower": borrower, "expires_ms": now_ms + ttl_ms, "used": False}
    transaction.execute(insert(nonces).values(values))


def use_nonce(transaction: Transaction, nonce: Nonce, borrower: BorrowerId, now_ms: int) -> str | None:
    """Consume a nonce; return why it cannot be used, or `None`. What was consumed stays consumed."""
    found = transaction.execute(select(nonces).where(nonces.c.nonce == nonce)).one_or_none()
    if found is None or found.borrower != borrower:
        return "nonce_unknown"
    if found.used:
        return "nonce_replayed"
    transaction.execute(update(nonces).where(nonces.c.nonce == nonce).values(used=True))
    return "nonce_expired" if now_ms > found.expires_ms else None


def nonce_error(reason: str) -> EvidenceError:
    """Return the refusal for a nonce."""
    return EvidenceError("the evidence is not fresh", reason=reason, fix="ask for a new challenge and attest again")


def add(transaction: Transaction, instance: Instance) -> None:
    """Insert an admitted instance.

    Raises:
        ConflictError: it was admitted before.
    """
    if find(transaction, instance.instance) is not None:
        raise ConflictError("this instance was admitted before", reason="instance_exists")
    transaction.execute(
        insert(instances).values(
            instance=instance.instance,
            key_id=key_id_of(instance.identity_key),
            borrower=instance.borrower,
            state=instance.state,
            attested_at_ms=instance.attested_at_ms,
            last_contact_ms=instance.attested_at_ms,
            body=encode(instance),
        )
    )


def find(transaction: Transaction, instance: InstanceId) -> Instance | None:
    """Return an instance in whatever state."""
    body = transaction.execute(_FIND, {"wanted": instance}).scalar_one_or_none()
    return None if body is None else decoded(body, Instance)


def require(transaction: Transaction, instance: InstanceId) -> Instance:
    """Return an instance that was admitted here.

    Raises:
        ForbiddenError: unknown.
    """
    found = find(transaction, instance)
    if found is None:
        raise ForbiddenError("this instance was never admitted here", reason="unknown_instance")
    return found


def by_key(transaction: Transaction, key_id: KeyId) -> Instance | None:
    """Return the instance whose identity key has this identifier."""
    body = transaction.execute(select(instances.c.body).where(instances.c.key_id == key_id)).scalar_one_or_none()
    return None if body is None else decoded(body, Instance)


def replace(transaction: Transaction, instance: Instance) -> None:
    """Write a changed instance."""
    condition = instances.c.instance == instance.instance
    transaction.execute(update(instances).where(condition).values(state=instance.state, body=encode(instance)))


def touch(transaction: Transaction, instance: InstanceId, now_ms: int) -> None:
    """Remember when an instance was last heard of."""
    transaction.execute(_TOUCH, {"wanted": instance, "now_ms": now_ms})


def newest(transaction: Transaction, limit: int) -> list[tuple[Instance, int]]:
    """Return instances with their last contact, newest first."""
    statement = (
        select(instances.c.body, instances.c.last_contact_ms).order_by(instances.c.attested_at_ms.desc()).limit(limit)
    )
    return [(decoded(found[0], Instance), int(found[1])) for found in transaction.execute(statement)]


def answered(
    transaction: Transaction, instance: InstanceId, request_id: MessageId, request: Digest
) -> RenewReply | None:
    """Return the answer given before to this renewal.

    Raises:
        ConflictError: the same request id came with another body.
    """
    found = transaction.execute(_ANSWERED, {"wanted": instance}).one_or_none()
    if found is None or found.request_id != request_id:
        return None
    if found.request != request:
        raise ConflictError("a renewal was repeated with another content", reason="request_changed")
    return decoded(found.body, RenewReply)


def remember(
    transaction: Transaction, instance: InstanceId, request_id: MessageId, request: Digest, reply: RenewReply
) -> None:
    """Keep the answer to the newest renewal of an instance: it has one outstanding at a time."""
    values = {"request_id": request_id, "request": request, "body": encode(reply)}
    transaction.upsert(answers, {"instance": instance}, values)

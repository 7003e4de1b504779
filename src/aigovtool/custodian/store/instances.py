"""Instances, the nonces of their boots, and the answers to their last renewals."""

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from aigovtool.codec import decode, encode
from aigovtool.custodian.store.records import Instance
from aigovtool.custodian.store.schema import answers, instances, nonces
from aigovtool.errors import ConflictError, EvidenceError, ForbiddenError, OverloadedError
from aigovtool.ids import BorrowerId, Digest, InstanceId, MessageId, Nonce
from aigovtool.limits import MAX_OUTSTANDING_NONCES, MAX_OUTSTANDING_NONCES_PER_BORROWER
from aigovtool.protocol.messages import RenewReply


def add_nonce(connection: Connection, nonce: Nonce, borrower: BorrowerId, *, now_ms: int, ttl_ms: int) -> None:
    """Remember a nonce that may be used once until it expires.

    Raises:
        OverloadedError: when too many are outstanding.
    """
    connection.execute(delete(nonces).where(nonces.c.expires_ms < now_ms - 10 * ttl_ms))
    waiting = select(func.count()).select_from(nonces).where(nonces.c.expires_ms >= now_ms, nonces.c.used.is_(False))
    of_borrower = waiting.where(nonces.c.borrower == borrower)
    if (
        connection.execute(waiting).scalar_one() >= MAX_OUTSTANDING_NONCES
        or connection.execute(of_borrower).scalar_one() >= MAX_OUTSTANDING_NONCES_PER_BORROWER
    ):
        raise OverloadedError("too many boots are under way", reason="nonces", retry_after_s=ttl_ms // 1000)
    values = {"nonce": nonce, "borrower": borrower, "expires_ms": now_ms + ttl_ms, "used": False}
    connection.execute(insert(nonces).values(values))


def use_nonce(connection: Connection, nonce: Nonce, borrower: BorrowerId, now_ms: int) -> str | None:
    """Consume a nonce; return why it cannot be used, or `None`. What was consumed stays consumed."""
    found = connection.execute(select(nonces).where(nonces.c.nonce == nonce)).one_or_none()
    if found is None or found.borrower != borrower:
        return "nonce_unknown"
    if found.used:
        return "nonce_replayed"
    connection.execute(update(nonces).where(nonces.c.nonce == nonce).values(used=True))
    return "nonce_expired" if now_ms > found.expires_ms else None


def nonce_error(reason: str) -> EvidenceError:
    """Return the refusal for a nonce."""
    return EvidenceError("the evidence is not fresh", reason=reason, fix="ask for a new challenge and attest again")


def add(connection: Connection, instance: Instance) -> None:
    """Insert an admitted instance.

    Raises:
        ConflictError: it was admitted before.
    """
    if find(connection, instance.instance) is not None:
        raise ConflictError("this instance was admitted before", reason="instance_exists")
    connection.execute(
        insert(instances).values(
            instance=instance.instance,
            borrower=instance.borrower,
            state=instance.state,
            attested_at_ms=instance.attested_at_ms,
            last_contact_ms=instance.attested_at_ms,
            body=encode(instance),
        )
    )


def find(connection: Connection, instance: InstanceId) -> Instance | None:
    """Return an instance in whatever state."""
    body = connection.execute(select(instances.c.body).where(instances.c.instance == instance)).scalar_one_or_none()
    return None if body is None else decode(body, Instance)


def require(connection: Connection, instance: InstanceId) -> Instance:
    """Return an instance that was admitted here.

    Raises:
        ForbiddenError: unknown.
    """
    found = find(connection, instance)
    if found is None:
        raise ForbiddenError("this instance was never admitted here", reason="unknown_instance")
    return found


def replace(connection: Connection, instance: Instance) -> None:
    """Write a changed instance."""
    condition = instances.c.instance == instance.instance
    connection.execute(update(instances).where(condition).values(state=instance.state, body=encode(instance)))


def touch(connection: Connection, instance: InstanceId, now_ms: int) -> None:
    """Remember when an instance was last heard of."""
    connection.execute(update(instances).where(instances.c.instance == instance).values(last_contact_ms=now_ms))


def newest(connection: Connection, limit: int) -> list[tuple[Instance, int]]:
    """Return instances with their last contact, newest first."""
    statement = (
        select(instances.c.body, instances.c.last_contact_ms).order_by(instances.c.attested_at_ms.desc()).limit(limit)
    )
    return [(decode(body, Instance), int(contact)) for body, contact in connection.execute(statement)]


def answered(connection: Connection, instance: InstanceId, request_id: MessageId, request: Digest) -> RenewReply | None:
    """Return the answer given before to this renewal.

    Raises:
        ConflictError: the same request id came with another body.
    """
    found = connection.execute(select(answers).where(answers.c.instance == instance)).one_or_none()
    if found is None or found.request_id != request_id:
        return None
    if found.request != request:
        raise ConflictError("a renewal was repeated with another content", reason="request_changed")
    return decode(found.body, RenewReply)


def remember(
    connection: Connection, instance: InstanceId, request_id: MessageId, request: Digest, reply: RenewReply
) -> None:
    """Keep the answer to the newest renewal of an instance: it has one outstanding at a time."""
    values = {"request_id": request_id, "request": request, "body": encode(reply)}
    statement = upsert(answers).values(instance=instance, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["instance"], set_=values))

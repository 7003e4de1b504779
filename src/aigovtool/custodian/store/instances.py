"""Instances, and the nonces of their boots."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, Subquery, and_, bindparam, delete, func, insert, select, union, update

from aigovtool.codec import encode
from aigovtool.custodian.store.bodies import decoded
from aigovtool.custodian.store.records import Instance
from aigovtool.custodian.store.schema import UNCLOSED, evidence, instances, leases, nonces
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConflictError, EvidenceError, ForbiddenError, OverloadedError
from aigovtool.ids import BorrowerId, InstanceId, KeyId, Nonce, key_id_of
from aigovtool.limits import (
    MAX_NONCES_PER_BORROWER,
    MAX_OUTSTANDING_NONCES,
    MAX_OUTSTANDING_NONCES_PER_BORROWER,
    NONCE_TTL_MS,
    NONCE_WINDOW_MS,
)

_FIND: Final = select(instances.c.body).where(instances.c.instance == bindparam("wanted"))
_BY_KEY: Final = (
    select(instances.c.body)
    .where(instances.c.key_id == bindparam("wanted"))
    .order_by(instances.c.attested_at_ms.desc(), instances.c.instance)
    .limit(1)
)
_TOUCH: Final = (
    update(instances).where(instances.c.instance == bindparam("wanted")).values(last_contact_ms=bindparam("now_ms"))
)
#: Whoever holds a lease that nobody has closed.
_HOLDERS: Final = select(leases.c.instance).where(UNCLOSED).distinct()


def add_nonce(transaction: Transaction, nonce: Nonce, borrower: BorrowerId, *, now_ms: int, ttl_ms: int) -> None:
    """Remember a nonce that may be used once until it expires.

    Raises:
        OverloadedError: when too many are outstanding (`nonces`), or one borrower boots too often (`boots`).
    """
    transaction.execute(delete(nonces).where(nonces.c.expires_ms < now_ms + ttl_ms - NONCE_WINDOW_MS))
    _require_pace(transaction, borrower)
    waiting = select(func.count()).select_from(nonces).where(nonces.c.expires_ms >= now_ms, nonces.c.used.is_(False))
    of_borrower = waiting.where(nonces.c.borrower == borrower)
    if (
        transaction.execute(waiting).scalar_one() >= MAX_OUTSTANDING_NONCES
        or transaction.execute(of_borrower).scalar_one() >= MAX_OUTSTANDING_NONCES_PER_BORROWER
    ):
        raise OverloadedError("too many boots are under way", reason="nonces", retry_after_s=ttl_ms // 1000)
    values = {"nonce": nonce, "borrower": borrower, "expires_ms": now_ms + ttl_ms, "used": False}
    transaction.execute(insert(nonces).values(values))


def _require_pace(transaction: Transaction, borrower: BorrowerId) -> None:
    """Refuse a borrower whose enclaves boot in a loop; what is kept of its nonces is of the last ten minutes."""
    kept = select(func.count()).select_from(nonces).where(nonces.c.borrower == borrower)
    if transaction.execute(kept).scalar_one() >= MAX_NONCES_PER_BORROWER:
        raise OverloadedError(
            "the enclaves of this borrower boot too often",
            reason="boots",
            fix="see in their logs why they end",
            retry_after_s=NONCE_TTL_MS // 1000,
        )


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
        ConflictError: it was admitted before (`instance_exists`), or another one with its identity key was
            (`identity_key_reused`): whoever signs with a key must be one instance.
    """
    key_id = key_id_of(instance.identity_key)
    if find(transaction, instance.instance) is not None:
        raise ConflictError("this instance was admitted before", reason="instance_exists")
    if by_key(transaction, key_id) is not None:
        raise ConflictError(
            "another instance has this identity key",
            reason="identity_key_reused",
            fix="boot with new keys: each boot makes its own",
        )
    transaction.execute(
        insert(instances).values(
            instance=instance.instance,
            key_id=key_id,
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
    """Return the instance whose identity key has this identifier.

    Earlier programs admitted several with one key. The newest of them counts: anybody may name a key, so that what is
    found must never be an error.
    """
    body = transaction.execute(_BY_KEY, {"wanted": key_id}).scalar_one_or_none()
    return None if body is None else decoded(body, Instance)


def replace(transaction: Transaction, instance: Instance) -> None:
    """Write a changed instance; on the evidence of one that has ended no attestation rests any more."""
    condition = instances.c.instance == instance.instance
    values = {"state": instance.state, "attested_at_ms": instance.attested_at_ms, "body": encode(instance)}
    transaction.execute(update(instances).where(condition).values(values))
    if instance.state != "live":
        transaction.execute(delete(evidence).where(evidence.c.instance == instance.instance))


def touch(transaction: Transaction, instance: InstanceId, now_ms: int) -> None:
    """Remember when an instance was last heard of."""
    transaction.execute(_TOUCH, {"wanted": instance, "now_ms": now_ms})


@dataclass(frozen=True, slots=True)
class Since:
    """Since when whoever counts as heard of lately was attested, and was heard of."""

    attested_ms: int
    heard_ms: int


def listed(transaction: Transaction, since: Since, limit: int) -> list[tuple[Instance, int]]:
    """Return instances with their last contact, newest first: those heard of lately, who holds leases, and the newest.

    Of the first two up to `limit` of each borrower, so that whoever boots again and again hides nobody else's.
    """
    heard = _in_turn(_heard(since), instances.c.last_contact_ms.desc())
    holding = _in_turn(instances.c.instance.in_(_HOLDERS), instances.c.attested_at_ms.desc())
    newest = select(instances.c.instance).order_by(instances.c.attested_at_ms.desc(), instances.c.instance).limit(limit)
    wanted = union(
        *(select(ranked.c.instance).where(ranked.c.place <= limit) for ranked in (heard, holding)),
        select(newest.subquery().c.instance),
    )
    statement = (
        select(instances.c.body, instances.c.last_contact_ms)
        .where(instances.c.instance.in_(select(wanted.subquery().c.instance)))
        .order_by(instances.c.attested_at_ms.desc(), instances.c.instance)
    )
    return [(decoded(found[0], Instance), int(found[1])) for found in transaction.execute(statement)]


def count_heard(transaction: Transaction, since: Since) -> dict[BorrowerId, int]:
    """Return of each borrower how many instances were heard of lately."""
    statement = select(instances.c.borrower, func.count()).where(_heard(since)).group_by(instances.c.borrower)
    return {BorrowerId(borrower): int(number) for borrower, number in transaction.execute(statement)}


def _heard(since: Since) -> ColumnElement[bool]:
    return and_(instances.c.attested_at_ms >= since.attested_ms, instances.c.last_contact_ms >= since.heard_ms)


def _in_turn(which: ColumnElement[bool], order: ColumnElement[int]) -> Subquery:
    """Return instances with the place that each has among those of its borrower."""
    place = func.row_number().over(partition_by=instances.c.borrower, order_by=(order, instances.c.instance))
    return select(instances.c.instance, place.label("place")).where(which).subquery()

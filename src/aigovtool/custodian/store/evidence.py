"""The evidence of live instances, with what its custodian added: it is judged again when policy or platform changes."""

from typing import Final

from sqlalchemy import bindparam, delete, insert, select, update

from aigovtool.attestation.model import Evidence
from aigovtool.codec import Message, encode
from aigovtool.custodian.store.bodies import decoded
from aigovtool.custodian.store.schema import evidence, instances
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.ids import InstanceId, Nonce

#: No attestation lasts longer: policies allow 30 days at most.
_KEPT_MS: Final = 31 * 86_400_000
_FIND: Final = select(evidence.c.body).where(evidence.c.instance == bindparam("wanted"))


class Kept(Message):
    """Evidence of a boot, and the custodian's nonce that it was made for."""

    evidence: Evidence
    nonce: Nonce


def add(transaction: Transaction, instance: InstanceId, kept: Kept, now_ms: int) -> None:
    """Keep the evidence of an instance that was just admitted, and forget what is too old for any attestation.

    That of an instance which ends is forgotten as it ends (`instances.replace`): to look for it here would cost each
    boot more, the more boots of somebody have ended without a word.
    """
    transaction.execute(delete(evidence).where(evidence.c.attested_at_ms < now_ms - _KEPT_MS))
    transaction.execute(insert(evidence).values(instance=instance, attested_at_ms=now_ms, body=encode(kept)))


def replace(transaction: Transaction, instance: InstanceId, kept: Kept, now_ms: int | None = None) -> None:
    """Keep newer evidence of an instance, or the same with newer endorsements; `now_ms` is when it attested again."""
    attested = {} if now_ms is None else {"attested_at_ms": now_ms}
    statement = update(evidence).where(evidence.c.instance == instance)
    transaction.execute(statement.values(body=encode(kept), **attested))


def find(transaction: Transaction, instance: InstanceId) -> Kept | None:
    """Return the evidence of an instance, if it is kept."""
    body = transaction.execute(_FIND, {"wanted": instance}).scalar_one_or_none()
    return None if body is None else decoded(body, Kept)


def of_live_instances(transaction: Transaction) -> list[InstanceId]:
    """Return the live instances whose evidence is kept; those first that were heard of last, and so may be served."""
    statement = (
        select(evidence.c.instance)
        .join(instances, instances.c.instance == evidence.c.instance)
        .where(instances.c.state == "live")
        .order_by(instances.c.last_contact_ms.desc(), instances.c.instance)
    )
    return [InstanceId(found) for found in transaction.execute(statement).scalars()]

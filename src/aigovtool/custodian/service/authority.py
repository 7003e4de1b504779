"""Until when an instance can release answers, whatever its host does; so also who is to be shown when it is stopped.

An answer gives authority for a ttl that counts from before the question, so from the last contact it lasts one ttl at
most. But that of the terms that were in force then: whoever was answered on terms with a longer ttl has what these
gave, until it hears of the new ones. So of each model whose ttl was made shorter it is kept which ttl it had, and until
when that can matter.
"""

from collections.abc import Iterable
from typing import Final

from aigovtool.codec import Message
from aigovtool.custodian.store import facts, models
from aigovtool.custodian.store.instances import Since
from aigovtool.custodian.store.records import Model
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.ids import Millis, ModelId
from aigovtool.ledger.policy import CLOCK_RATE_ERROR_PPM, ServingPolicy

_LONGER_TTLS: Final = "longer_ttls"
#: Whoever was not heard of for so long has wiped itself on usual terms, and was attested within this time.
_SILENT_MS: Final = 600_000
_ATTESTED_MS: Final = 86_400_000


class LongerTtl(Message):
    """The longest ttl that a model had until it was made shorter, and when the last authority by that is over."""

    ttl_ms: Millis
    until_ms: Millis


class LongerTtls(Message):
    """Of each model whose ttl was made shorter lately."""

    models: dict[ModelId, LongerTtl]


def with_error(ttl_ms: int) -> int:
    """Return how long authority of a ttl lasts at most, by a clock that is off by as much as is allowed."""
    return ttl_ms + ttl_ms * CLOCK_RATE_ERROR_PPM // 1_000_000


def note_terms(transaction: Transaction, model: ModelId, before: ServingPolicy, after: ServingPolicy) -> None:
    """Remember the ttl of terms that are replaced, if it is longer than that of the new ones."""
    if after.ttl_ms >= before.ttl_ms:
        return
    now_ms = transaction.head.clock_ms
    kept = {name: longer for name, longer in longer_ttls(transaction).items() if longer.until_ms > now_ms}
    known = kept.get(model, LongerTtl(ttl_ms=0, until_ms=0))
    kept[model] = LongerTtl(
        ttl_ms=max(known.ttl_ms, before.ttl_ms), until_ms=max(known.until_ms, now_ms + with_error(before.ttl_ms))
    )
    facts.put(transaction, _LONGER_TTLS, LongerTtls(models=kept))


def longer_ttls(transaction: Transaction) -> dict[ModelId, LongerTtl]:
    """Return what is remembered."""
    found = facts.get(transaction, _LONGER_TTLS, LongerTtls)
    return {} if found is None else found.models


def authority_until(lent: Iterable[Model], longer: dict[ModelId, LongerTtl], contact_ms: int) -> int:
    """Return until when an instance that serves these models can release answers at the latest.

    Each answer's ttl was the least of its models', so that the least of their bounds holds.
    """
    return min((_bound(model, longer.get(model.model), contact_ms) for model in lent), default=contact_ms)


def _bound(model: Model, longer: LongerTtl | None, contact_ms: int) -> int:
    bound_ms = contact_ms + with_error(model.policy.ttl_ms)
    if longer is None:
        return bound_ms
    return max(bound_ms, min(longer.until_ms, contact_ms + with_error(longer.ttl_ms)))


def since(transaction: Transaction, now_ms: int) -> Since:
    """Return since when an instance was attested and heard of, if it may still have authority or weights."""
    policies = [model.policy for model in models.everything(transaction)]
    ttls = [policy.ttl_ms for policy in policies] + [one.ttl_ms for one in longer_ttls(transaction).values()]
    heard_ms = max([_SILENT_MS, *map(with_error, ttls), *(policy.wipe_after_ms for policy in policies)])
    attested_ms = max([_ATTESTED_MS, *(policy.max_attestation_age_ms for policy in policies)]) + heard_ms
    return Since(attested_ms=max(0, now_ms - attested_ms), heard_ms=max(0, now_ms - heard_ms))

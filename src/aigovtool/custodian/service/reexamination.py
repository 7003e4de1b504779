"""Instances that were admitted are judged again: when the policy has changed, and by what vendors say since.

The evidence of each live instance is kept. It is completed with what the cache of endorsements has learned since (no
vendor is asked for it here), verified as of now, and appraised by the policy in force. An instance that would not be
admitted any more gets no lease and no key from then on, and is told to attest again; why is in the audit log and in the
list of enclaves. A vendor that does not answer, or answers with something else, changes nothing.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Final

import msgspec

from aigovtool.attestation import appraisal
from aigovtool.attestation.model import VerifiedEvidence
from aigovtool.attestation.verifier import Exchange, VerifierSet
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.endorsements.completion import completed_again
from aigovtool.custodian.service.grants import UNACCEPTED
from aigovtool.custodian.service.refusals import reason_of
from aigovtool.custodian.service.standing import policy_in_force
from aigovtool.custodian.store import evidence, instances
from aigovtool.custodian.store.evidence import Kept
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import AIGovToolError, AppraisalError, ConfigurationError, EvidenceError, StorageError
from aigovtool.ids import InstanceId
from aigovtool.ledger.entry import AttestationWithdrawn

_LOG: Final = logging.getLogger(__name__)
_MAX_WHY: Final = 500
#: It is our own fault that there is no verdict: an unexpected error of a step, or more than can be judged at once.
_NO_VERDICT: Final = frozenset({"internal", "evidence_too_large"})


async def reexamine(custodian: Custodian) -> None:
    """Judge every live instance again, one after the other; who is already at it is waited for first.

    Raises:
        StorageError: the ledger cannot be written.
    """
    async with custodian.judging:
        await _all(custodian)


async def reexamine_one(custodian: Custodian, instance: InstanceId) -> None:
    """Judge one instance again, before something is given to it that it must not have under the policy in force."""
    with suppress(ConfigurationError):  # no policy: those that were admitted go on
        await _again(custodian, instance)


async def _all(custodian: Custodian) -> None:
    for instance in await custodian.database.run(evidence.of_live_instances):
        try:
            await _again(custodian, instance)
        except ConfigurationError as error:
            if error.reason == "no_policy":  # nothing is admitted, and those that were go on
                return
            _LOG.warning("not_reexamined", extra={"code": error.code, "reason": error.reason})
        except StorageError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are still judged
            _LOG.warning("not_reexamined", extra={"error": type(error).__name__})


async def _again(custodian: Custodian, instance: InstanceId) -> None:
    def job(transaction: Transaction) -> tuple[Kept | None, int]:
        known, now_ms = instances.find(transaction, instance), custodian.now(transaction)
        lasts = known is not None and known.state == "live" and now_ms < known.valid_until_ms
        return (evidence.find(transaction, instance) if lasts else None), now_ms

    kept, now_ms = await custodian.database.run(job)
    if kept is None:  # what has run out ends by itself
        return
    try:
        verifiers = custodian.verifiers.within(Exchange(nonce=bytes.fromhex(kept.nonce)))
        completed, verified = await asyncio.to_thread(_verified, custodian, verifiers, kept, now_ms)
    except EvidenceError as error:
        if error.reason in _NO_VERDICT:
            _LOG.error("not_reexamined", extra={"code": error.code, "reason": error.reason})
            return
        refusal: AIGovToolError = error
        await custodian.database.run(lambda transaction: _withdraw(custodian, transaction, instance, refusal))
        return
    if completed is not kept:
        await custodian.database.run(lambda transaction: evidence.replace(transaction, instance, completed))
    await custodian.database.run(lambda transaction: _appraise(custodian, transaction, instance, verified))


def _verified(custodian: Custodian, verifiers: VerifierSet, kept: Kept, now_ms: int) -> tuple[Kept, VerifiedEvidence]:
    completed = completed_again(custodian.endorsements, kept.evidence)
    verified = verifiers.verify(completed, now_ms)
    return (kept if completed == kept.evidence else Kept(evidence=completed, nonce=kept.nonce)), verified


def _appraise(custodian: Custodian, transaction: Transaction, instance: InstanceId, verified: VerifiedEvidence) -> None:
    try:
        appraisal.appraise(verified, policy_in_force(transaction), custodian.now(transaction))
    except AppraisalError as error:
        _withdraw(custodian, transaction, instance, error)


def _withdraw(custodian: Custodian, transaction: Transaction, instance: InstanceId, error: AIGovToolError) -> None:
    known = instances.find(transaction, instance)
    if known is None or known.state != "live" or transaction.head.gap is not None:
        return
    changed = msgspec.structs.replace(known, state=UNACCEPTED, why=error.message[:_MAX_WHY])
    instances.replace(transaction, changed)
    custodian.record(
        transaction,
        AttestationWithdrawn(instance=instance, borrower=known.borrower, code=error.code, reason=reason_of(error)),
    )

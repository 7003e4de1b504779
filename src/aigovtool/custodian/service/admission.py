"""What an instance is told when it was admitted."""

from collections.abc import Sequence

from msgspec import UNSET

from aigovtool.attestation.model import VerifiedEvidence
from aigovtool.custodian.activation import certificate_of
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.store import facts
from aigovtool.custodian.store.records import Instance, Model
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.protocol.release import Admission, BootRequest, ModelOffer


def admission_of(
    custodian: Custodian,
    transaction: Transaction,
    instance: Instance,
    offered: Sequence[Model],
    *,
    request: BootRequest,
    verified: VerifiedEvidence,
    added: tuple[bytes, ...],
) -> Admission:
    """Return what is sent to an instance whose evidence was verified and accepted.

    Args:
        custodian: who admits.
        transaction: in which it was recorded.
        instance: the record.
        offered: the models that it may serve.
        request: what it had sent.
        verified: what its evidence says.
        added: the endorsements that the custodian added to its evidence.
    """
    now_ms = custodian.now(transaction)
    certificate = certificate_of(
        custodian.keys, request.evidence, verified, now_ms=now_ms, until_ms=instance.valid_until_ms
    )
    return Admission(
        custodian=custodian.keys.custodian,
        instance=instance.instance,
        borrower=instance.borrower,
        tee=instance.tee,
        nonce=request.claims.nonce,
        generation=facts.generation(transaction),
        epoch=facts.epoch(transaction),
        server_time_ms=now_ms,
        valid_until_ms=instance.valid_until_ms,
        stop_state=custodian.stop_state(transaction, instance),
        models=[_offer(model) for model in offered],
        endorsements=added,
        certificate=UNSET if certificate is None else certificate,
        refused=instance.refused or UNSET,
    )


def _offer(model: Model) -> ModelOffer:
    return ModelOffer(
        model=model.model,
        manifest=model.manifest_digest,
        package=model.package,
        package_bytes=model.package_bytes,
        sealer=model.sealer,
        policy=model.policy,
    )

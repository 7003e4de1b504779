"""A model's key goes out: to an attested instance that the policy in force accepts, and to nobody else."""

from aigovtool.attestation.policy import policy_digest
from aigovtool.crypto.sign import Envelope, seal
from aigovtool.crypto.wrap import wrap
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.service.hearing import heard
from aigovtool.custodian.service.reexamination import reexamine_one
from aigovtool.custodian.service.refusals import is_refusal, note, reason_of
from aigovtool.custodian.service.standing import lasting, offer, policy_in_force, refuse_stopped
from aigovtool.custodian.store import facts, instances
from aigovtool.custodian.store.records import Instance, Model
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import AIGovToolError, ConfigurationError, ForbiddenError, ReattestRequiredError
from aigovtool.ids import InstanceId
from aigovtool.ledger.entry import KeyReleased, ReleaseRefused
from aigovtool.protocol import release
from aigovtool.protocol.release import KeyRelease


async def release_key(custodian: Custodian, envelope: Envelope) -> Envelope:
    """Wrap a model key to an attested instance; the ledger entry is durable before the reply leaves.

    Raises:
        ForbiddenError, UnauthenticatedError, ReattestRequiredError, StoppedError, NotFoundError: why not; the refusal
            is in the audit log.
        OverloadedError: the enclaves of its borrower ask too often (`releases`); there is no line for that.
    """
    async with heard(custodian, envelope, release.RELEASE_REQUEST, release.ReleaseRequest) as request:
        try:
            if await custodian.database.run(lambda transaction: _is_due(transaction, request.instance)):
                await reexamine_one(custodian, request.instance)
            return await custodian.database.run(lambda transaction: _release(custodian, transaction, request))
        except AIGovToolError as error:
            if is_refusal(error):
                refused = ReleaseRefused(
                    instance=request.instance, model=request.model, code=error.code, reason=reason_of(error)
                )
                await note(custodian, refused)
                error.recorded = True
            raise


def _is_due(transaction: Transaction, name: InstanceId) -> bool:
    """Return whether an instance was admitted by another policy than that in force, and may not have been judged yet.

    A new policy is applied to all instances as soon as it is set, one after the other: no key goes out in between.
    """
    instance = instances.find(transaction, name)
    if instance is None or instance.state != "live":
        return False
    try:
        return instance.result.appraisal_policy != policy_digest(policy_in_force(transaction))
    except ConfigurationError:  # no policy: those that were admitted go on
        return False


def _release(custodian: Custodian, transaction: Transaction, request: release.ReleaseRequest) -> Envelope:
    instance = instances.require(transaction, request.instance)
    model = _releasable(custodian, transaction, instance, request)
    manifest, policy = model.manifest_digest, model.policy.digest()
    context = release.release_context(custodian.keys.custodian, instance.instance, model.model, manifest, policy)
    with custodian.keys.open_deposit(model.wrapped_key, manifest) as key:
        wrapped = wrap(key, instance.hpke_key, context)
    custodian.record(
        transaction,
        KeyReleased(instance=instance.instance, model=model.model, manifest=manifest),
    )
    answer = KeyRelease(
        custodian=custodian.keys.custodian,
        instance=instance.instance,
        request_id=request.request_id,
        model=model.model,
        manifest=manifest,
        policy=policy,
        stop_state=custodian.stop_state(transaction, instance),
        wrapped_key=wrapped,
    )
    return seal(release.RELEASE, answer, custodian.keys.commands)


def _releasable(
    custodian: Custodian, transaction: Transaction, instance: Instance, request: release.ReleaseRequest
) -> Model:
    outdated = instance.generation < facts.generation(transaction)
    if instance.state != "live" or outdated or custodian.now(transaction) >= instance.valid_until_ms:
        raise ReattestRequiredError("this instance is not attested any more", fix="attest again")
    lasting(custodian, transaction, instance.borrower)
    refuse_stopped(transaction, instance)
    model = offer(transaction, request.model, instance.borrower)
    if model.model not in instance.models or model.manifest_digest != request.manifest:
        raise ForbiddenError("this instance was not admitted for this model", reason="not_admitted")
    return model

"""What holds for whoever boots or is given a key: the policy, the borrower's credential, the loan, and stops.

Of several models that one instance asks for, each is judged alone: one that is refused keeps no other one away.
"""

from collections.abc import Sequence

from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.store import facts, models, parties, stops
from aigovtool.custodian.store.records import Instance, Model, Party
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import (
    AIGovToolError,
    ConfigurationError,
    ForbiddenError,
    NotFoundError,
    StoppedError,
    UnauthenticatedError,
)
from aigovtool.ids import BorrowerId, ModelId
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.policy import Dial


def policy_in_force(transaction: Transaction) -> AppraisalPolicy:
    """Return the appraisal policy.

    Raises:
        ConfigurationError: none was ever set (absent = deny).
    """
    policy = facts.get(transaction, facts.APPRAISAL_POLICY, AppraisalPolicy)
    if policy is None:
        raise ConfigurationError("no appraisal policy is set; no enclave can be admitted", reason="no_policy")
    return policy


def lasting(custodian: Custodian, transaction: Transaction, name: BorrowerId) -> Party:
    """Return a borrower that may act, by the ledger's time: its certificate is not looked at where it signs by itself.

    Raises:
        ForbiddenError: unknown or revoked (`not_enrolled`).
        UnauthenticatedError: its credential has ended (`credential_expired`).
    """
    borrower = parties.require(transaction, PartyRole.BORROWER, name)
    if custodian.now(transaction) > borrower.not_after_ms:
        raise UnauthenticatedError(
            "the borrower's credential has expired",
            reason="credential_expired",
            fix="ask the custodian for a new credential",
        )
    return borrower


def offer(transaction: Transaction, model: ModelId, borrower: BorrowerId) -> Model:
    """Return a model that is lent to a borrower.

    Raises:
        NotFoundError: there is none of this name.
        ForbiddenError: it is lent to others (`not_lent`).
    """
    found = models.require(transaction, model)
    if borrower not in found.borrowers:
        raise ForbiddenError(f"{model} is not lent to {borrower}", reason="not_lent")
    return found


def admissible(
    transaction: Transaction, asked: Sequence[ModelId], borrower: BorrowerId, *, refundable: bool
) -> tuple[list[Model], dict[ModelId, AIGovToolError]]:
    """Return which of the models that a borrower asks for may be served now, and why each other one may not.

    To a TEE whose memory its host can copy (not `refundable`) a model is lent in bound mode only: other leases could be
    used twice (`bound_only`).
    """
    found: list[Model] = []
    refused: dict[ModelId, AIGovToolError] = {}
    for name in asked:
        try:
            model = offer(transaction, name, borrower)
            _require_bound_mode(model, refundable=refundable)
            if stops.epoch_of(transaction, StopTarget.MODEL, name) is not None:
                raise _stopped()
        except (NotFoundError, ForbiddenError, StoppedError) as error:
            refused[name] = error
        else:
            found.append(model)
    return found, refused


def admits_more(transaction: Transaction, instance: Instance) -> bool:
    """Return whether a model that an instance's admission refused would be admitted now."""
    known = models.among(transaction, [one.model for one in instance.refused])  # names cost nothing: one look at all
    lent = [model.model for model in known if not model.withdrawn and instance.borrower in model.borrowers]
    found, _ = admissible(transaction, lent, instance.borrower, refundable=instance.refundable)
    return bool(found)


def _require_bound_mode(model: Model, *, refundable: bool) -> None:
    if not refundable and model.policy.dial is not Dial.BOUND:
        raise ForbiddenError(
            f"{model.model} is not lent in bound mode, and the host of this TEE can copy its memory",
            reason="bound_only",
            fix="the custodian lends it with the bound dial, or on a TEE that encrypts its memory",
        )


def _stopped() -> StoppedError:
    return StoppedError("the custodian has stopped this", fix="ask the custodian to resume", retry_after_s=5)


def refuse_stopped(transaction: Transaction, instance: Instance) -> None:
    """Raise `StoppedError` if everything that an instance could do is stopped."""
    if stops.state_for(transaction, instance).is_wide():
        raise _stopped()

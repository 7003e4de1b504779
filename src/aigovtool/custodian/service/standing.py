"""What holds for whoever boots or is given a key: the policy, the borrower's credential, the loan, and stops."""

from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.store import facts, models, parties, stops
from aigovtool.custodian.store.records import Instance, Model, Party
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConfigurationError, ForbiddenError, StoppedError, UnauthenticatedError
from aigovtool.ids import BorrowerId, ModelId
from aigovtool.ledger.entry import PartyRole


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


def refuse_stopped(transaction: Transaction, instance: Instance) -> None:
    """Raise `StoppedError` if everything that an instance could do is stopped."""
    if stops.state_for(transaction, instance).is_wide():
        raise StoppedError("the custodian has stopped this", fix="ask the custodian to resume", retry_after_s=5)

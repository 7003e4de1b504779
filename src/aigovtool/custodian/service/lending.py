"""Acts on models: lend one, change its terms, withdraw it."""

import msgspec

from aigovtool.custodian.hub import Announcement
from aigovtool.custodian.service.acting import Acting
from aigovtool.custodian.service.packages import registered_model
from aigovtool.custodian.store import facts, models, parties
from aigovtool.errors import ConflictError, InvalidValueError
from aigovtool.ids import key_id_of
from aigovtool.ledger import entry
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.protocol import commands
from aigovtool.protocol.commands import CommandResult


def add_model(acting: Acting, act: commands.AddModel) -> CommandResult:
    """Register an uploaded package whose key was deposited."""
    for borrower in act.borrowers:
        parties.require(acting.transaction, PartyRole.BORROWER, borrower)
    model = registered_model(acting.custodian, acting.transaction, acting.command, act)
    models.add(acting.transaction, model)
    index = acting.record(
        entry.ModelAdded(
            model=model.model,
            manifest=model.manifest_digest,
            package=model.package,
            package_bytes=model.package_bytes,
            sealer=key_id_of(model.sealer),
            policy=model.policy.digest(),
            command=acting.mark,
        )
    )
    return acting.result(index)


def set_model_terms(acting: Acting, act: commands.SetModelTerms) -> CommandResult:
    """Change to whom a model is lent and how its leases are cut.

    Raises:
        InvalidValueError: another dimension (`dimension_fixed`).
        ConflictError: not a higher version than that in force (`terms_rollback`).
    """
    model = models.require(acting.transaction, act.model)
    for borrower in act.borrowers:
        parties.require(acting.transaction, PartyRole.BORROWER, borrower)
    if act.policy.dimension is not model.policy.dimension:
        raise InvalidValueError(
            f"{model.model} is metered in {model.policy.dimension}, and its leases are too", reason="dimension_fixed"
        )
    if act.policy.version <= model.policy.version:
        raise ConflictError(
            f"the terms in force have version {model.policy.version}",
            reason="terms_rollback",
            fix="look at the present terms and take the next version",
        )
    changed = msgspec.structs.replace(model, policy=act.policy, borrowers=act.borrowers)
    models.replace(acting.transaction, changed)
    epoch = facts.next_epoch(acting.transaction)
    acting.announce(Announcement(granted=model.model))
    index = acting.record(
        entry.ModelTermsSet(
            model=model.model,
            policy=act.policy.digest(),
            borrowers=act.borrowers,
            epoch=epoch,
            command=acting.mark,
        )
    )
    return acting.result(index, epoch=epoch)


def withdraw_model(acting: Acting, act: commands.WithdrawModel) -> CommandResult:
    """Lend a model no more, and stop it."""
    model = models.require(acting.transaction, act.model)
    models.replace(acting.transaction, msgspec.structs.replace(model, withdrawn=True))
    epoch = acting.stop(StopTarget.MODEL, act.model, active=True)
    index = acting.record(entry.ModelWithdrawn(model=act.model, epoch=epoch, command=acting.mark))
    return acting.result(index, epoch=epoch)

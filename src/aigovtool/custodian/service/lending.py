"""Acts on models: lend one, change its terms, withdraw it."""

from typing import Final

import msgspec

from aigovtool.custodian.hub import Announcement
from aigovtool.custodian.service.acting import Acting
from aigovtool.custodian.service.authority import note_terms
from aigovtool.custodian.service.packages import registered_model
from aigovtool.custodian.store import facts, models, parties
from aigovtool.errors import ConflictError, InvalidValueError
from aigovtool.ids import BorrowerId, key_id_of
from aigovtool.ledger import entry
from aigovtool.ledger.answers import allows
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.policy import Dial, ServingPolicy
from aigovtool.ledger.units import Dimension
from aigovtool.package.charge import takes_batches
from aigovtool.package.manifest import Manifest
from aigovtool.protocol import commands
from aigovtool.protocol.commands import CommandResult
from aigovtool.protocol.leaving import require_keepable

#: How far a version may be ahead of that in force: whoever could use the last one up would have the last word.
_FURTHEST: Final = 1_000
#: What an enclave can measure of an ONNX model's work: the only kind of model that is lent yet.
_MEASURED: Final = frozenset({Dimension.INFERENCES, Dimension.COMPUTE_MS})


def add_model(acting: Acting, act: commands.AddModel) -> CommandResult:
    """Register an uploaded package whose key was deposited.

    Raises:
        InvalidValueError: as `_require_terms`.
    """
    _require_borrowers(acting, act.borrowers)
    model = registered_model(acting.custodian, acting.transaction, acting.command, act)
    _require_terms(act.policy, model.manifest)
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
            also=model.policy.also,
        )
    )
    return acting.result(index)


def _require_borrowers(acting: Acting, borrowers: list[BorrowerId]) -> None:
    """Refuse to lend to nobody that is known, or to anybody twice.

    Raises:
        ForbiddenError: one of them is not enrolled (`not_enrolled`).
        InvalidValueError: one is named twice (`borrower_twice`).
    """
    if len(set(borrowers)) != len(borrowers):
        raise InvalidValueError("a borrower is named twice", reason="borrower_twice", fix="name each once")
    for borrower in borrowers:
        parties.require(acting.transaction, PartyRole.BORROWER, borrower)


def require_next(acting: Acting, version: int, present: int) -> None:
    """Refuse a version so far ahead that none may be left for the next change; and what two signed, if not the next.

    What two have signed is good for a day, and whoever has it would else choose what comes before it: a change that the
    second signer never saw.

    Raises:
        ConflictError: two signed this, for another version in force (`not_next_version`).
        InvalidValueError: `version_too_large`.
    """
    if acting.mark.second is not None and version != present + 1:
        raise ConflictError(
            f"two operators signed version {version} as the next one, and version {present} is in force",
            reason="not_next_version",
            fix=f"look at what is in force, and have both sign version {present + 1}",
        )
    if version > present + _FURTHEST:
        raise InvalidValueError(
            f"version {version} is too far from {present}, which is in force",
            reason="version_too_large",
            fix=f"take the next version, {present + 1}",
        )


def _require_terms(policy: ServingPolicy, manifest: Manifest) -> None:
    """Refuse terms that no enclave could keep, or that would not mean what they say.

    Raises:
        InvalidValueError: a dimension that the engine does not measure (`not_measured`); bound mode for a model that
            draws random numbers (`not_deterministic`); batches of one that takes none (`not_batchable`); rules for
            its outputs as `require_keepable`.
    """
    require_keepable(policy.answers, manifest.outputs)
    if policy.batch and not takes_batches(manifest.inputs, manifest.outputs):
        raise InvalidValueError(
            "not every input and output of the model has the same first axis of any size, or one holds strings",
            reason="not_batchable",
            fix="have its requests computed one by one, or export it with a dynamic first axis of all of them",
        )
    if policy.dial is Dial.BOUND and manifest.draws_random:
        raise InvalidValueError(
            "the model draws random numbers: copies of an enclave could answer one request in many ways",
            reason="not_deterministic",
            fix="use another dial, or export a model that gives the same for the same",
        )
    unmeasured = [dimension for dimension in policy.counts if dimension not in _MEASURED]
    if unmeasured:
        raise InvalidValueError(
            f"the engine for ONNX models does not measure {unmeasured[0]}",
            reason="not_measured",
            fix="meter " + " and ".join(sorted(_MEASURED)),
        )


def set_model_terms(acting: Acting, act: commands.SetModelTerms) -> CommandResult:
    """Change to whom a model is lent and how its leases are cut.

    Raises:
        InvalidValueError: it is metered in other dimensions (`dimension_fixed`), too far a version
            (`version_too_large`), or as `_require_terms`.
        ConflictError: not a higher version than that in force (`terms_rollback`), or as `require_next`.
    """
    model = models.require(acting.transaction, act.model)
    _require_borrowers(acting, act.borrowers)
    if act.policy.counts != model.policy.counts:
        counted = " and ".join(model.policy.counts)
        raise InvalidValueError(
            f"{model.model} is metered in {counted}, and its leases are too", reason="dimension_fixed"
        )
    _require_terms(act.policy, model.manifest)
    if act.policy.version <= model.policy.version:
        raise ConflictError(
            f"the terms in force have version {model.policy.version}",
            reason="terms_rollback",
            fix="look at the present terms and take the next version",
        )
    require_next(acting, act.policy.version, model.policy.version)
    changed = msgspec.structs.replace(model, policy=act.policy, borrowers=act.borrowers)
    models.replace(acting.transaction, changed)
    _note_ttl(acting, model.policy.ttl_ms)
    note_terms(acting.transaction, model.model, model.policy, act.policy)
    epoch = facts.next_epoch(acting.transaction)
    acting.announce(Announcement(granted=model.model))
    index = acting.record(
        entry.ModelTermsSet(
            model=model.model,
            policy=act.policy.digest(),
            borrowers=act.borrowers,
            epoch=epoch,
            command=acting.mark,
            more_leaves=not allows(model.policy.answers, act.policy.answers),
        )
    )
    return acting.result(index, epoch=epoch)


def _note_ttl(acting: Acting, ttl_ms: int) -> None:
    """Remember terms that are replaced: leases that are out keep them, and a settlement waits for all of those."""
    head = acting.transaction.head
    acting.transaction.head = msgspec.structs.replace(head, longest_ttl_ms=max(head.longest_ttl_ms, ttl_ms))


def withdraw_model(acting: Acting, act: commands.WithdrawModel) -> CommandResult:
    """Lend a model no more, and stop it."""
    model = models.require(acting.transaction, act.model)
    models.replace(acting.transaction, msgspec.structs.replace(model, withdrawn=True))
    epoch = acting.stop(StopTarget.MODEL, act.model, active=True)
    index = acting.record(entry.ModelWithdrawn(model=act.model, epoch=epoch, command=acting.mark))
    return acting.result(index, epoch=epoch)

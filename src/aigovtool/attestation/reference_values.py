"""A library of reference values: which builds exist, who measured them, and which are not accepted any more.

It is a document that belongs under version control: records are added and retired, never changed or removed, and each
change raises its version. Whoever publishes one signs it; what a policy accepts is taken from the records in use.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from aigovtool.attestation.model import Label, PrintableText, TeeType
from aigovtool.attestation.policy import AppraisalPolicy, ReferenceSet
from aigovtool.codec import Message
from aigovtool.errors import ConflictError, InvalidValueError, NotFoundError
from aigovtool.ids import Millis
from aigovtool.limits import MAX_INTEGER, MAX_POLICY_ITEMS

#: Payload type of a signed library.
REFERENCE_VALUES: Final = "reference-values.v1"


class Retirement(Message):
    """Since when, and why, a build is not accepted any more."""

    at_ms: Millis
    reason: PrintableText


class ReferenceRecord(Message):
    """The reference values of one build for one TEE; `origin` says who measured it, and how.

    `entry` is the label of the policy's entry that it is for, where a policy has several for this TEE.
    """

    tee: TeeType
    values: ReferenceSet
    origin: PrintableText
    added_at_ms: Millis
    retired: Retirement | None = None
    entry: Label | None = None


class ReferenceLibrary(Message):
    """All records, in the order in which they were added; `version` grows with every change."""

    version: Annotated[int, Meta(ge=0, le=MAX_INTEGER)] = 0
    records: Annotated[tuple[ReferenceRecord, ...], Meta(max_length=4096)] = ()


def added(library: ReferenceLibrary, record: ReferenceRecord) -> ReferenceLibrary:
    """Return the library with one more record.

    Raises:
        ConflictError: there is, or was, a record of this label for this TEE (`label_taken`), or one in use with the
            same values (`values_known`).
    """
    of_tee = [known for known in library.records if known.tee is record.tee]
    if any(known.values.label == record.values.label for known in of_tee):
        raise ConflictError(
            f"there is a record {record.values.label!r} for {record.tee.value} already",
            reason="label_taken",
            fix="a label is given once, also after its build was retired: choose another",
        )
    known = next((one for one in of_tee if one.retired is None and _measured(one) == _measured(record)), None)
    if known is not None:
        raise ConflictError(f"these are the values of {known.values.label!r}", reason="values_known")
    return ReferenceLibrary(version=library.version + 1, records=(*library.records, record))


def retired(library: ReferenceLibrary, tee: TeeType, label: str, retirement: Retirement) -> ReferenceLibrary:
    """Return the library without a build among those in use; its record stays, with the reason.

    Raises:
        NotFoundError: `no_such_label`.
        ConflictError: `already_retired`.
    """
    found = next((one for one in library.records if (one.tee, one.values.label) == (tee, label)), None)
    if found is None:
        raise NotFoundError(f"there is no record {label!r} for {tee.value}", reason="no_such_label")
    if found.retired is not None:
        raise ConflictError(f"{label!r} was retired before: {found.retired.reason}", reason="already_retired")
    ended = msgspec.structs.replace(found, retired=retirement)
    return ReferenceLibrary(
        version=library.version + 1,
        records=tuple(ended if record is found else record for record in library.records),
    )


def with_reference_values(policy: AppraisalPolicy, library: ReferenceLibrary) -> AppraisalPolicy:
    """Return the next version of a policy, which accepts the builds in use and no other.

    A build goes to the entry that it is for: one with a label to the entry of that label, others to an entry without.
    Entries for which the library never knew a build stay as they are.

    Raises:
        InvalidValueError: for an entry no build is in use any more (`no_reference_values`), or more than a policy can
            list; a build names no entry, and the policy has several for its TEE (`entry_not_named`).
    """
    entries = []
    for entry in policy.accepted:
        known = [record for record in library.records if (record.tee, record.entry) == (entry.tee, entry.label)]
        values = tuple(record.values for record in known if record.retired is None)
        if known and not 0 < len(values) <= MAX_POLICY_ITEMS:
            raise InvalidValueError(
                f"{len(values)} builds for {entry.name} are in use; a policy lists 1 to {MAX_POLICY_ITEMS}",
                reason="no_reference_values",
                fix="add one, or take the entry out of the policy",
            )
        entries.append(msgspec.structs.replace(entry, reference_values=values) if known else entry)
    _require_used(policy, library)
    return msgspec.structs.replace(policy, version=policy.version + 1, accepted=tuple(entries))


def _require_used(policy: AppraisalPolicy, library: ReferenceLibrary) -> None:
    """Refuse builds in use that would be left out although the policy accepts their TEE: nobody would notice."""
    names = {(entry.tee, entry.label) for entry in policy.accepted}
    tees = {tee for tee, _ in names}
    for record in library.records:
        if record.retired is None and record.tee in tees and (record.tee, record.entry) not in names:
            known = ", ".join(label or "(no label)" for tee, label in sorted(names, key=str) if tee is record.tee)
            raise InvalidValueError(
                f"{record.values.label!r} is for {record.tee.value}, entry {record.entry or '(no label)'}; "
                f"the policy has: {known}",
                reason="entry_not_named",
                fix="add the build with --entry, or give the policy's entry that label",
            )


def _measured(record: ReferenceRecord) -> tuple[object, ...]:
    values = record.values
    return tuple(sorted((one.name, str(one.digest)) for one in values.values)), values.events

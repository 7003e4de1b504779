"""The appraisal policy: which genuine evidence is acceptable (spec: attestation, section 5.1).

Nothing is accepted by absence. A policy says something about everything that a report says; leaving a check out is
written `Unchecked(reason)`, and shows in every result. No field can allow debug mode, and unknown fields are errors. A
policy's version only grows: an older one cannot come back.
"""

from typing import Annotated, Final

from msgspec import Meta

from aigovtool.attestation.model import (
    Advisory,
    Label,
    MeasurementHex,
    PrintableText,
    TcbComponent,
    TeeType,
    Unchecked,
)
from aigovtool.codec import Message, encode
from aigovtool.errors import AppraisalError, InvalidValueError
from aigovtool.ids import ChipId, Digest, digest_of
from aigovtool.limits import MAX_INTEGER, MAX_POLICY_ITEMS

#: Payload type of a signed policy.
POLICY: Final = "appraisal-policy.v1"

_USUAL_AGE_MS: Final = 30 * 86_400_000
_USUAL_AGE_SNP_MS: Final = 366 * 86_400_000

_Items = Meta(min_length=1, max_length=MAX_POLICY_ITEMS)


class ReferenceValue(Message):
    """What one named measurement must be."""

    name: Label
    digest: MeasurementHex | Unchecked


class EventRule(Message, omit_defaults=True):
    """What must, and what else may, have been measured into a register whose log travels with the evidence.

    For registers whose value varies between machines although each thing measured into it is known.
    """

    register: Label
    required: Annotated[tuple[MeasurementHex, ...], _Items]
    allowed: Annotated[tuple[MeasurementHex, ...], Meta(max_length=MAX_POLICY_ITEMS)] = ()


class ReferenceSet(Message, omit_defaults=True):
    """The reference values of one build of the enclave; they are only ever accepted together.

    A register that an event rule judges needs no value, but may have one. `secure_tsc`: whoever measured this build
    vouches that these are values with a clock that the host cannot slow, where the platform says so by them alone.
    """

    label: PrintableText
    values: Annotated[tuple[ReferenceValue, ...], _Items]
    events: Annotated[tuple[EventRule, ...], Meta(max_length=32)] = ()
    secure_tsc: bool = False


class FactRule(Message):
    """The values that one fact of a platform's report may have."""

    name: Label
    allowed: Annotated[tuple[PrintableText, ...], _Items] | Unchecked


class AcceptedTee(Message, omit_defaults=True):
    """What is accepted of one TEE type. What has no default must be there.

    `max_attestation_age_ms` bounds how long a result is valid, at most 30 days. No advisory is accepted that is not
    named. Collateral (revocation lists, TCB information) may be 30 days old at most, AMD's lists 366, unless an age is
    given. A TEE type with several kinds of processor has an entry for each, with a `label`; evidence must satisfy one
    of them whole.
    """

    tee: TeeType
    reference_values: Annotated[tuple[ReferenceSet, ...], _Items]
    min_tcb: Annotated[tuple[TcbComponent, ...], _Items] | Unchecked
    chips: Annotated[tuple[ChipId, ...], _Items] | Unchecked
    facts: Annotated[tuple[FactRule, ...], Meta(max_length=MAX_POLICY_ITEMS)]
    max_attestation_age_ms: Annotated[int, Meta(ge=1_000, le=30 * 86_400_000)]
    advisories: Annotated[tuple[Advisory, ...], Meta(max_length=MAX_POLICY_ITEMS)] | Unchecked = ()
    max_collateral_age_ms: Annotated[int, Meta(ge=60_000, le=366 * 86_400_000)] | Unchecked | None = None
    label: Label | None = None
    trusted_clock_required: bool = False

    @property
    def collateral_age_ms(self) -> int | Unchecked:
        """How old the oldest collateral may be: what is written, or what is usual for the platform.

        Intel makes its statements anew each month. AMD makes a list when something is revoked, and it is good for long.
        """
        if self.max_collateral_age_ms is not None:
            return self.max_collateral_age_ms
        return _USUAL_AGE_MS if self.tee is not TeeType.SEV_SNP else _USUAL_AGE_SNP_MS

    @property
    def name(self) -> str:
        """The TEE type, with the label where there is one."""
        return self.tee.value if self.label is None else f"{self.tee.value} {self.label}"


class AppraisalPolicy(Message):
    """Which enclaves a custodian or a consumer accepts. The two switches default to refusing.

    Raises:
        InvalidValueError: with reason `duplicate_tee` when labels do not tell two entries of a TEE type apart.
    """

    version: Annotated[int, Meta(ge=1, le=MAX_INTEGER)]
    accepted: Annotated[tuple[AcceptedTee, ...], _Items]
    memory_encryption_required: bool = True
    allow_simulated: bool = False

    def __post_init__(self) -> None:
        if len({(entry.tee, entry.label) for entry in self.accepted}) != len(self.accepted):
            raise InvalidValueError(
                "an appraisal policy has two entries for one TEE type with the same label, or with none",
                reason="duplicate_tee",
                fix="give each a label of its own",
            )


class PolicyMark(Message):
    """The version and digest of the newest policy seen; whoever keeps policies keeps this."""

    version: Annotated[int, Meta(ge=1, le=MAX_INTEGER)]
    digest: Digest


def policy_digest(policy: AppraisalPolicy) -> Digest:
    """Return the SHA-256 digest of the only encoding of `policy`."""
    return digest_of(encode(policy))


def mark_of(policy: AppraisalPolicy) -> PolicyMark:
    """Return what is kept of `policy` so that an older one is recognised."""
    return PolicyMark(version=policy.version, digest=policy_digest(policy))


def require_successor(policy: AppraisalPolicy, seen: PolicyMark) -> None:
    """Accept `policy` only if it is newer than `seen`, or the same.

    Raises:
        AppraisalError: with reason `policy_rollback` for an older version, `policy_fork` for another policy with the
            same version.
    """
    if policy.version < seen.version:
        raise AppraisalError(
            f"the appraisal policy has version {policy.version}; version {seen.version} was seen already",
            reason="policy_rollback",
            fix="raise the version of the policy",
        )
    if policy.version == seen.version and policy_digest(policy) != seen.digest:
        raise AppraisalError(
            f"two different appraisal policies have version {policy.version}",
            reason="policy_fork",
            fix="raise the version of the changed policy",
        )

"""Evidence, what a platform verifier made of it, and the attestation result (spec: attestation, sections 2 and 5).

Three types stand for three different degrees of trust, and each is made by one party only:

* `Evidence` comes from outside. It is bounded and means nothing yet; its `tee` is a claim.
* `VerifiedEvidence` is what a platform verifier says after it found the evidence genuine. It is not yet
  bound to a conversation and not yet acceptable.
* `AttestationResult` is made by `aigovtool.attestation.appraisal` alone, and only when every check of the
  policy holds; whoever releases a key demands one. There is no boolean to forget. (Python cannot keep hostile
  code in the same process from forging one; the guard is against mistakes.)

Trust claims are the integers of AR4SI (draft-ietf-rats-ar4si-08, section 2.3).
"""

import hmac
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, NewType, NoReturn, final

from msgspec import Meta, field

from aigovtool.codec import Message, text_like
from aigovtool.errors import AppraisalError, EvidenceError, ReattestRequiredError, TooLargeError
from aigovtool.ids import ChipId, Digest, Millis
from aigovtool.limits import (
    MAX_CERTIFICATE_BYTES,
    MAX_ENDORSEMENTS,
    MAX_EVENTS,
    MAX_EVIDENCE_BYTES,
    MAX_INTEGER,
)

REPORT_DATA_BYTES: Final = 64

# `$(?!\n)`: see aigovtool.ids.
_LABEL: Final = r"^[a-z][a-z0-9_]{0,31}$(?!\n)"
_HASH_HEX: Final = r"^([0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})$(?!\n)"
_ADVISORY: Final = r"^[A-Za-z0-9][A-Za-z0-9.-]{0,63}$(?!\n)"
_PRINTABLE: Final = r"^[ -~]{1,200}$(?!\n)"

#: Names one measurement, fact or component of a platform, for example `launch`, `rtmr0`, `pcr4`.
Label = NewType("Label", Annotated[str, text_like(_LABEL, "a lower-case letter, and up to 31 of a-z, 0-9 and '_'")])
#: A SHA-256, SHA-384 or SHA-512 measurement in hexadecimal.
MeasurementHex = NewType(
    "MeasurementHex", Annotated[str, text_like(_HASH_HEX, "64, 96 or 128 lower-case hexadecimal digits")]
)
#: A value of a fact, or a reason that people wrote: printable ASCII.
PrintableText = Annotated[str, text_like(_PRINTABLE, "1 to 200 printable ASCII characters")]


class TeeType(StrEnum):
    """The platforms that evidence may come from."""

    SIMULATED = "simulated"
    SEV_SNP = "sev-snp"
    TDX = "tdx"
    SGX = "sgx"
    NITRO = "nitro"
    TPM = "tpm"


class Unchecked(Message):
    """Says, with a reason, that something is deliberately not checked: `{"unchecked": "..."}`."""

    reason: PrintableText = field(name="unchecked")


class Evidence(Message):
    """What an attester sends. `tee` selects the verifier and proves nothing.

    `data` is the platform's own format; `endorsements` are the certificates or collateral that travel with it.
    Decoded, all of it together is at most `MAX_EVIDENCE_BYTES`.
    """

    tee: TeeType
    data: Annotated[bytes, Meta(min_length=1, max_length=MAX_EVIDENCE_BYTES)]
    endorsements: Annotated[tuple[bytes, ...], Meta(max_length=MAX_ENDORSEMENTS)] = ()

    def __post_init__(self) -> None:
        size = len(self.data) + sum(map(len, self.endorsements))
        if size > MAX_EVIDENCE_BYTES or len(self.endorsements) > MAX_ENDORSEMENTS:
            raise TooLargeError(
                f"evidence of {size} bytes and {len(self.endorsements)} endorsements; at most {MAX_EVIDENCE_BYTES} "
                f"and {MAX_ENDORSEMENTS} are read",
                reason="evidence_too_large",
            )


class ActivationKeys(Message):
    """Two keys of one platform: a certified one that signs nothing, and the one that signs its evidence.

    `ek_certificate` is DER, `ak_public` the platform's own encoding of the second key (of a TPM: TPMT_PUBLIC). That
    both are of one platform is a claim until the second is activated.
    """

    ek_certificate: Annotated[bytes, Meta(min_length=1, max_length=MAX_CERTIFICATE_BYTES)]
    ak_public: Annotated[bytes, Meta(min_length=1, max_length=2048)]


class ActivationCredential(Message):
    """A secret that only the platform of certain `ActivationKeys` can open: TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET."""

    blob: Annotated[bytes, Meta(max_length=1024)]
    secret: Annotated[bytes, Meta(max_length=1024)]


class Measurement(Message):
    """One measured digest of a platform, by the platform's name for it."""

    name: Label
    digest: MeasurementHex


class Fact(Message):
    """One more thing that a platform's report says and that an appraisal policy must judge."""

    name: Label
    value: PrintableText


class TcbComponent(Message):
    """The security version of one part of the platform's trusted computing base."""

    name: Label
    version: Annotated[int, Meta(ge=0, le=MAX_INTEGER)]


class Tcb(Message):
    """Security versions by component. Partly ordered: neither of two may be at least the other."""

    components: Annotated[tuple[TcbComponent, ...], Meta(max_length=32)]

    def shortfalls(self, minimum: tuple[TcbComponent, ...]) -> tuple[str, ...]:
        """Name each component that is below `minimum`, missing here, or not judged by `minimum`."""
        have = {part.name: part.version for part in self.components}
        want = {part.name: part.version for part in minimum}
        if len(have) != len(self.components) or len(want) != len(minimum):
            return ("a component is named twice",)
        below = [f"{name} {have[name]} < {want[name]}" for name in want if name in have and have[name] < want[name]]
        missing = [f"{name} is not reported" for name in want if name not in have]
        unjudged = [f"{name} has no minimum" for name in have if name not in want]
        return (*below, *missing, *unjudged)


class MeasuredEvents(Message):
    """What was measured into one register, in order: replayed, these digests give the measurement of that name."""

    register: Label
    digests: Annotated[tuple[MeasurementHex, ...], Meta(max_length=MAX_EVENTS)]


#: Names one of a vendor's security advisories, for example `INTEL-SA-00615`.
Advisory = NewType("Advisory", Annotated[str, text_like(_ADVISORY, "1 to 64 of A-Z, a-z, 0-9, '.' and '-'")])


class Clock(StrEnum):
    """By whose clock a TEE counts time: stops are bounded in time only where its host cannot slow it.

    PLATFORM: by one that the platform keeps from the host. MEASURED: by such a one if the guest was started so, which
    is in its measurement alone. HOST: by its host's.
    """

    PLATFORM = "platform"
    MEASURED = "measured"
    HOST = "host"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEvidence:
    """What a platform verifier found in genuine evidence; made by verifiers only.

    Attributes:
        report_data: the 64 bytes that `aigovtool.attestation.binding` compares.
        debug: the TEE runs in a mode in which its host can read or change it.
        memory_encryption: the platform encrypts the memory of the TEE against its host.
        chip_id: which processor or TPM, where the platform tells.
        facts: everything else an appraisal policy must judge; a fact without a rule is a failed check.
        endorsed_until_ms: when the first of the endorsements used runs out.
        endorsed_since_ms: when the oldest of those that say what is revoked and what is up to date was issued
            (revocation lists, TCB information); None where none was used.
        advisories: what the vendor knows to be wrong with a platform of this TCB.
        events: for registers whose log came along, what was measured into them.
        also_bound: claims that the platform carries beside the report data, by their name in `Binding`.
        clock: by whose clock it counts time.
    """

    tee: TeeType
    measurements: tuple[Measurement, ...]
    report_data: bytes
    debug: bool
    tcb: Tcb
    memory_encryption: bool
    chip_id: ChipId | None
    facts: tuple[Fact, ...]
    endorsed_until_ms: int
    endorsed_since_ms: int | None = None
    advisories: tuple[Advisory, ...] = ()
    events: tuple[MeasuredEvents, ...] = ()
    also_bound: tuple[tuple[str, bytes], ...] = ()
    clock: Clock = Clock.HOST

    def __post_init__(self) -> None:
        if len(self.report_data) != REPORT_DATA_BYTES:
            raise EvidenceError(f"report data has {REPORT_DATA_BYTES} bytes", reason="bad_report_data")
        if not self.measurements or len({part.name for part in self.measurements}) != len(self.measurements):
            raise EvidenceError("measurements are missing or named twice", reason="bad_measurements")
        if len({fact.name for fact in self.facts}) != len(self.facts):
            raise EvidenceError("a fact is named twice", reason="bad_facts")
        registers = [log.register for log in self.events]
        if len(set(registers)) != len(registers) or not set(registers) <= {part.name for part in self.measurements}:
            raise EvidenceError("events are of no measurement, or of one twice", reason="bad_events")


class Outcome(StrEnum):
    """How one check ended."""

    PASSED = "passed"
    FAILED = "failed"
    UNCHECKED = "unchecked"


class Check(Message):
    """One check of an appraisal; `detail` is for people."""

    name: Label
    outcome: Outcome
    detail: str


class Status(StrEnum):
    """The tiers of AR4SI, from section 2.3.2 (order: none says nothing, contraindicated is worst)."""

    NONE = "none"
    AFFIRMING = "affirming"
    WARNING = "warning"
    CONTRAINDICATED = "contraindicated"


TrustClaim = Annotated[int, Meta(ge=-128, le=127)]


class TrustVector(Message, rename="kebab"):
    """AR4SI trustworthiness claims; 0 is "no claim is made"."""

    instance_identity: TrustClaim
    configuration: TrustClaim
    executables: TrustClaim
    file_system: TrustClaim
    hardware: TrustClaim
    runtime_opaque: TrustClaim
    storage_opaque: TrustClaim
    sourced_data: TrustClaim


class ResultBody(Message):
    """The content of an attestation result, EAR-shaped; for transport, storage and the dashboard.

    It may also describe a refusal (`status` contraindicated). It authorises nothing: `AttestationResult` does. Without
    a `trusted_clock` stops are bounded in units, and not in time.
    """

    tee: TeeType
    status: Status
    trust: TrustVector
    issued_at_ms: Millis
    valid_until_ms: Millis
    appraisal_policy: Digest
    policy_version: Annotated[int, Meta(ge=1, le=MAX_INTEGER)]
    measurements: tuple[Measurement, ...]
    tcb: Tcb
    chip_id: ChipId | None
    memory_encryption: bool
    report_data: Annotated[bytes, Meta(min_length=REPORT_DATA_BYTES, max_length=REPORT_DATA_BYTES)]
    checks: tuple[Check, ...]
    trusted_clock: bool = False


#: Only `aigovtool.attestation.appraisal` uses this.
APPRAISAL_TOKEN: Final = object()


@final
class AttestationResult:
    """An accepted appraisal. Its status is affirming or warning; a refusal has no such object."""

    __slots__ = ("body",)
    body: ResultBody

    def __init__(self, body: ResultBody, token: object) -> None:
        if token is not APPRAISAL_TOKEN or body.status not in (Status.AFFIRMING, Status.WARNING):
            raise AppraisalError("only an appraisal makes an attestation result", reason="not_appraised")
        object.__setattr__(self, "body", body)

    def require_valid(self, now_ms: int) -> None:
        """Raise `ReattestRequiredError` unless `now_ms` lies in the validity of this result."""
        if not self.body.issued_at_ms <= now_ms < self.body.valid_until_ms:
            raise ReattestRequiredError(
                "the attestation result is not valid now", reason="result_expired", fix="attest again"
            )

    def require_report_data(self, report_data: bytes) -> None:
        """Raise `EvidenceError` (reason `channel_binding`) unless this result is about `report_data`."""
        if not hmac.compare_digest(self.body.report_data, report_data):
            raise EvidenceError("the attestation result is about other report data", reason="channel_binding")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AppraisalError("an attestation result does not change", reason="not_appraised")

    def __reduce__(self) -> NoReturn:
        raise AppraisalError("an attestation result is not copied or pickled; send its body", reason="not_appraised")

    def __repr__(self) -> str:
        return f"AttestationResult({self.body.tee}, {self.body.status}, until {self.body.valid_until_ms})"

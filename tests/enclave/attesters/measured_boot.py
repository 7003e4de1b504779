"""A boot that was measured into a software TPM: its log, and an appraisal policy for exactly this TPM and this boot."""

import hashlib
import importlib
import time

from tests.attestation.tee.tpm.test_event_log import event, header
from tests.enclave.attesters.software_tpm import SoftwareTpm

from aigovtool.attestation.attester import ActivatedAttester
from aigovtool.attestation.model import Label, MeasurementHex, TcbComponent, TeeType, Unchecked
from aigovtool.attestation.policy import AcceptedTee, AppraisalPolicy, FactRule, ReferenceSet, ReferenceValue
from aigovtool.attestation.tee.tpm.activation import STANDING_NONCE, challenge, ek_digest, secret_for
from aigovtool.attestation.tee.tpm.endorsement import key_of, read_chain
from aigovtool.attestation.tee.tpm.evidence import unwrap
from aigovtool.attestation.tee.tpm.verify import TpmVerifier
from aigovtool.enclave.attesters.tpm import TpmAttester
from aigovtool.ids import ChipId

MEASURED = ((0, b"firmware"), (4, b"boot loader"), (4, b"kernel"), (7, b"secure boot"))
BANKS = (0x000B, 0x000C)
LOG = header(*BANKS) + b"".join(event(index, text, algorithms=BANKS) for index, text in MEASURED)
HOUR_MS = 3_600_000


def extend(tpm: SoftwareTpm, index: int, text: bytes) -> None:
    tpm2_pytss = importlib.import_module("tpm2_pytss")

    digests = [hashlib.new(name, text).digest() for name in ("sha256", "sha384")]
    listed = tpm2_pytss.TPML_DIGEST_VALUES(
        [
            tpm2_pytss.TPMT_HA(hashAlg=tpm2_pytss.TPM2_ALG.SHA256, digest=tpm2_pytss.TPMU_HA(sha256=digests[0])),
            tpm2_pytss.TPMT_HA(hashAlg=tpm2_pytss.TPM2_ALG.SHA384, digest=tpm2_pytss.TPMU_HA(sha384=digests[1])),
        ]
    )
    with tpm.esapi() as esapi:
        esapi.pcr_extend(getattr(tpm2_pytss.ESYS_TR, f"PCR{index}"), listed)


def measure_boot(tpm: SoftwareTpm) -> None:
    for index, text in MEASURED:
        extend(tpm, index, text)


def chip_of(keys: ActivatedAttester) -> ChipId:
    return ChipId(ek_digest(key_of(read_chain(keys.keys().ek_certificate, ())[0])).hex())


def policy_for(tpm: SoftwareTpm, version: int = 2) -> AppraisalPolicy:
    """Return a policy that accepts what this TPM says now, from this TPM alone."""
    maker, key = TpmAttester(tpm.tcti, event_log=None, endorsements=(tpm.issuer,)), bytes(32)
    keys = maker.keys()
    secret = maker.activate(challenge(key, STANDING_NONCE, keys.ek_certificate, keys.ak_public, bytes(32)))
    evidence = maker.quote(bytes(64), secret)
    verifier = TpmVerifier((tpm.root,), secret_for(key, STANDING_NONCE))
    verified = verifier.examine(evidence, time.time_ns() // 1_000_000).genuine()
    facts: dict[Label, tuple[str, ...]] = {fact.name: (fact.value,) for fact in verified.facts}
    facts |= {Label("attestation_key"): ("activated", "certified"), Label("clock_safe"): ("yes", "no")}
    values = tuple(
        ReferenceValue(name=Label(f"pcr{one.index}"), digest=MeasurementHex(one.digest))
        for one in unwrap(evidence.data).pcrs
    )
    entry = AcceptedTee(
        tee=TeeType.TPM,
        reference_values=(ReferenceSet(label="this boot", values=values),),
        min_tcb=tuple(TcbComponent(name=one.name, version=one.version) for one in verified.tcb.components),
        chips=(chip_of(maker),),
        facts=tuple(FactRule(name=name, allowed=allowed) for name, allowed in facts.items()),
        max_attestation_age_ms=HOUR_MS,
        max_collateral_age_ms=Unchecked(reason="a TPM has none"),
    )
    return AppraisalPolicy(version=version, accepted=(entry,), memory_encryption_required=False)

"""Which platforms a consumer verifies, and whom it believes: its policy's, and nobody else."""

import pytest
from tests.attestation.authority import NOW_MS
from tests.attestation.tee.tpm import maker as tpm
from tests.attestation.test_appraisal import entry, policy

from aigovtool.attestation.model import TeeType
from aigovtool.attestation.tee.tpm.verify import TpmVerifier
from aigovtool.attestation.verifier import Exchange
from aigovtool.consumer.wiring import verifiers_for
from aigovtool.errors import EvidenceError

TPM = policy(entry(tee=TeeType.TPM), memory_encryption_required=False)


def test_only_platforms_that_the_policy_accepts_are_verified() -> None:
    """The simulated one is asked for twice: by the caller and by the policy."""
    assert verifiers_for(policy(), allow_simulated=True).tees == {TeeType.SEV_SNP}
    assert verifiers_for(TPM, allow_simulated=False).tees == {TeeType.TPM}
    simulated = policy(entry(tee=TeeType.SIMULATED), allow_simulated=True)
    assert verifiers_for(simulated, allow_simulated=False).tees == set()
    assert verifiers_for(simulated, allow_simulated=True).tees == {TeeType.SIMULATED}


def test_a_maker_that_nobody_named_vouches_for_no_tpm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: a virtual TPM of a cloud, whose key the cloud certifies; the consumer's custodian has never seen it."""
    monkeypatch.setattr("aigovtool.attestation.tee.tpm.verify.google_roots", lambda: (tpm.root(),))
    evidence = tpm.Forgery(certifies="ak").made()
    assert TpmVerifier().examine(evidence, NOW_MS).verified is not None
    authority = Exchange(authorities=(tpm.der(tpm.root(name="custodian", issuer="custodian")),))
    known = verifiers_for(TPM, allow_simulated=False)
    for verifiers in (known, known.within(authority)):
        with pytest.raises(EvidenceError) as caught:
            verifiers.verify(evidence, NOW_MS)
        assert caught.value.reason == "chain_root"

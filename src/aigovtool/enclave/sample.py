"""Evidence of this platform for whoever makes a policy: it says what runs here, and is bound to nobody's keys."""

import os
import secrets

from aigovtool.attestation.attester import Attester
from aigovtool.attestation.binding import Audience, Binding, HpkePublicKey, IdentityPublicKey, SpkiHash
from aigovtool.attestation.model import Evidence
from aigovtool.ids import Nonce, digest_of, instance_id_of, key_id_of

_NOBODY = bytes(32)
_NOTHING = digest_of(b"")


def sample_evidence(attester: Attester) -> Evidence:
    """Return evidence with a nonce of its own, over keys that nobody has: no custodian and no consumer takes it.

    Raises:
        EvidenceError: the platform does not answer, or not as it should (`attester_*`).
    """
    claims = Binding(
        role="session",
        audience=Audience("aigovtool:sample"),
        nonce=Nonce(secrets.token_hex(32)),
        tls_spki=SpkiHash(_NOBODY),
        hpke_key=HpkePublicKey(_NOBODY),
        identity_key=IdentityPublicKey(_NOBODY),
        instance=instance_id_of(_NOBODY, _NOBODY, os.urandom(32)),
        custodian_root=key_id_of(_NOBODY),
        configuration=_NOTHING,
        appraisal_policy=_NOTHING,
        manifests=(),
    )
    return attester.attest(claims)
